# SPDX-License-Identifier: Apache-2.0
"""Options, the ``measure`` fixture that every benchmark uses, the progress bar and the summary."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from shutil import which
from types import ModuleType
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench import objects, peers
from bench.interleave import Measure, Row, Sampler
from bench.tables import differences
from bench.targets import TARGETS, judged

PROGRESS = pytest.StashKey["Progress"]()
LOAD = pytest.StashKey[float]()
RECORDS = pytest.StashKey[dict[str, dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("bench", "benchmarks of tvm-ffi-object-loader")
    group.addoption("--quick", action="store_true", help="short rounds; a lost loose bound fails")
    group.addoption(
        "--long", action="store_true", help="50,000 loads, and 10,000 objects that stay"
    )
    group.addoption("--install-peers", action="store_true", help="pip install every peer first")
    group.addoption("--wheel", help="wheel of this package, for its size")
    group.addoption(
        "--other-python",
        help="interpreter of an environment where this package is built on another LLVM",
    )


class Clock:
    """The timer that pytest-benchmark reads: a round takes what this package's sample says.

    The rounds themselves also hold the other competitors' samples and what is not timed, which
    would make ``--benchmark-compare`` and ``--benchmark-compare-fail`` compare all of these.
    """

    __name__ = "sample"  # The JSON names the timer.

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def reset(self) -> None:
        """Begin a round at 0, where floating point has digits to spare."""
        self.now = 0.0


CLOCK = Clock()


class Progress:
    """A bar on the terminal, if rich is installed and there is a terminal."""

    def __init__(self, stream: Any, total: int) -> None:
        self.bar: Any = None
        if stream.isatty() and importlib.util.find_spec("rich"):
            import rich.console
            import rich.progress

            self.bar = rich.progress.Progress(
                *rich.progress.Progress.get_default_columns(),
                rich.progress.TimeElapsedColumn(),
                console=rich.console.Console(file=stream),
                transient=True,
            )
            self.rows = self.bar.add_task("benchmarks", total=total)
            self.rounds = self.bar.add_task("", total=1)
            self.bar.start()

    def begin(self, key: str, rounds: int) -> None:
        """Show the row that is measured now."""
        if self.bar:
            self.bar.reset(self.rounds, description=key, total=rounds)

    def step(self) -> None:
        """Count one round."""
        if self.bar:
            self.bar.advance(self.rounds)

    def end(self) -> None:
        """Count one row."""
        if self.bar:
            self.bar.advance(self.rows)

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self.bar:
            self.bar.stop()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Install the peers if that is asked for."""
    config.stash[RECORDS] = {}
    config.stash[LOAD] = os.getloadavg()[0]
    # The summary below has this package's figures, too, beside the competitors'.
    if not config.getoption("benchmark_compare"):
        config.option.benchmark_quiet = True
    if config.getoption("benchmark_group_by") == "group":
        config.option.benchmark_group_by = "fullname"
    if config.getoption("--install-peers"):
        requirements = str(Path(__file__).with_name("requirements.txt"))
        command = [sys.executable, "-m", "pip", "install", "-r", requirements]
        if subprocess.run(command, check=False).returncode:
            raise pytest.UsageError("pip could not install the peers: see above")
        importlib.invalidate_caches()


def pytest_report_header() -> str:
    """Say at once which peers are missing, and how to get them."""
    modules = {
        name: name
        for name in ("cffi", "dask", "distributed", "llvmlite", "nanobind", "numpy", "torch")
    }
    modules |= {peers.PEER: peers.MODULES[peers.PEER], "cython": "Cython"}
    modules |= {"apache-tvm": "tvm", "nvidia-cutlass-dsl": "nvidia_cutlass_dsl"}
    modules |= {"rich (the progress bar)": "rich", "matplotlib (the plots)": "matplotlib"}
    missing = [name for name, module in modules.items() if not importlib.util.find_spec(module)]
    system = [
        name for name, there in (("lld", objects.lld()), ("mold", which("mold"))) if not there
    ]
    lines = ["bench: every peer is installed"] if not missing and not system else []
    if missing:
        lines.append(f"bench: not installed: {', '.join(missing)}; --install-peers installs them")
    if system:
        lines.append(f"bench: not installed: {', '.join(system)}; the system's packages have them")
    return "\n".join(lines)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have pytest-benchmark read this package's samples as the rounds' times."""
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=CLOCK))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Put the bar up."""
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    if not session.config.getoption("collectonly") and reporter is not None:
        stream = reporter._tw._file
        session.config.stash[PROGRESS] = Progress(stream, len(session.items))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Take the bar down."""
    if (progress := session.config.stash.get(PROGRESS, None)) is not None:
        progress.close()


def pytest_report_teststatus(
    report: pytest.TestReport, config: pytest.Config
) -> tuple[str, str, str] | None:
    """Print no dots where there is a bar."""
    progress = config.stash.get(PROGRESS, None)
    shown = progress is not None and progress.bar is not None
    return ("passed", "", "") if shown and report.when == "call" and report.passed else None


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Put the versions of everything that was measured into the JSON."""
    package = peers.imported(peers.MODULES[peers.OURS])
    ours = peers.imported(f"{peers.MODULES[peers.OURS]}._native")
    named = ("apache-tvm", "apache-tvm-ffi", "cffi", "cython", "llvmlite", "nanobind", "numpy")
    more = ("dask", "distributed", "nvidia-cutlass-dsl", "torch")
    linkers = {"ld": "ld", "lld": objects.lld(), "mold": "mold"}
    machine_info["bench"] = {
        "versions": {
            peers.OURS: getattr(package, "__version__", "not installed"),
            "its LLVM": "not installed" if isinstance(ours, str) else ours.llvm_version,
            peers.PEER: peers.version(peers.PEER),
            **{name: peers.version(name) for name in (*named, *more)},
            **{name: objects.version_of(program) for name, program in linkers.items()},
            "C compiler": objects.version_of(objects.CC),
            "C++ compiler": objects.version_of(objects.CXX),
            "libc": " ".join(platform.libc_ver()),
        },
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load": config.stash[LOAD],
        "installed": matches_the_source(package),
        "options": [name for name in ("quick", "long") if config.getoption(f"--{name}")],
    }


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_compare_machine_info(
    config: pytest.Config, machine_info: dict[str, Any], compared_benchmark: dict[str, Any]
) -> None:
    """Say what differs between two measurements, in a few words."""
    blank = {"commit_info": {}, "datetime": ""}
    now, then = (
        {**blank, "machine_info": m} for m in (machine_info, compared_benchmark["machine_info"])
    )
    reporter = config.pluginmanager.getplugin("terminalreporter")
    for difference in differences(now, then):
        reporter.write_line(f"compared with another {difference}", yellow=True)
    # pytest-benchmark would print both in full, as a warning, which is an error here.
    compared_benchmark["machine_info"] = machine_info


