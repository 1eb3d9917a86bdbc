"""One subnet as a plain torch module: the oracle of the resident form, and what export writes."""

from torch import nn

from supernets.space import Subnet
from supernets.supernet import Supernet


def extract(net: Supernet, subnet: Subnet) -> nn.Module:
    """An ordinary module in evaluation mode, ``module(x)``, that shares no storage with ``net``.

    Raises `MissingStatistics` where the subnet has no normalisation statistics.
    """
    return net.extract(subnet)
