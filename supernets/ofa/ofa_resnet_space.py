"""The search space of OFA ResNet50: extra depth, expand ratios, widths by index. Pure."""

from math import prod

from supernets.space import Dimension, Random, SearchSpace, Setting, Subnet


class ResNetSpace(SearchSpace):
    """The settings of the `ofa` package's OFAResNets, by the names and in the order it uses.

    ``d``: first the stem (its residual layer runs where the value is the greatest depth, so 1 is 0
    in other words), then per stage the blocks beyond its base depth. ``e``: per block the ratio of
    middle to output channels. ``w``: which width multiplier, as an index, of the stem's middle, the
    stem's output and each stage. Two multipliers that round to one width (0.65 and 0.8 inside the
    published stem) stay two settings, as in that package.
    """

    def __init__(
        self,
        family: str,
        base_depths: tuple[int, ...],
        depths: tuple[int, ...],
        expands: tuple[float, ...],
        widths: int,
    ) -> None:
        self.base_depths, self.depths = base_depths, depths
        stages = len(base_depths)
        super().__init__(
            family,
            [
                Dimension("d", 1 + stages, depths),
                Dimension("e", sum(base_depths) + stages * max(depths), expands),
                Dimension("w", 2 + stages, tuple(range(widths))),
            ],
        )

    def stages(self, settings: dict[str, Setting] | Subnet) -> list[Setting]:
        """Per stage the expand ratio of each block that runs."""
        ratios, found, start = settings["e"], [], 0
        for base, extra in zip(self.base_depths, settings["d"][1:], strict=True):
            found.append(ratios[start : start + base + int(extra)])
            start += base + max(self.depths)
        return found

    def canonical(self, settings: dict[str, Setting]) -> dict[str, Setting]:
        """Reset the ratios of blocks beyond the depth, and a stem layer that is skipped."""
        least = self.dimensions[1].options[0]
        stem, *extra = settings["d"]
        ratios: list[int | float] = []
        for base, active in zip(self.base_depths, self.stages(settings), strict=True):
            ratios += [*active, *(least,) * (base + max(self.depths) - len(active))]
        runs = stem == max(self.depths)
        return {
            "d": (stem if runs else min(self.depths), *extra),
            "e": tuple(ratios),
            "w": settings["w"],
        }

    def describe(self, settings: dict[str, Setting]) -> str:
        """Only what runs: one ratio where all blocks have the same, else by stage."""
        by_stage = self.stages(settings)
        whole = {ratio for stage in by_stage for ratio in stage}
        same = len(whole) == 1
        ratios = str(whole.pop()) if same else "|".join(_joined(stage) for stage in by_stage)
        return f"d={_joined(settings['d'])} e={ratios} w={_joined(settings['w'])}"

    def sample(self, rng: Random) -> Subnet:
        """Each setting uniform over its options; the stem's layer runs half the time, as there."""
        config = super().sample(rng).config()
        config["d"][0] = self._stem(rng)
        return self.subnet(**config)

    def mutate(self, subnet: Subnet, rng: Random, probability: float = 0.1) -> Subnet:
        config = super().mutate(subnet, rng, probability).config()
        redrawn = rng.random() < probability
        config["d"][0] = self._stem(rng) if redrawn else subnet["d"][0]
        return self.subnet(**config)

    def _stem(self, rng: Random) -> int:
        return max(self.depths) if rng.random() < 0.5 else min(self.depths)

    @property
    def size(self) -> int:
        """How many subnets there are; exact, without enumerating them."""
        ratios, widths = (len(self.dimensions[i].options) for i in (1, 2))
        stem = len({min(self.depths), max(self.depths)})
        blocks = prod(
            sum(ratios ** (base + extra) for extra in self.depths) for base in self.base_depths
        )
        return int(stem * widths ** self.dimensions[2].length * blocks)


def _joined(setting: Setting) -> str:
    return str(setting[0]) if len(set(setting)) == 1 else ",".join(map(str, setting))