def matches_the_source(package: ModuleType | str) -> bool:
    """Return whether the installed package's Python files are the working tree's."""
    source = Path(__file__).parents[1] / "python" / peers.MODULES[peers.OURS]
    if isinstance(package, str) or package.__file__ is None:
        return False
    installed = Path(package.__file__).parent
    return all(
        (installed / path.name).is_file()
        and (installed / path.name).read_bytes() == path.read_bytes()
        for path in source.glob("*.py")
    )


@pytest.fixture
def long_run(request: pytest.FixtureRequest) -> bool:
    """Return whether ``--long`` was given."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def quick(request: pytest.FixtureRequest) -> bool:
    """Return whether ``--quick`` was given."""
    return bool(request.config.getoption("--quick"))


@pytest.fixture
def measure(
    benchmark: BenchmarkFixture, request: pytest.FixtureRequest, quick: bool
) -> Iterator[Measure]:
    """Measure a row: ``measure(key, competitors, rounds=...)``.

    The competitors are interleaved by `bench.interleave.Row`. pytest-benchmark takes the subject's
    samples as the rounds' times, and carries every competitor's samples, spreads and ratios as
    ``extra_info`` into its JSON.
    """
    config = request.config
    progress = config.stash[PROGRESS]

    def measure_row(
        key: str,
        competitors: Mapping[str, Sampler | str],
        *,
        rounds: int,
        quick_rounds: int = 0,
        subject: str = peers.OURS,
        warm_up: bool = True,
        unit: str = "s",
        **extra: object,
    ) -> None:
        if quick:
            rounds = quick_rounds or max(3, rounds // 10)
        row = Row(key, subject, competitors, unit)
        progress.begin(key, rounds)
        if warm_up and not benchmark.disabled:
            row.warm_up()

        def one_round() -> None:
            taken = row.run_round()
            CLOCK.now = taken.get(subject, 0.0)
            progress.step()

        benchmark.pedantic(  # type: ignore[no-untyped-call]
            one_round, setup=CLOCK.reset, rounds=rounds, iterations=1
        )
        record = {**row.record(), **extra}
        benchmark.extra_info.update(record)
        config.stash[RECORDS][key] = record
        if quick:
            check_loose_bounds(key, record)

    yield measure_row
    progress.end()


def check_loose_bounds(key: str, record: Mapping[str, Any]) -> None:
    """Fail where a ratio is worse than its loose bound, or this package was not measured."""
    package = peers.imported(peers.MODULES[peers.OURS])
    assert not isinstance(package, str), f"{key}: {peers.OURS} {package}"
    for target in TARGETS:
        if key in target.rows and (found := judged(target, {key: record})):
            ratio = found[1]["median"]
            text = f"{key}: {ratio:.3f} of {target.against}, loose bound {target.loose}"
            assert ratio <= target.loose, text


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print each target and each row's ratios."""
    from bench.figures import figure, number, verdict

    records = config.stash[RECORDS]
    if not records:
        return
    terminalreporter.section("targets")
    for target in TARGETS:
        if records.keys().isdisjoint(target.rows):
            continue
        found = verdict(target, records)
        line = f"{target.title}, against {target.against} <= {target.reach}: {found.value} {found}"
        terminalreporter.write_line(line)
    terminalreporter.section("rows: median [quartiles], ratio of this package's figure to it")
    for key, record in records.items():
        terminalreporter.write_line(key)
        for name, spread in record["competitors"].items():
            ratio = record["ratios"].get(name)
            over = f"  {number(ratio['median'])}" if ratio else ""
            terminalreporter.write_line(f"    {name}: {figure(spread, record['unit'])}{over}")
        for name, reason in record["absent"].items():
            terminalreporter.write_line(f"    {name}: {reason}")
