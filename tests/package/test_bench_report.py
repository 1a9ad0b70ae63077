# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' report judges honestly, compares two commits, and is what is committed."""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from folders import ROOT

if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

report = pytest.importorskip("bench.report", reason="bench/ is not here")
figures = pytest.importorskip("bench.figures")
interleave = pytest.importorskip("bench.interleave")
targets = pytest.importorskip("bench.targets")


def record(key: str, ratio: float, against: str = "dlopen", **extra: object) -> dict[str, Any]:
    """Return the record of a row in which each sample is `ratio` times the other's."""
    row = interleave.Row(
        key, report.OURS, {report.OURS: lambda: ratio * 1e-6, against: lambda: 1e-6}
    )
    for _ in range(4):
        row.run_round()
    return {**row.record(), **extra}


def document(*records: dict[str, Any], options: tuple[str, ...] = ("long",)) -> dict[str, Any]:
    """Return a document as pytest-benchmark writes it, as far as the report reads it."""
    bench = {
        "versions": {report.OURS: "1", "its LLVM": "23"},
        "cores": 2,
        "memory": 1e9,
        "load": 0.1,
        "installed": True,
        "options": list(options),
    }
    machine = {"cpu": {}, "system": "Linux", "release": "6.1", "bench": bench}
    machine |= {"python_implementation": "CPython", "python_version": "3.11"}
    return {
        "machine_info": machine,
        "commit_info": {"id": "0123456789abcdef", "dirty": False},
        "datetime": "2026-01-01T00:00:00",
        "benchmarks": [{"extra_info": each} for each in records],
    }


def write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *documents: dict[str, Any], options: str = ""
) -> str:
    """Write the report of one document, or the comparison of two, and return its Markdown."""
    paths = []
    for index, each in enumerate(documents):
        paths.append(str(tmp_path / f"{index}.json"))
        Path(paths[-1]).write_text(json.dumps(each))
    arguments = ["report", *paths, "--output", str(tmp_path / "report"), *options.split()]
    monkeypatch.setattr(sys, "argv", arguments)
    report.main()
    return (tmp_path / "report" / "report.md").read_text()


def line(markdown: str, start: str) -> str:
    """Return the one table line that begins with a cell."""
    (found,) = (each for each in markdown.splitlines() if each.startswith(f"| {start} |"))
    return found


def test_the_worst_row_decides() -> None:
    target = targets.Target("calls", ("a", "b"), "dlopen", 0.5, 0.9)
    found = figures.verdict(target, {"a": record("a", 0.4), "b": record("b", 0.6)})
    assert (found.word, found.value) == ("not reached", "0.600 [same] (b, the worst of 2)")
    assert (
        figures.verdict(target, {"a": record("a", 0.4), "b": record("b", 0.45)}).word == "reached"
    )


def test_a_row_without_its_competitor_is_named() -> None:
    target = targets.Target("calls", ("a", "b"), "dlopen", 0.5, 0.9)
    missing = interleave.Row("b", report.OURS, {report.OURS: "torch: not installed"}).record()
    found = figures.verdict(target, {"a": record("a", 0.4), "b": missing})
    assert str(found) == f"reached: without b ({report.OURS}: torch: not installed)"
    assert str(figures.verdict(target, {})) == "not measured: not run"


def test_what_was_compared_is_noted_where_it_is_judged() -> None:
    target = targets.Target("sections", ("a",), "LLVM 23", 1.5, 3)
    notes = {report.OURS: "22.1.8, shared", "LLVM 23": "23.1.1, static", "other": "not judged"}
    found = figures.verdict(target, {"a": record("a", 1.2, "LLVM 23", notes=notes)})
    expected = f"1.20 [same] ({report.OURS}: 22.1.8, shared; LLVM 23: 23.1.1, static)"
    assert found.value == expected


def test_a_target_of_many_loads_is_not_decided_by_fewer() -> None:
    (target,) = (each for each in targets.TARGETS if each.rows == ("long/cpp",))
    short = {"long/cpp": record("long/cpp", 1, target.against, count=10_000)}
    assert str(figures.verdict(target, short)) == "not measured: only 10,000 of 50,000 loads"
    full = {"long/cpp": record("long/cpp", 1, target.against, count=50_000)}
    assert figures.verdict(target, full).word == "reached"


