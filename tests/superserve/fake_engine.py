"""An engine whose behaviour is written in the images: the first pixel is the class, or a fault."""

import os
import threading
from pathlib import Path

import numpy as np

from superserve.engine_types import EngineResult, EngineSpec
from superserve.errors import ConfigError
from superserve.messages import ModelInfo, Preprocessing
from superserve.worker import WorkerSpec

SHAPE = (2, 3, 1)
CRASH, HANG, RAISE, NAN, SHORT = 200, 201, 202, 203, 204
RELEASE = threading.Event()  # ends a hang in this process


def model(weights_hash: str = "w") -> ModelInfo:
    preprocessing = Preprocessing(*SHAPE, mean=(0.5,), std=(0.25,))
    subnets = {"small": "depth 1", "large": "depth 2"}
    return ModelInfo("fake", ("zero", "one", "two"), preprocessing, subnets, weights_hash, 1000)


class FakeEngine:
    """``supernet`` says how the start goes; ``checkpoint`` is a file: its text is the weights."""

    def __init__(self, spec: EngineSpec) -> None:
        self._journal("start", spec)
        match spec.supernet:
            case "missing":
                raise ConfigError("there is no checkpoint at /nowhere; name another one")
            case "broken":
                raise RuntimeError("first line\nsecond line")
            case "crash":
                os._exit(3)
            case "slow":
                threading.Event().wait()
        self.device_type = "fake"
        weights = Path(spec.checkpoint).read_text() if spec.checkpoint else "w"
        self.models = (model(weights),)

    @staticmethod
    def _journal(line: str, spec: EngineSpec) -> None:
        for path in spec.plugins:  # a file that outlives the process
            with open(path, "a") as journal:
                journal.write(line + "\n")

    def warm_up(self) -> None:
        pass

    def run(self, model: str, subnet: str, pixels: np.ndarray, top_k: int) -> EngineResult:
        assert model == "fake"
        assert pixels.dtype == np.uint8
        assert pixels.shape[1:] == SHAPE
        first = pixels[:, 0, 0, 0].astype(np.int32)
        if CRASH in first:
            os._exit(3)
        if HANG in first:
            RELEASE.wait()
        if RAISE in first:
            raise RuntimeError("the network cannot run this")
        indices = (first[:, None] + np.arange(top_k, dtype=np.int32)) % 200
        scores = np.full(indices.shape, np.nan if NAN in first else 1 / top_k, np.float32)
        if SHORT in first:
            indices, scores = indices[1:], scores[1:]
        return EngineResult(indices, scores, 0.001)


def worker_spec(name: str = "w0", supernet: str = "fine", **fields) -> WorkerSpec:
    spec = EngineSpec(supernet, **fields)
    return WorkerSpec(name, spec, "tests.superserve.fake_engine:FakeEngine")
