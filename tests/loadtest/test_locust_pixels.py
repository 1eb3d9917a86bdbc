"""Loads of raw pixels: what is sent is what the network takes."""

from types import SimpleNamespace

import pytest

from loadtest.locusts.options import read_options
from loadtest.locusts.plan import make_plan
from superserve.api import InputSize, ModelDescription, PolicyDescription
from superserve.errors import ConfigError

URL = "http://127.0.0.1:1"
MODEL = ModelDescription("m", ("a", "b"), InputSize(6, 4, 3), "hash", 0, ())
CLIENT = SimpleNamespace(
    models=lambda: (MODEL,), policy=lambda: PolicyDescription("dualfit", ("dualfit",))
)


@pytest.mark.parametrize("typed", [True, "on", "true"])
def test_one_blank_image_of_the_models_size_is_sent_as_pixels(typed):
    plan = make_plan(read_options({"pixels": typed, "rate": 5}), URL, None, CLIENT)

    (payload,) = plan.payloads
    assert (len(payload.body), payload.label) == (6 * 4 * 3, None)
    assert b"format=pixels" in plan.target.request(payload.body)
    assert plan.header().config["pixels"] is True


def test_without_the_option_a_file_is_sent():
    plan = make_plan(read_options({"rate": 5}), URL, None, CLIENT)

    assert plan.payloads[0].body.startswith(b"\x89PNG")
    assert b"format" not in plan.target.request(b"").split(b"\r\n")[0]


def test_pixels_and_a_folder_of_images_do_not_go_together(tmp_path):
    with pytest.raises(ConfigError, match="leave out --images"):
        make_plan(read_options({"pixels": True, "rate": 5}), URL, tmp_path, CLIENT)
