"""Compiles a `Launch` for an architecture that need not be there, as launching it would."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from kernels.auditing.inspection import Facts, facts
from kernels.launch import Launch

WARP = 32


@dataclass(frozen=True, slots=True)
class Variant:
    """What Triton compiles for a launch: many launches share one. Compare by ``key``."""

    launch: Launch
    target: GPUTarget
    key: str
    source: ASTSource
    options: Mapping[str, Any]


def variant(launch: Launch, capability: int) -> Variant:
    """The variant that ``launch`` runs on a GPU of this compute capability (90 for sm_90).

    Types, divisibility by 16 and ones are read from the arguments by Triton's own binder, so it is
    the very variant; meta tensors count as aligned.
    """
    fn: Any = launch.kernel
    target = GPUTarget("cuda", capability, WARP)
    backend = make_backend(target)
    given = {**launch.arguments, **launch.constants, "enable_fp_fusion": True, **launch.options}
    bind = create_function_from_signature(fn.signature, fn.params, backend)
    bound, specialization, rest = bind(**given)
    options, signature, constants, attributes = fn._pack_args(  # noqa: SLF001 - JITFunction.run's
        backend, given, bound, specialization, rest
    )
    source = ASTSource(fn, signature, constants, attributes)
    key = f"{fn.__module__}.{fn.__name__} {signature} {constants} {attributes} {options}"
    return Variant(launch, target, key, source, options.__dict__)


def compile_variant(made: Variant) -> tuple[Facts, str]:
    """What ptxas made of it, and Triton's own form of the program. Raises what Triton raises."""
    compiled = triton.compile(made.source, target=made.target, options=dict(made.options))
    with NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        sass = _tool("nvdisasm", "-c", cubin.name)
        resources = _tool("cuobjdump", "--dump-resource-usage", cubin.name)
    return facts(sass, resources, compiled.metadata.shared), str(compiled.asm["ttir"])


def _tool(name: str, *arguments: str) -> str:
    """One of the programs that Triton's wheel carries."""
    program = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    done = subprocess.run(
        [str(program), *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode != 0:
        raise RuntimeError(f"{name} failed: {done.stderr.strip()[-300:]}")
    return done.stdout
