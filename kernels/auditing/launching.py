"""The launches that a call of an op comes to, for any configuration of its kernels."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from kernels.configs import Config, lookup
from kernels.launch import Launch
from kernels.ops.pointwise import kernel as pointwise


def launches_of(
    op: str, arguments: Mapping[str, Any], config: Config, *, pdl: bool = False
) -> tuple[tuple[Launch, ...], tuple[Tensor, ...]]:
    """The launches of ``kernels.ops.<op>`` and its results, which they write.

    Results and scratch are new memory, beside the arguments: on a GPU, or "meta" for shapes alone.
    """
    package, module = import_module(f"kernels.ops.{op}"), import_module(f"kernels.ops.{op}.kernel")
    made = _named(package.fake, arguments)
    results = made if isinstance(made, tuple) else (made,)
    given = {**arguments, "config": config, "pdl": pdl}
    given |= dict(zip(("out", "pooled"), results, strict=False))
    given |= _scratch(op, module, given)
    return _named(module.launches, given), results


def _scratch(op: str, module: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What ``launches`` of a kernel wants besides the arguments, the results and the config."""
    match op:
        case "pointwise" | "conv" | "depthwise":
            shape = _named(module.partial_shape, given)
            return {"partial": given["x"].new_empty(shape, dtype=torch.float32)}
        case "squeeze_excite":
            return {"middle": given["pooled"].new_empty(_named(module.middle_shape, given))}
        case "head":
            x, weight = given["x"], given["weight"]
            mean = x.new_empty((x.shape[0], x.shape[-1]))
            product = pointwise.choose(mean, weight)
            shape = pointwise.partial_shape(mean, weight, product)
            partial = x.new_empty(shape, dtype=torch.float32)
            return {"mean": mean, "product": product, "partial": partial}
    return {}


@dataclass(frozen=True, slots=True)
class Key:
    """Under which name, and by which sizes, a call looks up its configuration.

    ``safe``: it wants the safe one.
    """

    kernel: str
    sizes: Mapping[str, int]
    safe: bool

    def config(self, device: str | torch.device, dtype: torch.dtype) -> Config:
        """What the table of a device, or of that name, says."""
        return lookup(self.kernel, device, self.sizes, dtype, self.safe)


def table_key(op: str, arguments: Mapping[str, Any]) -> Key:
    """How ``kernels.ops.<op>`` looks these arguments up."""
    module: Any = import_module(f"kernels.ops.{op}.kernel")

    def asked(
        kernel: str, device: object, shape: Mapping[str, int], dtype: object, safe: bool = False
    ) -> Config:
        del device, dtype
        raise _Asked(Key(kernel, dict(shape), safe))

    original = module.lookup
    module.lookup = asked  # the sizes are made where they are looked up, and nowhere else
    try:
        _named(module.choose, arguments)
    except _Asked as answer:
        return answer.key
    finally:
        module.lookup = original
    raise ValueError(f"{op} looks up no configuration")


class _Asked(Exception):
    def __init__(self, key: Key) -> None:
        super().__init__(key)
        self.key = key


def _named(function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """Call it with those that it names."""
    return function(**{n: given[n] for n in inspect.signature(function).parameters if n in given})
