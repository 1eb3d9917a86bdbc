"""``python -m superserve.cli``."""

from superserve.cli import main

main()
