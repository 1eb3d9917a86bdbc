"""The model that every peer serves: one extracted subnet, our decoding, answers in our JSON."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from loadtest.peers.settings import PeerSettings
from loadtest.peers.stopping import end_children
from superserve.api import Classification, LabelScore, Timing
from superserve.config import DEFAULTS
from superserve.decode import decode
from superserve.engine_types import EngineSpec, build_engine
from superserve.errors import ConfigError, SuperServeError
from superserve.messages import ModelInfo
from superserve.server.responses import error_fields, json_bytes

Pixels = npt.NDArray[np.uint8]  # [H, W, C]

WARM_UPS = 3  # runs of each batch size


class Query(NamedTuple):
    """A request as it leaves the process that speaks HTTP. Seconds on the monotonic clock."""

    image: bytes
    arrival: float
    slo: float
    top_k: int


class Decoded(NamedTuple):
    """A query whose image has become pixels, or an error of its own."""

    pixels: Pixels | SuperServeError
    arrival: float
    slo: float
    top_k: int


class Reply(NamedTuple):
    status: int
    body: bytes  # JSON


@dataclass(frozen=True, slots=True)
class Described:
    """What is served, for processes without torch."""

    info: ModelInfo  # with the one subnet
    latencies: Mapping[int, float]  # batch size -> seconds, here and now


class PeerModel:
    """One subnet in one process. Raises `ConfigError` as our extracted worker, which it is.

    ``folder`` holds the files of the extracted subnets; processes that share it share them.
    ``worker`` is the number of this process among its like.
    """

    def __init__(self, settings: PeerSettings, folder: str, worker: int = 0) -> None:
        self._engine = build_engine(
            EngineSpec(
                supernet=settings.supernet,
                checkpoint=settings.checkpoint,
                accuracy_card=settings.accuracy_card,
                plugins=tuple(filter(None, settings.plugins.split(","))),
                device=settings.device(worker),
                threads=settings.threads,
                worker="extracted",
                model_folder=folder,
            )
        )
        whole = self._engine.models[0]
        subnet = find_subnet(whole, settings.subnet)
        self.info = replace(
            whole,
            subnets={subnet: whole.subnets[subnet]},
            accuracies={subnet: whole.accuracies[subnet]},
        )
        self._subnet = subnet
        self._sizes = sorted({1, settings.max_batch})

    def warm_up(self) -> dict[int, float]:
        """Load the subnet and let the libraries allocate; the best seconds of each batch size."""
        seconds = {}
        for size in self._sizes:
            pixels = np.zeros((size, *self.info.preprocessing.shape), np.uint8)
            seconds[size] = min(self._run(pixels, 1)[2] for _ in range(WARM_UPS))
        return seconds

    def decode(self, query: Query) -> Decoded:
        """Never raises for what a client sent: the error takes the place of the pixels."""
        steps = self.info.preprocessing
        pixels = np.empty(steps.shape, np.uint8)
        found: Pixels | SuperServeError = pixels
        try:
            decode(query.image, steps, pixels, max_pixels=DEFAULTS.max_pixels)
        except SuperServeError as error:
            found = error
        return Decoded(found, query.arrival, query.slo, query.top_k)

    def answer(self, batch: Sequence[Decoded]) -> list[Reply]:
        """One run for all that could be decoded; the others get their errors."""
        start = time.monotonic()
        images = [query.pixels for query in batch if not isinstance(query.pixels, SuperServeError)]
        if not images:
            return [_refusal(query) for query in batch]
        most = max(query.top_k for query in batch)
        indices, scores, inference = self._run(np.stack(images), most)
        rows = iter(zip(indices.tolist(), scores.tolist(), strict=True))
        return [
            _refusal(query)
            if isinstance(query.pixels, SuperServeError)
            else self._reply(query, *next(rows), start, inference, len(images))
            for query in batch
        ]

    def _run(self, pixels: npt.NDArray[np.uint8], top_k: int) -> tuple[Any, Any, float]:
        result = self._engine.run(self.info.name, self._subnet, pixels, top_k)
        return result.indices, result.scores, result.seconds

    def _reply(
        self,
        query: Decoded,
        indices: Sequence[int],
        scores: Sequence[float],
        start: float,
        inference: float,
        batch_size: int,
    ) -> Reply:
        total = time.monotonic() - query.arrival
        ranked = zip(indices[: query.top_k], scores, strict=False)
        answer = Classification(
            predictions=tuple(
                LabelScore(self.info.labels[index], index, round(score, 6))
                for index, score in ranked
            ),
            subnet=self._subnet,
            accuracy=self.info.accuracies[self._subnet],
            deadline_met=total <= query.slo,
            timing_ms=Timing(
                queue=round((start - query.arrival) * 1000, 3),
                inference=round(inference * 1000, 3),
                total=round(total * 1000, 3),
            ),
            batch_size=batch_size,
            model=self.info.name,
        )
        return Reply(200, json_bytes(answer))


def find_subnet(info: ModelInfo, wanted: str) -> str:
    """The id of ``"smallest"``, ``"largest"`` (in accuracy) or of itself; else `ConfigError`."""
    ascending = sorted(info.accuracies, key=lambda subnet: info.accuracies[subnet])
    if wanted in {"smallest", "largest"}:
        return ascending[0 if wanted == "smallest" else -1]
    if wanted not in info.subnets:
        raise ConfigError(
            f"no subnet {wanted!r}: give smallest, largest or one of {', '.join(ascending)}"
        )
    return wanted


def describe(settings: PeerSettings, folder: str) -> Described:
    """Extract the subnets and look at the one, in a process that ends: servers fork, and torch,
    its threads and what it holds on a device should not be there when they do.

    Raises `ConfigError` as `PeerModel`.
    """
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    try:
        return pool.submit(_describe, settings, folder).result()
    finally:
        pool.shutdown(wait=False)
        end_children()


def _describe(settings: PeerSettings, folder: str) -> Described:
    model = PeerModel(settings, folder)
    return Described(model.info, model.warm_up())


def _refusal(query: Decoded) -> Reply:
    assert isinstance(query.pixels, SuperServeError)
    return Reply(query.pixels.status, json_bytes(error_fields(query.pixels)))
