"""The GPU benchmarks, as far as they can be proven without one: gate, budget, order, timing."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import __main__ as runner
from benchmarks.gpu import documents, l2, phase, subnets, suite, timing
from benchmarks.gpu.budget import Deadline, Phase, run_phases
from benchmarks.gpu.documents import NO_TIME, Document
from benchmarks.gpu.gate import Verdict, admitted, of_step, of_subnet, relative
from benchmarks.gpu.settings import Settings

ROOT = Path(__file__).parent.parent


class Clock:
    """Time passes when somebody says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class TestBudget:
    def run(self, phases, total, taking, statuses=()):
        """Phases with known durations; what was launched, with its limit, and the outcomes."""
        clock, launched = Clock(), []

        def launch(one, seconds):
            launched.append((one.name, seconds))
            clock.now += min(taking[one.name], seconds)
            return dict(statuses).get(one.name, "done"), ""

        return launched, run_phases(phases, total, launch, clock)

    def test_phases_run_in_their_order_and_get_no_more_than_they_may(self):
        phases = [Phase("one", 1, 10), Phase("two", 1, 20)]
        launched, outcomes = self.run(phases, 100, {"one": 5, "two": 5})
        assert launched == [("one", 10), ("two", 20)]
        assert [(o.phase, o.status, o.seconds) for o in outcomes] == [
            ("one", "done", 5), ("two", "done", 5)]  # fmt: skip

    def test_what_no_longer_fits_is_left_out_and_says_why(self):
        phases = [Phase("long", 1, 90), Phase("big", 50, 60), Phase("small", 5, 60)]
        launched, outcomes = self.run(phases, 100, {"long": 90, "small": 5})
        assert launched == [("long", 90), ("small", 10)]
        assert outcomes[1].status == "left out"
        assert outcomes[1].reason == "10 s were left, and it needs 50"

    def test_what_is_kept_for_the_end_is_kept_from_all_before_it(self):
        phases = [Phase("greedy", 1, 1000), Phase("plots", 10, 30, kept=True)]
        launched, outcomes = self.run(phases, 100, {"greedy": 1000, "plots": 3})
        assert launched == [("greedy", 90), ("plots", 10)]
        assert outcomes[1].status == "done"

    def test_a_phase_that_fails_stops_no_other(self):
        phases = [Phase("bad", 1, 10), Phase("good", 1, 10)]
        _, outcomes = self.run(phases, 100, {"bad": 1, "good": 1}, {"bad": "failed"})
        assert [o.status for o in outcomes] == ["failed", "done"]

    def test_the_phases_of_a_whole_run_fit_their_order_and_names(self):
        names = [work.phase.name for work in phase.WORK]
        assert len(set(names)) == len(names)
        assert names.index("tests") < names.index("correctness") < names.index("subnets")
        assert names[-1] == "plots"
        assert phase.WORK[-1].phase.kept
        assert len({work.file for work in phase.WORK}) < 8  # and a picture

    def test_a_deadline_allows_a_fifth_more_than_the_longest_of_a_kind(self):
        clock = Clock()
        deadline = Deadline(100, clock)
        assert deadline.allows("cell", 80)
        assert not deadline.allows("cell", 90)
        deadline.took("cell", 40)
        deadline.took("cell", 10)
        clock.now = 52
        assert deadline.allows("cell", 1)
        clock.now = 53
        assert not deadline.allows("cell", 1)
        assert deadline.allows("other", 1)

    def test_a_child_that_does_not_end_is_ended(self):
        endless = "while True: pass"
        assert runner.run_and_end([sys.executable, "-c", endless], 0.3) is None

    @pytest.mark.parametrize("code", [0, 3, 7])
    def test_a_child_that_ends_says_how(self, code):
        command = [sys.executable, "-c", f"raise SystemExit({code})"]
        assert runner.run_and_end(command, 60) == code


