"""What ptxas made of each Triton kernel, judged without a GPU: see `kernels.audit`."""
