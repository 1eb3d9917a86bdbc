"""Trace files in their published formats: what is read, which part is used, what is refused.

Real traces are looked for in the folder that SUPERSERVE_TRACES names, and skipped without one.
"""

import os
from datetime import date, datetime, timedelta

import numpy as np
import pytest

from loadtest.arrivals import gamma, trace_statistics
from loadtest.trace_readers import FORMATS
from loadtest.traces import Trace, find_trace, find_traces, read_trace

MINUTES_2019 = ",".join(map(str, range(1, 1441)))
HEADER_2019 = f"HashOwner,HashApp,HashFunction,Trigger,{MINUTES_2019}\n"
HEADER_2021 = "app,func,end_timestamp,duration\n"
HEADER_LLM = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
HEADER_WC98 = "period,count\n"
at = datetime.fromisoformat


def row_2019(name, counts):
    """A row whose first minutes are ``counts``."""
    return f"o,a,{name},http," + ",".join(map(str, [*counts, *[0] * (1440 - len(counts))])) + "\n"


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="trace.csv"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_file


@pytest.fixture
def functions(write):
    rows = row_2019("f", [5, 0, 1]) + row_2019("g", [0, 2, 1]) + row_2019("h", [10, 10, 10])
    return write(HEADER_2019 + rows)


def of_counts(**more):
    return Trace("t", "here", "none", counts=np.array([2.0, 0.0, 1.0]), bin_seconds=60.0, **more)


def of_times(**more):
    return Trace("t", "here", "none", times=np.array([0.0, 1.0, 1.5, 4.0]), **more)


class TestAzureFunctions2019:
    def test_minutes_of_all_functions_are_summed(self, functions):
        trace = read_trace(functions)
        assert trace.counts[:4].tolist() == [15.0, 12.0, 12.0, 0.0]
        assert len(trace.counts) == 1440
        assert trace.bin_seconds == 60.0
        assert trace.total == 39.0
        assert "CC-BY" in trace.licence
        assert trace.name == "trace"

    def test_a_number_of_functions_takes_the_first_rows(self, functions):
        assert read_trace(functions, functions=2).counts[:3].tolist() == [5.0, 2.0, 2.0]

    def test_functions_can_be_named(self, functions):
        assert read_trace(functions, functions=["f", "h"]).counts[:3].tolist() == [15.0, 10.0, 11.0]

    @pytest.mark.parametrize("chosen", [4, ["f", "missing"]])
    def test_functions_that_are_not_there_are_an_error(self, functions, chosen):
        with pytest.raises(ValueError, match=r"has 3 functions, not 4|has 1 of the 2 functions"):
            read_trace(functions, functions=chosen)


class TestAzureFunctions2021:
    def test_arrival_is_end_less_duration_and_the_first_is_zero(self, write):
        rows = "a,f,10.5,0.5\na,g,9.25,0.25\nb,f,31.0,20.0\n"
        trace = read_trace(write(HEADER_2021 + rows))
        assert trace.times.tolist() == [0.0, 1.0, 2.0]  # at 9, 10 and 11 s
        assert trace.counts is None
        assert trace.begin is None


class TestAzureLlm:
    def test_seven_decimals_are_read_and_rows_put_in_order(self, write):
        rows = (
            "2023-11-16 23:59:59.6805900,374,44\n"
            "2023-11-17 00:00:01.6805901,396,109\n"
            "2023-11-17 00:00:00.1805900,879,55\n"
        )
        trace = read_trace(write(HEADER_LLM + rows))
        assert trace.times == pytest.approx([0.0, 0.5, 2.0000001], abs=1e-12)
        assert trace.begin == at("2023-11-16 23:59:59.680590")

    def test_a_zone_of_utc_and_whole_seconds_are_read_too(self, write):
        rows = "2024-05-12 00:00:00+00:00,1,1\n2024-05-12 00:00:00.250000+00:00,1,1\n"
        assert read_trace(write(HEADER_LLM + rows)).times.tolist() == [0.0, 0.25]


