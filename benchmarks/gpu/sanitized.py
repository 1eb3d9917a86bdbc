"""Every kernel once, on small nets: what compute-sanitizer watches, as it slows all things down."""

from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.gpu.contenders import ours_eager
from benchmarks.gpu.nets import subject
from benchmarks.gpu.settings import Settings


def main() -> None:
    settings = replace(Settings.dry(Path()), device="cuda", dtype=torch.bfloat16)
    for name in settings.nets:
        each = subject(name, settings)
        form = each.resident(settings)
        for subnet in each.subnets.values():
            x = each.images(2, settings).to(settings.place, settings.dtype)
            answer = ours_eager(form, subnet, x)()
            torch.cuda.synchronize()
            print(name, subnet, float(answer.float().norm()))


if __name__ == "__main__":
    main()
