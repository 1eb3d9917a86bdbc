"""An engine that switches between separate models, as servers without a supernet do. Imports torch.

Clipper, INFaaS and Model-Switching keep the models that run in memory, and load another when it is
asked for. Here each subnet is such a model, extracted from the supernet at the start into a file of
its own, so that what loading costs is measured against switching in place, and not assumed.

The files were just written, so that they come from the page cache for as long as the system has
memory to spare. That is the kind case: from a disk it takes longer.
"""

import logging
import shutil
import tempfile
import time
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from supernets.errors import CheckpointError
from supernets.extraction import extract
from supernets.fingerprint import file_hash
from supernets.registry import create_supernet
from supernets.space import Subnet
from supernets.supernet import Supernet
from superserve.engine import Engine, Net
from superserve.engine_types import EngineResult, EngineSpec
from superserve.errors import ConfigError
from superserve.messages import ModelMemory
from superserve.model_files import HeldModels, ModelFileError, ModelFiles

log = logging.getLogger(__name__)


class ExtractedEngine(Engine):
    """Runs extracted subnets on PyTorch's kernels, and loads the one asked for if it is not held.

    It holds the ``spec.resident_models`` most recently used, at least one, and none at first. A
    file that is missing or broken is written again from the checkpoint; a batch fails with
    `ModelFileError` where that cannot be. Raises `ConfigError` as `Engine` does, and for a supernet
    whose subnets have no such form.
    """

    def _made(self, net: Supernet, spec: EngineSpec, checkpoint: Path) -> tuple[Net, ModelMemory]:
        self._supernet, self._checkpoint = spec.supernet, checkpoint
        self._extracted_from = file_hash(checkpoint)
        folder = Path(spec.model_folder) if spec.model_folder else _folder_of(self)
        self._files = ModelFiles(folder / self._extracted_from[:12], self._device)
        try:
            for subnet in self._subnets.values():
                self._files.add(subnet, extract(net, subnet))
        except NotImplementedError as error:
            raise ConfigError(
                f"the subnets of {net.name} cannot be extracted: use --worker resident"
            ) from error
        except ModelFileError as error:
            raise ConfigError(str(error)) from error
        self._models = HeldModels(self._files, spec.resident_models)
        return self._models, self._at_most(max(1, spec.resident_models))

    @property
    def held(self) -> tuple[str, ...]:
        """The ids of the subnets in memory, the most recently used last."""
        return tuple(subnet.id for subnet in self._models.held)

    def warm_up(self) -> None:
        """Try every file, and let the libraries allocate. Nothing is held afterwards."""
        super().warm_up()
        self._models.clear()

    def run(
        self, model: str, subnet: str, pixels: npt.NDArray[np.uint8], top_k: int
    ) -> EngineResult:
        """See `EngineLike`. ``loading`` comes before ``seconds``."""
        loading = self._load(self._subnets[subnet]) if model == self._name else 0.0
        return replace(super().run(model, subnet, pixels, top_k), loading=loading)

    def _load(self, subnet: Subnet) -> float:
        """Have the subnet in memory; the seconds that this took if it was not there, else 0."""
        start = time.perf_counter()
        try:
            loaded = self._models.use(subnet)
        except ModelFileError as error:
            log.error("%s; it is written again", error)  # noqa: TRY400  # the message says all
            self._write_again(subnet)
            loaded = self._models.use(subnet)
        return time.perf_counter() - start if loaded else 0.0

    def _write_again(self, subnet: Subnet) -> None:
        try:
            if file_hash(self._checkpoint) != self._extracted_from:
                raise ModelFileError(
                    f"cannot write the model {self._files.path(subnet)} again: "
                    f"{self._checkpoint} is another file by now; restart the server"
                )
            net = create_supernet(self._supernet, self._checkpoint)
        except CheckpointError as error:
            raise ModelFileError(
                f"cannot write the model {self._files.path(subnet)} again: {error}"
            ) from error
        self._files.write(subnet, extract(net, subnet))

    def _at_most(self, count: int) -> ModelMemory:
        """What the ``count`` largest of them take."""
        sizes = sorted((self._files.nbytes(s) for s in self._subnets.values()), key=sum)[-count:]
        return ModelMemory(
            weights_bytes=sum(parameters for parameters, _ in sizes),
            derived_bytes=0,
            norms_bytes=sum(others for _, others in sizes),
            calibrated_subnets=sum(others > 0 for _, others in sizes),
        )


def _folder_of(owner: object) -> Path:
    """A folder that goes when its owner does."""
    folder = Path(tempfile.mkdtemp(prefix="superserve-models-"))
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder
