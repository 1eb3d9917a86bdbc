"""What do the norms of five hundred subnets take, and does holding them coded cost accuracy?

``python -m benchmarks.subnet_norms``: 500 random subnets of the embedded supernet, each calibrated
on training digits, and evaluated on the same distorted digits of the report split with exact and
with compact norm tables. Beside it what calibrating on other digits changes, and how well a
calibration knows the statistics that are rounded. Then the bytes for 500 random subnets of OFA
MobileNetV3 w1.0 (random weights, statistics of noise images: only sizes are looked at).
"""

import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import arguments, header, show, write
from supernets import calibrate, create_supernet
from supernets.evaluation import measure, standard_error
from supernets.learning.digits_recipe import batches, labelled
from supernets.norms.compact_norms import DECODED_ROWS
from supernets.norms.shared_statistics import TOLERANCE, SharedStatistics
from supernets.norms.statistics import Collector, SubnetStatistics
from supernets.space import SearchSpace, Subnet
from supernets.supernet import ResidentForm, Supernet

SUBNETS = 500
BATCHES = 8  # of 64 digits, to calibrate on
COPIES = 1  # of the 400 digits of the report split, each distorted in its own way
AGAIN = 40  # subnets that are also calibrated on other digits
TOLERANCES = (0.0025, 0.005, 0.01, 0.02)


def main() -> None:
    options = arguments("Bytes and accuracy of coded norm tables.", rounds=1)
    torch.set_num_threads(1)
    accuracy, memory = _digits(options.seed)
    memories = [memory, _mobilenet(options.seed)]
    show("Compact norm tables against exact ones: digits", ["", ""], list(accuracy.items()))
    for table in memories:
        show(f"SubnetNorm tables: {table['supernet']}", ["", ""], list(table.items()))
    document = {
        **header(options.seed, tolerance=TOLERANCE, decoded_rows=DECODED_ROWS),
        "accuracy": accuracy,
        "memory": memories,
    }
    print(write("subnet-norms", document, options.output))


def _digits(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    net = create_supernet("digits")
    for subnet in list(net.statistics):
        del net.statistics[subnet]
    subnets = distinct(net.space, SUBNETS, seed)
    training = [images for images, _ in batches("train", BATCHES, seed + 1)]
    calibrate(net, subnets, training, counter("calibrate", SUBNETS))
    memory = table_memory("digits, 500 random subnets", net)
    precision = {**_standard_errors(net, subnets[:AGAIN], training), **_coding_errors(net)}
    exact, answers = net.resident(norms="exact"), labelled("report", COPIES)
    coded = _changes(exact, net.resident(norms="compact"), subnets, answers)
    other = [images for images, _ in batches("train", BATCHES, seed + 2)]
    calibrate(net, subnets[:AGAIN], other)
    again = _changes(exact, net.resident(norms="exact"), subnets[:AGAIN], answers)
    return {
        **_compared("compact tables", coded),
        **_compared("other digits", again),
        **precision,
    }, (memory)


def _changes(
    first: ResidentForm,
    second: ResidentForm,
    subnets: Sequence[Subnet],
    answers: Sequence[tuple[Tensor, Tensor]],
) -> Any:
    """[subnets, images]: 1 where only ``second`` is right, -1 where only ``first`` is."""
    count, found = counter("evaluate", len(subnets)), []
    for subnet in subnets:
        a, b = (measure(net, [subnet], answers)[1][subnet] for net in (first, second))
        found.append(b.astype(float) - a.astype(float))
        count(subnet)
    return np.stack(found)


def _compared(name: str, change: Any) -> dict[str, float | int]:
    """Points of accuracy; standard errors over independent digits, paired by image."""
    digits = change.shape[1] // COPIES
    mean, errors = change.mean(axis=1), [standard_error(row, digits) for row in change]
    ratios = [m / e for m, e in zip(mean, errors, strict=True) if e > 0]
    figures = {
        "subnets": len(change),
        "images": change.shape[1],
        "mean change, points": 100 * float(mean.mean()),
        "its standard error": 100 * standard_error(change.mean(axis=0), digits),
        "rms change of a subnet, points": 100 * float(np.sqrt((mean**2).mean())),
        "mean standard error of a subnet's change, points": 100 * statistics.fmean(errors),
        "worst change of a subnet, points": 100 * float(max(mean, key=abs)),
        "worst change, in its standard errors": max(ratios, key=abs, default=0.0),
        "subnets beyond 2 standard errors, %": 100 * sum(abs(r) > 2 for r in ratios) / len(change),
        "right or wrong changes, % of answers": 100 * float((change != 0).mean()),
    }
    return {f"{name}: {key}": value for key, value in figures.items()}


def _standard_errors(
    net: Supernet, subnets: Sequence[Subnet], images: Sequence[Tensor]
) -> dict[str, float]:
    """How well a calibration knows µ, in σ, and log σ: from the spread of its batches.

    Where µ does not depend on the images, as behind layers without an activation, it is left out.
    """
    means, deviations = [], []
    for subnet in subnets:
        found: list[SubnetStatistics] = []
        with torch.no_grad():
            for batch in images:
                collector = Collector()
                net.run(batch, subnet, collector)
                found.append(collector.statistics())
        for layer, norm in net.norms().items():
            if layer not in found[0]:
                continue
            mean = torch.stack([one[layer].mean for one in found])
            var = torch.stack([one[layer].var for one in found]) + norm.eps
            means.append(mean.std(0) / torch.sqrt(var.mean(0)))
            deviations.append((torch.log(var) / 2).std(0))
    mean, deviation = (torch.cat(x) / len(images) ** 0.5 for x in (means, deviations))
    return {
        **_quantiles("standard error of a calibration: mean, sigma", mean[mean > 1e-6]),
        **_quantiles("standard error of a calibration: log sigma", deviation),
    }


def _coding_errors(net: Supernet) -> dict[str, float]:
    """What coding changes in µ, in σ, and in log σ: over all channels of all subnets."""
    eps = {layer: norm.eps for layer, norm in net.norms().items()}
    entries = [net.statistics[subnet] for subnet in net.statistics]
    coded = SharedStatistics.encode(entries, eps)
    means, deviations = [], []
    for index, entry in enumerate(entries):
        decoded = coded.decode(index)
        sigma = torch.sqrt(torch.cat([s.var + eps[layer] for layer, s in entry.items()]))
        means.append((decoded.mean - torch.cat([s.mean for s in entry.values()])).abs() / sigma)
        deviations.append((decoded.log_sigma - torch.log(sigma)).abs())
    return {
        **_quantiles("error of coding: mean, sigma", torch.cat(means)),
        **_quantiles("error of coding: log sigma", torch.cat(deviations)),
    }


def _quantiles(name: str, values: Tensor) -> dict[str, float]:
    found = 1000 * np.quantile(values.numpy(), (0.5, 0.95))
    return {f"1000 x {name}, median": float(found[0]), f"1000 x {name}, 95 %": float(found[1])}


def _mobilenet(seed: int) -> dict[str, Any]:
    net = randomised(create_supernet("ofa_mobilenetv3"), seed)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 3, 96, 96, generator=generator)
    subnets = distinct(net.space, SUBNETS, seed)
    calibrate(net, subnets, [images], counter("calibrate", SUBNETS))
    return table_memory("ofa_mobilenetv3 w1.0, 500 random subnets", net)


