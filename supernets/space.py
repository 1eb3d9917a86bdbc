"""Which subnets a supernet has: frozen, canonical choices, and the space that makes them. Pure."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Protocol

Value = int | float
Setting = tuple[Value, ...]


class Random(Protocol):
    """What sampling needs; `random.Random` and `numpy.random.Generator` both have it."""

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...


@dataclass(frozen=True, slots=True)
class Subnet:
    """One choice of depth, width, kernel... in one search space.

    Made by a `SearchSpace`, which validates it and resets what has no effect (the settings of
    blocks beyond the depth), so that equal networks are equal subnets.
    """

    family: str
    settings: tuple[tuple[str, Setting], ...]
    text: str = field(default="", repr=False, compare=False)  # for people; the space words it
    id: str = field(init=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        text = json.dumps([self.family, self.settings], separators=(",", ":"))
        digest = hashlib.blake2b(text.encode(), digest_size=5).hexdigest()
        object.__setattr__(self, "id", digest)
        object.__setattr__(self, "_hash", int(digest, 16))  # the same in every process

    def __hash__(self) -> int:
        # Looked up for every batch: hashing sixty numbers each time would be most of actuation.
        return self._hash

    def __getitem__(self, name: str) -> Setting:
        for key, setting in self.settings:
            if key == name:
                return setting
        raise KeyError(name)

    def __str__(self) -> str:
        return self.text or " ".join(f"{name}={_compact(s)}" for name, s in self.settings)

    def config(self) -> dict[str, list[Value]]:
        """The settings as lists; `SearchSpace.subnet(**config)` gives this subnet back."""
        return {name: list(setting) for name, setting in self.settings}

    def to_json(self) -> dict[str, object]:
        return {"family": self.family, **self.config()}


def _compact(setting: Setting) -> str:
    if len(set(setting)) == 1:
        return str(setting[0])
    return ",".join(str(value) for value in setting)


@dataclass(frozen=True, slots=True)
class Dimension:
    """One elastic setting: ``length`` values, each one of ``options`` (ascending in cost)."""

    name: str
    length: int
    options: Setting

    def __post_init__(self) -> None:
        if not self.options or list(self.options) != sorted(set(self.options)):
            raise ValueError(f"{self.name}: options must ascend and be distinct: {self.options}")


class SearchSpace:
    """A product of dimensions, less what `canonical` says has no effect.

    Families whose settings do not depend on each other use it as it is.
    """

    def __init__(self, family: str, dimensions: Sequence[Dimension]) -> None:
        self.family = family
        self.dimensions = tuple(dimensions)

    def canonical(self, settings: dict[str, Setting]) -> dict[str, Setting]:
        """Reset what has no effect to the smallest option. The base space has nothing to reset."""
        return settings

    def describe(self, settings: dict[str, Setting]) -> str:
        """The settings in words; empty for the plain form."""
        del settings
        return ""

    def subnet(self, **config: Value | Sequence[Value]) -> Subnet:
        """The subnet with these settings; a scalar stands for the same value everywhere.

        Raises ``ValueError`` naming the setting and its legal values.
        """
        names = [d.name for d in self.dimensions]
        unknown = sorted(set(config) - set(names))
        missing = [name for name in names if name not in config]
        if unknown or missing:
            raise ValueError(
                f"a {self.family} subnet has the settings {', '.join(names)}"
                f"{'; unknown: ' + ', '.join(unknown) if unknown else ''}"
                f"{'; missing: ' + ', '.join(missing) if missing else ''}"
            )
        checked = {d.name: _checked(d, config[d.name]) for d in self.dimensions}
        settings = self.canonical(checked)
        return Subnet(self.family, tuple(settings.items()), self.describe(settings))

    def from_json(self, document: Mapping[str, object]) -> Subnet:
        """Read `Subnet.to_json`; raises ``ValueError`` for another family or a bad setting."""
        config = dict(document)
        if config.pop("family", self.family) != self.family:
            raise ValueError(f"not a subnet of {self.family}: {document}")
        return self.subnet(**config)  # type: ignore[arg-type]  # _checked looks at each value

    @property
    def smallest(self) -> Subnet:
        return self.subnet(**{d.name: d.options[0] for d in self.dimensions})

    @property
    def largest(self) -> Subnet:
        return self.subnet(**{d.name: d.options[-1] for d in self.dimensions})

    def sample(self, rng: Random) -> Subnet:
        """Each setting uniform over its options, as the Once-for-All code samples."""
        config = {d.name: [_pick(d.options, rng) for _ in range(d.length)] for d in self.dimensions}
        return self.subnet(**config)

    def mutate(self, subnet: Subnet, rng: Random, probability: float = 0.1) -> Subnet:
        """Redraw each setting with this probability (the mutation of evolutionary search)."""
        config = {
            d.name: [
                _pick(d.options, rng) if rng.random() < probability else value
                for value in subnet[d.name]
            ]
            for d in self.dimensions
        }
        return self.subnet(**config)

    def __iter__(self) -> Iterator[Subnet]:
        """Every subnet once, ascending per setting. Most spaces are far too large to finish."""
        seen: set[Subnet] = set()
        axes = [product(d.options, repeat=d.length) for d in self.dimensions]
        for values in product(*axes):
            names = (d.name for d in self.dimensions)
            subnet = self.subnet(**dict(zip(names, values, strict=True)))
            if subnet not in seen:
                seen.add(subnet)
                yield subnet

    def __contains__(self, subnet: Subnet) -> bool:
        try:
            return self.subnet(**subnet.config()) == subnet
        except ValueError:
            return False


class StagedSpace(SearchSpace):
    """Stages of blocks: depth ``d`` per stage, everything else per block.

    A block beyond its stage's depth does not run, so its settings are reset. This is the space of
    the Once-for-All networks (Cai et al., ICLR 2020, section 3.1).
    """

    def __init__(
        self, family: str, stages: int, depths: Setting, per_block: Mapping[str, Setting]
    ) -> None:
        self.stages = stages
        self.blocks_per_stage = int(max(depths))
        blocks = stages * self.blocks_per_stage
        super().__init__(
            family,
            [
                *(Dimension(name, blocks, options) for name, options in per_block.items()),
                Dimension("d", stages, depths),
            ],
        )

    def canonical(self, settings: dict[str, Setting]) -> dict[str, Setting]:
        depth, per_stage = settings["d"], self.blocks_per_stage
        active = [block % per_stage < depth[block // per_stage]
                  for block in range(self.stages * per_stage)]  # fmt: skip
        return {
            d.name: settings[d.name]
            if d.name == "d"
            else tuple(
                value if runs else d.options[0]
                for value, runs in zip(settings[d.name], active, strict=True)
            )
            for d in self.dimensions
        }

    def describe(self, settings: dict[str, Setting]) -> str:
        """Only what runs: one value where a setting is the same everywhere, else by stage."""
        depth, words = settings["d"], [f"d={_compact(settings['d'])}"]
        for name in (d.name for d in self.dimensions if d.name != "d"):
            stages = [
                settings[name][stage * self.blocks_per_stage :][: int(active)]
                for stage, active in enumerate(depth)
            ]
            whole = tuple(value for stage in stages for value in stage)
            same = len(set(whole)) == 1
            words.append(f"{name}={_compact(whole) if same else '|'.join(map(_compact, stages))}")
        return " ".join(words)

    @property
    def size(self) -> int:
        """How many subnets there are; exact, without enumerating them."""
        per_block = 1
        for d in self.dimensions:
            per_block *= len(d.options) if d.name != "d" else 1
        depths = next(d.options for d in self.dimensions if d.name == "d")
        return int(sum(per_block ** int(depth) for depth in depths) ** self.stages)


def _pick(options: Setting, rng: Random) -> Value:
    return options[int(rng.random() * len(options))]


def _checked(dimension: Dimension, value: object) -> Setting:
    values = list(value) if isinstance(value, (list, tuple)) else [value] * dimension.length
    if len(values) != dimension.length:
        raise ValueError(f"{dimension.name} needs {dimension.length} values, not {len(values)}")
    return tuple(_option(dimension, item) for item in values)


def _option(dimension: Dimension, value: object) -> Value:
    """The option equal to ``value``, with a tolerance for ratios that went through JSON."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        for option in dimension.options:
            if abs(option - value) < 1e-6:
                return option
    legal = ", ".join(str(option) for option in dimension.options)
    raise ValueError(f"{dimension.name} cannot be {value!r}; it is one of {legal}")
