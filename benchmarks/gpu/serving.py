"""``python -m benchmarks.gpu.serving``: the whole server on one card, under Locust, as evidence.

Profile, the range of what its subnets sustain, then policies under bursty and MAF-like loads at
the rates that the front end carries. Needs no network: what the image lacks comes as wheels, see
``make gpu-wheels``. With ``--dry-run`` it goes through the same on a CPU with a small net.

The nets have random weights and the cards' accuracies are assumed, for scheduling alone: times,
attainment and which subnet served are measured, accuracy is not.
"""

import argparse
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson
import torch

from benchmarks.gpu.documents import RESULTS
from benchmarks.gpu.nets import randomise
from loadtest.experiment.command import ExperimentOptions, run_command
from loadtest.experiment.definition_file import read_experiment
from loadtest.experiment.design import Experiment
from loadtest.experiment.report import RESULTS as EXPERIMENT_RESULTS
from supernets import create_supernet
from supernets.accuracy_card import AccuracyCard, AccuracyEntry, card_path
from supernets.calibration import calibrate
from supernets.checkpoint import save
from supernets.fingerprint import file_hash, weights_hash
from supernets.space import Subnet
from supernets.supernet import Supernet

STUDY = Path(__file__).parent.parent / "studies" / "live-gpu.toml"
EVIDENCE = "gpu-experiment.json"
NEEDED = ("fastapi", "uvicorn", "uvloop", "httptools", "orjson", "locust", "typer", "rich")
RUNGS = 6
ASSUMED = (73.82, 80.16)  # percent, the ends of the paper's range (SuperServe, NSDI'25, Fig. 2)
NOISE = 8  # images that the statistics are of


def ladder(net: Supernet) -> list[Subnet]:
    """Subnets from the smallest to the largest: each has some settings one option larger."""
    dimensions = net.space.dimensions
    found: dict[Subnet, None] = {}
    for rung in range(RUNGS):
        share = rung / (RUNGS - 1)
        settings = {
            d.name: d.options[min(int(share * (len(d.options) - 1) + place / len(dimensions)),
                                  len(d.options) - 1)]
            for place, d in enumerate(dimensions)
        }  # fmt: skip
        found[net.space.subnet(**settings)] = None
    return list(found)


def make_model(name: str, folder: Path, seed: int, **options: Any) -> Path:
    """A checkpoint with random weights, statistics for its ladder, and a card beside it.

    The one that is there already is kept: profiles and runs belong to its weights.
    """
    path = folder / f"{name}.safetensors"
    if path.exists() and card_path(path).exists():
        return path
    torch.manual_seed(seed)
    net = create_supernet(name, pretrained=False, **options)
    randomise(net, seed)
    subnets = ladder(net)
    side = net.preprocessing.height
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(NOISE, net.preprocessing.channels, side, side, generator=generator)
    calibrate(net, subnets, [noise])
    folder.mkdir(parents=True, exist_ok=True)
    save(net, path)
    low, high = ASSUMED
    entries = tuple(
        AccuracyEntry(
            subnet.id, subnet.config(), low + (high - low) * rung / max(len(subnets) - 1, 1), None,
            "predicted",
        )
        for rung, subnet in enumerate(subnets)
    )  # fmt: skip
    AccuracyCard(
        name, weights_hash(path), file_hash(path), "none", 0, entries,
        "random weights; accuracies are assumed, for scheduling alone",
    ).write(card_path(path))  # fmt: skip
    return path


def experiment_on(device: str, checkpoint: Path, supernet: str) -> Experiment:
    """The study on this device with this model."""
    found = read_experiment(STUDY)
    settings = {**found.server.settings, "checkpoint": str(checkpoint.absolute())}
    server = replace(found.server, supernet=supernet, devices=(device,), settings=settings)
    return replace(found, server=server)


def dry(found: Experiment) -> Experiment:
    """Short, for two policies, from one seed and one process: it shows that everything works."""
    study = found.study
    workloads = tuple(
        replace(each, spec={**each.spec, "seconds": 2.0}, slo=1.0) for each in study.workloads
    )
    server = replace(found.server, profile_seconds=3.0)
    return replace(
        found,
        server=server,
        load=replace(found.load, processes=0, attempts=1),
        study=replace(
            study, workloads=workloads, seeds=study.seeds[:1], policies=study.policies[:2]
        ),
        throughput=False,
    )


def main() -> None:
    """Exits with 2 where there is no GPU or something is not installed."""
    options = _options()
    missing = [package for package in NEEDED if find_spec(package) is None]
    if missing:
        print(
            f"not installed: {', '.join(missing)}. On a machine with a network `make gpu-wheels`, "
            "then `make gpu-experiment` here with the same folder build/wheels"
        )
        sys.exit(2)
    if not options.dry_run and not torch.cuda.is_available():
        print("there is no CUDA device; --dry-run --output FOLDER goes through it on a CPU")
        sys.exit(2)
    folder = options.folder
    if options.dry_run:
        checkpoint = make_model("ofa_mobilenetv3", folder / "model", options.seed, image_size=64)
        found = dry(experiment_on("cpu", checkpoint, "ofa_mobilenetv3"))
    else:
        checkpoint = make_model(options.supernet, folder / "model", options.seed)
        found = experiment_on(options.device, checkpoint, options.supernet)
    run_command(found, ExperimentOptions(folder / "experiment", options.resume))
    results = orjson.loads((folder / "experiment" / EXPERIMENT_RESULTS).read_bytes())
    how = "dry run on a CPU: no figure in here is one of a GPU"
    if not options.dry_run:
        how = f"measured on {torch.cuda.get_device_name()}"
    evidence = {"how": how, "accuracies": "assumed", "torch": torch.__version__, **results}
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / EVIDENCE
    path.write_bytes(orjson.dumps(evidence, option=orjson.OPT_INDENT_2) + b"\n")
    print(path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the evidence")
    parser.add_argument("--folder", type=Path, default=Path("build/gpu-experiment"),
                        help="records, report, checkpoint")  # fmt: skip
    parser.add_argument("--supernet", default="ofa_resnet50")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
