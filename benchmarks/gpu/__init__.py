"""What the GPU kernels are worth, in one call that refuses to time a wrong result: docs/gpu.md."""
