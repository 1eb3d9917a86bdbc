"""How an op of ours becomes one of PyTorch's, with a form for each kind of device."""

import inspect
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def op(
    meaning: Callable[P, R],
    *,
    check: Callable[..., None],
    fake: Callable[..., R],
    gpu: str,
    cpu: Callable[P, R] | None = None,
) -> Callable[P, R]:
    """Register ``superserve::<name of meaning>`` with `torch.library` and return it.

    ``meaning`` runs wherever nothing faster is there. ``gpu`` is the module with the Triton form,
    a function of the same name, imported when first needed. ``check`` and ``fake`` name those of
    the arguments that they want; every form is checked before it runs. ``fake`` returns empty
    tensors of the result's shape and type.
    """
    name = meaning.__name__
    parameters = list(inspect.signature(meaning).parameters.values())

    def choose(function: Callable[..., Any]) -> Callable[..., Any]:
        """Call ``function`` with those arguments, out of all, that it names."""
        wanted = inspect.signature(function).parameters
        places = [(i, p.name, p.default) for i, p in enumerate(parameters) if p.name in wanted]

        def chosen(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return function(
                **{
                    key: args[i] if i < len(args) else kwargs.get(key, default)
                    for i, key, default in places
                }
            )

        return chosen

    checked = choose(check)

    def with_check(run: Callable[..., Any]) -> Callable[P, R]:
        @wraps(meaning)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            checked(args, kwargs)
            result: R = run(*args, **kwargs)
            return result

        return call

    def on_gpu(*args: Any, **kwargs: Any) -> Any:
        first = args[0] if args else kwargs[parameters[0].name]
        with torch.cuda.device_of(first):  # Triton launches on the current one
            return getattr(import_module(gpu), name)(*args, **kwargs)

    shaped = choose(fake)

    @wraps(meaning)
    def faked(*args: P.args, **kwargs: P.kwargs) -> R:
        checked(args, kwargs)
        result: R = shaped(args, kwargs)
        return result

    defined = torch.library.custom_op(f"superserve::{name}", with_check(meaning), mutates_args=())
    if cpu is not None:
        defined.register_kernel("cpu")(with_check(cpu))
    defined.register_kernel("cuda")(with_check(on_gpu))
    defined.register_fake(faked)
    return defined
