// Vectors of LANES floats, and the activations. Like all .inl files here this is included once per
// instruction set, each time in a namespace of its own: see cpu.cpp. Everything is float32, NHWC.

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

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
    if (ACT == H_SIGMOID)
        return minimum(splat(6.f), maximum(splat(0.f), v + splat(3.f))) * splat(1.f / 6.f);
    return v;
}

// The first `lanes` of a vector, then `other`; nothing past them is read.
static inline vec partly(const float* p, long lanes, float other) {
    if (lanes >= LANES) return load(p);
    float whole[LANES];
    for (long l = 0; l < LANES; ++l) whole[l] = l < lanes ? p[l] : other;
    return load(whole);
}

static inline void store_partly(float* p, vec v, long lanes) {
    if (lanes >= LANES) return store(p, v);
    for (long l = 0; l < lanes; ++l) p[l] = v[l];
}
