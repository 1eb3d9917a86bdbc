"""One device with its resident supernets: pixels and a subnet in, the top-k out. Imports torch."""

import logging
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from supernets.accuracy_card import AccuracyCard, card_path
from supernets.errors import CheckpointError, NoKernels
from supernets.fingerprint import file_hash, weights_hash
from supernets.norms.norm_tables import ResidentMemory
from supernets.registry import create_supernet, default_checkpoint
from supernets.space import Subnet
from supernets.supernet import ResidentForm, Supernet
from superserve.engine_types import EngineResult, EngineSpec
from superserve.errors import ConfigError
from superserve.messages import ModelInfo, ModelMemory, Preprocessing
from superserve.plugins import import_plugins

log = logging.getLogger(__name__)

WARM_UP_BATCHES = (1, 16)


class Net(Protocol):
    """What runs the subnets; ``kernels`` says by what means."""

    @property
    def kernels(self) -> str: ...

    def __call__(self, x: Tensor, subnet: Subnet) -> Tensor:
        """Logits [N, classes] of ``x`` [N, C, H, W] on the engine's device."""
        ...


class Engine:
    """Holds one supernet on one device, resident once, and runs any of its subnets in place.

    Raises `ConfigError` with what to do about it when the supernet, its checkpoint, its accuracy
    card or the device is wrong.
    """

    def __init__(self, spec: EngineSpec) -> None:
        torch.set_num_threads(spec.threads)
        self._device = _device(spec.device)
        import_plugins(spec.plugins)
        checkpoint = _checkpoint(spec)
        try:
            net = create_supernet(spec.supernet, checkpoint)
            card = _card(spec, checkpoint)
            digest, whole = weights_hash(checkpoint), file_hash(checkpoint)
        except (CheckpointError, KeyError) as error:
            raise ConfigError(" | ".join(str(error.args[0]).splitlines())) from error
        if card.file_hash != whole:
            raise ConfigError(
                f"the accuracy card of {spec.supernet} is of another file than {checkpoint}; "
                "measure this one with supernets.evaluate(checkpoint, ...)"
            )
        self._subnets = _subnets(net, card, allow_uncalibrated=spec.allow_uncalibrated)
        self._net, memory = self._made(net, spec, checkpoint)
        self._name = spec.supernet
        step = net.preprocessing
        shape = (1, 1, 1, step.channels)
        mean, std = np.array(step.mean), np.array(step.std)
        self._scale = (1.0 / (255.0 * std)).reshape(shape).astype(np.float32)
        self._shift = (-mean / std).reshape(shape).astype(np.float32)
        self._image = (step.height, step.width, step.channels)
        accuracies = {entry.id: entry.accuracy for entry in card.subnets}
        self.device_type = _device_type(self._device)
        self.models: tuple[ModelInfo, ...] = (
            ModelInfo(
                name=spec.supernet,
                labels=net.labels,
                preprocessing=Preprocessing(**asdict(step)),
                subnets={key: str(subnet) for key, subnet in self._subnets.items()},
                weights_hash=digest,
                resident_bytes=memory.weights_bytes + memory.derived_bytes + memory.norms_bytes,
                accuracies={key: accuracies[key] for key in self._subnets},
                accuracy_source=f"{card.dataset} ({card.samples} images)",
                memory=memory,
                kernels=self._net.kernels,
            ),
        )

    def _made(self, net: Supernet, spec: EngineSpec, checkpoint: Path) -> tuple[Net, ModelMemory]:
        """What serves, and what its memory is for; other engines hold something else here."""
        del checkpoint  # its weights are in the net
        form = _resident(net, self._device, spec, self._subnets.values())
        return form, _memory(form.memory())

    def warm_up(self) -> None:
        """Build every subnet's plan and let the libraries allocate, before anyone waits."""
        for batch in WARM_UP_BATCHES:
            pixels = np.zeros((batch, *self._image), np.uint8)
            for subnet in self._subnets:
                self.run(self._name, subnet, pixels, 1)

    def run(
        self, model: str, subnet: str, pixels: npt.NDArray[np.uint8], top_k: int
    ) -> EngineResult:
        """See `EngineLike`. ``seconds`` covers all that this call does."""
        start = time.perf_counter()
        if model != self._name:
            raise KeyError(f"this worker holds {self._name}, not {model}")
        scaled = pixels * self._scale + self._shift
        with torch.inference_mode():
            x = torch.from_numpy(scaled).permute(0, 3, 1, 2).to(self._device)
            probabilities = self._net(x, self._subnets[subnet]).float().softmax(1)
            k = min(top_k, probabilities.shape[1])
            scores, indices = probabilities.topk(k, dim=1)
            result_scores = scores.cpu().numpy()
            result_indices = indices.to(torch.int32).cpu().numpy()
        return EngineResult(result_indices, result_scores, time.perf_counter() - start)