class TestWorldCup98:
    def test_periods_have_their_place_in_the_calendar(self, write):
        rows = "1998-05-08 03:20:00,7\n1998-05-08 03:21:00,9\n1998-05-08 03:23:00,4\n"
        trace = read_trace(write(HEADER_WC98 + rows))
        assert trace.counts.tolist() == [7.0, 9.0, 0.0, 4.0]  # a minute is missing in the log
        assert trace.bin_seconds == 60.0
        assert trace.begin == at("1998-05-08 03:20")
        assert "Hewlett-Packard" in trace.licence

    def test_the_period_is_the_smallest_step(self, write):
        trace = read_trace(write(HEADER_WC98 + "1998-05-08 03:00:00,1\n1998-05-08 04:00:00,2\n"))
        assert trace.bin_seconds == 3600.0

    def test_a_single_period_is_a_minute(self, write):
        assert read_trace(write(HEADER_WC98 + "1998-05-08 03:00:00,1\n")).bin_seconds == 60.0


class TestPlainFiles:
    def test_whole_numbers_are_counts_per_second(self, write):
        trace = read_trace(write("63\n64\n\n0\n", "twitter.txt"))
        assert trace.counts.tolist() == [63.0, 64.0, 0.0]
        assert trace.bin_seconds == 1.0

    def test_counts_can_stand_in_a_column_of_a_table(self, write):
        path = write("second,count\n0,5\n1,6\n")
        assert read_trace(path).counts.tolist() == [5.0, 6.0]

    def test_the_column_and_the_length_of_a_bin_can_be_named(self, write):
        path = write("hour,tweets,users\n0,5,1\n1,6,2\n")
        trace = read_trace(path, "counts", column="tweets", bin_seconds=3600.0)
        assert trace.counts.tolist() == [5.0, 6.0]
        assert trace.bin_seconds == 3600.0

    def test_a_decimal_point_makes_them_times(self, write):
        trace = read_trace(write("# seconds\n10\n10.25\n12\n"))
        assert trace.times.tolist() == [0.0, 0.25, 2.0]

    def test_the_kind_can_be_said_where_the_numbers_do_not_tell(self, write):
        assert read_trace(write("1\n2\n4\n"), "times").times.tolist() == [0.0, 1.0, 3.0]
        assert read_trace(write("1.0\n0.0\n"), "counts").counts.tolist() == [1.0, 0.0]

    def test_a_stream_that_was_written_down_is_replayed(self, write):
        times = gamma(50.0, 20.0, cv2=4.0, seed=1)
        trace = read_trace(write("".join(f"{time!r}\n" for time in times.tolist())))
        assert trace.arrivals(cv2=0.0) == pytest.approx(times - times[0])


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (HEADER_2019 + row_2019("f", [1]) + "o,a,g,http,1,2\n", 3, "1440 counts"),
        (HEADER_2019 + row_2019("f", ["x"]), 2, "whole number"),
        (HEADER_2019 + row_2019("f", [1.5]), 2, "whole number"),
        (HEADER_2019 + row_2019("f", [-1]), 2, "negative"),
        (HEADER_2021 + "a,f,1.0,0.5\na,f,soon,0.5\n", 3, "duration"),
        (HEADER_2021 + "a,f,1.0\n", 2, "duration"),
        (HEADER_2021 + "a,f,1.0,-0.5\n", 2, "duration"),
        (HEADER_2021 + "a,f,nan,0.5\n", 2, "duration"),
        (HEADER_LLM + "2023-11-16 18:15:46.6,1,1\n\nyesterday,1,1\n", 4, "no time"),
        (HEADER_LLM + ",1,1\n", 2, "no time"),
        (HEADER_WC98 + "1998-05-08 03:20:00,many\n", 2, "whole number"),
        (HEADER_WC98 + "1998-05-08 03:20:00\n", 2, "whole number"),
        (HEADER_WC98 + "1998-05-08 03:20:00,-1\n", 2, "negative"),
        (HEADER_WC98 + "1998-05-08 03:20:00,1\n1998-05-08 03:20:00,1\n", 3, "later"),
        (HEADER_WC98 + "1998-05-08 03:20:00,1\n1998-05-08 03:19:00,1\n", 3, "later"),
        (
            HEADER_WC98 + "".join(f"1998-05-08 03:{when},1\n" for when in ("20", "21", "22:30")),
            4,
            "whole period",
        ),
        ("5\n-1\n", 2, "no count"),
        ("5\nmany\n", 2, "no count"),
        ("second,count\n0,5\n1\n", 3, "no count"),
        ("1.0\n0.5\n", 2, "before"),
        ("1.0\n1.5,7\n", 2, "no time"),
        ("1.0\ninf\n", 2, "no time"),
    ],
)
def test_a_malformed_line_is_named(write, text, line, words):
    path = write(text)
    with pytest.raises(ValueError, match=rf"{path.name}, line {line}: .*{words}"):
        read_trace(path)


