"""The command that makes checkpoints of other projects into ours: import."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from superserve.cli.app import Plugins, app
from superserve.config import load_config
from superserve.errors import ConfigError


@app.command("import", rich_help_panel="Making supernets")
def import_(
    kind: Annotated[
        str, typer.Argument(help="Whose: ofa, timm, torchvision, snnet or autoformer.")
    ],
    file: Annotated[Path, typer.Argument(help="Their checkpoint.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder for ours.")],
    supernet: Annotated[
        str, typer.Option(help="What to load it into; for ofa it is found from the file.")
    ] = "",
    width_mult: Annotated[
        float | None, typer.Option(help="Of ofa_mobilenetv3; else found from the file.")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="For ofa it is found from the file.")
    ] = None,
    labels: Annotated[
        str, typer.Option(help="A file, a name to a line; else ImageNet's for 1000 classes.")
    ] = "",
    option: Annotated[
        list[str] | None,
        typer.Option(help="key=value for the supernet, a list as 1,2 or [1]; may be repeated."),
    ] = None,
    plugins: Plugins = None,
) -> None:
    """Load another project's checkpoint, check every key and shape, and write it as ours."""
    from supernets.errors import CheckpointError
    from supernets.importing import load_checkpoint, write
    from superserve.plugins import import_plugins

    import_plugins(load_config({"plugins": plugins}).plugins)
    options = dict(_option(text) for text in option or ())
    said = {"width_mult": width_mult, "num_classes": num_classes}
    options |= {key: value for key, value in said.items() if value is not None}
    try:
        net = load_checkpoint(file, kind, supernet or None, labels=labels or None, **options)
    except CheckpointError:
        raise
    except (KeyError, ValueError) as error:
        raise ConfigError(str(error.args[0])) from error
    path = write(net, output)
    step = net.preprocessing
    parameters = sum(parameter.numel() for parameter in net.parameters())
    images = f"images {step.channels} x {step.height} x {step.width}"
    print(f"{net.name}: {parameters:,} parameters, {len(net.labels)} classes, {images}")
    print(f"  smallest subnet {net.space.smallest.id}: {net.space.smallest}")
    print(f"  largest subnet  {net.space.largest.id}: {net.space.largest}")
    print(f"  {_statistics(net)}")
    print(f"Wrote {path}")
    if net.norms():
        print(f"Calibrate subnets: superserve calibrate {path} --data TRAINING_IMAGES")
    which = "" if net.norms() else " --subnets '16 random'"
    print(f"Measure them:      superserve evaluate {path} --data HELD_OUT_IMAGES{which}")
    print(f"Serve them:        superserve serve --supernet {net.name} --checkpoint {path}")


def _statistics(net: Any) -> str:
    """What is known of the normalisation statistics."""
    if not net.norms():
        return "no batch normalisation, so no subnet needs calibration"
    own = f"{len(net.statistics)} subnets with normalisation statistics of their own"
    shared = "those of the file, shared" if net.statistics.shared is not None else "none"
    return f"{own}; the others have {shared}: calibrate those you serve"


def _option(text: str) -> tuple[str, Any]:
    """``key=value``; the value is JSON, or values with commas between, or a plain word."""
    key, equals, value = text.partition("=")
    if not (key.isidentifier() and equals):
        raise ConfigError(f"--option is key=value, not {text!r}")
    return key, _value(value)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return [_value(part) for part in text.split(",")] if "," in text else text
