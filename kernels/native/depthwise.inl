// Depthwise convolution, PANEL channels at a time, with its norm, activation and pooling, and the
// 1x1 expansion in front of it computed row by row as it is needed: the widest tensor of an
// inverted residual block is never written to memory.

constexpr long SMALL = 256;  // pixels: sixteen channels of them fit into half of an L1 cache

struct Filters {
    const float* taps;  // [kernel, kernel, channels], the first ones of tap_stride
    long tap_stride;
    const float* scale;
    const float* shift;
    long kernel, stride, act;
};

// TILE neighbouring output pixels of LANES channels: every tap's weight is loaded once for all.
template <int K, int STRIDE, int TILE>
static inline void taps(const float* const* rows, long at, const float* filters, vec* sums) {
    for (int t = 0; t < TILE; ++t) sums[t] = vec{};
    for (int ky = 0; ky < K; ++ky) {
        const float* row = rows[ky] + at;
#pragma GCC unroll 7
        for (int kx = 0; kx < K; ++kx) {
            const vec w = load(filters + (ky * K + kx) * PANEL);
#pragma GCC unroll 8
            for (int t = 0; t < TILE; ++t) sums[t] += w * load(row + (t * STRIDE + kx) * PANEL);
        }
    }
}

template <int K, int STRIDE, int TILE, int ACT>
static void output_row(const float* const* rows, const float* filters, const float* scale,
                       const float* shift, float* out, float* total, long pixels, long channels,
                       long active) {
    for (long v = 0; v < VECTORS; ++v) {
        const long lane = v * LANES;
        if (lane >= active) break;
        const vec a = load(scale + lane), b = load(shift + lane);
        vec sum = load(total + lane);
        const bool whole = lane + LANES <= active;
        for (long i = 0; i < pixels; i += TILE) {
            vec sums[TILE];
            taps<K, STRIDE, TILE>(rows, i * STRIDE * PANEL + lane, filters + lane, sums);
            const long valid = pixels - i < TILE ? pixels - i : TILE;
            for (long t = 0; t < valid; ++t) {
                const vec y = activate<ACT>(sums[t] * a + b);
                sum += y;
                float* to = out + (i + t) * channels + lane;
                if (whole) store(to, y);
                else for (long c = 0; c < active - lane; ++c) to[c] = y[c];
            }
        }
        store(total + lane, sum);
    }
}

using OutputRow = void (*)(const float* const*, const float*, const float*, const float*, float*,
                           float*, long, long, long);

template <int K, int STRIDE, int TILE> static OutputRow by_activation(long act) {
    return act == RELU      ? output_row<K, STRIDE, TILE, RELU>
           : act == H_SWISH ? output_row<K, STRIDE, TILE, H_SWISH>
                            : output_row<K, STRIDE, TILE, IDENTITY>;
}

template <int K, int STRIDE> static OutputRow by_tile(long tile, long act) {
    return tile == 4   ? by_activation<K, STRIDE, 4>(act)
           : tile == 7 ? by_activation<K, STRIDE, 7>(act)
                       : by_activation<K, STRIDE, 8>(act);
}

template <int K> static OutputRow by_stride(long stride, long tile, long act) {
    return stride == 1 ? by_tile<K, 1>(tile, act) : by_tile<K, 2>(tile, act);
}

// The tile that wastes the fewest pixels at the end of a row; of equals the widest.
static long best_tile(long pixels) {
    long best = 8, least = (pixels + 7) / 8 * 8;
    for (const long tile : {7L, 4L}) {
        const long work = (pixels + tile - 1) / tile * tile;
        if (work < least) best = tile, least = work;
    }
    return best;
}


// PANEL channels of some pixels, one after another: made by the expansion.
static inline void expand_pixels(const Product& g, const float* x, long pixels, long first,
                                 const float** pointers, float* to) {
    for (long i = 0; i < pixels; i += ROWS) {
        const long rows = pixels - i < ROWS ? pixels - i : ROWS;
        for (long r = 0; r < rows; ++r) pointers[r] = x + (i + r) * g.depth;
        Tiles<ROWS, 1>::of(rows)(pointers, ROWS, g, first / PANEL, to + i * PANEL - first, PANEL,
                                 nullptr);
    }
}