@pytest.mark.parametrize(
    "text", [HEADER_2019, HEADER_2021, HEADER_LLM, HEADER_WC98, "second,count\n"]
)
def test_a_file_without_rows_is_an_error(write, text):
    with pytest.raises(ValueError, match=r"trace.csv has no"):
        read_trace(write(text))


@pytest.mark.parametrize("kind", FORMATS)
def test_an_empty_file_is_an_error_in_every_format(write, kind):
    with pytest.raises(ValueError, match=r"trace.csv has no"):
        read_trace(write(""), kind)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "Copyright\n"])
def test_an_unknown_beginning_is_an_error_that_lists_the_formats(write, text):
    with pytest.raises(ValueError, match="azure2019, azure2021, azure_llm, worldcup98"):
        read_trace(write(text))


def test_an_unknown_kind_is_an_error_that_lists_the_formats(write):
    with pytest.raises(ValueError, match=f"'csv', only {', '.join(FORMATS)}"):
        read_trace(write("1\n"), "csv")


def test_a_column_that_is_not_there_is_an_error(write):
    with pytest.raises(ValueError, match="no column 'users', only second, count"):
        read_trace(write("second,count\n0,5\n"), column="users")


def test_bytes_that_are_no_text_are_an_error(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="begins like none"):
        read_trace(path)
    path.write_bytes(b"1\n\xff\n")
    with pytest.raises(ValueError, match="line 2: this is not text"):
        read_trace(path)


