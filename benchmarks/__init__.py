"""One file per question, each with one command: ``python -m benchmarks.NAME``."""
