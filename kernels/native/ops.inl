// The CPU ops in vectors of LANES floats. Included once per instruction set, each time in a
// namespace of its own: see cpu.cpp. Every tensor is float32 and NHWC.

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

constexpr long CHUNK = 16;  // channels worked on together: one cache line of every pixel
constexpr long VECTORS = CHUNK / LANES;

static inline vec load(const float* p) { return *reinterpret_cast<const vec*>(p); }
static inline void store(float* p, vec v) { *reinterpret_cast<vec*>(p) = v; }
static inline vec splat(float v) { return v - vec{}; }

// a > b ? a : b, so b where either is not a number; the compiler would compare and blend.
#if defined(__x86_64__) && LANES == 16
static inline vec maximum(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
static inline vec minimum(vec a, vec b) { return (vec)_mm512_min_ps((__m512)a, (__m512)b); }
#elif defined(__x86_64__) && LANES == 8
static inline vec maximum(vec a, vec b) { return (vec)_mm256_max_ps((__m256)a, (__m256)b); }
static inline vec minimum(vec a, vec b) { return (vec)_mm256_min_ps((__m256)a, (__m256)b); }
#else
static inline vec maximum(vec a, vec b) { return a > b ? a : b; }
static inline vec minimum(vec a, vec b) { return a < b ? a : b; }
#endif

template <int ACT> static inline vec activate(vec v) {
    if (ACT == RELU) return maximum(splat(0.f), v);
    if (ACT == H_SWISH)
        return v * minimum(maximum(v + splat(3.f), splat(0.f)), splat(6.f)) * splat(1.f / 6.f);
    return v;
}

// The hard sigmoid of v - 3: not a number where v is none.
static inline float hard(float v) { return (0.f > v ? 0.f : v > 6.f ? 6.f : v) * (1.f / 6.f); }

static inline float activate_one(float v, long act) {
    if (act == RELU) return 0.f > v ? 0.f : v;
    if (act == H_SWISH) {
        return v * hard(v + 3.f);
    }
    return v;
}

// y = act(y * scale + shift + residual), in place; residual may be null.
template <int ACT>
static void affine_rows(float* y, const float* scale, const float* shift, const float* residual,
                        long rows, long channels) {
    const long whole = channels / LANES * LANES;
    for (long r = 0; r < rows; ++r, y += channels) {
        long c = 0;
        if (residual) {
            for (; c < whole; c += LANES)
                store(y + c, activate<ACT>(load(y + c) * load(scale + c) + load(shift + c) +
                                           load(residual + c)));
        } else {
            for (; c < whole; c += LANES)
                store(y + c, activate<ACT>(load(y + c) * load(scale + c) + load(shift + c)));
        }
        for (; c < channels; ++c)
            y[c] = activate_one(y[c] * scale[c] + shift[c] + (residual ? residual[c] : 0.f), ACT);
        if (residual) residual += channels;
    }
}

static void affine(float* y, const float* scale, const float* shift, const float* residual,
                   long rows, long channels, long act) {
    if (act == RELU) affine_rows<RELU>(y, scale, shift, residual, rows, channels);
    else if (act == H_SWISH) affine_rows<H_SWISH>(y, scale, shift, residual, rows, channels);
    else affine_rows<IDENTITY>(y, scale, shift, residual, rows, channels);
}

// One row of input, CHUNK channels of each pixel, normalised and activated on the way in.
template <int ACT>
static void read_row(const float* x, float* to, const float* scale, const float* shift,
                     long pixels, long channels, long active) {
    if (active == CHUNK) {
        vec a[VECTORS], b[VECTORS];
        for (long v = 0; v < VECTORS; ++v) {
            a[v] = load(scale + v * LANES);
            b[v] = load(shift + v * LANES);
        }
        for (long i = 0; i < pixels; ++i, x += channels, to += CHUNK)
            for (long v = 0; v < VECTORS; ++v)
                store(to + v * LANES, activate<ACT>(load(x + v * LANES) * a[v] + b[v]));
    } else {
        for (long i = 0; i < pixels; ++i, x += channels, to += CHUNK)
            for (long c = 0; c < active; ++c)
                to[c] = activate_one(x[c] * scale[c] + shift[c], ACT);
    }
}

// TILE neighbouring output pixels of LANES channels: every tap's weight is loaded once for all.
template <int K, int STRIDE, int TILE>
static inline void taps(const float* const* rows, long at, const float* filters, vec* sums) {
    for (int t = 0; t < TILE; ++t) sums[t] = vec{};
    for (int ky = 0; ky < K; ++ky) {
        const float* row = rows[ky] + at;
#pragma GCC unroll 7
        for (int kx = 0; kx < K; ++kx) {
            const vec w = load(filters + (ky * K + kx) * CHUNK);
#pragma GCC unroll 8
            for (int t = 0; t < TILE; ++t) sums[t] += w * load(row + (t * STRIDE + kx) * CHUNK);
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
            taps<K, STRIDE, TILE>(rows, i * STRIDE * CHUNK + lane, filters + lane, sums);
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
using ReadRow = void (*)(const float*, float*, const float*, const float*, long, long, long);

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

static void depthwise(const float* x, const float* before_scale, const float* before_shift,
                      long before_act, const float* filters, long tap_stride, const float* scale,
                      const float* shift, float* out, float* pooled, long batch, long height,
                      long width, long channels, long kernel, long stride, long act) {
    const long pad = kernel / 2;
    const long out_h = (height + 2 * pad - kernel) / stride + 1;
    const long out_w = (width + 2 * pad - kernel) / stride + 1;
    const long tile = best_tile(out_w);
    const OutputRow compute = kernel == 3   ? by_stride<3>(stride, tile, act)
                              : kernel == 5 ? by_stride<5>(stride, tile, act)
                                            : by_stride<7>(stride, tile, act);
    const ReadRow read = before_act == RELU      ? read_row<RELU>
                         : before_act == H_SWISH ? read_row<H_SWISH>
                                                 : read_row<IDENTITY>;
    // A ring of as many padded rows as the kernel is high, and one row of zeros. The last tile
    // may reach past the row: the padding covers that too.
    const long reach = ((out_w + tile - 1) / tile * tile - 1) * stride + kernel;
    const long row = (reach > width + 2 * pad ? reach : width + 2 * pad) * CHUNK;
    const size_t need = (kernel + 1) * row + (kernel * kernel + 5) * CHUNK;
    float* const ring = scratch(need);
    float* const zeros = ring + kernel * row;
    float* const w = zeros + row;
    float* const a = w + kernel * kernel * CHUNK;
    float* const b = a + CHUNK;
    float* const before_a = b + CHUNK;
    float* const before_b = before_a + CHUNK;
    float* const total = before_b + CHUNK;
    std::memset(ring, 0, need * sizeof(float));

    for (long first = 0; first < channels; first += CHUNK) {
        const long active = channels - first < CHUNK ? channels - first : CHUNK;
        // Lanes past the last channel see zeros everywhere: what lies there is not read.
        if (active < CHUNK) std::memset(ring, 0, need * sizeof(float));
        for (long t = 0; t < kernel * kernel; ++t)
            std::memcpy(w + t * CHUNK, filters + t * tap_stride + first, active * sizeof(float));
        std::memcpy(a, scale + first, active * sizeof(float));
        std::memcpy(b, shift + first, active * sizeof(float));
        for (long c = 0; c < active; ++c) {
            before_a[c] = before_scale ? before_scale[first + c] : 1.f;
            before_b[c] = before_shift ? before_shift[first + c] : 0.f;
        }
        for (long n = 0; n < batch; ++n) {
            const float* image = x + n * height * width * channels + first;
            float* to = out + n * out_h * out_w * channels + first;
            std::memset(total, 0, CHUNK * sizeof(float));
            long have = 0;  // input rows read so far
            for (long oy = 0; oy < out_h; ++oy) {
                const long top = oy * stride - pad;
                for (; have < height && have < top + kernel; ++have)
                    read(image + have * width * channels, ring + have % kernel * row + pad * CHUNK,
                         before_a, before_b, width, channels, active);
                const float* rows[7];
                for (long ky = 0; ky < kernel; ++ky) {
                    const long y = top + ky;
                    rows[ky] = y < 0 || y >= height ? zeros : ring + y % kernel * row;
                }
                compute(rows, w, a, b, to + oy * out_w * channels, total, out_w, channels, active);
            }
            if (pooled)
                for (long c = 0; c < active; ++c)
                    pooled[n * channels + first + c] = total[c] / float(out_h * out_w);
        }
    }
}

static inline float dot(const float* a, const float* b, long n) {
    vec s0{}, s1{}, s2{}, s3{};
    long i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        s0 += load(a + i) * load(b + i);
        s1 += load(a + i + LANES) * load(b + i + LANES);
        s2 += load(a + i + 2 * LANES) * load(b + i + 2 * LANES);
        s3 += load(a + i + 3 * LANES) * load(b + i + 3 * LANES);
    }
    s0 = (s0 + s1) + (s2 + s3);
    float sum = 0.f;
    for (int l = 0; l < LANES; ++l) sum += s0[l];
    for (; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

// y *= h_sigmoid(W2 relu(W1 pooled + b1) + b2). A weight row is read once for the whole batch.
static void squeeze_excite(float* y, const float* pooled, const float* reduce, long reduce_stride,
                           const float* reduce_bias, const float* expand, long expand_stride,
                           const float* expand_bias, long batch, long pixels, long channels,
                           long squeezed) {
    float* const hidden = scratch(batch * (squeezed + channels));
    float* const gate = hidden + batch * squeezed;
    for (long m = 0; m < squeezed; ++m)
        for (long n = 0; n < batch; ++n) {
            const float v =
                dot(reduce + m * reduce_stride, pooled + n * channels, channels) + reduce_bias[m];
            hidden[n * squeezed + m] = 0.f > v ? 0.f : v;
        }
    for (long c = 0; c < channels; ++c)
        for (long n = 0; n < batch; ++n) {
            const float v = dot(expand + c * expand_stride, hidden + n * squeezed, squeezed) +
                            expand_bias[c] + 3.f;
            gate[n * channels + c] = hard(v);
        }
    const long whole = channels / LANES * LANES;
    for (long n = 0; n < batch; ++n) {
        const float* g = gate + n * channels;
        for (long p = 0; p < pixels; ++p, y += channels) {
            long c = 0;
            for (; c < whole; c += LANES) store(y + c, load(y + c) * load(g + c));
            for (; c < channels; ++c) y[c] *= g[c];
        }
    }
}

static const Ops ops = {affine, depthwise, squeeze_excite};