def _resident(
    net: Supernet, device: torch.device, spec: EngineSpec, subnets: Iterable[Subnet]
) -> ResidentForm:
    held = [*subnets]
    try:
        try:
            file = spec.arena_file or None
            form = net.resident(device, kernels=spec.kernels, subnets=held, arena_file=file)
        except OSError as error:
            log.warning("this worker holds its weights for itself: %s", error)
            form = net.resident(device, kernels=spec.kernels, subnets=held)
    except NoKernels as error:
        raise ConfigError(str(error)) from error
    if form.reason:
        log.info("%s runs on PyTorch's own kernels: %s", net.name, form.reason)
    return form


def _memory(held: ResidentMemory) -> ModelMemory:
    return ModelMemory(held.weights, held.derived, held.norms.bytes, held.norms.subnets)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{name!r} is no device; use cpu or cuda:0") from error
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise ConfigError(f"there is no {name} here: torch sees {count} CUDA devices")
    if device.type not in {"cpu", "cuda"}:
        raise ConfigError(f"{name!r} is not supported; use cpu or cuda:0")
    return device


def _device_type(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)


def _checkpoint(spec: EngineSpec) -> Path:
    if spec.checkpoint:
        return Path(spec.checkpoint)
    try:
        shipped = default_checkpoint(spec.supernet)
    except KeyError as error:
        raise ConfigError(str(error.args[0])) from error
    if shipped is None:
        raise ConfigError(
            f"the supernet {spec.supernet} ships no weights; give --checkpoint FILE.safetensors"
        )
    return shipped


def _card(spec: EngineSpec, checkpoint: Path) -> AccuracyCard:
    path = Path(spec.accuracy_card) if spec.accuracy_card else card_path(checkpoint)
    if not path.exists():
        raise ConfigError(
            f"there is no accuracy card {path}: without measured accuracies no policy can choose; "
            f"make one with superserve evaluate {checkpoint} --data FOLDER"
        )
    return AccuracyCard.read(path)


def _subnets(net: Supernet, card: AccuracyCard, *, allow_uncalibrated: bool) -> dict[str, Subnet]:
    """The card's subnets by id, ascending in accuracy as they stand there."""
    found = {}
    for entry in card.subnets:
        try:
            subnet = net.space.subnet(**entry.config)
        except ValueError as error:
            raise ConfigError(
                f"the accuracy card names no subnet of {net.name}: {error}"
            ) from error
        if subnet.id != entry.id:
            raise ConfigError(f"the accuracy card's id {entry.id} is not that of {subnet}")
        if net.norms() and subnet not in net.statistics and not allow_uncalibrated:
            raise ConfigError(
                f"subnet {subnet.id} ({subnet}) is not calibrated: its accuracy may collapse. "
                "Calibrate it (supernets.calibrate) and save the supernet again, or serve with "
                "--allow-uncalibrated"
            )
        found[entry.id] = subnet
    if not found:
        raise ConfigError("the accuracy card lists no subnet")
    return found
