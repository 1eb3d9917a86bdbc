"""Steps of a program joined where one op does the work of several: fewer passes over memory.

Each rule takes a program and gives one that computes the same. A value that anything else reads
stays. `fuse` applies them in an order in which each finds what those before it left.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import wraps

from torch import Tensor

from kernels.program import (
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
    Program,
    SqueezeExcite,
    Step,
    Value,
    reads,
    writes,
)

Rule = Callable[[Program], Program]


def fuse(program: Program, *, gpu: bool = False) -> Program:
    """All rules; with ``gpu`` also those that pay only where a launch is dearer than a pass."""
    program = without_dead_steps(program)
    rules = [affine_and_activation, residual, gate, pooled, squeeze_excite]
    for rule in [*rules, head, depthwise_project] if gpu else rules:
        program = rule(program)
    return program


class _Steps:
    """A program while it is rewritten: who makes each value, and how many steps read it."""

    def __init__(self, program: Program) -> None:
        self.steps: list[Step | None] = list(program.steps)
        self._output = program.output
        self._readers = Counter([program.output])
        self._maker: dict[Value, int] = {}
        for index, step in enumerate(program.steps):
            self._readers.update(reads(step))
            self._maker.update(dict.fromkeys(writes(step), index))

    def index(self, value: Value) -> int:
        """Where ``value`` is made; -1 for the input."""
        return self._maker.get(value, -1)

    def maker(self, value: Value) -> Step | None:
        """The step that makes ``value``; None for the input."""
        return self.steps[self._maker[value]] if value in self._maker else None

    def only(self, value: Value) -> Step | None:
        """The step that makes ``value``, if it is read once and is not the answer."""
        return self.maker(value) if self._readers[value] == 1 else None

    def join(self, step: Step, index: int, *parts: int) -> None:
        """Put ``step`` at ``index`` in the place of the steps at ``parts`` and there."""
        for part in {index, *parts}:
            old = self.steps[part]
            assert old is not None
            self._readers.subtract(reads(old))
            self.steps[part] = None
        self.steps[index] = step
        self._readers.update(reads(step))
        self._maker.update(dict.fromkeys(writes(step), index))

    def program(self) -> Program:
        return Program(tuple(step for step in self.steps if step is not None), self._output)


def _for_each(join: Callable[[_Steps, int, Step], None]) -> Rule:
    """The rule that looks at every step in turn, and joins it with what comes before."""

    @wraps(join)
    def rule(program: Program) -> Program:
        steps = _Steps(program)
        for index, step in enumerate(program.steps):
            if steps.steps[index] is step:
                join(steps, index, step)
        return steps.program()

    return rule


@_for_each
def affine_and_activation(at: _Steps, index: int, step: Step) -> None:
    """A norm and an activation join the product, the sum or the norm that they follow.

    A norm cannot follow an affine, a residual or an activation within one step.
    """
    if not isinstance(step, Activate):
        return
    made = at.only(step.x)
    if not isinstance(made, Pointwise | Conv | Depthwise | Add | Activate):
        return
    if made.activation != "identity" or (isinstance(made, Depthwise) and made.pooled is not None):
        return
    if _is_plain(step.affine):
        joined: Step = replace(made, out=step.out, activation=step.activation)
    elif (
        isinstance(made, Add)
        or not _is_plain(made.affine)
        or (isinstance(made, Pointwise | Conv) and made.residual is not None)
    ):
        return
    else:
        joined = replace(made, out=step.out, affine=step.affine, activation=step.activation)
    at.join(joined, index, at.index(made.out))


@_for_each
def residual(at: _Steps, index: int, step: Step) -> None:
    """act(affine(product) + y) is one step. relu(product) + y is not: the sum comes last there.

    Where both sides are products, the later one takes the sum: its operand is there by then.
    """
    if not isinstance(step, Add):
        return
    sides = [(step.x, step.y), (step.y, step.x)]
    for value, other in sorted(sides, key=lambda side: -at.index(side[0])):
        made = at.only(value)
        if not isinstance(made, Pointwise | Conv):
            continue
        if made.activation == "identity" and made.residual is None:
            joined = replace(made, out=step.out, residual=other, activation=step.activation)
            at.join(joined, index, at.index(value))
            return


@_for_each
def gate(at: _Steps, index: int, step: Step) -> None:
    """A gate on what a pointwise product reads is applied as it reads."""
    if not isinstance(step, Pointwise) or step.gate is not None:
        return
    made = at.only(step.x)
    if isinstance(made, Multiply):
        at.join(replace(step, x=made.x, gate=made.gate), index, at.index(made.out))


@_for_each
def pooled(at: _Steps, index: int, step: Step) -> None:
    """A depthwise convolution gives the mean of its result along with it."""
    if not isinstance(step, GlobalAverage):
        return
    made = at.maker(step.x)
    if isinstance(made, Depthwise) and made.pooled is None:
        at.join(replace(made, pooled=step.out), at.index(step.x), index)


@_for_each
def squeeze_excite(at: _Steps, index: int, step: Step) -> None:
    """h_sigmoid(W₂ relu(W₁ mean + b₁) + b₂) is one step, where the weights lie in rows."""
    if not isinstance(step, Pointwise) or not _is_linear(step, "h_sigmoid"):
        return
    made = at.only(step.x)
    if not isinstance(made, Pointwise) or not _is_linear(made, "relu"):
        return
    source = at.maker(made.x)
    is_mean = isinstance(source, GlobalAverage) or (
        isinstance(source, Depthwise) and source.pooled == made.x
    )
    if is_mean and made.weight.columns == step.weight.rows:
        (reduce, bias), (expand, expand_bias) = _rows(made), _rows(step)
        joined = SqueezeExcite(made.x, step.out, reduce, bias, expand, expand_bias)
        at.join(joined, index, at.index(made.out))


@_for_each
def head(at: _Steps, index: int, step: Step) -> None:
    """A linear layer behind a global average is one step with it."""
    if not isinstance(step, Pointwise) or step.gate is not None or step.residual is not None:
        return
    made = at.only(step.x)
    if isinstance(made, GlobalAverage):
        joined = Head(made.x, step.out, step.weight, step.affine, step.activation)
        at.join(joined, index, at.index(made.out))


@_for_each
def depthwise_project(at: _Steps, index: int, step: Step) -> None:
    """A depthwise convolution and the pointwise one behind it, without pooling or gate between."""
    if not isinstance(step, Pointwise) or step.gate is not None:
        return
    made = at.only(step.x)
    if isinstance(made, Depthwise) and made.pooled is None:
        at.join(DepthwiseProject(made, step), index, at.index(made.out))


def without_dead_steps(program: Program) -> Program:
    """Only the steps whose values lead to the answer."""
    needed, kept = {program.output}, list[Step]()
    for step in reversed(program.steps):
        if needed & {*writes(step)}:
            needed |= {*reads(step)}
            kept.append(step)
    return Program((*reversed(kept),), program.output)


def _is_plain(affine: Affine) -> bool:
    return affine.scale is None and affine.shift is None


def _is_linear(step: Pointwise, activation: str) -> bool:
    """Whether this is act(W x + b), of weights in rows."""
    return (
        step.activation == activation
        and step.weight.layout == "rows"
        and step.gate is None
        and step.residual is None
        and step.affine.scale is None
        and step.affine.shift is not None
    )


def _rows(step: Pointwise) -> tuple[Tensor, Tensor]:
    assert step.affine.shift is not None
    return step.weight.data[:, 0], step.affine.shift
