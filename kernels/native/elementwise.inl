// What is no product and no depthwise convolution: scaling, pooling, sums.

// out = x * gates, for every pixel; out may be x.
static void scale(const float* x, const float* gates, float* out, long batch, long pixels,
                  long channels) {
    for (long n = 0; n < batch; ++n, gates += channels)
        for (long p = 0; p < pixels; ++p, x += channels, out += channels)
            for (long c = 0; c < channels; c += LANES) {
                const long lanes = channels - c;
                store_partly(out + c, partly(x + c, lanes, 0.f) * partly(gates + c, lanes, 0.f),
                             lanes);
            }
}

static void average(const float* x, float* out, long batch, long pixels, long channels) {
    const vec share = splat(1.f / float(pixels));
    for (long n = 0; n < batch; ++n, x += pixels * channels, out += channels)
        for (long c = 0; c < channels; c += LANES) {
            vec sum{};
            for (long p = 0; p < pixels; ++p)
                sum += partly(x + p * channels + c, channels - c, 0.f);
            store_partly(out + c, sum * share, channels - c);
        }
}

// Of equal or no order (not a number) the second, which is what lies in the window.
static void pool(const float* x, float* out, const Window& w, bool maximal, long batch,
                 long channels) {
    for (long n = 0; n < batch; ++n, x += w.in_h * w.in_w * channels)
        for (long oy = 0; oy < w.out_h; ++oy)
            for (long ox = 0; ox < w.out_w; ++ox, out += channels) {
                const long top = oy * w.stride - w.padding, left = ox * w.stride - w.padding;
                const long y0 = top < 0 ? 0 : top, x0 = left < 0 ? 0 : left;
                const long y1 = top + w.kernel < w.in_h ? top + w.kernel : w.in_h;
                const long x1 = left + w.kernel < w.in_w ? left + w.kernel : w.in_w;
                const vec share = splat(1.f / float((y1 - y0) * (x1 - x0)));
                for (long c = 0; c < channels; c += LANES) {
                    const long lanes = channels - c;
                    vec found = partly(x + (y0 * w.in_w + x0) * channels + c, lanes, 0.f);
                    for (long iy = y0; iy < y1; ++iy)
                        for (long ix = iy == y0 ? x0 + 1 : x0; ix < x1; ++ix) {
                            const vec v = partly(x + (iy * w.in_w + ix) * channels + c, lanes, 0.f);
                            found = maximal ? maximum(found, v) : found + v;
                        }
                    store_partly(out + c, maximal ? found : found * share, lanes);
                }
            }
}

// out = act(scale * x + shift + y); scale, shift and y may be null, and out may be x or y.
template <int ACT>
static void combine_as(const float* x, const float* y, const float* a, const float* b, float* out,
                       long rows, long channels) {
    for (long r = 0; r < rows; ++r, x += channels, out += channels) {
        for (long c = 0; c < channels; c += LANES) {
            const long lanes = channels - c;
            vec v = partly(x + c, lanes, 0.f);
            if (a) v *= partly(a + c, lanes, 0.f);
            if (b) v += partly(b + c, lanes, 0.f);
            if (y) v += partly(y + c, lanes, 0.f);
            store_partly(out + c, activate<ACT>(v), lanes);
        }
        if (y) y += channels;
    }
}

static void combine(const float* x, const float* y, const float* a, const float* b, float* out,
                    long rows, long channels, long act) {
    const auto run = act == RELU        ? combine_as<RELU>
                     : act == H_SWISH   ? combine_as<H_SWISH>
                     : act == H_SIGMOID ? combine_as<H_SIGMOID>
                                        : combine_as<IDENTITY>;
    run(x, y, a, b, out, rows, channels);
}
