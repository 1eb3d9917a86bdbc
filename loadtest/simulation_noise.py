"""How far a batch's latency is from its profile: random, and reproducible from a seed."""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Factors = npt.NDArray[np.float64]

_BLOCK = 4096  # factors drawn at once; a draw of one costs as much as a draw of a hundred


class Noise(Protocol):
    """A distribution of factors that latencies are multiplied by; none is negative."""

    def factors(self, rng: np.random.Generator, count: int) -> Factors:
        """``count`` independent draws."""
        ...


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Factors with median 1, for a profile of medians; ``sigma`` is about the relative spread."""

    sigma: float

    def __post_init__(self) -> None:
        if not self.sigma >= 0:
            raise ValueError(f"sigma must not be negative: {self.sigma}")

    def factors(self, rng: np.random.Generator, count: int) -> Factors:
        return rng.lognormal(0.0, self.sigma, count)


@dataclass(frozen=True, slots=True)
class Empirical:
    """Factors drawn, with replacement, from those that were measured (latency over profile)."""

    observed: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.observed or not all(factor >= 0 for factor in self.observed):
            raise ValueError("factors must be one or more numbers, and none of them negative")

    def factors(self, rng: np.random.Generator, count: int) -> Factors:
        return rng.choice(np.array(self.observed), count)


@dataclass(frozen=True, slots=True)
class Exponential:
    """Factors with mean 1 and no memory: the service times that queueing theory can solve."""

    def factors(self, rng: np.random.Generator, count: int) -> Factors:
        return rng.exponential(1.0, count)


@dataclass(frozen=True, slots=True)
class Scatter:
    """Seconds on top, drawn from those that were observed on batches that took about as long.

    What disturbs a server, another process or a late wake-up, adds time rather than multiplies it.
    ``strata`` are (the longest usual time, the observed differences), ascending in time; what takes
    longer than all of them is of the last.
    """

    strata: tuple[tuple[float, tuple[float, ...]], ...]

    def __post_init__(self) -> None:
        edges = [edge for edge, _ in self.strata]
        if not edges or edges != sorted(edges) or not all(found for _, found in self.strata):
            raise ValueError("a scatter needs strata that ascend, each with observations")

    def times(self, rng: np.random.Generator) -> Callable[[float], float]:
        """What a batch takes whose usual time is given; never less than half of that."""
        edges = [edge for edge, _ in self.strata][:-1]
        observed = [found for _, found in self.strata]
        shares = _uniform(rng)

        def time(usual: float) -> float:
            found = observed[bisect_left(edges, usual)]
            return max(usual + found[int(next(shares) * len(found))], usual / 2)

        return time


def noisy_times(noise: Noise | Scatter | None, seed: int) -> Callable[[float], float]:
    """From the usual time of a batch to the one that it takes."""
    if noise is None:
        return _usual
    # A child of the seed: arrivals drawn from the same seed must not repeat the same numbers.
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    if isinstance(noise, Scatter):
        return noise.times(rng)
    factors = _draws(noise, rng)
    return lambda usual: usual * next(factors)


def _usual(time: float) -> float:
    return time


def _draws(noise: Noise, rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from noise.factors(rng, _BLOCK).tolist()


def _uniform(rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from rng.random(_BLOCK).tolist()