class TestGate:
    right = torch.tensor([1.0, 2.0, 3.0])

    def test_only_right_answers_are_let_through_and_each_refusal_is_told(self):
        def fails():
            raise RuntimeError("no such kernel")

        told = []
        contenders = {
            "right": lambda: self.right,
            "wrong": lambda: self.right + 1,
            "not a number": lambda: self.right * torch.nan,
            "of another shape": lambda: self.right[:2],
            "ours, broken": fails,
            "theirs, broken": fails,
        }
        passed, verdicts = admitted(
            contenders,
            lambda answer: of_subnet(answer, self.right, torch.float32),
            lambda who, why: told.append(("refused", who, why)),
            lambda who, why: told.append(("left out", who, why)),
        )
        assert list(passed) == ["right"]
        assert list(verdicts) == ["right", "wrong", "not a number", "of another shape"]
        assert [(kind, who) for kind, who, _ in told] == [
            ("refused", "wrong"),
            ("refused", "not a number"),
            ("refused", "of another shape"),
            ("refused", "ours, broken"),
            ("left out", "theirs, broken"),
        ]
        assert "no such kernel" in told[-1][2]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_rounding_passes_and_one_wrong_pixel_does_not(self, dtype):
        wanted = torch.randn(2, 56, 56, 24, dtype=torch.float64)
        assert of_step(wanted.to(dtype), wanted, dtype).passed
        broken = wanted.to(dtype)
        broken[1, 55, 55] = 0
        assert not of_step(broken, wanted, dtype).passed

    def test_a_subnet_in_bfloat16_may_lose_twice_what_pytorch_loses(self):
        wanted = torch.ones(100)
        answer = wanted + 0.1
        assert of_subnet(answer, wanted, torch.bfloat16, pytorch=0.06).passed
        assert not of_subnet(answer, wanted, torch.bfloat16, pytorch=0.04).passed
        assert not of_subnet(wanted + 0.4, wanted, torch.bfloat16, pytorch=10.0).passed

    def test_a_verdict_is_json_whatever_it_found(self):
        assert json.loads(json.dumps(Verdict(float("nan"), 1.0).to_json())) == {
            "error": None, "limit": 1.0, "worst": 0.0, "worst_limit": None, "passed": False,
        }  # fmt: skip

    def test_the_error_is_relative_to_the_reference(self):
        assert relative(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 4.0])) == pytest.approx(0.2)


class FakeTimer:
    """Says what it was asked for; a sample is as long as the contender's place in a list."""

    def __init__(self):
        self.asked = []

    def sample(self, call, state):
        self.asked.append((call(), state))
        return float(len(self.asked))


class TestTiming:
    def test_contenders_take_turns_and_the_order_turns_too(self):
        take = FakeTimer()
        calls = {name: lambda name=name: name for name in "abc"}
        times = timing.interleaved(calls, ("warm", "cold"), 3, take)
        assert [who for who, _ in take.asked[::2]] == list("abcbcacab")
        assert [state for _, state in take.asked] == ["warm", "cold"] * 9
        assert times["a"] == {"warm": [1.0, 11.0, 15.0], "cold": [2.0, 12.0, 16.0]}

    def test_ratios_are_medians_of_rounds(self):
        times = {"ours": {"warm": [1.0, 2.0, 4.0]}, "other": {"warm": [3.0, 4.0, 40.0]}}
        assert timing.ratios(times, "ours") == {"other": {"warm": 3.0}}
        assert timing.ratios({"other": {"warm": [1.0]}}, "ours") == {}

    def test_a_summary_keeps_every_sample(self):
        found = timing.summary([n / 1e6 for n in range(1, 12)])
        assert (found["median_us"], found["p10_us"], found["p90_us"]) == (6, 2, 10)
        assert found["samples_us"] == list(range(1, 12))

    @pytest.mark.parametrize(
        ("state", "order"),
        [
            ("warm", ["call", "sync", "sleep", "start", "call", "end", "sync"]),
            ("as is", ["sync", "sleep", "start", "call", "end", "sync"]),
            ("evicted", ["sync", "flush", "sleep", "start", "call", "end", "sync"]),
            ("cold", ["sync", "reset", "flush", "sleep", "start", "call", "end", "sync"]),
            ("latency", ["call", "sync", "call", "sync"]),
        ],
    )
    def test_each_state_is_what_comes_before_the_call(self, monkeypatch, state, order):
        """Above all: persisting lines are given up before the flush, which does not evict them."""
        log = []

        class Event:
            def __init__(self, enable_timing):
                self.name = "end" if hasattr(Event, "made") else "start"
                Event.made = True

            def record(self):
                log.append(self.name)

            def elapsed_time(self, other):
                return 2.0

        memory = SimpleNamespace(add_=lambda _: log.append("flush"))
        properties = SimpleNamespace(L2_cache_size=60 << 20, clock_rate=1_980_000)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda _: log.append("sync"))
        monkeypatch.setattr(torch.cuda, "_sleep", lambda _: log.append("sleep"), raising=False)
        sizes = []
        monkeypatch.setattr(timing.torch, "ones", lambda n, device: sizes.append(n) or memory)
        monkeypatch.setattr(
            timing, "reset_of_persisting_lines", lambda: lambda: log.append("reset")
        )
        take = timing.CudaTimer(torch.device("cuda"))
        assert sizes[0] * 4 > 2 * properties.L2_cache_size
        seconds = take.sample(lambda: log.append("call"), state)
        assert log == order
        assert state == "latency" or seconds == 0.002