def test_a_short_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = document(record("load/c", 1), options=("quick",))
    assert "not for citing" in write(tmp_path, monkeypatch, quick)
    assert "not for citing" not in write(tmp_path, monkeypatch, document(record("load/c", 1)))


def test_two_commits_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = document(record("load/c", 1), record("load/cpp", 1), record("load/sections", 1))
    newer = document(record("load/c", 1), record("load/cpp", 1.5), record("call/int/kept", 1))
    newer["machine_info"] = copy.deepcopy(newer["machine_info"])
    newer["machine_info"]["bench"]["versions"]["its LLVM"] = "22"
    section = write(tmp_path, monkeypatch, newer, older).split("\n## ")[1]
    assert line(section, "load/c").startswith("| load/c | +0.0% | +0.0% |")
    assert line(section, "load/cpp").startswith("| load/cpp | **+50.0%** | **+50.0%** |")
    assert line(section, "load/sections").startswith(
        "| load/sections |  |  | 1.00 µs [same] | none |"
    )
    assert line(section, "call/int/kept").startswith(
        "| call/int/kept |  |  | none | 1.00 µs [same] |"
    )
    assert "its LLVM: 23, then 22." in section
    assert "in their figure: load/cpp." in section


def test_pages_get_the_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One has some rows of the table, the other one all, between markers."""
    some, whole = tmp_path / "some.md", tmp_path / "all.md"
    target = next(each for each in targets.TARGETS if each.rows == ("load/c",))
    start = f"| {target.title} | {target.against} | "
    some.write_text(f"# A\n\n| a | b | c |\n| --- |\n{start}old |\n| kept | dlopen | 1 |\n")
    around = f"Text.\n\n{report.TARGETS_BEGIN}{{}}{report.TARGETS_END}\n| kept |\n"
    whole.write_text(around.format("| old |\n| --- |\n"))
    options = f"--pages {some} {whole}"
    written = write(tmp_path, monkeypatch, document(record("load/c", 0.7)), options=options)
    table = written.split("\n## Targets\n\n")[1].split("\n\n")[0]
    assert "0.700" in table
    assert whole.read_text() == around.format(table + "\n")
    lines = some.read_text().splitlines()
    assert lines[4].startswith(start)
    assert "0.700" in lines[4]
    assert lines[5:] == ["| kept | dlopen | 1 |"]


def test_what_names_cost_a_load_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = {report.OURS: 1010.0, targets.WITHOUT_NAMES: 1000.0}
    spreads = {name: interleave.spread([value]) for name, value in counted.items()}
    shown = document(record("load/c", 1))
    shown["callgrind"] = {"commit_info": {"id": "0"}, "counts": {"names_c": spreads}}
    section = write(tmp_path, monkeypatch, shown).split("\n## Instructions\n")[1]
    assert line(section, "names_c").startswith(f"| names_c | {report.OURS} | 1,010")
    assert re.search(rf"\| {targets.WITHOUT_NAMES} \| 1,000.* \| 1\.01 \| ≤1\.02 \|", section)
    assert "names by address" in section
    shown["callgrind"]["counts"] = {}
    assert "names by address" not in write(tmp_path, monkeypatch, shown)


def test_the_peers_that_are_installed_are_those_of_the_extra() -> None:
    requirements = (ROOT / "bench" / "requirements.txt").read_text().splitlines()
    listed = {each for each in requirements if not each.startswith("#")}
    extra = re.search(r"^bench = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    assert extra is not None
    large = {"apache-tvm", "nvidia-cutlass-dsl", "torch"}
    assert listed == {*re.findall(r'"(.+?)"', extra[1]), *large}


def test_the_committed_report_is_of_the_committed_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = ROOT / "bench" / "report"
    if not (committed / "results.json").is_file():
        pytest.skip("bench/report/results.json is not here")
    written = write(tmp_path, monkeypatch, json.loads((committed / "results.json").read_text()))
    assert written == (committed / "report.md").read_text()
