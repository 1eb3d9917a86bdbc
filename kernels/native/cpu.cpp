// Float32 NHWC ops for the CPU, compiled once for each instruction set; the machine's is chosen
// when the library is loaded. Plain C symbols: no Python and no torch headers are needed.

#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum Activation { IDENTITY = 0, RELU = 1, H_SWISH = 2 };

// At least this many floats, this thread's own, until it asks again. Not in ops.inl: what the
// standard library instantiates must not be compiled for an instruction set that may be missing.
static float* scratch(size_t floats) {
    static thread_local std::vector<float> memory;
    if (memory.size() < floats) memory.resize(floats);
    return memory.data();
}

struct Ops {
    void (*affine)(float*, const float*, const float*, const float*, long, long, long);
    void (*depthwise)(const float*, const float*, const float*, long, const float*, long,
                      const float*, const float*, float*, float*, long, long, long, long, long,
                      long, long);
    void (*squeeze_excite)(float*, const float*, const float*, long, const float*, const float*,
                           long, const float*, long, long, long, long);
};

namespace baseline {
#define LANES 4
#include "ops.inl"
#undef LANES
}  // namespace baseline

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HAS_X86_VARIANTS 1

#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#define LANES 8
#include "ops.inl"
#undef LANES
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
namespace avx512 {
#define LANES 16
#include "ops.inl"
#undef LANES
}  // namespace avx512
#pragma GCC pop_options
#endif

struct Variant {
    const char* name;
    const Ops* ops;
};

static Variant choose() {
#ifdef HAS_X86_VARIANTS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
        return {"avx512", &avx512::ops};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return {"avx2", &avx2::ops};
#endif
    return {"baseline", &baseline::ops};
}

static const Variant chosen = choose();

extern "C" {
const char* superserve_variant() { return chosen.name; }

void superserve_affine(float* y, const float* scale, const float* shift, const float* residual,
                       long rows, long channels, long act) {
    chosen.ops->affine(y, scale, shift, residual, rows, channels, act);
}

void superserve_depthwise(const float* x, const float* before_scale, const float* before_shift,
                          long before_act, const float* filters, long tap_stride,
                          const float* scale, const float* shift, float* out, float* pooled,
                          long batch, long height, long width, long channels, long kernel,
                          long stride, long act) {
    chosen.ops->depthwise(x, before_scale, before_shift, before_act, filters, tap_stride, scale,
                          shift, out, pooled, batch, height, width, channels, kernel, stride, act);
}

void superserve_squeeze_excite(float* y, const float* pooled, const float* reduce,
                               long reduce_stride, const float* reduce_bias, const float* expand,
                               long expand_stride, const float* expand_bias, long batch,
                               long pixels, long channels, long squeezed) {
    chosen.ops->squeeze_excite(y, pooled, reduce, reduce_stride, reduce_bias, expand,
                               expand_stride, expand_bias, batch, pixels, channels, squeezed);
}
}
