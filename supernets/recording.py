"""What is computed from an image in a forward pass without values, written down as steps."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.activation import Activation
from kernels.program import PLAIN, Activate, Affine, GlobalAverage, Program, Step, Value
from kernels.weights import Weight, prefix
from supernets.stored_weights import Kind, Place, Skeleton, storage

_COPIES = {torch.ops.aten.clone.default, torch.ops.aten._to_copy.default}  # noqa: SLF001


class NotLowered(TypeError):
    """A forward pass in which something is computed that no step of a program computes."""


class Recorder(TorchDispatchMode):
    """Follows an image through a pass, by the storage of what is computed from it.

    Views of an activation, and what changes it in place, thereby are that activation. ``rules``
    says what each of PyTorch's ops does; an op without one is not lowered.
    """

    def __init__(
        self, skeleton: Skeleton, image: Tensor, rules: Mapping[Any, Callable[..., Any]]
    ) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.skeleton = skeleton
        # A `TypeError` within a Python operator tells it to try the other operand, and is lost.
        self.refusal: NotLowered | None = None
        self._rules = rules
        self._values: dict[int, Value] = {storage(image): 0}  # by storage
        self._vectors: set[Value] = set()  # values [N, C]; the others are [N, H, W, C]
        self._copies: dict[int, Tensor] = {}  # storage -> the weight that was copied there
        self._kept = [image]  # while a tensor lives, no other can get its storage's identity
        self._made = 0

    def program(self, logits: Tensor) -> Program:
        """All that was recorded; ``logits`` are what the pass returned."""
        if self.refusal is not None:
            raise self.refusal
        if not self.knows(logits) or logits.dim() != 2:
            raise NotLowered("the forward pass returns no logits [N, classes]")
        output = self.vector(logits)
        return Program((*self.steps,), output)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        if any(self.knows(tensor) for tensor in _tensors((*args, *kwargs.values()))):
            return self._follow(func, args, kwargs)
        out = func(*args, **kwargs)
        self.keep(*_tensors((out,)))
        if func in _COPIES and out.dtype == args[0].dtype:
            self._copies[storage(out)] = args[0]
        return out

    def _follow(self, func: Any, args: Any, kwargs: Any) -> Any:
        try:
            rule = self._rules.get(func)
            if rule is None:
                raise NotLowered(f"no step of a program computes {func}")
            return rule(self, *args, **kwargs)
        except NotLowered as error:
            self.refusal = self.refusal or error
            raise

    def normalise(self, x: Tensor, layer: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """A `Normalisation` that reads the layer's place in the subnet's row."""
        del weight, bias, eps  # they are in the row
        scale, shift = (row[: x.shape[1]] for row in self.skeleton.rows[layer])
        return self.activate(x, "identity", Affine(scale, shift))

    def keep(self, *tensors: Tensor) -> None:
        """Let these live as long as the recording."""
        self._kept += tensors

    # Activations.

    def knows(self, x: object) -> bool:
        """Whether this is computed from the image."""
        return isinstance(x, Tensor) and storage(x) in self._values

    def value(self, x: Tensor) -> Value:
        """The value that ``x`` is now."""
        if not self.knows(x):
            raise NotLowered("a weight takes the place of an activation")
        return self._values[storage(x)]

    def is_vector(self, x: Tensor) -> bool:
        """Whether the value is [N, C]."""
        return self.value(x) in self._vectors

    def vector(self, x: Tensor) -> Value:
        """The value of ``x`` [N, C, ...], which has one pixel, as [N, C]."""
        value = self.value(x)
        if math.prod(x.shape[2:]) != 1:
            raise NotLowered(f"{tuple(x.shape[2:])} pixels are used like one")
        if value not in self._vectors:
            pooled = self.new()
            self.steps.append(GlobalAverage(value, pooled))
            self.hold(x, pooled, vector=True)
            value = pooled
        return value

    def new(self) -> Value:
        """A number for what the next step makes."""
        self._made += 1
        return self._made

    def hold(self, x: Tensor, value: Value, *, vector: bool) -> None:
        """From now on ``x`` and all views of it are this value."""
        self._values[storage(x)] = value
        if vector:
            self._vectors.add(value)

    def give(self, value: Value, shape: Sequence[int], *, vector: bool) -> Tensor:
        """A new tensor that is ``value``; ``shape`` is [N, C, ...]."""
        out = torch.empty(*shape, dtype=self.skeleton.dtype, device="meta")
        self.keep(out)
        self.hold(out, value, vector=vector)
        return out

    def activate(self, x: Tensor, activation: Activation, affine: Affine = PLAIN) -> Tensor:
        """Record act(affine(x))."""
        out = self.new()
        self.steps.append(Activate(self.value(x), out, affine, activation))
        return self.give(out, x.shape, vector=self.is_vector(x))

    # Weights: views of what the arena will hold.

    def matrix(self, weight: Tensor) -> Weight:
        """The first rows and columns of a weight, seen as [O, I] or [O, I, k, k]."""
        place, part = self._place(weight, "matrix")
        whole = _shape(place)
        taps = math.prod(part.shape[2:])
        dims = range(part.dim() if taps > 1 else 2)
        if taps != place.whole.shape[1] or any(
            part.shape[d] > 1 and part.stride(d) != whole.stride(d) for d in dims
        ):
            raise NotLowered(f"{place.name} is read in another way than by its first channels")
        return prefix(place.whole, part.shape[0], part.shape[1], self.skeleton.layout)

    def bank(self, weight: Tensor) -> Tensor | None:
        """The first filters [k, k, C] of a bank, or None if the weight is in none."""
        place, part = self._place(weight, "matrix", "bank")
        if place.kind != "bank":
            return None
        whole = _shape(place)
        if part.shape[1:] != whole.shape[1:] or part.stride() != whole.stride():
            raise NotLowered(f"{place.name} is read in another way than by its first channels")
        return place.whole[..., : part.shape[0]]

    def per_channel(self, vector: Tensor, kind: Kind = "vector") -> Tensor:
        """The first elements of a vector."""
        place, part = self._place(vector, kind)
        flat = part.flatten()
        if storage(flat) != storage(part) or (len(flat) > 1 and flat.stride(0) != 1):
            raise NotLowered(f"{place.name} is read in another way than by its first channels")
        return place.whole.view(-1)[: len(flat)]

    def _place(self, tensor: Tensor, *kinds: Kind) -> tuple[Place, Tensor]:
        """Where a weight belongs, and the view of it that is read."""
        copied = self._copies.get(storage(tensor))
        if copied is not None and tensor.shape == copied.shape and tensor.is_contiguous():
            tensor = copied
        place = self.skeleton.seen.get(storage(tensor))
        if place is None:
            raise NotLowered("a weight is computed from others")
        if place.kind not in kinds or tensor.storage_offset() != 0:
            raise NotLowered(f"{place.name} is read in another way than by its first channels")
        return place, tensor


def _shape(place: Place) -> Tensor:
    assert place.seen is not None
    return place.seen


def _tensors(arguments: Iterable[Any]) -> Iterator[Tensor]:
    """Those among an op's arguments, or in a list that is one."""
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from (part for part in argument if isinstance(part, Tensor))
