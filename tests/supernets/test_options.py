"""Options by name: every value is of the declared kind, and an error says which kind that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

from supernets import Preprocessing, create_supernet
from supernets.options import check_positive, checked


def make(
    *,
    depth: int = 1,
    rate: float = 0.1,
    flip: bool = True,
    name: str = "a",
    kind: Literal["slow", "fast"] = "slow",
    depths: tuple[int, ...] = (),
    names: Sequence[str] | None = None,
    nested: Sequence[int] | Sequence[Sequence[int]] | None = None,
    step: Preprocessing | None = None,
    table: Mapping[str, Any] | None = None,
    pair: tuple[str, int] = ("", 0),
    free=0,
) -> None:
    """A function with an argument of every kind."""


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("depth", "hello", "a whole number"),
        ("depth", 2.5, "a whole number"),
        ("depth", True, "a whole number"),
        ("depth", None, "a whole number"),
        ("rate", "hello", "a number"),
        ("rate", False, "a number"),
        ("flip", "hello", "true or false"),
        ("flip", 1, "true or false"),
        ("name", 3, "a name"),
        ("kind", "hello", "slow or fast"),
        ("depths", "hello", "a list of whole numbers"),
        ("depths", 3, "a list of whole numbers"),
        ("depths", [1, "2"], "a list of whole numbers"),
        ("names", "hello", "a list of names"),
        ("nested", [1, [2]], "a list of whole numbers or a list of lists of whole numbers"),
        ("step", 3, "a Preprocessing"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_the_kind_that_is_wanted(option, value, wanted):
    with pytest.raises(ValueError, match=f"^{option} must be {wanted}, not "):
        checked(make, {option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("depth", 2),
        ("depth", np.int64(2)),
        ("rate", 2),
        ("rate", np.float32(0.5)),
        ("flip", False),
        ("kind", "fast"),
        ("names", None),
        ("names", ["a", "b"]),
        ("nested", [1, 2]),
        ("nested", [[1], [2, 3]]),
        ("step", Preprocessing.imagenet(8)),
        ("table", {"a": 1}),
        ("pair", ("a", 1)),
        ("table", 5),
        ("free", object()),
    ],
)
def test_a_value_that_fits_or_of_an_undeclared_kind_stays_as_it_is(option, value):
    (found,) = checked(make, {option: value}).values()

    assert found is value


def test_a_list_becomes_a_tuple_where_one_is_declared_and_its_numbers_stay_what_they_are():
    found = checked(make, {"depths": [1, 2], "names": ["a"]})

    assert found == {"depths": (1, 2), "names": ["a"]}
    assert checked(lambda ratios: None, {"ratios": [1]}) == {"ratios": [1]}


def test_an_unknown_option_is_refused_with_those_that_there_are():
    with pytest.raises(TypeError, match="no option 'bogus'; there are depth, rate, flip"):
        checked(make, {"bogus": 1, "depth": 2})


def test_a_function_that_takes_any_option_is_given_any():
    def open_ended(*, depth: int = 1, **others: int) -> None:
        """Takes whatever it is given."""

    assert checked(open_ended, {"depth": 2, "bogus": "x"}) == {"depth": 2, "bogus": "x"}
    with pytest.raises(ValueError, match="depth must be a whole number"):
        checked(open_ended, {"depth": "x"})


@dataclass
class Sizes:
    width: int = 1
    strides: tuple[int, ...] = (1, 2)
    skip: int = 0
    flag: bool = False
    name: str = ""


def test_numbers_of_a_definition_are_above_zero_unless_excepted():
    check_positive(Sizes(), "skip")
    with pytest.raises(ValueError, match="skip must be above 0, not 0"):
        check_positive(Sizes())
    with pytest.raises(ValueError, match="strides must be above 0, not -1"):
        check_positive(Sizes(strides=(1, -1)), "skip")
    with pytest.raises(ValueError, match="width must be above 0, not nan"):
        check_positive(Sizes(width=float("nan")), "skip")


@pytest.mark.parametrize(
    ("family", "option", "value"),
    [
        ("ofa_mobilenetv3", "depths", "hello"),
        ("ofa_mobilenetv3", "width_mult", "hello"),
        ("ofa_mobilenetv3", "stem_width", 0),
        ("ofa_resnet50", "expands", "hello"),
        ("ofa_resnet50", "image_size", -1),
        ("elastic_vit", "depths", "hello"),
        ("elastic_vit", "patch", 0),
        ("stitched_resnet", "anchors", "hello"),
        ("stitched_resnet", "library", "hello"),
        ("elastic", "depths", "hello"),
        ("elastic", "divisor", "hello"),
        ("digits", "kernels", "hello"),
    ],
)
def test_every_family_names_the_option_whose_value_is_wrong(family, option, value):
    options = {"model": "torchvision/resnet18"} if family == "elastic" else {}
    with pytest.raises(ValueError, match=f"^{option} must be "):
        create_supernet(family, pretrained=False, **options, **{option: value})
