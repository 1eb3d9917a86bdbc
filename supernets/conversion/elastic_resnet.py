"""What `make_elastic` makes of a residual network: elastic in depth and in inner width."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from supernets.conversion.channel_order import sort_channels
from supernets.conversion.elastic_space import ElasticSpace
from supernets.conversion.operator_insertion import Insertion, resolve
from supernets.conversion.operator_removal import without_operators
from supernets.conversion.stage_search import Anatomy, meta_copy
from supernets.foreign import check_state
from supernets.norms.statistics import (
    LayerStatistics,
    Normalisation,
    StatisticsTable,
    SubnetStatistics,
)
from supernets.operators import SubnetNorm
from supernets.space import Subnet
from supernets.supernet import Preprocessing, Supernet


class ElasticResNet(Supernet):
    """A residual network with SubNetAct's operators in it.

    Each stage runs its first ``d`` blocks, and each block the first of its inner channels, a share
    ``w`` of them; what flows between blocks keeps its width. The largest subnet is the network that
    was given and has its statistics; the others share them, cut to their channels, and count as
    uncalibrated.

    Images are computed in the memory format in which they come.
    """

    space: ElasticSpace

    def __init__(
        self,
        model: nn.Module,
        anatomy: Anatomy,
        space: ElasticSpace,
        *,
        name: str,
        preprocessing: Preprocessing,
        labels: Sequence[str],
        sorting: bool,
        define: Callable[[nn.Module], dict[str, Any]],
    ) -> None:
        """Takes ``model`` over: its parameters become this net's.

        ``sorting`` says whether weights of the model's own kind are sorted when they are loaded.
        ``define`` gives the arguments that build the like of a model again, or raises.
        """
        super().__init__(name, space, preprocessing, labels)
        insertion = Insertion(model, anatomy.graph, anatomy.stages)
        self.body, self._places = insertion.body, insertion.places
        self._anatomy, self._sorting, self._define = anatomy, sorting, define
        self._skeleton = (meta_copy(model),)  # in a tuple, so that it is no submodule
        self._know_original(model)

    def run(self, x: Tensor, subnet: Subnet, normalise: Normalisation) -> Tensor:
        return self.body(x, self.space.active(subnet), normalise)

    def extract(self, subnet: Subnet) -> nn.Module:
        """A network of the given one's own class, with fewer blocks and narrower layers."""
        return self._plain(subnet, self.statistics[subnet] if self.norms() else {}).eval()

    def definition(self) -> dict[str, Any]:
        """Raises ``TypeError`` where nothing is known that would build the model again."""
        return self._define(self._skeleton[0])

    def load_foreign(self, state_dict: dict[str, Tensor]) -> None:
        """Take the weights of the given network's own class; its statistics come with them."""
        skeleton = self._skeleton[0]
        own = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
        counters = frozenset(name for name in own if name.endswith("num_batches_tracked"))
        expected = {name: shape for name, shape in own.items() if name not in counters}
        kind = type(skeleton).__name__
        check_state(state_dict, expected, f"these are not the weights of this {kind}", counters)
        unknown = {
            layer: LayerStatistics(norm.bias.detach(), norm.weight.detach())  # replaced below
            for layer, norm in self.norms().items()
        }
        model = self._plain(self.space.largest, unknown)
        model.load_state_dict(state_dict, strict=False)
        if self._sorting:
            sort_channels(model, self._anatomy.stages)
        taken = Insertion(model, self._anatomy.graph, self._anatomy.stages)
        self.body.load_state_dict(taken.body.state_dict())
        self.forget_statistics()
        self._know_original(model)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self.forget_statistics()
        return super().load_state_dict(*args, **kwargs)

    def forget_statistics(self) -> None:
        """Leave every subnet without statistics: those there are belong to other weights."""
        self.statistics = StatisticsTable()

    def _plain(self, subnet: Subnet, statistics: SubnetStatistics) -> nn.Module:
        return without_operators(
            self._skeleton[0],
            self.body,
            self._places,
            self._anatomy.stages,
            self.space.active(subnet),
            statistics,
        )

    def _know_original(self, model: nn.Module) -> None:
        """What ``model`` recorded is right for the largest subnet, and shared by all."""
        entries = {}
        for path, place in self._places.items():
            norm = resolve(self.body, place)
            if isinstance(norm, SubnetNorm):
                given = model.get_submodule(path)
                assert isinstance(given, nn.BatchNorm2d)
                assert given.running_mean is not None
                assert given.running_var is not None
                entries[norm.layer] = LayerStatistics(
                    given.running_mean.detach().float().clone(),
                    given.running_var.detach().float().clone(),
                )
        if entries:
            running = sorted(entries)  # norms are numbered in the order in which they run
            self.statistics[self.space.largest] = {layer: entries[layer] for layer in running}
            self.statistics.shared = {layer: entries[layer] for layer in self.norms()}
