"""``python -m kernels.audit``: what ptxas made of every Triton kernel, checked without a GPU.

Compiles every kernel in the shapes, types and configurations in which the networks launch it, and
reads registers, spills, shared memory, and the widths of memory accesses off the machine code. The
rules are in ``kernels/auditing/expected.json``. Everything that it says is of compiled kernels:
nothing here was run, or timed.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton

from kernels.auditing.cases import OPS, all_cases, few_cases, short_cases
from kernels.auditing.compiling import compile_variant, variant
from kernels.auditing.inspection import Facts
from kernels.auditing.rules import Expected, has_narrow_dot, problems

MAIN = "sm_90"
RESULTS = Path(__file__).parent / "auditing" / "compiled.json"


@dataclass(frozen=True, slots=True)
class Finding:
    """One variant of a kernel for one target; ``facts`` is None where it does not compile."""

    kernel: str
    target: str
    label: str
    facts: Facts | None
    off: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """The process's exit code: 1 where anything is off."""
    parser = argparse.ArgumentParser(prog="python -m kernels.audit", description=__doc__)
    parser.add_argument("--short", action="store_true", help="one variant of each kernel")
    parser.add_argument("--targets", default="sm_90,sm_80,sm_89", help="with commas between")
    parser.add_argument("--ops", default=",".join(OPS), help="with commas between")
    parser.add_argument("--triton", metavar="DIR", help="use the Triton installed in this folder")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args(arguments)
    if options.triton:
        return _with_other_triton(options.triton, sys.argv[1:] if arguments is None else arguments)
    ops = options.ops.split(",")
    findings = []
    for finding in audit(options.targets.split(","), ops, short=options.short):
        findings.append(finding)
        for line in finding.off:
            print(f"{finding.target} {finding.kernel}: {line}\n    {finding.label}", flush=True)
    whole = not options.short and set(ops) == set(OPS) and MAIN in options.targets
    unused = stale(findings) if whole else []
    rows = summary(findings)
    print("\n".join([*unused, table(rows)]))
    if options.write:
        write(rows)
    off = sum(len(finding.off) for finding in findings) + len(unused)
    print(f"{len(findings)} compiled variants, {off} things off, Triton {triton_version()}")
    return 1 if off else 0


def audit(targets: Iterable[str], ops: Collection[str], *, short: bool) -> Iterator[Finding]:
    """Compile and judge every case, once per variant; fewer cases for other targets than `MAIN`."""
    expected, seen = Expected.read(), set()
    for target in targets:
        chosen = short_cases if short else all_cases if target == MAIN else few_cases
        for case in chosen(ops):
            made = variant(case.launch, int(target.removeprefix("sm_")))
            if (target, made.key) in seen:
                continue
            seen.add((target, made.key))
            kernel = made.source.name
            try:
                facts, ttir = compile_variant(made)
            except Exception as error:  # a compiler fails in many ways: each is a finding
                text = f"{type(error).__name__}: {str(error).strip()[:500]}"
                yield Finding(kernel, target, case.label, None, (text,))
                continue
            off = problems(
                kernel,
                target,
                facts,
                bits=case.bits,
                narrow_dot=has_narrow_dot(ttir),
                aligned=case.aligned,
                expected=expected,
            )
            yield Finding(kernel, target, case.label, facts, tuple(off))


def stale(findings: Iterable[Finding]) -> list[str]:
    """Rules for kernels that nothing launched."""
    unused = Expected.read().unused(finding.kernel for finding in findings)
    return [f"expected.json has a rule for {name}, which nothing launches" for name in unused]


def summary(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Per kernel and target the worst of all its variants that compile."""
    grouped: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        grouped.setdefault((finding.target, finding.kernel), []).append(finding)
    rows = []
    for (target, kernel), group in sorted(grouped.items()):
        facts = [finding.facts for finding in group if finding.facts is not None]
        rows.append(
            {
                "target": target,
                "kernel": kernel,
                "variants": len(group),
                "registers": max((f.registers for f in facts), default=0),
                "shared_bytes": max((f.shared for f in facts), default=0),
                "spilling": sum(f.spills for f in facts),
                "wide_loads": sum(bool(f.loads.get(128)) for f in facts),
                "wide_stores": sum(bool(f.stores.get(128)) for f in facts),
                "tensor_cores": sorted({name for f in facts for name in f.tensor_cores}),
                "off": sum(bool(finding.off) for finding in group),
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of `summary`, in columns; counts are of variants."""
    if not rows:
        return "no kernels"
    texts = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in texts) for i in range(len(texts[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in texts
    )


def write(rows: Sequence[dict[str, Any]]) -> None:
    """Put the rows under this Triton's version into ``compiled.json``, beside other versions'."""
    document = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    document[triton_version()] = list(rows)
    text = json.dumps(dict(sorted(document.items())), indent=1)
    RESULTS.write_text(text + "\n", encoding="utf-8")


def triton_version() -> str:
    """Of the Triton that this process compiles with."""
    return str(triton.__version__)


def _with_other_triton(folder: str, arguments: Sequence[str]) -> int:
    """The same command in a process whose Triton is the one in ``folder``."""
    if not (Path(folder) / "triton").is_dir():
        print(f"there is no triton in {folder}", file=sys.stderr)
        return 2
    path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "kernels.audit", *without_triton(arguments)]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode


def without_triton(arguments: Sequence[str]) -> list[str]:
    """The arguments less ``--triton DIR`` or ``--triton=DIR``."""
    before = ("", *arguments)
    return [
        argument
        for last, argument in zip(before, arguments, strict=False)
        if last != "--triton" and argument != "--triton" and not argument.startswith("--triton=")
    ]


def _text(value: object) -> str:
    return ",".join(value) or "-" if isinstance(value, list) else str(value)


if __name__ == "__main__":
    sys.exit(main())
