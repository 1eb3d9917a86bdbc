"""How a weight matrix lies in the arena, so that every prefix slice of it is read in place.

``rows``: [O, T, I], row-major (KRSC): what GPUs and PyTorch read. ``panels``: [O / 16, T, I, 16],
what the compiled CPU product reads: the weights of sixteen outputs stand side by side, in the order
in which it wants them. A prefix of the outputs is a prefix of the panels, and a prefix of the
inputs is a prefix within each tap of a panel, so a slice of packed weights *is* the packed slice:
no subnet needs a packed copy of its own, as it would with oneDNN or MKL.
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Layout = Literal["rows", "panels"]
PANEL = 16  # outputs that lie side by side: one AVX-512 register, two of AVX2


@dataclass(frozen=True, slots=True)
class Weight:
    """The active [rows, taps, columns] of a matrix, a view of the arena in either layout."""

    data: Tensor
    rows: int
    layout: Layout = "rows"

    @property
    def taps(self) -> int:
        return self.data.shape[1]

    @property
    def columns(self) -> int:
        return self.data.shape[2]

    def matrix(self) -> Tensor:
        """[rows, taps, columns]: a view where the layout is ``rows``, else a copy."""
        if self.layout == "rows":
            return self.data
        return self.data.permute(0, 3, 1, 2).flatten(0, 1)[: self.rows]


def lay_out(weight: Tensor, layout: Layout) -> Tensor:
    """A convolution's [O, I, k, k], or a linear layer's [O, I], as the arena holds it.

    A last panel that is not full has rows of zeros.
    """
    rows = weight.reshape(*weight.shape[:2], -1).transpose(1, 2)
    if layout == "rows":
        return rows
    full = F.pad(rows, (0, 0, 0, 0, 0, -len(rows) % PANEL))
    return full.unflatten(0, (-1, PANEL)).permute(0, 2, 3, 1)


def prefix(whole: Tensor, rows: int, columns: int, layout: Layout) -> Weight:
    """The first ``rows`` outputs and ``columns`` inputs of what `lay_out` gave."""
    panels = -(-rows // PANEL)
    data = whole[:rows, :, :columns] if layout == "rows" else whole[:panels, :, :columns]
    return Weight(data, rows, layout)
