"""The tables of the live experiments, from figures made up by hand."""

from benchmarks.live import put, tables_of


def cell(policy, seed):
    return {"setting": {"workload": "load", "workers": 1}, "seed": seed, "policy": policy}


def run(policy, seed, attainment, accuracy=90.0):
    return {
        "cell": cell(policy, seed),
        "attainment": attainment,
        "mean_accuracy": accuracy,
        "latency_p99": 0.1,
        "mean_batch": 2.0,
    }


ERROR = {"mean": 1.0, "worst": 2.0, "bias": -0.5, "count": 3}
DOCUMENT = {
    "live": [run("ours", 0, 0.9), run("ours", 1, 1.0), run("peer", 0, 0.5, None)],
    "simulated": [run("ours", 0, 0.95), run("ours", 1, 0.95)],
    "fidelity": {"attainment": ERROR, "accuracy": None},
}


def rows(table):
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]
    ]


def test_a_row_is_a_policys_mean_with_its_extremes_beside_the_simulation():
    ours, _ = rows(tables_of(DOCUMENT)["1"])

    assert ours == ["ours", "95.00 (90.00 to 100.00)", "95.00", "90.00", "90.00", "100", "2.0", "2"]


def test_a_peer_has_no_simulation_and_may_have_no_accuracy():
    _, peer = rows(tables_of(DOCUMENT)["1"])

    assert peer == ["peer", "50.00", "-", "-", "-", "100", "2.0", "1"]


def test_errors_are_shown_where_there_are_any():
    assert rows(tables_of(DOCUMENT)["fidelity"]) == [["attainment", "1.00", "2.00", "-0.50", "3"]]


def test_tables_are_put_between_their_marks_and_nowhere_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a 1 -->\nold\n<!-- /a 1 -->\nafter\n")
    put(page, {"a 1": "new\n", "b 1": "elsewhere\n"})

    assert page.read_text() == "before\n<!-- a 1 -->\nnew\n<!-- /a 1 -->\nafter\n"
