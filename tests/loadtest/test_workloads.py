"""Workloads by name: what each kind makes, what its label says, and what is refused."""

import os
import tomllib

import numpy as np
import pytest

from loadtest.arrivals import constant, gamma, phases, poisson, trace_statistics
from loadtest.generators import bursty, diurnal, maf_like, mmpp, time_varying
from loadtest.workloads import WORKLOADS, describe, make_arrivals

EXAMPLES = {  # a line of TOML -> the same by hand, and the label
    'kind = "constant"\nrate = 40\nseconds = 2': (
        lambda seed: constant(40.0, 2.0),
        "constant 40 q/s",
    ),
    'kind = "poisson"\nrate = 400\nseconds = 2': (
        lambda seed: poisson(400.0, 2.0, seed),
        "Poisson 400 q/s",
    ),
    'kind = "gamma"\nrate = 7000\ncv2 = 32\nseconds = 0.5': (
        lambda seed: gamma(7000.0, 0.5, 32.0, seed),
        "gamma 7000 q/s, CV² 32",
    ),
    'kind = "phases"\nsteps = [[1, 100], [0.5, 900], [1, 100]]': (
        lambda seed: phases([(1, 100), (0.5, 900), (1, 100)], seed),
        "phases 100-900-100 q/s",
    ),
    'kind = "bursty"\nbase = 1500\nvariant = 4900\ncv2 = 8\nseconds = 2': (
        lambda seed: bursty(1500.0, 4900.0, 2.0, 8.0, seed),
        "bursty 1500 + 4900 q/s, CV² 8",
    ),
    'kind = "time_varying"\nrate1 = 2500\nrate2 = 7400\ntau = 5000\nseconds = 2': (
        lambda seed: time_varying(2500.0, 7400.0, 5000.0, 2.0, 8.0, seed),
        "2500 → 7400 q/s at 5000 q/s², CV² 8",
    ),
    'kind = "diurnal"\nmean_rate = 500\nseconds = 4\nswing = 0.6\nperiod = 2': (
        lambda seed: diurnal(500.0, 4.0, 0.6, 1.0, seed, period=2.0),
        "diurnal 500 q/s ± 60 %",
    ),
    'kind = "mmpp"\nrate_on = 900\non_seconds = 0.2\noff_seconds = 0.6\nseconds = 5': (
        lambda seed: mmpp(900.0, 0.0, 0.2, 0.6, 5.0, seed),
        "on/off 900/0 q/s, 0.2/0.6 s",
    ),
    'kind = "maf_like"\nmean_rate = 640\nseconds = 12\nday = 3': (
        lambda seed: maf_like(12.0, 640.0, 1.0, seed, day=3),
        "MAF-like 640 q/s",
    ),
}


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text.split('"')[1])
def test_a_table_makes_what_its_generator_makes(text):
    by_hand, label = EXAMPLES[text]
    spec = tomllib.loads(text)
    assert np.array_equal(make_arrivals(spec, 7), by_hand(7))
    assert describe(spec) == label


def test_every_kind_but_the_trace_has_an_example():
    kinds = {tomllib.loads(text)["kind"] for text in EXAMPLES}
    assert kinds == set(WORKLOADS) - {"trace"}


def test_the_base_of_bursty_is_the_paper_s_unless_said():
    times = make_arrivals({"kind": "bursty", "variant": 0, "cv2": 8, "seconds": 2}, 0)
    assert np.array_equal(times, constant(1500.0, 2.0))


@pytest.fixture
def traces(tmp_path, monkeypatch):
    rows = "".join(
        f"1998-06-{day} {hour:02}:00:00,{count}\n"
        for day, count in ((29, 100), (30, 500))
        for hour in range(24)
    )
    (tmp_path / "wc98_hours.csv").write_text("period,count\n" + rows)
    (tmp_path / "stamps.txt").write_text("0.5\n1.5\n1.75\n")
    (tmp_path / "table.csv").write_text("minute,tweets\n0,4\n1,2\n")
    monkeypatch.setenv("SUPERSERVE_TRACES", str(tmp_path))
    return tmp_path


