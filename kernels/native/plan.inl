// A whole subnet in one call: the steps of a program, bound to memory. See kernels/native/plan.py,
// which lays the structs out as they stand here.

enum Kind {
    POINTWISE, CONV, DEPTHWISE, EXPAND_DEPTHWISE, SCALE, AVERAGE, POOL_MAX, POOL_MEAN, COMBINE
};

struct Step {
    long kind;
    long x, y, out, pooled;  // values; -1: none. y: a residual, the gates, or the second addend
    long channels;           // of out
    Product product;
    Filters filters;
    Window window;
};

// Steps begin to end run for `together` images, then for the next ones.
struct Segment {
    long begin, end, together;
};

struct Plan {
    const Step* steps;
    const Segment* segments;
    const long* offsets;  // of each value in the workspace, in floats; -1: input, -2: output
    const long* sizes;    // floats per image
    const long* whole;    // 1: the value is there for the whole batch
    long segment_count, value_count;
};

static void run_step(const Step& s, float* const* values, long images) {
    const float* const x = values[s.x];
    const float* const y = s.y < 0 ? nullptr : values[s.y];
    float* const out = values[s.out];
    const Window& w = s.window;
    const long pixels = w.out_h * w.out_w;
    switch (s.kind) {
        case POINTWISE: return product(s.product, x, images * pixels, out, y);
        case CONV: return convolution(s.product, w, x, images, out, y);
        case DEPTHWISE:
        case EXPAND_DEPTHWISE:
            return depthwise(s.filters, s.kind == DEPTHWISE ? nullptr : &s.product, x, out,
                             s.pooled < 0 ? nullptr : values[s.pooled], images, w.in_h, w.in_w,
                             s.channels);
        case SCALE: return scale(x, y, out, images, pixels, s.channels);
        case AVERAGE: return average(x, out, images, w.in_h * w.in_w, s.channels);
        case POOL_MAX: return pool(x, out, w, true, images, s.channels);
        case POOL_MEAN: return pool(x, out, w, false, images, s.channels);
        case COMBINE:
            return combine(x, y, s.product.scale, s.product.shift, out, images * pixels,
                           s.channels, s.product.act);
    }
}

static void run(const Plan& plan, float* workspace, const float* input, float* output, long batch,
                double* seconds) {
    float** const values = value_scratch(plan.value_count);
    for (long i = 0; i < plan.segment_count; ++i) {
        const Segment& segment = plan.segments[i];
        for (long first = 0; first < batch; first += segment.together) {
            const long rest = batch - first;
            const long images = rest < segment.together ? rest : segment.together;
            for (long v = 0; v < plan.value_count; ++v) {
                const long at = plan.offsets[v];
                float* const base = at == -1   ? const_cast<float*>(input)
                                    : at == -2 ? output
                                               : workspace + at;
                values[v] = base + (plan.whole[v] ? first * plan.sizes[v] : 0);
            }
            for (long s = segment.begin; s < segment.end; ++s) {
                const double before = seconds ? now() : 0.0;
                run_step(plan.steps[s], values, images);
                if (seconds) seconds[s] += now() - before;
            }
        }
    }
}
