"""The set-aside is given back, windows fit it, and where there is none nothing happens."""

import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.arena import Arena
from kernels.l2 import L2, Capacity, Window, fit
from kernels.program import Affine, Depthwise, Pointwise, Program
from kernels.residency import residency, weight_ranges
from kernels.weights import Weight
from tests.kernels.fake_cuda import FakeRuntime, FakeStream

POLICIES = ["default", "arena", "core", "per-layer", "prefetch-next", "actuation-prefetch"]
STREAM = FakeStream()


def small_arena(hot=None):
    """Two layers of 64 x 16 bytes and 64 norms behind them."""
    tensors = {"first": torch.zeros(16, 16), "second": torch.zeros(16, 16), "row": torch.zeros(64)}
    return Arena(tensors, hot=hot)


def two_layers(arena):
    def weight(name, rows):
        return Weight(arena[name][:rows, None, :8], rows)

    row = arena["row"]
    return Program(
        (
            Pointwise(0, 1, weight("first", 8), Affine(row[:8], row[8:16])),
            Pointwise(1, 2, weight("second", 4), Affine(row[16:20], row[20:24])),
        ),
        2,
    )


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 90), st.integers(1, 200))
def test_what_persists_of_a_window_fits_the_set_aside(nbytes, set_aside, most):
    window = fit(1000, nbytes, set_aside, Capacity(100, 90, most))

    assert window.nbytes == min(nbytes, most)
    assert 0 <= window.hit_ratio <= 1
    assert window.nbytes * window.hit_ratio <= set_aside * (1 + 1e-9)
    if 0 < window.nbytes <= set_aside:
        assert window.hit_ratio == 1


@pytest.mark.parametrize("fails", [False, True])
def test_the_limit_is_restored_and_no_line_stays_persisting(fails):
    runtime = FakeRuntime(persisting=40, limit=7)
    try:
        with L2(runtime=runtime).reserved(100) as granted:
            assert (granted, runtime.limit) == (40, 40)
            if fails:
                raise KeyError
    except KeyError:
        assert fails

    assert runtime.limit == 7
    assert runtime.calls[-1] == ("reset",)


def test_a_window_stands_while_its_context_does_even_if_that_fails():
    runtime = FakeRuntime()
    l2 = L2(runtime=runtime)

    def capture():
        with l2.window(5, Window(4096, 80, 0.5)):
            standing = runtime.stream_windows[5]
            assert (standing.base_ptr, standing.num_bytes, standing.hitRatio) == (4096, 80, 0.5)
            assert (standing.hitProp, standing.missProp) == ("persisting", "normal")
            raise KeyError

    with pytest.raises(KeyError):
        capture()

    assert runtime.stream_windows[5].num_bytes == 0


@pytest.mark.parametrize(
    ("runtime", "reason"),
    [
        (FakeRuntime(failing={"attribute"}), "no device"),
        (FakeRuntime(persisting=0), "MIG"),
        (FakeRuntime(failing={"set"}), "MPS"),
        (FakeRuntime(failing={"get"}), "cannot be read"),
        (None, ""),  # the real bindings, on whatever machine this is
    ],
    ids=["no driver", "no set-aside", "limit refused", "limit unreadable", "real"],
)
def test_without_a_set_aside_all_is_a_no_op_with_a_reason(runtime, reason):
    if runtime is None and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    l2 = L2(runtime=runtime)
    with l2.reserved(100) as granted, l2.window(5, fit(0, 100, granted, l2.capacity)):
        pass

    assert granted == 0
    assert reason in l2.reason != ""
    assert l2.captured_nodes(5) == []
    assert l2.set_nodes({1: Window(0, 8, 1.0)}) == 0
    if runtime is not None:
        assert runtime.limit == 7
        assert not runtime.stream_windows


def test_without_the_bindings_all_is_a_no_op_with_a_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)

    with (l2 := L2()).reserved(5) as granted:
        assert granted == 0
    assert "not installed" in l2.reason


def test_only_kernel_nodes_get_windows():
    runtime = FakeRuntime()
    runtime.nodes = {1: "kernel", 2: "memcpy", 3: "kernel"}
    windows = {node: Window(100 * node, 10, 1.0) for node in runtime.nodes}

    assert L2(runtime=runtime).set_nodes(windows) == 2
    assert {n: w.base_ptr for n, w in runtime.node_windows.items()} == {1: 100, 3: 300}


@pytest.mark.parametrize("policy", POLICIES)
def test_on_a_cpu_every_policy_does_nothing_and_says_why(policy):
    arena = small_arena()
    program = two_layers(arena)
    with residency(policy, arena) as chosen:
        chosen.switched(None, program)
        with chosen.capturing(program, STREAM) as capturing:
            assert capturing.before is None
            capturing.last()
        capturing.finish()

    assert chosen.policy == policy
    assert chosen.reason


def test_an_unknown_policy_is_an_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match="per-layer"):
        residency("everything", small_arena())


def test_the_arenas_window_is_over_all_of_it_and_its_set_aside_stays_until_the_end():
    arena, runtime = small_arena(), FakeRuntime(persisting=512, window=10**6)
    with residency("arena", arena, L2(runtime=runtime)) as chosen:
        with chosen.capturing(two_layers(arena), STREAM):
            window = runtime.stream_windows[5]
            assert (window.base_ptr, window.num_bytes) == (arena.buffer.data_ptr(), arena.nbytes)
            assert window.hitRatio == pytest.approx(512 / arena.nbytes)
        assert runtime.stream_windows[5].num_bytes == 0
        assert runtime.limit == 512
    assert runtime.limit == 7


@pytest.mark.parametrize(("persisting", "expected"), [(256, 256), (5000, 1024)])
def test_the_cores_window_is_what_is_hot_as_far_as_it_persists(persisting, expected):
    arena, runtime = small_arena(hot=1), FakeRuntime(persisting=persisting, window=10**6)
    with (
        residency("core", arena, L2(runtime=runtime)) as chosen,
        chosen.capturing(two_layers(arena), STREAM),
    ):
        window = runtime.stream_windows[5]

        assert (window.base_ptr, window.num_bytes) == (arena.buffer.data_ptr(), expected)
        assert window.hitRatio == 1


def test_each_layers_nodes_get_a_window_over_that_layers_weights():
    arena, runtime = small_arena(), FakeRuntime(persisting=512, window=10**6)
    program = two_layers(arena)
    with residency("per-layer", arena, L2(runtime=runtime)) as chosen:
        with chosen.capturing(program, STREAM) as capturing:
            runtime.nodes[10] = "memcpy"  # what a capture begins with is no layer's
            capturing.before(0, program.steps[0])
            runtime.nodes |= {11: "kernel", 12: "kernel"}
            capturing.before(1, program.steps[1])
            runtime.nodes |= {13: "kernel"}
            capturing.last()
        capturing.finish()
    found = {n: (w.base_ptr, w.num_bytes) for n, w in runtime.node_windows.items()}
    first, second = arena["first"], arena["second"]

    # From the first byte of the slice to its last: rows of 16, of which 8 are read.
    assert found[11] == found[12] == (first.data_ptr(), (7 * 16 + 8) * 4)
    assert found[13] == (second.data_ptr(), (3 * 16 + 8) * 4)
    assert set(found) == {11, 12, 13}


def test_a_steps_weights_are_what_it_reads_without_norms():
    arena = small_arena()
    filters = arena["first"][:9, :8].unflatten(0, (3, 3))
    step = Depthwise(0, 1, filters, 1, Affine(arena["row"][:8], arena["row"][8:16]))
    first = arena.buffer.data_ptr()
    ranges = weight_ranges(step, first, first + arena.nbytes)

    assert ranges.tolist() == [[first + 64 * i, first + 64 * i + 32] for i in range(9)]
    assert len(weight_ranges(step, first + arena.nbytes, first + 2 * arena.nbytes)) == 0


def test_the_real_bindings_have_every_name_that_the_fake_has():
    runtime = pytest.importorskip("cuda.bindings.runtime")
    for name, fake in vars(FakeRuntime).items():
        if name.startswith("cuda"):
            real = getattr(runtime, name)
            for member in vars(fake) if isinstance(fake, SimpleNamespace) else ():
                assert hasattr(real, member)
