"""How far a batch's latency is from its profile: random factors, reproducible from a seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
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


def factor_stream(noise: Noise | None, seed: int) -> Iterator[float]:
    """One factor after another without end; 1 without noise."""
    return repeat(1.0) if noise is None else _draws(noise, seed)


def _draws(noise: Noise, seed: int) -> Iterator[float]:
    # A child of the seed: arrivals drawn from the same seed must not repeat the same numbers.
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    while True:
        yield from noise.factors(rng, _BLOCK).tolist()
