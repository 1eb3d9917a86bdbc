"""Every family is served by the same server; only its name and its checkpoint differ."""

import io

import pytest
import torch
from PIL import Image

import superserve
from supernets import calibrate, create_supernet, evaluate, save

FAMILIES = {
    "ofa_mobilenetv3": {"image_size": 64, "stage_widths": [8, 16], "strides": [2, 2],
                        "activations": ["relu", "h_swish"], "squeezes": [False, True],
                        "depths": [1, 2]},
    "ofa_resnet50": {"image_size": 64},
    "stitched_resnet": {"anchors": ["resnet18", "resnet34"], "image_size": 64, "width": 8},
    "elastic_vit": {"image_size": 32, "patch": 8, "dim": 32, "depth": 2, "heads": 2},
    "elastic": {"model": "torchvision/resnet18", "image_size": 64},
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_served_by_its_name_and_checkpoint(family, tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    net = create_supernet(family, num_classes=5, **FAMILIES[family])
    step, ends = net.preprocessing, [net.space.smallest, net.space.largest]
    images = torch.randn(6, step.channels, step.height, step.width)
    calibrate(net, ends, [images])
    file = tmp_path / f"{family}.safetensors"
    save(net, file)
    # Accuracies make an order; of random weights on noise they mean nothing else.
    evaluate(file, family, ends, [(images, torch.arange(6) % 5)], "noise")

    Image.new("RGB", (80, 70), (200, 30, 30)).save(png := io.BytesIO(), "PNG")
    with (
        superserve.serve(family, checkpoint=str(file), in_process=True, slo_ms=5000) as server,
        server.client() as client,
    ):
        answer = client.classify(png.getvalue())
    assert answer.label in net.labels
    assert answer.subnet in {subnet.id for subnet in ends}
