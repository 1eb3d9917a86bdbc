"""The command line: one module per group of commands. An edge, so ms and percent."""

from superserve.cli import experiments, making, serving
from superserve.cli.app import run

__all__ = ["experiments", "main", "making", "serving"]

main = run
