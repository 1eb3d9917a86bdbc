"""The file formats of recorded traces: one reader for each, told apart by the first line.

A reader checks every line; whatever is wrong is a ``ValueError`` with the path and the line.
"""

import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from math import inf
from pathlib import Path
from typing import NoReturn

import numpy as np

from loadtest.arrivals import Times, Values


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """What a file says: counts per bin, or the times of the arrivals with the first at 0."""

    counts: Values | None = None  # [bins]
    bin_seconds: float | None = None
    times: Times | None = None  # [arrivals], seconds
    begin: datetime | None = None  # of the first bin or arrival, where the file has a calendar


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What only some formats heed."""

    functions: int | Collection[str] | None = None  # azure2019: the first n, or these; None: all
    column: str = "count"  # counts: the column of a table with a header
    bin_seconds: float = 1.0  # counts: how long each of them lasted


@dataclass(frozen=True, slots=True)
class Format:
    header: str  # how the first line begins; empty for files of bare numbers
    read: Callable[[Path, ReadOptions], Recording]
    source: str
    licence: str


def recognise(path: Path) -> str | None:
    """The key in `FORMATS` that the first line tells, or None.

    Bare integers are counts per second; bare numbers of which one has a decimal point are times.
    """
    try:
        first = next(_lines(path), (0, ""))[1]
    except ValueError:
        return None  # not even text
    for kind, form in FORMATS.items():
        if form.header and first.startswith(form.header):
            return kind
    if _number(first) is None:
        return "counts" if "count" in first.split(",")[1:] or first == "count" else None
    return "times" if any("." in line for _, line in _lines(path)) else "counts"


def _read_azure_functions_2019(path: Path, options: ReadOptions) -> Recording:
    """``HashOwner,HashApp,HashFunction,Trigger,1..1440``: invocations per minute, summed."""
    lines = _lines(path)
    ids, minutes = 4, len(next(lines, (0, ""))[1].split(",")) - 4
    if minutes < 1:
        raise ValueError(f"{path} has no minutes after the four ids in its first line")
    chosen = options.functions
    wanted = None if chosen is None or isinstance(chosen, int) else set(chosen)
    total = np.zeros(minutes)
    rows = 0
    for number, line in lines:
        if isinstance(chosen, int) and rows == chosen:
            break
        fields = line.split(",", ids)
        if wanted is not None and fields[2:3] and fields[2] not in wanted:
            continue
        counts = _whole_numbers(fields[-1]) if len(fields) > ids else np.empty(0)
        if counts is None:
            _wrong(path, number, "a count is no whole number")
        if len(counts) != minutes:
            _wrong(path, number, f"expected 4 ids and {minutes} counts, not {len(counts)}")
        if counts.min() < 0:
            _wrong(path, number, "a count is negative")
        total += counts
        rows += 1
    if isinstance(chosen, int) and rows < chosen:
        raise ValueError(f"{path} has {rows} functions, not {chosen}")
    if wanted is not None and rows < len(wanted):
        raise ValueError(f"{path} has {rows} of the {len(wanted)} functions asked for")
    if not rows:
        raise ValueError(f"{path} has no functions")
    return Recording(counts=total, bin_seconds=60.0)


def _read_azure_functions_2021(path: Path, _: ReadOptions) -> Recording:
    """``app,func,end_timestamp,duration``, both in seconds: arrival = end - duration."""
    times = []
    for number, line in _rows(path):
        fields = line.split(",")
        end, duration = (_number(field) for field in (*fields, "", "")[2:4])
        if len(fields) != 4 or end is None or duration is None or duration < 0:
            _wrong(path, number, "expected app, func, the end and a duration in seconds")
        times.append(end - duration)
    return _recorded(path, np.array(times))


def _read_azure_llm(path: Path, _: ReadOptions) -> Recording:
    """``TIMESTAMP,...``, a row per request, such as 2023-11-16 18:15:46.6805900."""
    rows = list(_rows(path))
    stamps = [line.split(",", 1)[0].removesuffix("+00:00").removesuffix("Z") for _, line in rows]
    try:
        instants = np.array(stamps, dtype="datetime64[ns]")
    except ValueError:
        instants = np.array([_instant(stamp) for stamp in stamps], dtype="datetime64[ns]")
    unread = np.flatnonzero(np.isnat(instants))
    if len(unread):
        number, line = rows[unread[0]]
        _wrong(path, number, f"no time at the beginning: {line[:40]!r}")
    times = (instants - instants.min()) / np.timedelta64(1, "s") if rows else np.empty(0)
    begin = instants.min().astype("datetime64[us]").astype(datetime) if rows else None
    return _recorded(path, times, begin)


def _read_worldcup98(path: Path, _: ReadOptions) -> Recording:
    """``period,count``: a row per minute, by the calendar. Periods left out count 0."""
    periods, counts, numbers = [], [], []
    for number, line in _rows(path):
        try:
            period, count = line.split(",")
            periods.append(datetime.fromisoformat(period))
            counts.append(int(count))
        except ValueError:
            _wrong(path, number, f"expected a time and a whole number, not {line[:40]!r}")
        if counts[-1] < 0:
            _wrong(path, number, "the count is negative")
        numbers.append(number)
    if not periods:
        raise ValueError(f"{path} has no rows")
    offsets = np.array([(period - periods[0]).total_seconds() for period in periods])
    steps = np.diff(offsets)
    length = float(steps.min()) if len(steps) else 60.0
    # The smallest step is the period, so the first one that does not ascend shows as itself.
    odd = np.flatnonzero((steps <= 0) | (steps % max(length, 1e-9) != 0))
    if len(odd):
        _wrong(path, numbers[odd[0] + 1], f"its time is not a whole period of {length:g} s later")
    index = np.rint(offsets / length).astype(int)
    values = np.zeros(index[-1] + 1)
    values[index] = counts
    return Recording(counts=values, bin_seconds=length, begin=periods[0])


def _read_counts(path: Path, options: ReadOptions) -> Recording:
    """One count per line; or a table with a header, of which one column holds the counts."""
    lines = list(_lines(path))
    column, columns = 0, 1
    if lines and _number(lines[0][1]) is None:
        names = [name.strip() for name in lines.pop(0)[1].split(",")]
        if options.column not in names:
            raise ValueError(f"{path} has no column {options.column!r}, only {', '.join(names)}")
        column, columns = names.index(options.column), len(names)
    counts = []
    for number, line in lines:
        fields = line.split(",")
        count = _number(fields[column]) if len(fields) == columns else None
        if count is None or count < 0:
            _wrong(path, number, f"no count from 0: {line[:40]!r}")
        counts.append(count)
    if not counts:
        raise ValueError(f"{path} has no counts")
    return Recording(counts=np.array(counts), bin_seconds=options.bin_seconds)


def _read_times(path: Path, _: ReadOptions) -> Recording:
    """One time in seconds per line, ascending, from whatever origin."""
    times: list[float] = []
    for number, line in _lines(path):
        time = _number(line)
        if time is None:
            _wrong(path, number, f"no time in seconds: {line[:40]!r}")
        if times and time < times[-1]:
            _wrong(path, number, f"{time} is before the time above it")
        times.append(time)
    return _recorded(path, np.array(times))


def _recorded(path: Path, times: Times, begin: datetime | None = None) -> Recording:
    if not len(times):
        raise ValueError(f"{path} has no arrivals")
    return Recording(times=np.sort(times - times.min()), begin=begin)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is neither empty nor a comment (#)."""
    with path.open("rb") as file:  # decoded line by line, so that an error can name its line
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8-sig").strip()
            except UnicodeDecodeError:
                _wrong(path, number, "this is not text in UTF-8")
            if line and not line.startswith("#"):
                yield number, line


