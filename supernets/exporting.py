"""One subnet as a file that others load without this project: torch.export, ONNX, safetensors."""

import copy
import importlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from supernets.errors import ExportError
from supernets.extraction import extract
from supernets.freezing import NotFreezable
from supernets.norms.statistics import MissingStatistics
from supernets.space import Subnet
from supernets.supernet import Supernet

FORMAT = "superserve.subnet/1"
SUFFIXES = (".pt2", ".pt", ".onnx", ".safetensors")
# Norm of the difference of the logits over their norm. Runtimes add up in other orders, which
# float32 shows at 1e-6 to 1e-5; a wrong weight shows at 1e-1.
TOLERANCE = 1e-3

Run = Callable[[Tensor], Tensor]


def export(
    net: Supernet, subnet: Subnet, path: str | Path, *, allow_uncalibrated: bool = False
) -> Path:
    """Write the subnet alone, for any batch size; what to write is told by the suffix.

    ``.pt2`` or ``.pt``: a program for `torch.export.load`. ``.onnx``: a model with the input
    ``images`` [N, C, H, W], preprocessed, and the output ``logits`` [N, classes]; it needs the
    extra ``onnx``. ``.safetensors``: the state dict of the plain module. Labels, preprocessing and
    settings go along: in the extra file ``superserve.json`` of a program, in the metadata of the
    others. The file is loaded again and compared with the subnet on random input before it takes
    its place; ONNX with onnxruntime, where that is installed, and else checked for being valid.

    Raises `ExportError`, and `MissingStatistics` for a subnet that is not calibrated.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ExportError(
            f"cannot export to {path}: the suffix must be one of {', '.join(SUFFIXES)}"
        )
    if net.norms() and subnet not in net.statistics and not allow_uncalibrated:
        raise MissingStatistics(
            f"subnet {subnet.id} ({subnet}) is not calibrated: its accuracy may collapse; run "
            "superserve calibrate first"
        )
    try:
        module = extract(net, subnet)
    except NotFreezable as error:
        raise ExportError(str(error)) from error
    except NotImplementedError as error:
        raise ExportError(f"{net.name} does not offer its subnets as plain modules") from error
    write = {".onnx": _write_onnx, ".safetensors": _write_state}.get(path.suffix, _write_program)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f"{path.name}.partial").touch()
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror}") from error
    path.with_name(f"{path.name}.partial").unlink()
    # The library grumbles at programs of any other suffix.
    partial = path.with_name(f"{path.name}.partial{'.pt2' if write is _write_program else ''}")
    try:
        run = write(module, _example(net, module, 2), partial, description(net, subnet))
        if run is not None:
            for batch in (1, 3):
                _compare(module, run, _example(net, module, batch), path)
        partial.chmod(0o644)  # one of the libraries writes for the owner alone
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def description(net: Supernet, subnet: Subnet) -> dict[str, str]:
    """What goes along with the weights; all but the first three are JSON."""
    return {
        "format": FORMAT,
        "supernet": net.name,
        "subnet_id": subnet.id,
        "subnet": json.dumps(subnet.to_json()),
        "definition": json.dumps(net.definition()),
        "labels": json.dumps(net.labels),
        "preprocessing": json.dumps(net.preprocessing.to_json()),
    }


def _example(net: Supernet, module: nn.Module, batch: int) -> Tensor:
    step = net.preprocessing
    weight = next(module.parameters())
    generator = torch.Generator().manual_seed(batch)
    shape = (batch, step.channels, step.height, step.width)
    return torch.randn(shape, generator=generator).to(weight)


def _write_program(
    module: nn.Module, example: Tensor, file: Path, described: dict[str, str]
) -> Run:
    extra = {"superserve.json": json.dumps(described)}
    torch.export.save(_program(module, example), file, extra_files=extra)
    return torch.export.load(file).module()


def _write_onnx(
    module: nn.Module, example: Tensor, file: Path, described: dict[str, str]
) -> Run | None:
    missing = [name for name in ("onnx", "onnxscript") if not importlib.util.find_spec(name)]
    if missing:
        raise ExportError(
            f"exporting to ONNX needs {' and '.join(missing)}; pip install 'superserve[onnx]'"
        )
    program = torch.onnx.export(
        _program(module, example),
        (example,),
        dynamo=True,
        dynamic_shapes=({0: "batch"},),  # of a program, this only names the axis
        input_names=["images"],
        output_names=["logits"],
        verbose=False,
    )
    if program is None:
        raise ExportError("torch.onnx.export returned nothing")
    program.model.metadata_props.update(described)
    program.save(file, external_data=False)
    if not importlib.util.find_spec("onnxruntime"):
        import onnx

        onnx.checker.check_model(file, full_check=True)
        return None
    session = importlib.import_module("onnxruntime").InferenceSession(
        file, providers=["CPUExecutionProvider"]
    )
    return lambda x: torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0])


def _write_state(module: nn.Module, example: Tensor, file: Path, described: dict[str, str]) -> Run:
    del example
    state = {name: tensor.contiguous().clone() for name, tensor in module.state_dict().items()}
    save_file(state, file, described)
    again = copy.deepcopy(module)
    with torch.no_grad():
        for tensor in again.state_dict().values():
            tensor.zero_()
    again.load_state_dict(load_file(file))
    return again


def _program(module: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    try:
        batch = torch.export.Dim("batch")
        return torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
    except Exception as error:
        # The tracer fails in as many ways as there are forwards; what it says is for their authors.
        raise ExportError(f"torch.export cannot follow this subnet's forward: {error}") from error


@torch.inference_mode()
def _compare(module: nn.Module, run: Run, x: Tensor, path: Path) -> None:
    expected, found = module(x), run(x)
    if found.shape != expected.shape:
        raise ExportError(
            f"{path} answers {tuple(found.shape)} where the subnet answers {tuple(expected.shape)}"
        )
    error = float((found - expected).norm() / expected.norm())
    if not error <= TOLERANCE:  # nor a number
        raise ExportError(
            f"{path} does not compute what the subnet computes: its logits differ by {error:.1e} "
            f"of their size, more than {TOLERANCE:.0e}; nothing was written"
        )
