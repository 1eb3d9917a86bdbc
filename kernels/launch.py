"""One launch of a Triton kernel, as data: what runs it, audits it and times it reads the same."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Launch:
    """``kernel[grid](**arguments, **constants, **options)``.

    ``arguments`` are tensors and numbers in the order of the kernel's parameters; ``constants`` its
    ``tl.constexpr`` parameters; ``options`` are ``num_warps``, ``num_stages`` and the like.
    Tensors may be fake ones (meta): such a launch can be compiled and not run.
    """

    kernel: Callable[..., Any]
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    constants: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self) -> None:
        """On the current stream; under the interpreter at once."""
        kernel: Any = self.kernel
        kernel[self.grid](**self.arguments, **self.constants, **self.options)
