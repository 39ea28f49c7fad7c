"""What a GPU would be asked, on tiny shapes and the CPU: the first run on a card is not for typos."""

import gpu
import pytest


@pytest.fixture(scope="module")
def found():
    return {name: measurement("cpu", True) for name, measurement in gpu.MEASUREMENTS.items()}


@pytest.mark.long
def test_every_measurement_runs_and_has_its_row(found):
    lines = [{"machine": "a card", "torch": "2", "what": name, "found": numbers} for name, numbers in found.items()]
    rows = gpu.rendered(lines).splitlines()
    assert len(rows) == 2 + len(gpu.MEASUREMENTS)
    assert all(row.count("|") == 4 and "a card" in row for row in rows[2:])


@pytest.mark.long
def test_a_device_that_is_the_cpu_ends_where_the_cpu_does(found):
    assert {numbers["off"] for numbers in found["like a CPU"].values()} == {0.0}
    assert found["precisions"]["fp32"]["off"] == 0
    assert 0 < found["precisions"]["bf16"]["off"] < 1
    assert found["out of memory"]["rows"] == {"enough": 4, "short": 4}


def test_the_page_keeps_what_stands_around_its_rows(tmp_path, monkeypatch):
    page, results = tmp_path / "page.md", tmp_path / "gpu.jsonl"
    page.write_text(f"before\n{gpu.BEGIN}old\n{gpu.END}\nafter\n")
    results.write_text('{"machine": "a card", "torch": "2", "what": "like a CPU", "found": {"ngdiff": {"off": 1e-7}}}\n')
    monkeypatch.setattr(gpu, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["gpu.py", "table", "--results", str(results)])
    gpu.main()
    written = page.read_text()
    assert written.startswith("before\n")
    assert written.endswith("\nafter\n")
    assert "ngdiff 1e-07" in written
    assert "old" not in written
