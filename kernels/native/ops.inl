// All that is compiled once per instruction set.

#include "vectors.inl"

#include "product.inl"

#include "depthwise.inl"

#include "elementwise.inl"

#include "plan.inl"

static void run_any(const void* plan, float* workspace, const float* input, float* output,
                    long batch, double* seconds) {
    run(*static_cast<const Plan*>(plan), workspace, input, output, batch, seconds);
}
