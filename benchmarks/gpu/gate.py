"""The gate before every timing: an answer that is wrong is not timed. Pure but for tensors.

Three comparisons, from strict to loose. A single step in bfloat16, given the very numbers that it
reads, differs from float64 by the rounding of its result. A whole subnet in float32 differs by
float32's rounding: what is wrong with slices, borders or norms shows here. A whole subnet in
bfloat16 differs by as much as its random weights amplify rounding, 4 to 10 % of the norm with the
nets used here, so it is compared with what PyTorch itself loses on the same subnet.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

STEP = {torch.float32: 2e-5, torch.bfloat16: 8e-3}
"""‖difference‖ / ‖reference‖ of one step."""
ELEMENT = {torch.float32: 2e-4, torch.bfloat16: 0.15}
"""The largest difference of one step over the reference's root mean square: one wrong pixel."""
SUBNET_FLOAT32 = 1e-4
SUBNET_BFLOAT16 = 0.3
"""Whatever PyTorch loses; a wrong channel or kernel gives about 1."""
TIMES_PYTORCH = 2.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """How wrong an answer is, and how wrong it may be; ``worst`` of elements, where that counts."""

    error: float
    limit: float
    worst: float = 0.0
    worst_limit: float = float("inf")

    @property
    def passed(self) -> bool:
        """Not a number never passes."""
        return self.error <= self.limit and self.worst <= self.worst_limit

    def to_json(self) -> dict[str, Any]:
        numbers = {k: v if math.isfinite(v) else None for k, v in asdict(self).items()}
        return {**numbers, "passed": self.passed}

    def __str__(self) -> str:
        text = f"error {self.error:.1e}, at most {self.limit:.1e}"
        if self.worst_limit < float("inf"):
            text += f"; worst element {self.worst:.1e}, at most {self.worst_limit:.1e}"
        return text


def relative(answer: Tensor, reference: Tensor) -> float:
    """‖answer − reference‖ / ‖reference‖ in float64; not a number where the shapes differ."""
    if answer.shape != reference.shape:
        return float("nan")
    wanted = reference.double()
    return float((answer.to(wanted.device).double() - wanted).norm() / wanted.norm())


def of_step(answer: Tensor, reference: Tensor, dtype: torch.dtype) -> Verdict:
    """One step's result against float64 of the same numbers."""
    error, wanted = relative(answer, reference), reference.double()
    if math.isnan(error):
        return Verdict(error, STEP[dtype], error, ELEMENT[dtype])
    worst = float((answer.double() - wanted).abs().max() / wanted.square().mean().sqrt())
    return Verdict(error, STEP[dtype], worst, ELEMENT[dtype])


def of_subnet(
    answer: Tensor, reference: Tensor, dtype: torch.dtype, pytorch: float | None = None
) -> Verdict:
    """A subnet's logits against float64; ``pytorch`` is what PyTorch's own answer is off by."""
    error = relative(answer, reference)
    if dtype == torch.float32:
        return Verdict(error, SUBNET_FLOAT32)
    within = SUBNET_BFLOAT16 if pytorch is None else TIMES_PYTORCH * pytorch
    return Verdict(error, min(SUBNET_BFLOAT16, within))


def admitted(
    contenders: Mapping[str, Callable[[], Tensor]],
    judge: Callable[[Tensor], Verdict],
    refuse: Callable[[str, str], None],
    leave_out: Callable[[str, str], None],
) -> tuple[dict[str, Callable[[], Tensor]], dict[str, Verdict]]:
    """The contenders whose answer passes, to be timed, and what was found of all that answered.

    ``refuse`` is told, by name and why, of wrong answers, and of ours that do not run;
    ``leave_out`` of others that do not run.
    """
    passed: dict[str, Callable[[], Tensor]] = {}
    verdicts: dict[str, Verdict] = {}
    for name, call in contenders.items():
        try:
            verdicts[name] = judge(call())
        except Exception as error:
            tell = refuse if name.startswith("ours") else leave_out
            tell(name, f"{type(error).__name__}: {error}")
            continue
        if verdicts[name].passed:
            passed[name] = call
        else:
            refuse(name, f"wrong, not timed: {verdicts[name]}")
    return passed, verdicts