def _rows(path: Path) -> Iterator[tuple[int, str]]:
    """The lines below the header."""
    lines = _lines(path)
    next(lines, None)
    return lines


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if -inf < value < inf else None


def _whole_numbers(text: str) -> Values | None:
    """Numbers between commas; None if one is not whole. A day has 66 million of them: in C."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # what NumPy 1 gives instead of an error
        try:
            return np.fromstring(text, dtype=np.int64, sep=",").astype(float)
        except (ValueError, DeprecationWarning):
            return None


def _instant(stamp: str) -> np.datetime64:
    try:
        return np.datetime64(stamp, "ns")
    except ValueError:
        return np.datetime64("NaT")


def _wrong(path: Path, number: int, what: str) -> NoReturn:
    raise ValueError(f"{path}, line {number}: {what}")


_AZURE = "CC-BY 4.0, Microsoft; cite "
FORMATS = {
    "azure2019": Format(
        "HashOwner,HashApp,HashFunction,Trigger,1",
        _read_azure_functions_2019,
        "Azure Functions 2019 (Azure/AzurePublicDataset)",
        _AZURE + "Shahrad et al., Serverless in the Wild, USENIX ATC 2020",
    ),
    "azure2021": Format(
        "app,func,end_timestamp,duration",
        _read_azure_functions_2021,
        "Azure Functions 2021 (Azure/AzurePublicDataset)",
        _AZURE + "Zhang et al., Serverless Computing on Harvested Resources, SOSP 2021",
    ),
    "azure_llm": Format(
        "TIMESTAMP,",
        _read_azure_llm,
        "Azure LLM inference 2023 (Azure/AzurePublicDataset)",
        _AZURE + "Patel et al., Splitwise, ISCA 2024",
    ),
    "worldcup98": Format(
        "period,count",
        _read_worldcup98,
        "World Cup 1998 web site, per minute (nimamahmoudi/worldcup98-dataset)",
        "free to use and redistribute with the notice of Hewlett-Packard kept; cite Arlitt and "
        "Jin, 1998 World Cup Web Site Access Logs",
    ),
    "counts": Format("", _read_counts, "counts per bin", "as its publisher says"),
    "times": Format("", _read_times, "arrival times", "as its publisher says"),
}
