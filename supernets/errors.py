"""The errors that a checkpoint can cause."""

from collections.abc import Sequence


class CheckpointError(ValueError):
    """A file is not what it should be; the message lists what is wrong, as far as is readable."""

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        self.problems = tuple(problems)
        shown = "".join(f"\n  {problem}" for problem in self.problems[:20])
        more = len(self.problems) - 20
        super().__init__(f"{message}{shown}" + (f"\n  and {more} more" if more > 0 else ""))