class TestTraces:
    def test_a_day_of_a_trace_by_name(self, traces):
        spec = tomllib.loads(
            'kind = "trace"\nname = "wc98"\nday = "1998-06-30"\nmean_rate = 4000\nseconds = 4'
        )
        found = trace_statistics(make_arrivals(spec, 1), 4.0)
        assert abs(found.mean_rate - 4000) < 5 * np.sqrt(4000 / 4)
        assert describe(spec) == "wc98 1998-06-30 4000 q/s"

    def test_dates_can_be_those_of_toml(self, traces):
        spec = tomllib.loads('kind = "trace"\nname = "wc98"\nday = 1998-06-30\nseconds = 5')
        text = {**spec, "day": "1998-06-30"}
        assert np.array_equal(make_arrivals(spec, 1), make_arrivals(text, 1))
        assert describe(spec) == "wc98 1998-06-30"

    def test_start_and_stop_choose_a_part(self, traces):
        """The two hours around the midnight between 100 and 500 an hour."""
        spec = tomllib.loads(
            'kind = "trace"\nname = "wc98"\nstart = 1998-06-29T23:00:00\n'
            'stop = "1998-06-30 01:00"\n'
            "mean_rate = 30\nseconds = 20\ncv2 = 0"
        )
        times = make_arrivals(spec, 1)
        assert np.sum(times < 10) == 100
        assert np.sum(times >= 10) == 500
        assert describe(spec) == "wc98 1998-06-29 23:00:00..1998-06-30 01:00 30 q/s"

    def test_a_path_and_its_format(self, traces):
        path = str(traces / "table.csv")
        spec = {"kind": "trace", "path": path, "format": "counts", "column": "tweets",
                "bin_seconds": 60, "cv2": 0}  # fmt: skip
        assert make_arrivals(spec, 0) == pytest.approx([0.0, 15.0, 30.0, 45.0, 60.0, 90.0])
        assert describe(spec) == "table"

    def test_times_are_replayed(self, traces):
        spec = {"kind": "trace", "name": "stamps", "cv2": 0}
        assert make_arrivals(spec, 0) == pytest.approx([0.0, 1.0, 1.25])

    def test_a_number_of_functions(self, traces):
        header = "HashOwner,HashApp,HashFunction,Trigger,1,2\n"
        (traces / "maf.csv").write_text(header + "o,a,f,http,2,1\no,a,g,http,0,9\n")
        spec = {"kind": "trace", "name": "maf", "cv2": 0}
        assert len(make_arrivals(spec, 0)) == 12
        assert make_arrivals({**spec, "functions": 1}, 0) == pytest.approx([0.0, 30.0, 60.0])
        assert len(make_arrivals({**spec, "functions": ["g"]}, 0)) == 9

    def test_a_file_that_changed_is_read_again(self, traces):
        path = traces / "stamps.txt"
        spec = {"kind": "trace", "name": "stamps", "cv2": 0}
        assert len(make_arrivals(spec, 0)) == 3
        path.write_text("0.5\n1.5\n1.75\n2.5\n")
        os.utime(path, ns=(1, 1))
        assert len(make_arrivals(spec, 0)) == 4

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            ({}, "either the name of a trace or its path"),
            ({"name": "wc98", "path": "x.csv"}, "either the name of a trace or its path"),
            ({"name": "wc98", "day": "1998-06-30", "start": 5}, "either a day, or start and stop"),
            ({"name": "none"}, "there are stamps, wc98_hours"),
            ({"path": "no/such/file.csv"}, "there is no trace no/such/file.csv"),
        ],
    )
    def test_a_trace_that_is_not_said_clearly_is_refused(self, traces, more, words):
        with pytest.raises(ValueError, match=words):
            make_arrivals({"kind": "trace", **more}, 0)

    def test_a_label_needs_no_trace(self, monkeypatch):
        monkeypatch.delenv("SUPERSERVE_TRACES", raising=False)
        spec = {"kind": "trace", "name": "wc98", "start": 60, "mean_rate": 4000}
        assert describe(spec) == "wc98 60.. 4000 q/s"


@pytest.mark.parametrize("act", [lambda spec: make_arrivals(spec, 0), describe])
class TestRefusals:
    @pytest.mark.parametrize("kind", [None, "possion", ["poisson"]])
    def test_an_unknown_kind_is_refused_with_the_list_of_kinds(self, act, kind):
        spec = {} if kind is None else {"kind": kind}
        with pytest.raises(ValueError, match=r"constant, poisson, gamma, .*maf_like, trace"):
            act(spec)

    def test_an_unknown_key_is_refused_with_the_list_of_keys(self, act):
        spec = {"kind": "bursty", "variant": 1, "cv2": 2, "seconds": 3, "rate": 4, "lambda": 5}
        words = r"does not know rate, lambda.*base \(default 1500.0\), variant, cv2, seconds"
        with pytest.raises(ValueError, match=words):
            act(spec)

    def test_missing_keys_are_refused_with_the_list_of_keys(self, act):
        words = r"bursty needs variant, seconds; its keys are base \(default 1500.0\), variant, cv2"
        with pytest.raises(ValueError, match=words):
            act({"kind": "bursty", "cv2": 2})

    @pytest.mark.parametrize("rate", ["fast", True, -1, float("nan"), float("inf"), None])
    def test_a_value_that_is_no_number_from_zero_is_refused(self, act, rate):
        with pytest.raises(ValueError, match="rate of the workload poisson must be a number"):
            act({"kind": "poisson", "rate": rate, "seconds": 1})

    @pytest.mark.parametrize("steps", [5, [[1]], [[1, 2, 3]], [[1, "fast"]], [1, 2]])
    def test_steps_are_pairs_of_numbers(self, act, steps):
        with pytest.raises(ValueError, match="steps of the workload phases must be pairs"):
            act({"kind": "phases", "steps": steps})

    @pytest.mark.parametrize(
        ("key", "value"), [("name", 5), ("day", 5), ("start", True), ("functions", 1.5)]
    )
    def test_keys_of_a_trace_have_their_types(self, act, key, value):
        with pytest.raises(ValueError, match=f"{key} of the workload trace must be"):
            act({"kind": "trace", "name": "x", key: value})

    def test_a_day_of_the_synthetic_trace_is_a_whole_number(self, act):
        with pytest.raises(ValueError, match="day of the workload maf_like must be a whole"):
            act({"kind": "maf_like", "day": 1.5})


def test_a_generator_s_own_refusal_comes_through():
    spec = {"kind": "time_varying", "rate1": 1, "rate2": 9, "tau": 1, "seconds": 2}
    with pytest.raises(ValueError, match="does not fit"):
        make_arrivals(spec, 0)