class TestPolicies:
    def test_policies_take_turns_one_at_a_time(self):
        """The set-aside is the device's: two that stand at once would measure neither."""
        log, open_now = [], []

        class Kept:
            def __init__(self, name):
                self.name = name

            def __enter__(self):
                assert not open_now
                open_now.append(self.name)

            def __exit__(self, *_):
                open_now.remove(self.name)

        def made(name):
            def same():
                log.append(open_now[0])

            return l2._Contender(name, Kept(name), None, same, same)

        settings = Settings.dry(Path())
        times = l2.in_blocks([made("default"), made("arena")], settings, FakeTimer())
        turns = [name for name, before in zip(log, [None, *log], strict=False) if name != before]
        assert turns == ["default", "arena", "default", "arena"]  # the second block is turned
        assert set(times) == {"default", "arena"}
        assert {len(samples) for samples in times["arena"].values()} == {l2.BLOCKS}


HEAD = {"format": documents.FORMAT, "how": "h", "kernel_hash": "k", "versions": {}}


class TestDocuments:
    def test_every_addition_is_on_disk_at_once(self, tmp_path):
        document = Document(tmp_path / "a.json", HEAD)
        document.add({"net": "n", "batch": 1})
        document.refuse("what", "why")
        found = documents.read(tmp_path / "a.json")
        assert found["cells"] == [{"net": "n", "batch": 1}]
        assert found["refused"] == [{"what": "what", "why": "why"}]
        assert not list(tmp_path.glob("*.partial"))

    def test_measured_cells_are_kept_and_what_had_no_time_is_tried_again(self, tmp_path):
        first = Document(tmp_path / "a.json", HEAD)
        first.add({"net": "n", "batch": 1})
        first.leave_out("batch 2", NO_TIME)
        first.leave_out("the package", "it is not installed")
        second = Document(tmp_path / "a.json", HEAD, keep=True)
        assert second.has(net="n", batch=1)
        assert not second.has(net="n", batch=2)
        assert [entry["what"] for entry in second.left_out] == ["the package"]

    def test_cells_of_other_kernels_are_never_kept(self, tmp_path):
        Document(tmp_path / "a.json", HEAD).add({"net": "n"})
        other = Document(tmp_path / "a.json", {**HEAD, "kernel_hash": "new"}, keep=True)
        assert other.cells == []

    def test_a_dry_run_does_not_write_where_figures_are_kept(self):
        with pytest.raises(SystemExit, match="folder of its own"):
            runner.main(["--dry-run"])


class TestOrder:
    def test_the_most_telling_cells_come_first(self):
        found = list(subnets.cells(Settings()))
        assert found[0] == ("mid", 1, "mobilenetv3-w1.2")
        assert found[1] == ("mid", 1, "resnet50")
        assert len(found) == len(set(found)) == 18
        assert {name for name, _, _ in found[:6]} == {"mid"}

    def test_cells_without_time_are_named_and_measured_ones_are_not_repeated(self, tmp_path):
        settings = Settings.dry(tmp_path)
        document = Document(tmp_path / "a.json", HEAD)
        bench = subnets._Bench(replace(settings, nets=()), document, theirs=False)
        document.add({"net": "n", "subnet": "mid", "batch": 1})
        spent = Deadline(-1, Clock())
        for batch in (1, 2):
            bench.cell(spent, "n", "mid", batch, 60.0, compile_it=True)
        assert document.left_out == [{"what": "n mid, batch 2", "why": NO_TIME}]


class TestSuite:
    def test_the_tests_of_a_folder_are_counted(self, tmp_path, monkeypatch):
        monkeypatch.setattr(suite, "ROOT", tmp_path)
        (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs one\n")
        (tmp_path / "test_some.py").write_text(
            "import pytest\n"
            "pytestmark = pytest.mark.gpu\n"
            "def test_right(): pass\n"
            "def test_wrong(): assert False\n"
            "@pytest.mark.skip(reason='none here')\n"
            "def test_skipped(): pass\n"
        )
        document = Document(tmp_path / "a.json", HEAD)
        cell = suite.run_folder(".", document, Deadline(60, Clock()))
        assert (cell["passed"], cell["failed"], cell["skipped"]) == (1, 1, 1)
        assert document.refused == [{"what": ".", "why": "1 tests failed"}]

    def test_a_folder_without_tests_is_left_out(self, tmp_path, monkeypatch):
        monkeypatch.setattr(suite, "ROOT", tmp_path)
        document = Document(tmp_path / "a.json", HEAD)
        suite.run_folder(".", document, Deadline(60, Clock()))
        assert document.refused == []
        assert len(document.left_out) == 1
