"""Policies against each other: under the same loads, from the same seeds, in simulation."""

from loadtest.compare.results import Results
from loadtest.compare.run import run_study
from loadtest.compare.study import (
    Failures,
    PolicySpec,
    Serving,
    Setting,
    Study,
    WorkloadSpec,
)
from loadtest.compare.study_file import parse_study, quick_study, read_study

__all__ = [
    "Failures",
    "PolicySpec",
    "Results",
    "Serving",
    "Setting",
    "Study",
    "WorkloadSpec",
    "parse_study",
    "quick_study",
    "read_study",
    "run_study",
]
