// Float32 NHWC plans for the CPU, compiled once for each instruction set; the machine's is chosen
// when the library is loaded. Plain C symbols: no Python and no torch headers are needed.

#include <chrono>
#include <cstddef>
#include <cstring>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum Activation { IDENTITY = 0, RELU = 1, H_SWISH = 2, H_SIGMOID = 3 };

// At least this many elements, this thread's own, until it asks again. Not in the .inl files: what
// the standard library instantiates must not be compiled for an instruction set that may be
// missing.
template <typename T> static T* own(std::vector<T>& memory, size_t count) {
    if (memory.size() < count) memory.resize(count);
    return memory.data();
}
static float* scratch(size_t floats) {
    static thread_local std::vector<float> memory;
    return own(memory, floats);
}
static const float** pointer_scratch(size_t pointers) {
    static thread_local std::vector<const float*> memory;
    return own(memory, pointers);
}
static float** value_scratch(size_t values) {
    static thread_local std::vector<float*> memory;
    return own(memory, values);
}

static double now() {
    using clock = std::chrono::steady_clock;
    return std::chrono::duration<double>(clock::now().time_since_epoch()).count();
}

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

using Run = void (*)(const void*, float*, const float*, float*, long, double*);

struct Variant {
    const char* name;
    Run run;
};

static Variant choose() {
#ifdef HAS_X86_VARIANTS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
        return {"avx512", avx512::run_any};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return {"avx2", avx2::run_any};
#endif
    return {"baseline", baseline::run_any};
}

static const Variant chosen = choose();

extern "C" {
const char* superserve_variant() { return chosen.name; }

// `batch` images [H, W, C] through a plan; `seconds` per step are added to, where it is not null.
void superserve_run(const void* plan, float* workspace, const float* input, float* output,
                    long batch, double* seconds) {
    chosen.run(plan, workspace, input, output, batch, seconds);
}
}
