"""What can be wrong with what was asked of the kernels; no torch here."""


class NoKernels(ValueError):
    """Kernels that cannot run here were asked for."""
