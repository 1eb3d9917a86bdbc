"""Small kernels that are right, or wrong in one way each, for the audit's own tests."""

import triton
import triton.language as tl


@triton.jit
def product(a, b, out, M, N8, K8, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """out = a bᵀ: 128-bit accesses and tensor cores where the types are of 16 bits."""
    N, K = N8 * 8, K8 * 8
    m = tl.program_id(0) * BM + tl.arange(0, BM)[:, None]
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), tl.float32)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        left = tl.load(a + m * K + k[None, :], mask=(m < M) & (k < K)[None, :], other=0)
        right = tl.load(
            b + n[None, :] * K + k[:, None], mask=(n < N)[None, :] & (k < K)[:, None], other=0
        )
        total = tl.dot(left, right, total, input_precision="ieee")
    inside = (m < M) & (n < N)[None, :]
    tl.store(out + m * N + n[None, :], total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def narrow(x, out, size, BLOCK: tl.constexpr):
    """A copy whose masks are at sizes that the compiler knows nothing about: 16 bits a time."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at, mask=at < size, other=0), mask=at < size)


@triton.jit
def spilling(x, out, BLOCK: tl.constexpr):
    """More values alive at once than a thread has registers."""
    row = tl.arange(0, BLOCK)
    tile = tl.load(x + row[:, None] * BLOCK + row[None, :])
    turned = tl.load(x + row[None, :] * BLOCK + row[:, None]) * 2.0
    summed = tl.sum(tile * turned, axis=0)
    tl.store(out + row[:, None] * BLOCK + row[None, :], tile * summed[None, :] + turned)
