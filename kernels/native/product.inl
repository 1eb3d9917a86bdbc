// Matrix products over weights that lie in panels of sixteen outputs: see kernels/weights.py. The
// norm, the residual and the activation are applied while the sums are still in registers.

constexpr long PANEL = 16;
constexpr long VECTORS = PANEL / LANES;  // registers per panel

// Rows and panels of one tile: as many sums as there are registers for, less those for operands.
constexpr int ROWS = LANES == 16 ? 12 : LANES == 8 ? 6 : 3;
constexpr int WIDE = LANES == 16 ? 2 : 1;    // panels beside each other in a full tile
constexpr int LONE = LANES == 16 ? 8 : 4;    // panels beside each other in a tile of one row
constexpr long BLOCK_BYTES = 128 * 1024;     // of the left operand, which should stay in L2

// out = act(scale · (x W) + shift + residual). Weights [panels, taps, depth, PANEL].
struct Product {
    const float* weight;
    long panel_stride, tap_stride, taps, depth;
    const float* scale;  // null: 1
    const float* shift;  // null: 0
    long outputs, act;
};

template <int ACT, int MR, int NP>
static inline void store_tile(vec (&sums)[MR][NP * VECTORS], const Product& g, long first,
                              float* out, long out_stride, const float* residual) {
    for (int j = 0; j < NP * VECTORS; ++j) {
        const long at = first * PANEL + j * LANES;
        const long lanes = g.outputs - at;
        if (lanes <= 0) return;
        const vec a = g.scale ? partly(g.scale + at, lanes, 0.f) : splat(1.f);
        const vec b = g.shift ? partly(g.shift + at, lanes, 0.f) : splat(0.f);
        for (int i = 0; i < MR; ++i) {
            float* const to = out + i * out_stride + at;
            vec y = sums[i][j] * a + b;
            if (residual) y += partly(residual + i * out_stride + at, lanes, 0.f);
            store_partly(to, activate<ACT>(y), lanes);
        }
    }
}

// MR rows times NP panels. `rows` [taps][rows_stride] points at `depth` floats each.
template <int MR, int NP>
static void tile(const float* const* rows, long rows_stride, const Product& g, long first,
                 float* out, long out_stride, const float* residual) {
    vec sums[MR][NP * VECTORS];
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 16
        for (int j = 0; j < NP * VECTORS; ++j) sums[i][j] = vec{};
    const float* panel = g.weight + first * g.panel_stride;
    for (long t = 0; t < g.taps; ++t, panel += g.tap_stride, rows += rows_stride) {
        const float* a[MR];
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i) a[i] = rows[i];
        for (long k = 0; k < g.depth; ++k) {
            vec w[NP * VECTORS];
#pragma GCC unroll 16
            for (int p = 0; p < NP; ++p)
#pragma GCC unroll 16
                for (int v = 0; v < VECTORS; ++v)
                    w[p * VECTORS + v] = load(panel + p * g.panel_stride + k * PANEL + v * LANES);
#pragma GCC unroll 16
            for (int i = 0; i < MR; ++i) {
                const vec x = splat(a[i][k]);
#pragma GCC unroll 16
                for (int j = 0; j < NP * VECTORS; ++j) sums[i][j] += x * w[j];
            }
        }
    }
    switch (g.act) {
        case RELU: return store_tile<RELU, MR, NP>(sums, g, first, out, out_stride, residual);
        case H_SWISH: return store_tile<H_SWISH, MR, NP>(sums, g, first, out, out_stride, residual);
        case H_SIGMOID:
            return store_tile<H_SIGMOID, MR, NP>(sums, g, first, out, out_stride, residual);
        default: return store_tile<IDENTITY, MR, NP>(sums, g, first, out, out_stride, residual);
    }
}

using Tile = void (*)(const float* const*, long, const Product&, long, float*, long, const float*);

template <int MR, int NP> struct Tiles {
    static Tile of(long rows) { return rows == MR ? tile<MR, NP> : Tiles<MR - 1, NP>::of(rows); }
};
template <int NP> struct Tiles<0, NP> {
    static Tile of(long) { return nullptr; }
};