class TestTrace:
    def test_length_and_mean_rate_of_counts(self):
        assert of_counts().seconds == 180.0
        assert of_counts().mean_rate == pytest.approx(3 / 180)

    def test_times_last_one_mean_gap_past_the_last(self):
        assert of_times().seconds == pytest.approx(4 + 4 / 3)
        assert of_times().mean_rate == pytest.approx(0.75)

    def test_arrays_cannot_be_changed_from_outside(self):
        mine = np.array([1.0, 2.0])
        trace = Trace("t", "here", "none", times=mine)
        mine[0] = 9.0
        assert trace.times[0] == 1.0
        with pytest.raises(ValueError, match="read-only"):
            trace.times[0] = 5.0

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"counts": [1.0]},
            {"counts": [1.0], "bin_seconds": 0.0},
            {"counts": [-1.0], "bin_seconds": 1.0},
            {"times": [1.0], "bin_seconds": 1.0},
            {"times": [1.0, 0.5]},
            {"times": [1.0], "counts": [1.0], "bin_seconds": 1.0},
        ],
    )
    def test_it_has_either_counts_with_their_bin_or_ascending_times(self, fields):
        with pytest.raises(ValueError, match=r"^t: "):
            Trace("t", "here", "none", **fields)

    def test_a_part_of_counts_has_the_bins_that_begin_in_it(self):
        assert of_counts().part(60.0).counts.tolist() == [0.0, 1.0]
        assert of_counts().part(0.0, 61.0).counts.tolist() == [2.0, 0.0]
        assert of_counts().part(1.0, 120.0).counts.tolist() == [0.0]
        assert of_counts().part(-60.0, 999.0).counts.tolist() == [2.0, 0.0, 1.0]

    def test_a_part_of_times_begins_at_its_own_zero_and_keeps_its_length(self):
        part = of_times().part(0.5, 4.0)
        assert part.times.tolist() == [0.5, 1.0]
        assert part.seconds == 3.5

    def test_a_part_can_be_named_by_the_calendar(self):
        trace = of_counts(begin=at("1998-06-29 23:59"))
        assert trace.part("1998-06-30").counts.tolist() == [0.0, 1.0]
        assert trace.part(date(1998, 6, 30)).begin == at("1998-06-30")
        assert trace.part(stop=at("1998-06-30 00:01")).counts.tolist() == [2.0, 0.0]
        assert trace.part(at("1998-06-30 02:01+02:00")).counts.tolist() == [1.0]
        assert trace.part(at("1998-06-30 00:01Z")).counts.tolist() == [1.0]

    def test_a_day_goes_from_midnight_to_midnight(self):
        hours = Trace("t", "here", "none", counts=np.arange(72.0), bin_seconds=3600.0,
                      begin=at("1998-06-29 12:00"))  # fmt: skip
        assert hours.day("1998-06-30").counts.tolist() == list(range(12, 36))
        assert hours.day(date(1998, 6, 29)).counts.tolist() == list(range(12))

    @pytest.mark.parametrize(("start", "stop"), [(180.0, None), (60.0, 60.0), (-5.0, 0.0)])
    def test_a_part_without_anything_is_an_error_that_says_what_there_is(self, start, stop):
        with pytest.raises(ValueError, match="it lasts 180 s"):
            of_counts().part(start, stop)

    def test_a_part_between_the_beginnings_of_two_bins_is_an_error(self):
        with pytest.raises(ValueError, match="no bin"):
            of_counts().part(61.0, 62.0)

    def test_a_day_that_was_not_recorded_is_an_error_that_says_what_was(self):
        with pytest.raises(ValueError, match="1998-06-30 00:00:00 to 1998-06-30 00:03:00"):
            of_counts(begin=at("1998-06-30")).day("1998-07-01")

    def test_without_a_calendar_only_seconds_will_do(self):
        with pytest.raises(ValueError, match="no calendar"):
            of_counts().part("1998-06-30")

    def test_what_is_no_date_is_refused(self):
        with pytest.raises(ValueError, match="no date or time"):
            of_counts(begin=at("1998-06-30")).day("tomorrow")

    def test_counts_become_arrivals_in_their_shape(self):
        times = of_counts().arrivals(mean_rate=2.0, seconds=3.0, cv2=0.0)
        assert times == pytest.approx([0.0, 0.25, 0.5, 0.75, 2.0, 2.5])

    def test_times_become_arrivals_in_their_shape(self):
        times = of_times(span=5.0).arrivals(mean_rate=4.0, seconds=1.0, cv2=0.0)
        assert times == pytest.approx([0.0, 0.2, 0.3, 0.8])

    def test_only_the_chosen_part_becomes_arrivals(self):
        assert of_counts().arrivals(start=120.0, cv2=0.0).tolist() == [0.0]
        assert of_times().arrivals(start=1.0, stop=4.0, cv2=0.0).tolist() == [0.0, 0.5]

    @pytest.mark.parametrize("trace", [of_counts(), of_times()], ids=["counts", "times"])
    def test_the_seed_decides_the_arrivals(self, trace):
        one, again, other = (trace.arrivals(100.0, 1.0, seed=seed) for seed in (1, 1, 2))
        assert np.array_equal(one, again)
        assert not np.array_equal(one, other)


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path, write, monkeypatch):
        write(HEADER_WC98 + "1998-05-08 03:20:00,7\n", "wc98_minutes.csv")
        write(HEADER_LLM + "2023-11-16 18:15:46.6,1,1\n", "Azure_conv.csv")
        write("1\n2\n", "tweets.txt")
        write("Copyright, all of it\n", "NOTICE.txt")
        write("1\n", "numbers.dat")
        monkeypatch.setenv("SUPERSERVE_TRACES", str(tmp_path))
        return tmp_path

    def test_traces_are_found_by_their_beginning(self, folder):
        assert find_traces() == {
            "Azure_conv": folder / "Azure_conv.csv",
            "tweets": folder / "tweets.txt",
            "wc98_minutes": folder / "wc98_minutes.csv",
        }

    def test_part_of_a_name_is_enough_if_only_one_has_it(self, folder):
        assert find_trace("wc98") == folder / "wc98_minutes.csv"
        assert find_trace("azure") == folder / "Azure_conv.csv"

    @pytest.mark.parametrize(("name", "words"), [("w", "several traces are"), ("x", "no trace is")])
    def test_an_unclear_name_is_an_error_that_lists_the_traces(self, folder, name, words):
        with pytest.raises(ValueError, match=f"{words}.*Azure_conv, tweets, wc98_minutes"):
            find_trace(name)

    def test_an_exact_name_wins_over_a_longer_one(self, folder, write):
        write("1\n", "tweets_more.txt")
        assert find_trace("tweets") == folder / "tweets.txt"

    @pytest.mark.parametrize("value", [None, "", "no/such/folder"])
    def test_without_a_folder_there_are_none_and_the_error_says_what_to_set(
        self, monkeypatch, value
    ):
        monkeypatch.delenv("SUPERSERVE_TRACES", raising=False)
        if value is not None:
            monkeypatch.setenv("SUPERSERVE_TRACES", value)
        assert find_traces() == {}
        with pytest.raises(ValueError, match="set SUPERSERVE_TRACES"):
            find_trace("wc98")


