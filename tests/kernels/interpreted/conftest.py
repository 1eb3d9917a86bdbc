"""These modules run kernels under Triton's interpreter, in a process that was started for it."""

import os

# Triton reads the variable where a kernel is defined: a process has either interpreted kernels or
# compiled ones. `tests/kernels/test_interpreted.py` starts one for each module here.
collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
