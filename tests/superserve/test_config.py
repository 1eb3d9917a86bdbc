"""Settings come from four places, the command line strongest, and a wrong one is named."""

import pytest

from superserve.config import Config, load_config
from superserve.errors import ConfigError


def test_strongest_first(tmp_path):
    file = tmp_path / "superserve.toml"
    file.write_text('port = 1\nslo_ms = 10\ndevices = ["cpu", "cpu"]\nsupernet = "filed"\n')
    environment = {"SUPERSERVE_PORT": "2", "SUPERSERVE_SLO_MS": "20", "OTHER": "x"}
    config = load_config({"port": 3, "policy": None}, file=file, environment=environment)

    assert (config.port, config.slo_ms, config.supernet) == (3, 20.0, "filed")
    assert config.devices == ("cpu", "cpu")
    assert config.policy == Config().policy


def test_text_becomes_the_type_of_the_setting():
    environment = {
        "SUPERSERVE_DEVICES": "cuda:0, cuda:1",
        "SUPERSERVE_ALLOW_UNCALIBRATED": "true",
        "SUPERSERVE_DRAIN_S": "2.5",
    }
    config = load_config(environment=environment)

    assert config.devices == ("cuda:0", "cuda:1")
    assert config.allow_uncalibrated is True
    assert config.drain_s == 2.5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"porrt": 1}, "'porrt', which is no setting"),
        ({"port": "many"}, "port to 'many', which is no int"),
        ({"port": 1.5}, "port to 1.5"),
        ({"port": 70_000}, "0 to 65535"),
        ({"slo_ms": 0}, "slo_ms must be positive"),
        ({"slo_ms": float("nan")}, "slo_ms must be positive"),
        ({"margin_ms": -1}, "must be finite and not negative"),
        ({"late": "never"}, "late must be drop or serve"),
        ({"kernels": "cuda"}, "kernels must be auto, triton or torch"),
        ({"slo_ms": 10, "max_slo_ms": 5}, "above max_slo_ms"),
        ({"devices": ","}, "at least one device"),
        ({"allow_uncalibrated": "perhaps"}, "is no bool"),
    ],
)
def test_a_wrong_setting_is_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(overrides, environment={})


def test_a_misspelt_variable_of_the_environment_is_named():
    with pytest.raises(ConfigError, match="'polcy', which is no setting"):
        load_config(environment={"SUPERSERVE_POLCY": "maxacc"})


def test_our_variables_that_are_no_settings_are_left_alone():
    environment = {"SUPERSERVE_CACHE": "/somewhere", "SUPERSERVE_TRACES": "/elsewhere"}

    assert load_config(environment=environment) == Config()


@pytest.mark.parametrize("text", ["port = ", "= 3"])
def test_a_broken_file_is_named(tmp_path, text):
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        load_config(file=file, environment={})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml"):
        load_config(file=tmp_path / "none.toml", environment={})
