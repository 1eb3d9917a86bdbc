"""The audit without a GPU: it sees what is off about a kernel, and ours have nothing of it."""

import json

import pytest
import torch

from kernels import audit
from kernels.auditing import cases
from kernels.auditing.calls import Call
from kernels.auditing.cases import OPS
from kernels.auditing.compiling import compile_variant, variant
from kernels.auditing.inspection import Facts, facts
from kernels.auditing.networks import mobilenetv3, ofa_resnet50, stitched_resnet
from kernels.auditing.rules import Expected, Limit, Requirement, has_narrow_dot, problems
from kernels.fusion import fuse
from kernels.launch import Launch
from kernels.program import Conv, Depthwise, DepthwiseProject, Head, Pointwise, SqueezeExcite
from kernels.shapes import value_shapes
from supernets import create_supernet
from supernets.lowering import lower
from supernets.stored_weights import Skeleton
from tests.kernels.compiled_kernels import narrow, product, spilling

EXPECTED = Expected(
    {name: Limit(255, 100_000, {"16": 0, "32": 16}) for name in ("sm_80", "sm_90")},
    {
        "product": Requirement(128, 128, 0),
        "narrow": Requirement(128, 128, 0),
        "spilling": Requirement(32, 32, 0),
    },
)
LISTING = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/             @!P0  LDG.E.128.CONSTANT R8, desc[UR4][R4.64] ;
        /*0020*/             @!UP0 LDG.E.EL.U16 R8, desc[UR4][R4.64] ;
        /*0030*/                   LDGSTS.E.BYPASS.LTC128B.128 [R3], desc[UR6][R4.64], P0 ;
        /*0040*/                   STL.64 [R1], R2 ;
        /*0050*/                   STG.E desc[UR4][R2.64], R8 ;
        /*0060*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8].tnspB, R24 ;
"""
USAGE = " Function f:\n  REG:40 STACK:8 SHARED:16 LOCAL:0 CONSTANT[0]:576\n"


def empty(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, device="meta", dtype=dtype)


def multiplied(dtype=torch.bfloat16, shared_tile=64, m=200, n=24, k=72):
    a, b, out = (empty(*shape, dtype=dtype) for shape in ((m, k), (n, k), (m, n)))
    tiles = {"BM": 64, "BN": 32, "BK": shared_tile}
    arguments = {"a": a, "b": b, "out": out, "M": m, "N8": n // 8, "K8": k // 8}
    return Launch(product, (4, 1), arguments, tiles, {"num_warps": 4, "num_stages": 3})


def audited(launch, capability=90, aligned=True):
    found, ttir = compile_variant(variant(launch, capability))
    off = problems(
        launch.kernel.__name__,
        f"sm_{capability}",
        found,
        bits=16,
        narrow_dot=has_narrow_dot(ttir),
        aligned=aligned,
        expected=EXPECTED,
    )
    return found, off


def test_instructions_are_counted_by_kind_and_width():
    found = facts(LISTING, USAGE, shared=1000)

    assert (found.registers, found.stack, found.shared, found.local) == (40, 8, 1000, 1)
    assert found.loads == {16: 1, 128: 2}
    assert found.stores == {32: 1}
    assert found.tensor_cores == {"HGMMA": 1}
    assert found.instructions == 7


def test_a_listing_that_is_not_understood_is_an_error_and_no_clean_result():
    with pytest.raises(ValueError, match="no instructions"):
        facts("nvdisasm fatal", USAGE, 0)


@pytest.mark.parametrize(
    ("capability", "instruction"), [(90, "HGMMA"), (80, "HMMA")], ids=["sm_90", "sm_80"]
)
def test_a_sound_product_passes_and_uses_the_tensor_cores_of_its_architecture(
    capability, instruction
):
    found, off = audited(multiplied(), capability)

    assert off == []
    assert list(found.tensor_cores) == [instruction]


def test_a_product_in_float32_needs_no_tensor_cores():
    found, off = audited(multiplied(torch.float32, 32))

    assert off == []
    assert found.tensor_cores == {}


def test_narrow_accesses_are_found():
    x = empty(1000)
    launch = Launch(narrow, (2,), {"x": x, "out": x, "size": 1001}, {"BLOCK": 512})

    _, off = audited(launch)

    assert [line.split(":")[0] for line in off] == [
        "no load of 128 bits",
        "no store of 128 bits",
        "8 accesses of less than 32 bits, more than 0",
    ]
    assert audited(launch, aligned=False)[1] == []


def test_spilled_registers_are_found():
    x = empty(128, 128, dtype=torch.float32)
    launch = Launch(spilling, (1,), {"x": x, "out": x}, {"BLOCK": 128}, {"num_warps": 1})

    _, off = audited(launch)

    assert off[0].startswith("spills")


@pytest.mark.parametrize(
    ("bits", "stack", "sound"), [(16, 8, False), (32, 16, True), (32, 24, False)]
)
def test_only_wide_numbers_may_have_a_few_bytes_of_local_memory(bits, stack, sound):
    facts = Facts(128, stack, 0, {128: 1}, {128: 1}, 4, {"HGMMA": 1}, 50)
    off = problems(
        "product", "sm_90", facts, bits=bits, narrow_dot=False, aligned=True, expected=EXPECTED
    )

    assert (off == []) == sound


def test_more_shared_memory_than_there_is_is_found():
    _, off = audited(multiplied(shared_tile=512))

    assert off == [line for line in off if "shared memory" in line] != []


def test_a_kernel_that_no_rule_is_for_is_off():
    launch = multiplied()
    found, _ = compile_variant(variant(launch, 90))
    table = Expected(EXPECTED.limits, {})

    off = problems(
        "product", "sm_90", found, bits=16, narrow_dot=True, aligned=True, expected=table
    )

    assert off == ["not in the table of expectations"]
    assert EXPECTED.unused(["product"]) == ["narrow", "spilling"]


def test_launches_that_differ_in_sizes_alone_share_a_variant():
    one, other, divisible = (
        variant(launch, 90).key
        for launch in (multiplied(m=200), multiplied(m=77), multiplied(m=208))
    )

    assert one == other
    assert one != divisible  # 208 is a multiple of 16, which Triton compiles for


def test_our_kernels_have_nothing_off(capsys):
    code = audit.main(["--short", "--targets", "sm_90"])

    assert code == 0, capsys.readouterr().out


def test_every_rule_is_of_a_kernel_and_every_op_has_cases():
    launched = {case.launch.kernel.__name__ for case in cases.all_cases(OPS)}

    assert launched == Expected.read().kernels.keys()


def found(kernel, target, registers, shared, local=0, off=()):
    facts = None
    if registers:
        facts = Facts(registers, 0, shared, {128: 1}, {}, local, {"HGMMA": 2}, 50)
    return audit.Finding(kernel, target, "label", facts, off)


def test_a_row_is_the_worst_of_a_kernels_variants_on_a_target():
    findings = [
        found("f", "sm_90", 40, 900, local=3),
        found("f", "sm_90", 60, 100, off=("spills",)),
        found("f", "sm_90", 0, 0, off=("does not compile",)),
        found("f", "sm_80", 99, 5),
    ]
    other, row = audit.summary(findings)

    assert row == {
        "target": "sm_90",
        "kernel": "f",
        "variants": 3,
        "registers": 60,
        "shared_bytes": 900,
        "spilling": 1,
        "wide_loads": 2,
        "wide_stores": 0,
        "tensor_cores": ["HGMMA"],
        "off": 2,
    }
    assert (other["target"], other["registers"]) == ("sm_80", 99)
    assert len(audit.table([other, row]).splitlines()) == 3


def test_results_of_another_triton_stay_when_this_ones_are_written(monkeypatch, tmp_path):
    monkeypatch.setattr(audit, "RESULTS", tmp_path / "compiled.json")
    audit.RESULTS.write_text('{"3.6.0": [1]}')
    audit.write([{"kernel": "f"}])

    assert json.loads(audit.RESULTS.read_text()) == {
        "3.6.0": [1],
        audit.triton_version(): [{"kernel": "f"}],
    }


def test_a_folder_without_triton_is_an_error(tmp_path, capsys):
    assert audit.main(["--short", "--triton", str(tmp_path)]) == 2
    assert "no triton" in capsys.readouterr().err


def test_the_process_with_another_triton_gets_all_the_other_arguments():
    for given in (["--short", "--triton", "d", "--write"], ["--short", "--triton=d", "--write"]):
        assert audit.without_triton(given) == ["--short", "--write"]


def summary_of_step(step, shapes):
    """What a kernel's variant depends on, and the shape of the image."""
    x = shapes[step.x]
    match step:
        case Pointwise():
            flags = (step.activation, step.residual is not None, step.gate is not None)
            return ("pointwise", *x, step.weight.rows, *flags)
        case Conv():
            flags = (step.kernel, step.stride, step.activation, step.residual is not None)
            return ("conv", *x, step.weight.rows, *flags)
        case Depthwise():
            flags = (step.stride, step.activation, step.pooled is not None)
            return ("depthwise", *x, len(step.filters), *flags)
        case DepthwiseProject():
            inner, outer = step.depthwise, step.project
            flags = (inner.stride, inner.activation, outer.residual is not None)
            return ("depthwise_project", *x, outer.weight.rows, len(inner.filters), *flags)
        case SqueezeExcite():
            return ("squeeze_excite", *x, len(step.reduce))
        case Head():
            return ("head", *x, step.weight.rows, step.activation)
    return None


def summary_of_call(call: Call):
    """The same of a call."""
    a = call.arguments
    shape = (a["pooled"] if call.op == "squeeze_excite" else a["x"]).shape
    x = shape[1:] if len(shape) == 4 else (1, 1, shape[1])
    residual = a.get("residual") is not None
    match call.op:
        case "pointwise":
            flags = (a["activation"], residual, a["gate"] is not None)
        case "conv":
            flags = (round(a["weight"].shape[1] ** 0.5), a["stride"], a["activation"], residual)
        case "depthwise":
            return ("depthwise", *x, a["filters"].shape[0], a["stride"], a["activation"], a["pool"])
        case "depthwise_project":
            flags = (a["filters"].shape[0], a["stride"], a["middle_activation"], residual)
        case "squeeze_excite":
            return ("squeeze_excite", *x, a["reduce_weight"].shape[0])
        case "head":
            flags = (a["activation"],)
    return (call.op, *x, a["weight"].shape[0], *flags)


@pytest.mark.parametrize(
    ("name", "calls", "choose"),
    [
        ("ofa_mobilenetv3", mobilenetv3(1.0, 5, 4, 3), lambda s: s.subnet(ks=5, e=4, d=3)),
        ("ofa_resnet50", ofa_resnet50(1.0, 0.35, 2), lambda s: s.largest),
        ("ofa_resnet50", ofa_resnet50(0.65, 0.2, 0), lambda s: s.smallest),
        ("stitched_resnet", stitched_resnet(), lambda s: s.largest),
        ("stitched_resnet", stitched_resnet(), lambda s: s.smallest),
    ],
    ids=["mobilenetv3", "largest resnet50", "smallest resnet50", "stitched 50", "stitched 18"],
)
def test_the_audited_shapes_are_those_of_the_networks(name, calls, choose):
    net = create_supernet(name)
    program = fuse(lower(Skeleton(net, "rows"), choose(net.space), (224, 224)), gpu=True)
    shapes = value_shapes(program, (224, 224, 3))
    real = {summary_of_step(step, shapes) for step in program.steps} - {None}

    assert real - {summary_of_call(call) for call in calls} == set()
