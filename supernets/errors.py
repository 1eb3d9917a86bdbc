"""The errors that people's files can cause: checkpoints, data, what cannot be exported."""

from collections.abc import Sequence

from kernels.errors import NoKernels

__all__ = ["CheckpointError", "DataError", "ExportError", "NoKernels"]


class CheckpointError(ValueError):
    """A file is not what it should be; the message lists what is wrong, as far as is readable."""

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        self.problems = tuple(problems)
        shown = "".join(f"\n  {problem}" for problem in self.problems[:20])
        more = len(self.problems) - 20
        super().__init__(f"{message}{shown}" + (f"\n  and {more} more" if more > 0 else ""))


class DataError(ValueError):
    """Somebody's images or labels are not what they should be; the message names the file."""


class ExportError(ValueError):
    """A subnet cannot be exported so, or what was written does not compute the same."""