@pytest.fixture
def real():
    """Reads a real trace by name, or skips."""

    def read(name):
        if not os.environ.get("SUPERSERVE_TRACES"):
            pytest.skip("SUPERSERVE_TRACES names no folder of real traces")
        if not any(name.lower() in trace.lower() for trace in find_traces()):
            pytest.skip(f"the folder SUPERSERVE_TRACES has no trace {name}")
        return read_trace(find_trace(name))

    return read


class TestRealTraces:
    """Against figures that others publish of these files."""

    def test_world_cup_98(self, real):
        trace = real("wc98")
        assert trace.total == 1_352_804_107
        assert trace.counts.max() / 60 == pytest.approx(3824, abs=1)
        busiest = trace.begin + timedelta(minutes=int(trace.counts.argmax()))
        assert busiest == at("1998-07-07 21:41")

    def test_the_busiest_day_of_the_world_cup_keeps_its_shape(self, real):
        """1998-06-30: 75.2 million requests, mean 870/s, peak 3587/s in a minute."""
        day = real("wc98").day("1998-06-30")
        assert day.total == pytest.approx(75.2e6, abs=5e4)
        assert day.mean_rate == pytest.approx(870, abs=1)
        times = day.arrivals(mean_rate=4000.0, seconds=40.0, seed=1)
        counts = np.histogram(times, 1440, (0.0, 40.0))[0]
        expected = 160_000 * day.counts / day.counts.sum()
        statistic = np.sum((counts - expected) ** 2 / expected)
        error = np.sqrt(2 * 1440 + np.sum(1 / expected))
        assert abs(statistic - 1440) < 5 * error
        # Mean of 36 minutes, one second after the shrink, plus what chance adds.
        peak = np.convolve(expected, np.ones(36), "valid").max()
        found = trace_statistics(times, 40.0, peak_window=1.0).peak_rate
        assert peak - 3 * np.sqrt(peak) < found < peak + 5 * np.sqrt(peak)

    def test_azure_llm_conversations(self, real):
        trace = real("LLMInferenceTrace_conv")
        assert len(trace.times) == 19_366
        assert trace.times[-1] == pytest.approx(3501.7219376, abs=1e-6)  # last less first stamp
        found = trace_statistics(trace.times, trace.seconds)
        assert found.mean_rate == pytest.approx(5.5, abs=0.05)
        assert found.cv2 == pytest.approx(1.2, abs=0.05)
        assert trace.arrivals(cv2=0.0) == pytest.approx(trace.times)

    def test_azure_functions_2019(self, real):
        trace = real("azure2019")
        assert len(trace.counts) == 1440
        assert trace.total > 0

    def test_azure_functions_2021(self, real):
        """199 invocations; the first arrives at 0.0795 - 0.078 s."""
        trace = real("Azure2021")
        assert len(trace.times) == 199
        assert trace.times[0] == 0.0
