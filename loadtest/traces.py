"""Recorded traces: where they lie, which part of one is used, and how it becomes a load.

None ships with the project. `find_traces` looks in the folder that SUPERSERVE_TRACES names.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from math import ceil, inf
from pathlib import Path

import numpy as np

from loadtest.arrivals import Times, Values, checked, from_counts, recording_span, shrink
from loadtest.trace_readers import FORMATS, ReadOptions, recognise

FOLDER_VARIABLE = "SUPERSERVE_TRACES"
Moment = float | str | date | datetime  # seconds from the start of a trace, or by its calendar


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Either ``counts`` per bin of ``bin_seconds``, or the ``times`` of the arrivals in seconds.

    ``begin`` is the calendar time of second 0, where known; ``span`` (seconds) how long ``times``
    were recorded, by default to one mean gap past the last. Anything else is a ``ValueError``.
    """

    name: str
    source: str
    licence: str  # a note, not legal advice
    counts: Values | None = None  # [bins]
    bin_seconds: float | None = None
    times: Times | None = None  # [arrivals], ascending from 0 or later
    begin: datetime | None = None
    span: float | None = None

    def __post_init__(self) -> None:
        if (self.counts is None) == (self.times is None):
            raise ValueError(f"{self.name}: a trace has either counts or times")
        if (self.counts is None) != (self.bin_seconds is None):
            raise ValueError(f"{self.name}: bin_seconds belongs to counts, and counts need it")
        if self.bin_seconds is not None and not 0 < self.bin_seconds < inf:
            raise ValueError(f"{self.name}: bin_seconds must be positive, not {self.bin_seconds}")
        for field in ("counts", "times"):
            if getattr(self, field) is not None:
                values = checked(getattr(self, field), f"{self.name}: {field}").copy()
                values.setflags(write=False)
                object.__setattr__(self, field, values)
        if self.times is not None and not np.all(np.diff(self.times) >= 0):
            raise ValueError(f"{self.name}: times must ascend")

    @property
    def seconds(self) -> float:
        """How long was recorded."""
        if self.counts is not None and self.bin_seconds is not None:
            return len(self.counts) * self.bin_seconds
        if self.span is not None or self.times is None:
            return self.span or 0.0
        return recording_span(self.times)

    @property
    def total(self) -> float:
        """How many arrivals were recorded."""
        if self.times is not None:
            return float(len(self.times))
        return 0.0 if self.counts is None else float(self.counts.sum())

    @property
    def mean_rate(self) -> float:
        """Recorded arrivals per second; 0 for an empty trace."""
        return self.total / self.seconds if self.seconds else 0.0

    def part(self, start: Moment | None = None, stop: Moment | None = None) -> "Trace":
        """``start <= t < stop``; of a trace of counts, the bins that begin in there.

        A moment is a number of seconds, or a date or time (ISO text too; UTC where it has a zone)
        if the trace has a calendar. Raises ``ValueError`` where nothing of the trace lies there.
        """
        if start is None and stop is None:
            return self
        first = 0.0 if start is None else self._offset(start)
        last = self.seconds if stop is None else self._offset(stop)
        if not (first < last and first < self.seconds and last > 0):
            raise ValueError(f"{self.name} has nothing from {start} to {stop}: {self._extent()}")
        first, last = max(first, 0.0), min(last, self.seconds)
        if self.counts is not None and self.bin_seconds is not None:
            left, right = (ceil(edge / self.bin_seconds - 1e-9) for edge in (first, last))
            if left >= right:
                raise ValueError(f"no bin of {self.name} begins from {start} to {stop}")
            begin = self._later(left * self.bin_seconds)
            return replace(self, counts=self.counts[left:right], begin=begin)
        times = np.empty(0) if self.times is None else self.times
        inside = times[(times >= first) & (times < last)] - first
        return replace(self, times=inside, begin=self._later(first), span=last - first)

    def day(self, day: str | date) -> "Trace":
        """One day of the calendar, midnight to midnight; ``ValueError`` if none of it is there."""
        begin = datetime.combine(_instant(day).date(), time())
        return self.part(begin, begin + timedelta(days=1))

    def arrivals(
        self,
        mean_rate: float | None = None,
        seconds: float | None = None,
        cv2: float = 1.0,
        seed: int = 0,
        start: Moment | None = None,
        stop: Moment | None = None,
    ) -> Times:
        """The part from ``start`` to ``stop``, over ``seconds`` and at ``mean_rate`` q/s.

        By `loadtest.arrivals.from_counts` or `shrink`, which say what is preserved. Without
        ``seconds`` and ``mean_rate`` the part keeps its own; ``cv2`` 0 then replays times exactly.
        """
        part = self.part(start, stop)
        if part.counts is not None and part.bin_seconds is not None:
            return from_counts(
                part.counts, part.bin_seconds,
                mean_rate=mean_rate, seconds=seconds, cv2=cv2, seed=seed,
            )  # fmt: skip
        times = np.empty(0) if part.times is None else part.times
        return shrink(times, seconds, mean_rate, span=part.seconds, cv2=cv2, seed=seed)

    def _offset(self, moment: Moment) -> float:
        if isinstance(moment, int | float):
            return float(moment)
        if self.begin is None:
            raise ValueError(f"{self.name} has no calendar: give seconds instead of {moment!r}")
        return (_instant(moment) - self.begin).total_seconds()

    def _later(self, seconds: float) -> datetime | None:
        return None if self.begin is None else self.begin + timedelta(seconds=seconds)

    def _extent(self) -> str:
        if self.begin is None:
            return f"it lasts {self.seconds:g} s"
        return f"it goes from {self.begin} to {self._later(self.seconds)}"


