"""The command line: one module per group of commands. An edge, so ms and percent."""

from superserve.cli import experiments, importing, making, searching, serving, training
from superserve.cli.app import run

__all__ = ["experiments", "importing", "main", "making", "searching", "serving", "training"]

main = run
