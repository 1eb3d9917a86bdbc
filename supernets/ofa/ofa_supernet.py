"""What the two families of Once-for-All have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from torch import Tensor

from supernets.options import checked
from supernets.space import SearchSpace
from supernets.supernet import Preprocessing, Supernet


@dataclass(frozen=True, slots=True)
class OFADefinition(ABC):
    """One member of a family."""

    num_classes: int = 1000
    in_channels: int = 3
    image_size: int = 224

    @abstractmethod
    def space(self) -> SearchSpace:
        """Its subnets."""

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Raises ``TypeError`` for a field that does not exist, ``ValueError`` for a bad value."""
        return cls(**checked(cls, document))


class OFASupernet(Supernet):
    """A family that reads and writes checkpoints of the `ofa` package."""

    spec: OFADefinition

    def __init__(
        self,
        spec: OFADefinition,
        *,
        name: str,
        preprocessing: Preprocessing | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        super().__init__(
            name,
            spec.space(),
            preprocessing or Preprocessing.usual(spec.image_size, spec.in_channels),
            labels or [str(i) for i in range(spec.num_classes)],
        )
        self.spec = spec

    def load_ofa_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Load a checkpoint of the `ofa` package; see `ofa_names` for what is checked."""
        from supernets.ofa.ofa_names import load_ofa_state_dict

        load_ofa_state_dict(self, state_dict)

    def ofa_state_dict(self) -> dict[str, Tensor]:
        """The weights and shared statistics by the names of that package's dynamic network."""
        from supernets.ofa.ofa_names import ofa_state_dict

        return ofa_state_dict(self)

    def load_foreign(self, state_dict: dict[str, Tensor]) -> None:
        self.load_ofa_state_dict(state_dict)

    def definition(self) -> dict[str, Any]:
        return asdict(self.spec)
