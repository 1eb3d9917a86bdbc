"""What every supernet is: weights shared by all its subnets, called with the subnet as argument."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from kernels.arena import Arena
from kernels.runners import Kernels
from supernets.errors import CheckpointError, NoKernels
from supernets.norms.norm_tables import ResidentMemory, Storage
from supernets.norms.statistics import Normalisation, Recorded, StatisticsTable, batch_statistics
from supernets.operators import SubnetNorm
from supernets.space import SearchSpace, Subnet


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image becomes the input: resize the shorter side, crop, ``(x / 255 - mean) / std``.

    ``crop`` is the share of the shorter side that is kept. ``ink_on_dark`` says that the network
    expects bright strokes on a dark ground; the server inverts an image whose border is bright.
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 1.0
    ink_on_dark: bool = False

    @classmethod
    def imagenet(cls, size: int) -> Self:
        """The evaluation preprocessing of ImageNet models, crop share 0.875."""
        return cls(size, size, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop=0.875)

    @classmethod
    def usual(cls, size: int, channels: int) -> Self:
        """That of `imagenet` for colour images; others are scaled to -1..1 and not cropped."""
        if channels == 3:
            return cls.imagenet(size)
        return cls(size, size, channels, (0.5,) * channels, (0.5,) * channels)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        fields = dict(document)
        for name in ("mean", "std"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


class Supernet(nn.Module, ABC):
    """The trainable form. Families implement `run` and `extract`; the rest is common.

    ``net(x, subnet)`` in training mode normalises with batch statistics; in evaluation mode with
    the subnet's own, and raises `MissingStatistics` where there are none.
    """

    def __init__(
        self,
        name: str,
        space: SearchSpace,
        preprocessing: Preprocessing,
        labels: Sequence[str],
    ) -> None:
        super().__init__()
        self.name, self.space, self.preprocessing = name, space, preprocessing
        self.labels = tuple(labels)
        self.statistics = StatisticsTable()

    @abstractmethod
    def run(self, x: Tensor, subnet: Subnet, normalise: Normalisation) -> Tensor:
        """Logits [N, classes] of images ``x`` [N, C, H, W] with this subnet and these norms."""

    @abstractmethod
    def extract(self, subnet: Subnet) -> nn.Module:
        """The subnet as a plain module in evaluation mode that shares no storage with this one.

        A family whose subnets have no such form raises ``NotImplementedError``.
        """

    @abstractmethod
    def definition(self) -> dict[str, Any]:
        """The arguments that build this architecture again, as JSON."""

    def load_foreign(self, state_dict: dict[str, Tensor]) -> None:
        """Take the weights of another project's checkpoint; families that can, override this.

        Raises `CheckpointError`, and leaves the net as it is, where they do not fit.
        """
        del state_dict
        raise CheckpointError(f"{self.name} reads no checkpoints of other projects")

    def forward(self, x: Tensor, subnet: Subnet) -> Tensor:
        """Logits [N, classes] of ``x`` [N, C, H, W], already preprocessed."""
        if self.training:
            return self.run(x, subnet, batch_statistics)
        return self.run(x, subnet, Recorded(self.statistics[subnet] if self.norms() else {}))

    def resident(
        self,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        norms: Storage = "auto",
        *,
        kernels: Kernels = "auto",
        subnets: Iterable[Subnet] | None = None,
        arena_file: str | Path | None = None,
    ) -> "ResidentForm":
        """The form that serves: every tensor a view of one arena.

        A convolutional net runs as programs of our kernels (`ResidentPrograms`); one that computes
        anything else, by its own forward pass (`ResidentCopy`), and ``reason`` says why.
        ``kernels`` are the fastest there are, or those asked for; `NoKernels` where those cannot
        run.

        ``norms`` is how the subnets' statistics lie in the arena: "exact", "compact" in about a
        quarter of the bytes (see `shared_statistics`), or "auto": compact where there are very
        many. ``subnets`` are those in use, all by default: what they read comes first there. With
        ``arena_file`` the processes of one host that give the same file and net share its pages
        (see `Arena`); on CPUs only.
        """
        from supernets.recording import NotLowered
        from supernets.resident import ResidentCopy
        from supernets.resident_programs import ResidentPrograms

        place = torch.device(device)
        file = None if arena_file is None else Path(arena_file)
        try:
            return ResidentPrograms(
                self, place, dtype, norms, kernels=kernels, subnets=subnets, arena_file=file
            )
        except NotLowered as error:
            if kernels == "triton":
                raise NoKernels(f"{self.name} cannot run on the Triton kernels: {error}") from error
            return ResidentCopy(self, place, dtype, norms, reason=str(error), arena_file=file)

    def norms(self) -> dict[int, SubnetNorm]:
        """Layer id -> SubnetNorm; empty for families without batch normalisation."""
        return {m.layer: m for m in self.modules() if isinstance(m, SubnetNorm)}


class ResidentForm(ABC):
    """A supernet whose weights, derived weights and norm tables lie in one arena on one device."""

    device: torch.device
    dtype: torch.dtype
    kernels = "torch"  # what runs it
    reason = ""  # why it does not run as programs, if it does not

    @abstractmethod
    def __call__(self, x: Tensor, subnet: Subnet) -> Tensor:
        """Logits [N, classes] of ``x`` [N, C, H, W] on `device`; raises `MissingStatistics`."""

    @abstractmethod
    def tensors(self, subnet: Subnet) -> dict[str, Tensor]:
        """Every tensor that a call with this subnet reads, by name: all views of the arena."""

    @property
    @abstractmethod
    def arena(self) -> Arena:
        """The one buffer."""

    @abstractmethod
    def memory(self) -> ResidentMemory:
        """What its bytes are for."""
