"""Joined steps compute what the single ones do; each rule is stated, and so is what it leaves."""

import random

import pytest
import torch
from torch import Tensor

from kernels.activation import Activation
from kernels.execute import execute
from kernels.fusion import (
    affine_and_activation,
    depthwise_project,
    fuse,
    gate,
    head,
    pooled,
    residual,
    squeeze_excite,
    without_dead_steps,
)
from kernels.program import (
    PLAIN,
    Activate,
    Add,
    Affine,
    Conv,
    Depthwise,
    DepthwiseProject,
    GlobalAverage,
    Head,
    Multiply,
    Pointwise,
    Pool,
    Program,
    SqueezeExcite,
    Value,
)
from kernels.weights import Layout
from tests.kernels.programs import Builder

CHANNELS = 8
X = torch.randn(2, 5, 7, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Single(Builder):
    """Steps that do one thing each, as they come from a forward pass."""

    def __init__(self, layout: Layout = "rows") -> None:
        torch.manual_seed(0)
        super().__init__(layout, torch.float64)

    def product(self, x: Value, rows: int = CHANNELS, columns: int = CHANNELS) -> Value:
        return self.pointwise(x, columns, rows, affine=PLAIN)

    def biased(self, x: Value, rows: int, columns: int) -> Value:
        return self.pointwise(x, columns, rows, affine=Affine(shift=self.vector(rows)))

    def dense(self, x: Value, stride: int = 1) -> Value:
        return self.add(Conv(x, self.new(), self.weight(8, 8, 3), 3, stride, 1))

    def filtered(self, x: Value, stride: int = 1) -> Value:
        return self.add(Depthwise(x, self.new(), self.bank(3, CHANNELS), stride))

    def norm(self, x: Value) -> Value:
        return self.add(Activate(x, self.new(), self.affine(CHANNELS)))

    def act(self, x: Value, activation: Activation) -> Value:
        return self.add(Activate(x, self.new(), activation=activation))

    def sum(self, x: Value, y: Value) -> Value:
        return self.add(Add(x, y, self.new()))

    def mean(self, x: Value) -> Value:
        return self.add(GlobalAverage(x, self.new()))

    def gated(self, x: Value, gates: Value) -> Value:
        return self.add(Multiply(x, gates, self.new()))

    def squeezed(self, x: Value) -> Value:
        """Gates from the mean of ``x``."""
        hidden = self.act(self.biased(self.mean(x), 4, CHANNELS), "relu")
        return self.act(self.biased(hidden, CHANNELS, 4), "h_sigmoid")


def run(program: Program, x: Tensor = X) -> Tensor:
    return execute(program, x, "plain")


def kinds(program: Program) -> list[str]:
    return [type(step).__name__ for step in program.steps]


def agree(joined: Program, single: Program) -> bool:
    expected = run(single)
    assert expected.abs().mean() > 1e-3
    return bool(((run(joined) - expected).norm() / expected.norm()) < 1e-12)


def test_a_norm_and_an_activation_join_the_product_before_them():
    for product in (Single.product, Single.dense, Single.filtered):
        b = Single()
        single = b.program(b.act(b.norm(product(b, 0)), "h_swish"))
        (step,) = affine_and_activation(single).steps

        assert isinstance(step, Pointwise | Conv | Depthwise)
        assert step.activation == "h_swish"
        assert step.affine.scale is not None
        assert agree(affine_and_activation(single), single)


def test_an_activation_joins_a_sum_and_a_norm_does_not():
    b = Single()
    y = b.norm(b.act(b.sum(b.product(0), 0), "relu"))
    single = b.program(b.act(y, "h_swish"))
    joined = affine_and_activation(single)

    assert kinds(joined) == ["Pointwise", "Add", "Activate"]
    assert agree(joined, single)


def test_a_norm_behind_a_bias_or_an_activation_stays():
    for between in (lambda b: b.biased(0, 8, 8), lambda b: b.act(b.product(0), "relu")):
        b = Single()
        single = b.program(b.norm(between(b)))
        joined = affine_and_activation(single)

        assert kinds(joined)[-1] == "Activate"
        assert agree(joined, single)


def test_what_two_steps_read_stays():
    b = Single()
    y = b.product(0)
    single = b.program(b.sum(b.norm(y), b.act(y, "relu")))

    assert kinds(fuse(single)) == ["Pointwise", "Activate", "Activate", "Add"]
    assert agree(fuse(single), single)


def test_the_answer_is_not_swallowed():
    b = Single()
    y = b.product(0)
    b.act(y, "relu")
    single = b.program(y)

    assert kinds(fuse(single)) == ["Pointwise"]
    assert agree(fuse(single), single)


def test_a_sum_and_its_activation_join_the_product_before_it():
    b = Single()
    y = b.norm(b.product(b.act(b.norm(b.product(0)), "relu")))
    single = b.program(b.act(b.sum(y, 0), "relu"))
    _, last = fuse(single).steps

    assert isinstance(last, Pointwise)
    assert (last.residual, last.activation) == (0, "relu")
    assert agree(fuse(single), single)


def test_a_sum_with_an_activated_product_stays():
    """x + relu(product) is no residual: the sum comes after the activation."""
    b = Single()
    y = b.act(b.norm(b.product(0)), "relu")
    single = b.program(b.sum(0, y))

    assert kinds(fuse(single)) == ["Pointwise", "Add"]
    assert agree(fuse(single), single)


@pytest.mark.parametrize("order", [False, True])
def test_of_two_products_the_later_one_takes_the_sum(order):
    b = Single()
    early, late = b.norm(b.product(0)), b.norm(b.dense(0))
    single = b.program(b.sum(late, early) if order else b.sum(early, late))
    first, last = fuse(single).steps

    assert isinstance(first, Pointwise)
    assert isinstance(last, Conv)
    assert last.residual == first.out
    assert agree(fuse(single), single)


def test_a_value_added_to_itself_stays():
    b = Single()
    y = b.product(0)
    single = b.program(b.sum(y, y))

    assert kinds(residual(single)) == ["Pointwise", "Add"]
    assert agree(residual(single), single)


def test_a_gate_joins_the_product_that_reads_what_is_gated():
    b = Single()
    gates = b.mean(0)
    single = b.program(b.product(b.gated(0, gates)))
    joined = gate(single)

    assert kinds(joined) == ["GlobalAverage", "Pointwise"]
    assert joined.steps[-1].gate == gates
    assert agree(joined, single)


def test_what_is_gated_for_two_stays():
    b = Single()
    y = b.gated(0, b.mean(0))
    single = b.program(b.sum(b.product(y), y))

    assert kinds(gate(single)) == kinds(single)
    assert agree(fuse(single), single)


def test_a_mean_joins_the_depthwise_convolution():
    b = Single()
    y = b.filtered(0)
    single = b.program(b.gated(y, b.mean(y)))
    joined = pooled(single)

    assert kinds(joined) == ["Depthwise", "Multiply"]
    assert agree(joined, single)


def test_a_second_mean_stays():
    b = Single()
    y = b.filtered(0)
    single = b.program(b.sum(b.mean(y), b.mean(y)))

    assert kinds(pooled(single)) == ["Depthwise", "GlobalAverage", "Add"]
    assert agree(pooled(single), single)


def test_an_activation_does_not_join_what_is_averaged_before_it():
    b = Single()
    y = b.filtered(0)
    means = b.mean(y)
    single = b.program(b.gated(b.act(y, "relu"), means))
    joined = affine_and_activation(pooled(single))

    assert kinds(joined) == ["Depthwise", "Activate", "Multiply"]
    assert agree(joined, single)


def test_squeeze_and_excite_is_one_step_over_rows():
    b = Single()
    single = b.program(b.gated(0, b.squeezed(0)))
    joined = squeeze_excite(affine_and_activation(single))

    assert kinds(joined) == ["GlobalAverage", "SqueezeExcite", "Multiply"]
    assert agree(joined, single)


def test_squeeze_and_excite_over_panels_stays_two_products():
    b = Single("panels")
    single = b.program(b.gated(0, b.squeezed(0)))

    assert kinds(fuse(single)) == ["GlobalAverage", "Pointwise", "Pointwise", "Multiply"]
    assert agree(fuse(single), single)


def test_two_products_that_gate_no_mean_stay():
    b = Single()
    hidden = b.act(b.biased(0, 4, 8), "relu")
    single = b.program(b.act(b.biased(hidden, 8, 4), "h_sigmoid"))

    assert kinds(fuse(single)) == ["Pointwise", "Pointwise"]
    assert agree(fuse(single), single)


def test_a_whole_block_is_three_steps_and_the_gates():
    b = Single()
    y = b.act(b.norm(b.product(0)), "h_swish")
    y = b.act(b.norm(b.filtered(y)), "h_swish")
    y = b.norm(b.product(b.gated(y, b.squeezed(y))))
    single = b.program(b.sum(0, y))

    assert kinds(fuse(single)) == ["Pointwise", "Depthwise", "SqueezeExcite", "Pointwise"]
    assert agree(fuse(single), single)


def test_a_mean_and_a_linear_layer_are_a_head_on_a_gpu():
    b = Single()
    single = b.program(b.act(b.biased(b.mean(0), 6, 8), "h_swish"))

    assert kinds(fuse(single)) == ["GlobalAverage", "Pointwise"]
    assert kinds(fuse(single, gpu=True)) == ["Head"]
    assert agree(fuse(single, gpu=True), single)


def test_a_mean_that_others_read_is_in_no_head():
    b = Single()
    means = b.mean(0)
    single = b.program(b.sum(b.product(means), means))

    assert kinds(head(single)) == kinds(single)


def test_depthwise_and_projection_are_one_step_on_a_gpu():
    b = Single()
    y = b.act(b.norm(b.filtered(0)), "relu")
    single = b.program(b.sum(b.norm(b.product(y)), 0))
    (step,) = fuse(single, gpu=True).steps

    assert isinstance(step, DepthwiseProject)
    assert step.project.residual == 0
    assert agree(fuse(single, gpu=True), single)
    assert kinds(fuse(single)) == ["Depthwise", "Pointwise"]


def test_depthwise_and_a_gated_projection_stay_apart():
    b = Single()
    y = b.filtered(0)
    single = b.program(b.product(b.gated(y, b.mean(y))))

    assert kinds(depthwise_project(gate(pooled(single)))) == ["Depthwise", "Pointwise"]


def test_steps_that_lead_nowhere_vanish_with_all_that_led_to_them():
    b = Single()
    b.act(b.norm(b.product(0)), "relu")
    single = b.program(b.dense(0))

    assert kinds(without_dead_steps(single)) == ["Conv"]
    assert agree(without_dead_steps(single), single)


STEPS = [
    *("product", "norm", "norm", "act", "act", "dense", "filtered", "sum", "sum", "mean"),
    *("gated", "gates", "pool", "linear"),
]


def random_program(seed: int, layout: Layout) -> Program:
    """Steps in any order that their shapes allow, on values old and new."""
    rng = random.Random(seed)
    b = Single(layout)
    maps: dict[int, list[Value]] = {0: [0]}  # by how often the sides were halved
    vectors: list[Value] = []
    for _ in range(rng.randint(4, 30)):
        level = rng.choice(list(maps))
        # The newest value most often: chains are what rules look for.
        x = maps[level][-1] if rng.random() < 0.75 else rng.choice(maps[level])
        match rng.choice(STEPS):
            case "product":
                maps[level].append(b.product(x))
            case "norm":
                maps[level].append(b.norm(x))
            case "act":
                activation = rng.choice(["relu", "h_swish", "h_sigmoid"])
                maps[level].append(b.act(x, activation))  # type: ignore[arg-type]
            case "dense" | "filtered" as kind:
                stride = rng.choice([1, 1, 2])
                out = (b.dense if kind == "dense" else b.filtered)(x, stride)
                maps.setdefault(level + stride - 1, []).append(out)
            case "pool":
                out = b.add(Pool(x, b.new(), rng.choice(["max", "average"]), 3, 2, 1))
                maps.setdefault(level + 1, []).append(out)
            case "sum":
                maps[level].append(b.sum(x, rng.choice(maps[level])))
            case "mean":
                vectors.append(b.mean(x))
            case "gates":
                vectors.append(b.squeezed(x))
            case "gated" if vectors:
                maps[level].append(b.gated(x, vectors[-1]))
            case "linear" if vectors:
                vectors.append(b.biased(vectors[-1], CHANNELS, CHANNELS))
    last = [b.norm(b.mean(values[-1])) for values in maps.values()]
    out = last[0]
    for value in [*last[1:], *vectors[-1:]]:
        out = b.sum(out, value)
    return b.program(b.biased(out, 5, CHANNELS))


def test_any_program_computes_what_it_did():
    made: set[str] = set()
    for seed in range(100):
        layout: Layout = "rows" if seed % 3 else "panels"
        single = random_program(seed, layout)
        for gpu in (False, True):
            joined = fuse(single, gpu=gpu)
            made |= {*kinds(joined)}
            assert len(joined.steps) <= len(single.steps)
            assert agree(joined, single), f"seed {seed}, gpu {gpu}"
    assert {cls.__name__ for cls in (SqueezeExcite, Head, DepthwiseProject)} <= made


def test_fusing_again_changes_nothing():
    for seed in range(30):
        once = fuse(random_program(seed, "rows"), gpu=True)
        assert kinds(fuse(once, gpu=True)) == kinds(once)
