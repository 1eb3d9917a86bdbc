"""A search on real images and this machine: shows images, asks for costs, remembers both."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from supernets.calibration import Batch, calibrate
from supernets.checkpoint import pack
from supernets.evaluation import paired_distance, standard_error
from supernets.searching.halving import Hits
from supernets.searching.search import Point
from supernets.space import Subnet
from supernets.supernet import Supernet

_FORMAT = "superserve.search/1"

Clusters = npt.NDArray[np.integer[Any]] | None
Price = Callable[[Sequence[Subnet]], list[float]]


class Record:
    """What was measured, in a JSON file, so that an interrupted search goes on where it was.

    ``answers`` and ``costs`` say what each kind depends on (weights, images, device...): what the
    file holds of anything else is forgotten. So a search with other options of its own, say more
    generations, measures only what it had not seen.
    """

    def __init__(self, file: Path, answers: str, costs: str) -> None:
        self._file, self._runs = file, {"answers": answers, "costs": costs}
        self._held: dict[str, dict[str, Any]] = {"answers": {}, "costs": {}}
        file.parent.mkdir(parents=True, exist_ok=True)  # a search is long: fail before it begins
        document = _read(file)
        for kind, run in self._runs.items():
            section = document.get(kind, {})
            if section.get("run") == run:
                self._held[kind] = section["found"]

    def hits(self, subnet: Subnet, statistics: str = "") -> Hits:
        """Its answers so far, bool [images]; none for a subnet never asked.

        Nor for one that answered with other ``statistics`` than these, if they are given.
        """
        entry = self._held["answers"].get(subnet.id)
        if entry is None or (statistics and entry["statistics"] != statistics):
            return np.zeros(0, np.bool_)
        packed = np.frombuffer(bytes.fromhex(entry["right"]), np.uint8)
        return np.unpackbits(packed, count=entry["images"]).astype(np.bool_)

    def cost(self, subnet: Subnet) -> float | None:
        return self._held["costs"].get(subnet.id)

    def add_hits(self, subnet: Subnet, hits: Hits, statistics: str = "") -> None:
        """Keep all answers of this subnet, in place of those before."""
        self._held["answers"][subnet.id] = {
            "images": len(hits),
            "right": np.packbits(hits).tobytes().hex(),
            "statistics": statistics,
        }
        self._write()

    def add_costs(self, found: Mapping[Subnet, float]) -> None:
        self._held["costs"].update({subnet.id: cost for subnet, cost in found.items()})
        self._write()

    def _write(self) -> None:
        document = {
            "format": _FORMAT,
            **{kind: {"run": run, "found": self._held[kind]} for kind, run in self._runs.items()},
        }
        partial = self._file.with_name(f"{self._file.name}.partial")
        partial.write_text(json.dumps(document))
        partial.replace(self._file)


def _read(file: Path) -> dict[str, Any]:
    """Nothing where there is no file, or one that is cut off or not ours."""
    try:
        document = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) and document.get("format") == _FORMAT else {}


def remembered(price: Price, record: Record) -> Price:
    """``price``, asked only about subnets that the record does not know."""

    def ask(subnets: Sequence[Subnet]) -> list[float]:
        known = {subnet: record.cost(subnet) for subnet in subnets}
        new = [subnet for subnet, cost in known.items() if cost is None]
        if new:
            record.add_costs(dict(zip(new, price(new), strict=True)))
        return [cost for s in subnets if (cost := record.cost(s)) is not None]

    return ask


class Examiner:
    """Shows subnets images and remembers who was right; calibrates those that need it first.

    ``images`` [N, C, H, W] and ``labels`` [N] are all there are, in an order in which the first n
    are a fair sample; ``clusters`` [N] says which are copies of one image. ``calibration`` are
    batches of other, training images. Statistics that the net has already are used as they are.
    """

    def __init__(
        self,
        net: Supernet,
        images: Tensor,
        labels: Tensor,
        calibration: Iterable[Batch],
        record: Record,
        *,
        clusters: Clusters = None,
        batch_size: int = 100,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """``progress`` is told how many images more were shown, the remembered ones included."""
        self._net, self._images, self._labels = net.eval(), images, labels
        self._calibration, self._record, self._clusters = calibration, record, clusters
        self._batch_size, self._progress = batch_size, progress

    def __call__(self, subnets: Sequence[Subnet], first: int, last: int) -> dict[Subnet, Hits]:
        """Bool [last - first] for each subnet."""
        known = {subnet: self._record.hits(subnet, self._digest(subnet)) for subnet in subnets}
        lacking = [subnet for subnet, hits in known.items() if len(hits) < last]
        self.calibrate(lacking)
        for subnet in lacking:
            known[subnet] = np.concatenate(
                [known[subnet], self._show(subnet, len(known[subnet]), last)]
            )
            self._record.add_hits(subnet, known[subnet], self._digest(subnet))
        if self._progress is not None:
            self._progress((last - first) * (len(subnets) - len(lacking)))
        return {subnet: hits[first:last] for subnet, hits in known.items()}

    def calibrate(self, subnets: Sequence[Subnet]) -> None:
        """Give those their statistics that have none."""
        missing = [subnet for subnet in subnets if subnet not in self._net.statistics]
        if self._net.norms() and missing:
            calibrate(self._net, missing, self._calibration)

    def distance(self, better: Hits, worse: Hits) -> float:
        """See `supernets.searching.halving.Distance`."""
        n = min(len(better), len(worse))
        return paired_distance(better[:n], worse[:n], self._first(n))

    def error(self, hits: Hits) -> float:
        """See `supernets.searching.halving.Error`."""
        return standard_error(hits, self._first(len(hits)))

    def _digest(self, subnet: Subnet) -> str:
        """Of its own statistics; empty for a subnet that has none, or needs none."""
        if not self._net.norms() or subnet not in self._net.statistics:
            return ""
        packed = pack(self._net.statistics[subnet]).float().cpu().numpy()
        return hashlib.sha256(packed.tobytes()).hexdigest()[:16]

    def _first(self, n: int) -> Clusters:
        return None if self._clusters is None else self._clusters[:n]

    @torch.inference_mode()
    def _show(self, subnet: Subnet, first: int, last: int) -> Hits:
        device = next(self._net.parameters()).device
        right = []
        for start in range(first, last, self._batch_size):
            end = min(start + self._batch_size, last)
            logits = self._net(self._images[start:end].to(device), subnet)
            right.append(logits.argmax(1).cpu() == self._labels[start:end])
            if self._progress is not None:
                self._progress(end - start)
        return torch.cat(right).numpy()


def front_document(
    points: Sequence[Point], unit: str, source: str, note: str = ""
) -> list[dict[str, Any]]:
    """What ``front.json`` holds.

    ``unit`` is that of the costs, ``source`` that of the accuracies, ``note`` what else to know.
    """
    return [
        {
            "subnet": point.subnet.to_json(),
            "id": point.subnet.id,
            "settings": str(point.subnet),
            "accuracy": round(point.accuracy, 4),
            "standard_error": (
                None if point.standard_error is None else round(point.standard_error, 4)
            ),
            "images": point.images,
            "source": source,
            **({"source_note": note} if note else {}),
            "cost": point.cost,
            "cost_unit": unit,
        }
        for point in points
    ]
