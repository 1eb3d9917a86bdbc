"""What can be chosen of an elastic network, and what cannot be made elastic and why."""

import random

import pytest
import timm
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from supernets.conversion.channel_groups import NotElastic
from supernets.making_elastic import make_elastic
from tests.supernets.elastic_helpers import SIZE, OwnNet, own_net


def test_stages_depths_and_widths_can_be_chosen():
    _, net = own_net(stages=["low"], depths=[[1, 3]], widths=(0.25,))

    assert net.space.smallest.config() == {"w": [0.25, 0.25, 0.25], "d": [1]}
    assert net.space.largest.config() == {"w": [1.0, 1.0, 1.0], "d": [3]}
    # One block at two widths, or three.
    assert net.space.size == len(list(net.space)) == 2 + 8


def test_the_space_is_enumerated_once_each():
    _, net = own_net(widths=(0.3, 0.5))
    found = list(net.space)

    assert len(found) == len(set(found)) == net.space.size
    assert all(subnet in net.space for subnet in found)
    # Of 12 channels 0.3 are 4 and 0.5 are 6: three widths, and two depths a stage.
    assert net.space.size == (3**2 + 3**3) * (3**1 + 3**2)


def test_equal_networks_are_equal_subnets():
    _, net = own_net(widths=(0.45, 0.5, 1.0))  # of 12 channels, both are 6
    space = net.space

    assert space.subnet(d=2, w=0.45) == space.subnet(d=2, w=0.5)
    assert space.subnet(d=3, w=1.0) == space.largest, "the second stage has two blocks, no more"
    shallow = space.subnet(d=[2, 1], w=[1.0, 1.0, 0.5, 1.0, 1.0])
    assert shallow == space.subnet(d=[2, 1], w=[1.0, 1.0, 1.0, 1.0, 0.5])
    assert str(shallow) == "d=2,1 w=1.0"


def test_samples_use_every_depth_of_a_stage_alike():
    net = make_elastic(ResNet(BasicBlock, [1, 1, 6, 1]), image_size=SIZE)
    rng = random.Random(0)
    depths = [net.space.sample(rng)["d"][2] for _ in range(800)]

    assert {
        depth: round(depths.count(depth), -2) for depth in sorted(set(depths))
    } == dict.fromkeys((3, 4, 5, 6), 200)
    mutated = net.space.mutate(net.space.largest, rng, 1.0)
    assert mutated in net.space
    assert net.space.mutate(mutated, rng, 0.0) == mutated


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (torchvision.models.mobilenet_v2, "MobileNetV2 has no residual stages"),
        (torchvision.models.densenet121, "DenseNet has no residual stages"),
        (
            lambda: torchvision.models.inception_v3(init_weights=False),
            "Inception3 has no residual stages",
        ),
        (lambda: timm.create_model("resnet50_gn"), "bn1 is a GroupNorm; SubnetNorm takes"),
        (lambda: timm.create_model("mobilenetv3_small_050"), "bn1 is a BatchNormAct2d"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 1)), "does not return logits"),
        (lambda: nn.Linear(3, 4), "does not run on images of shape"),
    ],
    ids=["mobilenet", "densenet", "inception", "group-norm", "norm-act", "no-logits", "no-image"],
)
def test_what_cannot_be_made_elastic_is_refused_with_the_reason(model, message):
    with pytest.raises(NotElastic, match=message):
        make_elastic(model())


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (["stem"], "stem.0 is a Conv2d, not a block"),
        (["head"], "head is a Linear; a stage is an nn.Sequential"),
        (["middle"], "no module 'middle'; the nn.Sequentials are stem, low"),
        (["low", "low.0.branch"], "low.0.branch.0 is a Conv2d"),
    ],
)
def test_a_stage_that_is_none_is_refused_with_the_reason(stages, message):
    with pytest.raises(NotElastic, match=message):
        own_net(stages=stages)


class Faulty(OwnNet):
    """The same network with one thing that does not fit."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault
        if fault == "smaller":
            self.low[1] = nn.Sequential(self.low[1], nn.MaxPool2d(2))
        elif fault == "not added":
            self.low[1] = nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU())
        elif fault == "shared":
            self.low[2].last = self.low[1].last
        elif fault == "unused":
            self.spare = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        if self.fault == "data" and x.mean() > 0:
            return super().forward(-x)
        if self.fault == "size" and x.shape[-1] > 10:
            return super().forward(x[..., 1:-1, 1:-1])
        if self.fault == "one by one":
            x = self.stem(x)
            for block in [*self.low, *self.high]:
                x = block(x)
            return self.head(x.mean((2, 3)))
        return super().forward(x)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("shared", "low.2.last and low.1.last are one layer"),
        ("unused", "spare.weight is not used in the forward pass"),
        ("data", "Faulty does not run .* without their values"),
        ("size", "the forward pass of the model .* cannot be traced"),
        ("one by one", "the stage low runs 0 times as a whole"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_with_the_reason(fault, message):
    with pytest.raises(NotElastic, match=message):
        make_elastic(Faulty(fault), image_size=12)


@pytest.mark.parametrize("fault", ["smaller", "not added"])
def test_a_block_that_cannot_be_skipped_makes_no_stage(fault):
    """Found by itself the other stage is enough; asked for, the reason is given."""
    model = Faulty(fault)

    assert [stage.depths for stage in make_elastic(model, image_size=16).space.stages] == [(1, 2)]
    with pytest.raises(NotElastic, match=r"low.1 cannot be skipped"):
        make_elastic(model, image_size=16, stages=["low"])


def test_wrong_options_are_refused():
    model = OwnNet()
    for options, message in (
        ({"depths": [[1], [1], [1]]}, "depths for 3 stages, and 2"),
        ({"depths": [[0, 1], [1]]}, "low can run 1 to 3 blocks"),
        ({"widths": (0.5, 1.5)}, "above 0 and up to 1"),
        ({"labels": ["a", "b"]}, "2 labels for 6 classes"),
    ):
        with pytest.raises(ValueError, match=message):
            make_elastic(model, image_size=12, **options)
    with pytest.raises(TypeError, match="no options head_counts"):
        make_elastic(model, image_size=12, head_counts=(1, 2))
