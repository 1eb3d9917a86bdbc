"""What the audit compiles: every op in the shapes, types and configurations that it runs in."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch

from kernels.auditing.calls import Call, distinct
from kernels.auditing.launching import Key, launches_of, table_key
from kernels.auditing.networks import all_calls, middle_calls
from kernels.configs import FOLDER, Config, distance, load
from kernels.launch import Launch

OPS = ("pointwise", "conv", "depthwise", "depthwise_project", "squeeze_excite", "head")


@dataclass(frozen=True, slots=True)
class Case:
    """One launch, how to call it in a report, and what rules are for it.

    ``bits`` are an element's; ``aligned`` channel counts allow 128-bit accesses.
    """

    launch: Launch
    label: str
    bits: int
    aligned: bool


def device_tables() -> list[str]:
    """The tables of configurations for GPUs."""
    return sorted(path.stem for path in FOLDER.glob("*.json") if path.stem != "cpu")


def short_cases(ops: Collection[str], *, pdl: bool = False) -> Iterator[Case]:
    """The first launch of every kernel, in bfloat16."""
    seen = set()
    for call in _calls(ops, all_calls()):
        for case in _cases(call, torch.bfloat16, "default", pdl=pdl) if call.aligned else ():
            if case.launch.kernel not in seen:
                seen.add(case.launch.kernel)
                yield case


def all_cases(ops: Collection[str]) -> Iterator[Case]:
    """All networks in bfloat16 at several batch sizes and in float32, and middle ones in float16.

    Then every entry of the tables, and every kernel with programmatic dependent launch.
    """
    yield from short_cases(ops, pdl=True)
    for table in device_tables():
        for batch in (1, 8, 64):
            for call in _calls(ops, all_calls(batch)):
                yield from _cases(call, torch.bfloat16, table)
        for call in _calls(ops, all_calls()):
            yield from _cases(call, torch.float32, table)
        for call in _calls(ops, middle_calls()):
            yield from _cases(call, torch.float16, table)
        yield from _entries(table, ops)


def few_cases(ops: Collection[str]) -> Iterator[Case]:
    """One image in bfloat16: for architectures that nothing is tuned for."""
    for call in _calls(ops, all_calls()):
        yield from _cases(call, torch.bfloat16, "default")


def _calls(ops: Collection[str], calls: Iterator[Call]) -> list[Call]:
    return [call for call in distinct(calls) if call.op in ops]


def _cases(
    call: Call, dtype: torch.dtype, table: str, config: Config | None = None, *, pdl: bool = False
) -> Iterator[Case]:
    arguments = call.make("meta", dtype)
    if config is None:
        config = table_key(call.op, arguments).config(table, dtype)
    launches, _ = launches_of(call.op, arguments, config, pdl=pdl)
    shapes = " ".join(
        f"{name}{list(value.shape)}"
        for name, value in arguments.items()
        if isinstance(value, torch.Tensor) and name not in {"scale", "shift"}
    )
    scheduling = f"warps={config.num_warps} stages={config.num_stages}{' PDL' if pdl else ''}"
    for launch in launches:
        label = f"{call.op} {shapes} {str(dtype).removeprefix('torch.')} {dict(config.tiles)}"
        yield Case(launch, f"{label} {scheduling}", dtype.itemsize * 8, call.aligned)


def _entries(table: str, ops: Collection[str]) -> Iterator[Case]:
    """Every entry of a table, in that call of the networks whose sizes are nearest to it."""
    keyed: dict[str, list[tuple[Key, Call]]] = {}
    for call in _calls(ops, all_calls()):
        key = table_key(call.op, call.make("meta", torch.bfloat16))
        keyed.setdefault(key.kernel, []).append((key, call))
    for kernel, of_kernel in load(table).items():
        for entry in of_kernel.entries:
            if kernel in keyed:
                _, call = min(keyed[kernel], key=lambda one: distance(entry.shape, one[0].sizes))
                dtype = torch.bfloat16 if entry.bits == 16 else torch.float32
                yield from _cases(call, dtype, table, entry.config)
        for _, call in keyed.get(kernel, [])[:1]:
            yield from _cases(call, torch.bfloat16, table, of_kernel.safe)
