"""What the Triton kernels share: the norm, residual and activation behind a product, and tails.

Every channel count here is a multiple of eight and half of them no multiple of sixteen, which is
all that Triton would notice. A kernel is therefore given `units` of channels, and multiplies them
by the unit again: the compiler then knows the factor, and moves 128 bits at a time.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import Launch

MINIMUM = 16
"""The smallest side of a tile that tensor cores multiply."""
EARLY = tl.constexpr(4096)
"""Elements of a tile up to which a residual is loaded before the product, where registers last."""


@triton.jit
def activate(y: tl.tensor, ACTIVATION: tl.constexpr) -> tl.tensor:
    """By name, as `kernels.activation`; a NaN stays one."""
    if ACTIVATION == "relu":
        y = tl.maximum(y, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif ACTIVATION == "h_swish":
        y *= tl.minimum(tl.maximum(y + 3.0, 0.0), 6.0) * (1.0 / 6.0)
    elif ACTIVATION == "h_sigmoid":
        lifted = tl.maximum(y + 3.0, 0.0, propagate_nan=tl.PropagateNan.ALL)
        y = tl.minimum(lifted, 6.0, propagate_nan=tl.PropagateNan.ALL) * (1.0 / 6.0)
    else:
        tl.static_assert(ACTIVATION == "identity")
    return y


@triton.jit
def load_affine(
    scale: tl.tensor, shift: tl.tensor, columns: tl.tensor, inside: tl.tensor, BN: tl.constexpr
) -> tl.tensor:
    """The scale and shift [BN] in float32; ones and zeros for pointers that are None."""
    factor = tl.full([BN], 1.0, tl.float32)
    if scale is not None:
        factor = tl.load(scale + columns, mask=inside, other=0.0).to(tl.float32)
    term = tl.zeros([BN], tl.float32)
    if shift is not None:
        term = tl.load(shift + columns, mask=inside, other=0.0).to(tl.float32)
    return factor, term


@triton.jit
def load_residual(residual: tl.tensor, at: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """What is at the offsets ``at``, in float32; zero for a pointer that is None."""
    extra = 0.0
    if residual is not None:
        extra = tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    return extra


@triton.jit
def finish(
    product: tl.tensor,
    factor: tl.tensor,
    term: tl.tensor,
    extra: tl.tensor,
    out: tl.tensor,
    at: tl.tensor,
    inside: tl.tensor,
    ACTIVATION: tl.constexpr,
) -> None:
    """Store act(product · factor + term + extra), [BM, BN], at the offsets ``at``."""
    y = product * factor[None, :] + term[None, :] + extra
    tl.store(out + at, activate(y, ACTIVATION).to(out.dtype.element_ty), mask=inside)


@triton.jit
def await_previous(
    weight: tl.tensor, columns: tl.tensor, n: tl.tensor, row_stride: tl.tensor, row_size: tl.tensor
) -> None:
    """Under programmatic dependent launch: fetch weights, then wait for the kernel before.

    Weights do not depend on it, so the first 512 bytes of the tile's rows ([BN], clamped to the
    ``n`` rows of ``row_size`` elements) start their way to L2 while it still runs.
    """
    line: tl.constexpr = 1024 // weight.dtype.element_ty.primitive_bitwidth
    lines = tl.minimum(tl.arange(0, 4) * line, row_size - 1)
    rows = tl.minimum(columns, n - 1).to(tl.int64)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
        "=r,l",
        [(weight + rows[:, None] * row_stride + lines[None, :]).to(tl.int64)],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
    tl.extra.cuda.gdc_launch_dependents()
    tl.extra.cuda.gdc_wait()


@triton.jit(do_not_specialize=["m", "n_units"])
def sum_splits(
    partial: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    residual: tl.tensor,
    out: tl.tensor,
    m: tl.tensor,
    n_units: tl.tensor,
    N_UNIT: tl.constexpr,
    SPLITS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """``partial`` [SPLITS, m, n] float32, added in one fixed order, and finished."""
    n = n_units * N_UNIT
    n_tiles = tl.cdiv(n, BN)
    rows = tl.program_id(0) // n_tiles * BM + tl.arange(0, BM)
    columns = tl.program_id(0) % n_tiles * BN + tl.arange(0, BN)
    factor, term = load_affine(scale, shift, columns, columns < n, BN)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    at = rows[:, None].to(tl.int64) * n + columns[None, :]
    inside = (rows < m)[:, None] & (columns < n)[None, :]
    product = tl.zeros([BM, BN], tl.float32)
    for split in tl.static_range(SPLITS):
        plane = split * m.to(tl.int64) * n
        product += tl.load(partial + plane + at, mask=inside, other=0.0)
    extra = load_residual(residual, at, inside)
    finish(product, factor, term, extra, out, at, inside, ACTIVATION)


def sum_launch(
    partial: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    residual: Tensor | None,
    out: Tensor,
    activation: str,
    pdl: bool,
) -> Launch:
    """Finish the ``partial`` [splits, M, N] sums of a split product into ``out`` [..., N]."""
    splits, m, n = partial.shape
    unit = unit_of(n)
    tiles = {"BM": 4, "BN": 128}
    return Launch(
        kernel=sum_splits,
        grid=(triton.cdiv(m, tiles["BM"]) * triton.cdiv(n, tiles["BN"]),),
        arguments={
            "partial": partial, "scale": scale, "shift": shift, "residual": residual, "out": out,
            "m": m, "n_units": n // unit,
        },
        constants={
            "N_UNIT": unit, "SPLITS": splits, "ACTIVATION": activation, **tiles, "PDL": pdl,
        },
        options=options({"num_warps": 4, "num_stages": 1}, pdl),
    )  # fmt: skip


def unit_of(*sizes: int) -> int:
    """The unit in which a kernel is given these sizes: 8 where it divides them all, else 1."""
    return 8 if all(size % 8 == 0 for size in sizes) else 1


def fit(tile: int, size: int) -> int:
    """A tile no larger than ``size`` needs, and large enough to be multiplied."""
    return min(tile, max(MINIMUM, triton.next_power_of_2(size)))


def split(blocks: int, splits: int) -> tuple[int, int]:
    """How many parts ``blocks`` of the inner dimension go into, at most ``splits``, and a part."""
    part = triton.cdiv(blocks, min(splits, blocks))
    return triton.cdiv(blocks, part), part


def options(scheduling: dict[str, Any], pdl: bool) -> dict[str, Any]:
    """A launch's options. Triton's default for fused multiply-add changes with its version."""
    return {**scheduling, "enable_fp_fusion": True, **({"launch_pdl": True} if pdl else {})}


def upcast(kernel: Callable[..., Any], dtype: torch.dtype) -> bool:
    """Whether the kernel must compute in float32: the interpreter cannot multiply bfloat16."""
    return dtype == torch.bfloat16 and not isinstance(kernel, triton.JITFunction)


def check_rows(weight: Tensor) -> None:
    """``ValueError`` for a slice whose elements in a row are not adjacent."""
    if weight.shape[-1] > 1 and weight.stride(-1) != 1:
        raise ValueError(f"the rows of a weight with strides {weight.stride()} are not contiguous")
