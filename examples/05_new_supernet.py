"""A new supernet, from its definition to its first answer: train, calibrate, measure, serve."""

import io
import tempfile
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

import superserve
from supernets import Preprocessing, TrainOptions, calibrate, create_supernet, evaluate, save, train
from supernets.norms.statistics import Normalisation
from supernets.operators import SubnetNorm, WeightSlice
from supernets.opt_in import register_module
from supernets.space import Subnet
from superserve.engine_types import EngineSpec
from superserve.profiler import ProfileRequest, profile

STEP = Preprocessing(8, 8, 1, mean=(0.3,), std=(0.38,), ink_on_dark=True)


@register_module("scribbles", labels="0123456789", preprocessing=STEP, width=(8, 16, 64))
class Scribbles(nn.Module):
    """Two convolutions with 8, 16 or 64 channels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first, self.first_norm = WeightSlice(1, 64, kernel=3), SubnetNorm(0, 64)
        self.second, self.second_norm = WeightSlice(64, 64, kernel=3), SubnetNorm(1, 64)
        self.head = WeightSlice(64, num_classes, bias=True)

    def forward(self, x: Tensor, subnet: Subnet, normalise: Normalisation) -> Tensor:
        """Logits of [N, 1, 8, 8]; the width is an argument, and stored nowhere."""
        x = self.first_norm(self.first(x, int(subnet["width"][0])), normalise).relu()
        x = self.second_norm(self.second(x, x.shape[1]), normalise).relu()
        return self.head(x.amax((2, 3), keepdim=True)).flatten(1)


digits, folder = load_digits(), Path(tempfile.mkdtemp())
images, labels = torch.tensor(digits.images).float() / 16, torch.tensor(digits.target)
x = (images[:, None] - STEP.mean[0]) / STEP.std[0]
batches = [(x[i : i + 64], labels[i : i + 64]) for i in range(0, len(x), 64)]
net = create_supernet("scribbles")
train(net, lambda first: iter((batches[:20] * 10)[first:]), TrainOptions(200, learning_rate=0.01))
calibrate(net, list(net.space), batches[:20])
file, latencies = folder / "scribbles.safetensors", str(folder / "latency.json")
save(net, file)
card = evaluate(file, "scribbles", list(net.space), batches[20:], "scikit-learn digits, held out")
engine = EngineSpec("scribbles", str(file))
_, measured = profile(ProfileRequest(engine, (1, 8), seconds=1.0, output=latencies))
for subnet in card.subnets:
    seconds = measured.latencies[subnet.id][8].p50
    print(f"{subnet.config}: {subnet.accuracy:.1f} %, {1000 * seconds:.1f} ms for eight images")
settings = {"checkpoint": str(file), "latency_profile": latencies, "in_process": True}
with superserve.serve("scribbles", **settings) as server, server.client() as client:
    Image.fromarray((images[-1] * 255).byte().numpy()).save(png := io.BytesIO(), "PNG")
    print(f"a {labels[-1]} looks like a {client.classify(png.getvalue(), slo_ms=500).label}")