// x [batch, height, width, channels], or of as many channels as the expansion reads.
static void depthwise(const Filters& f, const Product* expand, const float* x, float* out,
                      float* pooled, long batch, long height, long width, long channels) {
    const long pad = f.kernel / 2;
    const long out_h = (height - 1) / f.stride + 1, out_w = (width - 1) / f.stride + 1;
    const long tile = best_tile(out_w);
    const OutputRow compute = f.kernel == 3   ? by_stride<3>(f.stride, tile, f.act)
                              : f.kernel == 5 ? by_stride<5>(f.stride, tile, f.act)
                                              : by_stride<7>(f.stride, tile, f.act);
    // A ring of as many padded rows as the kernel is high, and one row of zeros. The last tile
    // may reach past the row: the padding covers that too.
    const long reach = ((out_w + tile - 1) / tile * tile - 1) * f.stride + f.kernel;
    const long row = (reach > width + 2 * pad ? reach : width + 2 * pad) * PANEL;
    // The rows of a small map do not fill the tiles of a product: then all are made at once.
    const bool small = expand && height * width <= SMALL;
    const long lines = small ? height : f.kernel;
    const size_t clear = (lines + 1) * row + (f.kernel * f.kernel + 3) * PANEL;
    float* const ring = scratch(clear + (small ? height * width * PANEL : 0));
    float* const pixels = ring + clear;
    float* const zeros = ring + lines * row;
    float* const w = zeros + row;
    float* const a = w + f.kernel * f.kernel * PANEL;
    float* const b = a + PANEL;
    float* const total = b + PANEL;
    const float** const pointers = pointer_scratch(ROWS);
    const long in_channels = expand ? expand->depth : channels;
    std::memset(ring, 0, clear * sizeof(float));

    for (long first = 0; first < channels; first += PANEL) {
        const long active = channels - first < PANEL ? channels - first : PANEL;
        // Lanes past the last channel see zeros everywhere: what lies there is not read.
        if (active < PANEL) std::memset(ring, 0, clear * sizeof(float));
        for (long t = 0; t < f.kernel * f.kernel; ++t)
            std::memcpy(w + t * PANEL, f.taps + t * f.tap_stride + first, active * sizeof(float));
        for (long c = 0; c < active; ++c) {
            a[c] = f.scale ? f.scale[first + c] : 1.f;
            b[c] = f.shift ? f.shift[first + c] : 0.f;
        }
        for (long n = 0; n < batch; ++n) {
            const float* image = x + n * height * width * in_channels;
            float* to = out + n * out_h * out_w * channels + first;
            std::memset(total, 0, PANEL * sizeof(float));
            if (small) expand_pixels(*expand, image, height * width, first, pointers, pixels);
            long have = 0;  // input rows read so far
            for (long oy = 0; oy < out_h; ++oy) {
                const long top = oy * f.stride - pad;
                for (; have < height && have < top + f.kernel; ++have) {
                    const float* const from = image + have * width * in_channels;
                    float* const to_row = ring + have % lines * row + pad * PANEL;
                    if (expand && !small) {
                        expand_pixels(*expand, from, width, first, pointers, to_row);
                    } else if (small) {
                        std::memcpy(to_row, pixels + have * width * PANEL,
                                    width * PANEL * sizeof(float));
                    } else {
                        for (long i = 0; i < width; ++i)
                            std::memcpy(to_row + i * PANEL, from + i * channels + first,
                                        active * sizeof(float));
                    }
                }
                const float* rows[7];
                for (long ky = 0; ky < f.kernel; ++ky) {
                    const long y = top + ky;
                    rows[ky] = y < 0 || y >= height ? zeros : ring + y % lines * row;
                }
                compute(rows, w, a, b, to + oy * out_w * channels, total, out_w, channels, active);
            }
            if (pooled)
                for (long c = 0; c < active; ++c)
                    pooled[n * channels + first + c] = total[c] / float(out_h * out_w);
        }
    }
}