def table_memory(name: str, net: Supernet) -> dict[str, Any]:
    """Bytes of the tables in the resident form's arena, and of what else one might hold."""
    exact, compact = (net.resident(norms=kind).memory() for kind in ("exact", "compact"))
    naive = exact.norms.naive_bytes
    eps = {layer: norm.eps for layer, norm in net.norms().items()}
    entries = [net.statistics[subnet] for subnet in net.statistics]
    sweep = {
        f"codes alone, of naive, %, tolerance {tolerance} sigma": (
            100 * SharedStatistics.encode(entries, eps, tolerance).nbytes() / naive
        )
        for tolerance in TOLERANCES
    }
    return {
        "supernet": name,
        "subnets": exact.norms.subnets,
        "weights, MB": (exact.weights + exact.derived) / 1e6,
        "naive: float32, MB": naive / 1e6,
        "naive, kB per subnet": naive / 1e3 / exact.norms.subnets,
        "exact tables, MB": exact.norms.bytes / 1e6,
        "compact tables, MB": compact.norms.bytes / 1e6,
        "of which decoded rows, MB": compact.norms.decoded_bytes / 1e6,
        "compact, kB per subnet": compact.norms.bytes / 1e3 / exact.norms.subnets,
        "compact, of naive, %": 100 * compact.norms.bytes / naive,
        "1000 x largest error, sigma": 1000 * compact.norms.error,
        "float32, equal vectors once, of naive, %": 100 * net.statistics.nbytes() / naive,
        **sweep,
    }


def distinct(space: SearchSpace, count: int, seed: int) -> list[Subnet]:
    """Random subnets, no two alike."""
    rng, found = random.Random(seed), dict[Subnet, None]()
    while len(found) < count:
        found[space.sample(rng)] = None
    return list(found)


@torch.no_grad()
def randomised(net: Supernet, seed: int) -> Supernet:
    """Random norms and kernel matrices too: as initialised, every residual block does nothing."""
    generator = torch.Generator().manual_seed(seed)
    for norm in net.norms().values():
        norm.weight.uniform_(0.5, 1.5, generator=generator)
        norm.bias.normal_(0.0, 0.3, generator=generator)
    for name, tensor in net.named_parameters():
        if "transforms" in name:
            noise = torch.empty_like(tensor).normal_(0.0, 0.1, generator=generator)
            tensor.copy_(torch.eye(len(tensor)) + noise)
    return net


def counter(verb: str, total: int) -> Callable[[Subnet], None]:
    """Say every fifty subnets how far it is."""
    done = 0

    def count(_: Subnet) -> None:
        nonlocal done
        done += 1
        if done % 50 == 0:
            print(f"{verb}: {done} of {total}", flush=True)

    return count


if __name__ == "__main__":
    main()
