"""The import rule, executable: who imports whom, what stays pure, what stays torch-free."""

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent

MAY_IMPORT = {  # folder -> folders of ours that it may import
    "kernels": set(),
    "policies": set(),
    "supernets": {"kernels"},
    "superserve": {"policies", "supernets"},
    "loadtest": {"policies", "superserve"},
}
PURE = {  # no clock, no I/O, no torch
    "policies/*.py",
    "policies/bounds/*.py",
    "superserve/edf_queue.py",
    "superserve/errors.py",
    "superserve/load_statistics.py",
    "superserve/messages.py",
    "superserve/metrics.py",
    "superserve/model_queue.py",
    "superserve/outcomes.py",
    "superserve/pairing.py",
    "superserve/scheduler.py",
    "superserve/worker_table.py",
    "supernets/searching/halving.py",
    "supernets/searching/pareto.py",
    "supernets/searching/search.py",
    "supernets/learning/shrinking.py",
    "supernets/space.py",
    "loadtest/arrivals.py",
    "loadtest/generators.py",
    "loadtest/report.py",
    "loadtest/simulate.py",
    "loadtest/simulation_[now]*.py",
    "loadtest/locusts/closed_users.py",
    "loadtest/locusts/coordinator.py",
    "loadtest/locusts/messages.py",
    "loadtest/locusts/outcome.py",
    "loadtest/locusts/tally.py",
}
IMPURE = {"asyncio", "socket", "threading", "multiprocessing", "subprocess", "time", "os", "random",
          "torch", "triton"}  # fmt: skip
COMMANDS = ("app", "experiments", "importing", "making", "searching", "serving", "training")
# Files of superserve that run in a worker, the profiler or a command, never in the front end.
NEEDS_SUPERNETS = {
    "superserve/engine.py",
    "superserve/extracted.py",
    "superserve/model_files.py",
    *(f"superserve/cli/{name}.py" for name in COMMANDS),
}
# The command line is the edge where everything meets; it imports the load tests when asked to.
EDGE = "superserve/cli/experiments.py"
MAX_LINES = 320
LONGER = {
    # path -> the reason that a reader would accept
    "superserve/scheduler.py": "one state machine: its events, drops, assignment and alarm",
    "superserve/dispatcher.py": "the events and commands of one state machine belong together",
}


def files() -> list[pathlib.Path]:
    return [path for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))]


def name_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: pathlib.Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_at_top(path: pathlib.Path) -> Iterator[str]:
    """Those that run when the module is imported."""
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_folders_import_downward_only():
    for path in files():
        here = path.relative_to(ROOT).parts[0]
        for imported in imports(path):
            there = imported.split(".")[0]
            if there in MAY_IMPORT and there != here:
                allowed = there in MAY_IMPORT[here] or name_of(path) == EDGE
                assert allowed, f"{name_of(path)} imports {imported}"


def test_there_are_no_import_cycles():
    graph = {module(path): set(imports_at_top(path)) for path in files()}
    done: set[str] = set()
    trail: list[str] = []

    def visit(node: str) -> None:
        assert node not in trail, " -> ".join([*trail[trail.index(node) :], node])
        if node in done:
            return
        trail.append(node)
        for following in graph.get(node, ()):
            if following in graph and following != node:
                visit(following)
        done.add(trail.pop())

    for node in graph:
        visit(node)


@pytest.mark.parametrize("pattern", sorted(PURE))
def test_pure_files_import_nothing_impure(pattern: str):
    found = list(ROOT.glob(pattern))
    assert found, f"{pattern} names no file"
    for path in found:
        bad = IMPURE & {imported.split(".")[0] for imported in imports(path)}
        assert not bad, f"{name_of(path)} imports {bad}"


def test_only_named_files_of_superserve_use_supernets():
    for path in files():
        if name_of(path).startswith("superserve/") and name_of(path) not in NEEDS_SUPERNETS:
            bad = {"torch", "triton", "supernets", "kernels"} & {
                imported.split(".")[0] for imported in imports(path)
            }
            assert not bad, f"{name_of(path)} imports {bad}"


def test_only_kernels_and_supernets_and_the_engine_import_torch():
    for path in files():
        if not name_of(path).startswith(("kernels/", "supernets/")) and name_of(path) not in (
            NEEDS_SUPERNETS
        ):
            assert "torch" not in {name.split(".")[0] for name in imports(path)}, name_of(path)


@pytest.mark.parametrize(
    "modules",
    [
        ["superserve.service", "superserve.cli", "superserve.server.run", "superserve.local"],
        [
            "supernets",
            "supernets.data.digits_data",
            "supernets.accuracy_card",
            "supernets.fingerprint",
        ],
        ["policies", "superserve.client"],
        [module(path) for path in sorted((ROOT / "loadtest").glob("*.py"))],
    ],
    ids=["front-end", "torch-free-supernets", "client", "loadtest"],
)
def test_torch_stays_out_of_the_front_end(modules: list[str]):
    """In a fresh interpreter, because this one has imported torch already."""
    code = f"import sys, {', '.join(modules)}; print(int('torch' in sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert result.stdout.strip() == "0"


def test_kernels_is_ours():
    """Another package of this name is published; ours must be the one that is imported."""
    import kernels

    assert pathlib.Path(kernels.__file__).parent.parent == ROOT


def test_files_stay_small():
    for path in files():
        if name_of(path) not in LONGER:
            lines = len(path.read_text().splitlines())
            assert lines <= MAX_LINES, f"{name_of(path)} has {lines} lines"


def test_every_file_says_in_one_sentence_what_it_owns():
    for path in files():
        source = path.read_text()
        if source.strip():
            docstring = ast.get_docstring(ast.parse(source))
            assert docstring, f"{name_of(path)} has no docstring"
            assert (
                docstring.splitlines()[0].rstrip().endswith((".", ":", ","))
                or len(docstring.splitlines()) > 1
            ), name_of(path)