// A block of rows over all panels, panel by panel: the block stays in L2, the panel in L1.
// `pointers` holds, for every ROWS rows, [taps][ROWS] pointers.
static void block(const float* const* pointers, const Product& g, long count, float* out,
                  const float* residual) {
    const long panels = (g.outputs + PANEL - 1) / PANEL;
    const long group = g.taps * ROWS;
    long p = 0;
    if (count == 1) {  // one row alone keeps too few sums busy, unless of several panels
        for (; p + LONE <= panels; p += LONE)
            tile<1, LONE>(pointers, ROWS, g, p, out, g.outputs, residual);
    }
    while (p < panels) {
        const bool wide = p + WIDE <= panels;
        for (long m = 0; m < count; m += ROWS) {
            const long rows = count - m < ROWS ? count - m : ROWS;
            const Tile run = wide ? Tiles<ROWS, WIDE>::of(rows) : Tiles<ROWS, 1>::of(rows);
            run(pointers + m / ROWS * group, ROWS, g, p, out + m * g.outputs, g.outputs,
                residual ? residual + m * g.outputs : nullptr);
        }
        p += wide ? WIDE : 1;
    }
}

static long block_rows(long depth) {
    const long rows = BLOCK_BYTES / long(sizeof(float)) / (depth > 0 ? depth : 1);
    return (rows < ROWS ? 1 : rows / ROWS) * ROWS;
}

// x [rows, depth], contiguous.
static void product(const Product& g, const float* x, long rows, float* out,
                    const float* residual) {
    const long most = block_rows(g.depth);
    const float** const pointers = pointer_scratch((most < rows ? most : rows) + ROWS);
    for (long m = 0; m < rows; m += most) {
        const long count = rows - m < most ? rows - m : most;
        for (long i = 0; i < count; ++i) pointers[i] = x + (m + i) * g.depth;
        block(pointers, g, count, out + m * g.outputs,
              residual ? residual + m * g.outputs : nullptr);
    }
}

struct Window {
    long in_h, in_w, out_h, out_w, kernel, stride, padding;
};

// Implicit GEMM (XNNPACK's indirection, Dukhan, arXiv 1907.02129): for every output pixel and tap
// a pointer to the input pixel, or to zeros.
static void convolution(const Product& g, const Window& w, const float* x, long images, float* out,
                        const float* residual) {
    const long rows = images * w.out_h * w.out_w;
    // Few channels make short products: such pixels are copied side by side first.
    const bool gather = g.depth < 8 && g.tap_stride == g.depth * PANEL;
    Product whole = g;
    if (gather) whole.taps = 1, whole.depth = g.taps * g.depth;
    const long most = block_rows(gather ? whole.depth : g.depth * 2);
    const long limit = most < 8 * ROWS ? most : gather ? most : 8 * ROWS;
    const float** const pointers = pointer_scratch((limit / ROWS + 1) * ROWS * g.taps);
    float* const zeros = scratch(g.depth + (gather ? limit * whole.depth : 0));
    std::memset(zeros, 0, g.depth * sizeof(float));
    float* const patches = zeros + g.depth;
    long image = 0, oy = 0, ox = 0;
    for (long m = 0; m < rows; m += limit) {
        const long count = rows - m < limit ? rows - m : limit;
        for (long i = 0; i < count; ++i) {
            const long top = oy * w.stride - w.padding, left = ox * w.stride - w.padding;
            for (long ky = 0; ky < w.kernel; ++ky) {
                const long iy = top + ky;
                const float* const line = x + (image * w.in_h + iy) * w.in_w * g.depth;
                const bool inside = iy >= 0 && iy < w.in_h;
                float* const to = patches + i * whole.depth + ky * w.kernel * g.depth;
                if (gather && inside && left >= 0 && left + w.kernel <= w.in_w) {
                    for (long c = 0; c < w.kernel * g.depth; ++c) to[c] = line[left * g.depth + c];
                    continue;
                }
                for (long kx = 0; kx < w.kernel; ++kx) {
                    const long ix = left + kx, t = ky * w.kernel + kx;
                    const float* const from =
                        inside && ix >= 0 && ix < w.in_w ? line + ix * g.depth : zeros;
                    if (gather)
                        for (long c = 0; c < g.depth; ++c) to[kx * g.depth + c] = from[c];
                    else
                        pointers[(i / ROWS * g.taps + t) * ROWS + i % ROWS] = from;
                }
            }
            if (gather) pointers[i] = patches + i * whole.depth;
            if (++ox == w.out_w) ox = 0, ++oy;
            if (oy == w.out_h) oy = 0, ++image;
        }
        block(pointers, whole, count, out + m * g.outputs,
              residual ? residual + m * g.outputs : nullptr);
    }
}