def _instant(moment: str | date | datetime) -> datetime:
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError as error:
            raise ValueError(f"{moment!r} is no date or time such as 1998-06-30 12:00") from error
    if not isinstance(moment, datetime):
        return datetime.combine(moment, time())
    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)


def read_trace(
    path: Path | str,
    kind: str | None = None,
    *,
    functions: int | Collection[str] | None = None,
    column: str = "count",
    bin_seconds: float = 1.0,
) -> Trace:
    """Read a trace in one of `FORMATS`, by default the one that its first line tells.

    ``functions`` (azure2019): the first so many rows of the file, or those with these hashes;
    SuperServe used 32,700 of about 46,000 and does not say which. ``column`` and ``bin_seconds``
    (counts): where the counts stand in a table, and how long each lasted.

    Raises ``ValueError`` for an unknown ``kind``, an unknown format, or a malformed file (with the
    line), and ``OSError`` where there is nothing to read.
    """
    file = Path(path)
    found = recognise(file) if kind is None else kind
    if found is None:
        raise ValueError(f"{file} begins like none of the trace formats: {', '.join(FORMATS)}")
    if found not in FORMATS:
        raise ValueError(f"there is no trace format {found!r}, only {', '.join(FORMATS)}")
    form = FORMATS[found]
    recording = form.read(file, ReadOptions(functions, column, bin_seconds))
    return Trace(
        file.stem, form.source, form.licence,
        recording.counts, recording.bin_seconds, recording.times, recording.begin,
    )  # fmt: skip


def find_traces(folder: Path | None = None) -> dict[str, Path]:
    """Name (file name without ending) and path of every trace in ``folder``.

    By default in the folder that SUPERSERVE_TRACES names; empty where it is unset or no folder.
    Files that begin like no trace (licences, notes) are passed over.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    folder = Path(named) if folder is None and named else folder
    if folder is None or not folder.is_dir():
        return {}
    files = sorted(file for file in folder.iterdir() if file.suffix in {".csv", ".txt"})
    return {file.stem: file for file in files if file.is_file() and recognise(file) is not None}


def find_trace(name: str) -> Path:
    """The trace with this name, or the only one whose name contains it (in any case of letters).

    Raises ``ValueError`` that lists what there is, or says how to name the folder.
    """
    traces = find_traces()
    if not traces:
        raise ValueError(f"no traces: set {FOLDER_VARIABLE} to the folder that holds {name!r}")
    if name in traces:
        return traces[name]
    matches = [trace for trace in traces if name.lower() in trace.lower()]
    if len(matches) != 1:
        trouble = "no trace is" if not matches else "several traces are"
        raise ValueError(f"{trouble} named {name!r}; there are {', '.join(traces)}")
    return traces[matches[0]]
