"""An ordinary ResNet becomes a supernet: depth and inner widths elastic, no weight copied.

python examples/04_elastic_model.py
"""

import torch
import torchvision

from supernets import calibrate, extract
from supernets.making_elastic import make_elastic

torch.manual_seed(0)
model = torchvision.models.resnet18(num_classes=10).eval()  # with weights of yours, better
net = make_elastic(model, image_size=64)
largest, small = net.space.largest, net.space.subnet(d=1, w=0.5)
images = torch.randn(8, 3, 64, 64)  # for real: preprocessed training images
calibrate(net, [small], [images])

resident = net.resident()  # every weight once, in one arena
with torch.inference_mode():
    change = (resident(images, largest) - model(images)).abs().max().item()
print(f"the largest of {net.space.size} subnets is the model itself: change {change:.0e}")
for subnet in (small, largest):
    plain = extract(net, subnet)  # a torchvision ResNet again, narrower and shorter
    millions = sum(parameter.numel() for parameter in plain.parameters()) / 1e6
    print(f"{subnet}: {millions:.1f} M parameters, logits {tuple(resident(images, subnet).shape)}")
