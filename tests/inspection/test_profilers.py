# SPDX-License-Identifier: Apache-2.0
"""Sessions with ``profile="perf"``: their files, and what Linux's perf makes of them."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript

pytestmark = pytest.mark.slow

PERF = shutil.which("perf")

SOURCE = """
#include "safe_call.h"
static __attribute__((noinline, noclone)) int64_t hot(int64_t n) {
  int64_t total = 0;
  for (int64_t i = 0; i < n; ++i) total += i ^ (total << 1);
  return total;
}
__attribute__((noinline)) int64_t caller(int64_t n) { return hot(n) + 1; }
EXPORT(run) { RETURN(caller(INT(0))); }
"""

LOAD = """
import os, sys
import tvm_ffi_object_loader as tol
session = tol.Session(profile="perf")
dylib = session.load(sys.argv[1])
print(os.getpid(), dylib.lookup("caller"))
"""


@pytest.fixture(scope="module")
def source(compile: Compiler) -> Path:
    return compile(SOURCE, "-O1", "-fPIC", name="profiled")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder for dumps, and remove the maps of processes that have left one there."""
    folder = tmp_path / "dumps"
    folder.mkdir()
    monkeypatch.setenv("JITDUMPDIR", str(folder))
    yield folder
    for path in folder.glob("jit-*.dump"):
        map_of(int(path.stem.removeprefix("jit-"))).unlink(missing_ok=True)


def map_of(process: int) -> Path:
    return Path(f"/tmp/perf-{process}.map")


Line = tuple[int, str, int]  # an address, and the file and the line there


class Record(NamedTuple):
    """A function in a dump."""

    process: int
    address: int
    number: int
    name: str
    code: bytes
    lines: list[Line]


def read_lines(record: bytes) -> Iterator[Line]:
    count, place = struct.unpack_from("<Q", record, 24)[0], 32
    for _ in range(count):
        address, line, discriminator = struct.unpack_from("<QII", record, place)
        end = record.index(b"\0", place + 16)
        assert discriminator == 0
        yield address, record[place + 16 : end].decode(), line
        place = end + 1
    assert place == len(record)


def read_dump(path: Path) -> list[Record]:
    """Read a dump as Linux's jitdump-specification.txt describes it."""
    content = path.read_bytes()
    magic, version, size, machine, _, process, _, flags = struct.unpack_from("<IIIIIIQQ", content)
    assert (magic, version, size, machine, flags) == (0x4A695444, 1, 40, 62, 0)
    records = []
    lines: dict[int, list[Line]] = {}
    while size < len(content):
        kind, length, time = struct.unpack_from("<IIQ", content, size)
        assert time > 0
        record = content[size : size + length]
        size += length
        if kind == 2:
            lines[struct.unpack_from("<Q", record, 16)[0]] = list(read_lines(record))
            continue
        pid, _, vma, address, code_size, number = struct.unpack_from("<IIQQQQ", record, 16)
        assert (kind, pid, vma) == (0, process, address)
        name, _, code = record[56:].partition(b"\0")
        assert len(code) == code_size
        told = lines.pop(address, [])  # before the function
        records.append(Record(pid, address, number, name.decode(), code, told))
    assert not lines
    return records


def read_map(process: int) -> dict[str, tuple[int, int]]:
    lines = [line.split(" ", 2) for line in map_of(process).read_text().splitlines()]
    return {name: (int(begin, 16), int(size, 16)) for begin, size, name in lines}


def test_files_tell_of_all_functions(source: Path, folder: Path, run_script: RunScript) -> None:
    output = run_script(
        LOAD + "print([(one.symbol, one.address, one.size) for one in dylib.symbols "
        "if one.is_function])",
        source,
    )
    first, second = output.splitlines()
    process, caller = map(int, first.split())
    names = read_map(process)
    records = {record.name: record for record in read_dump(folder / f"jit-{process}.dump")}
    assert names["caller"][0] == caller
    for symbol, address, size in eval(second):
        assert names[symbol] == (address, size)
        assert (records[symbol].address, len(records[symbol].code)) == (address, size)
    assert {"hot", "caller", "__tvm_ffi_run"} <= set(names) == set(records)
    assert len({record.number for record in records.values()}) == len(records)
    # It refers to nothing, so its code is as it is in the object.
    assert records["hot"].code in source.read_bytes()


@pytest.fixture
def lined(compile: Compiler, tmp_path: Path) -> Path:
    """Return the object with lines of a file that is there: ``lined.c``."""
    path = tmp_path / "lined.c"
    path.write_text(SOURCE)
    return compile(f'#line 1 "{path}"\n{SOURCE}', "-O1", "-fPIC", "-g", name="lined")


def numbered(text: str) -> int:
    """Return the number of the one line of the source that holds the text."""
    (number,) = (i for i, line in enumerate(SOURCE.split("\n"), 1) if text in line)
    return number


def test_lines_are_those_of_debug_information(
    lined: Path, tmp_path: Path, folder: Path, run_script: RunScript
) -> None:
    process = int(run_script(LOAD, lined).split()[0])
    records = {record.name: record for record in read_dump(folder / f"jit-{process}.dump")}
    hot, caller = records["hot"], records["caller"]
    for record in (hot, caller, records["__tvm_ffi_run"]):
        addresses = [address for address, _, _ in record.lines]
        assert addresses[0] == record.address
        assert addresses == sorted(addresses)
        assert addresses[-1] < record.address + len(record.code)
    begin = numbered("hot(int64_t n) {")
    assert numbered("total += i") in {line for _, _, line in hot.lines}
    assert {line for _, _, line in hot.lines} <= set(range(begin, begin + 5))
    assert {line for _, _, line in caller.lines} == {numbered("int64_t caller")}
    assert {path for _, path, _ in hot.lines + caller.lines} == {str(tmp_path / "lined.c")}


def test_without_debug_information_there_are_no_lines(
    source: Path, folder: Path, run_script: RunScript
) -> None:
    process = int(run_script(LOAD, source).split()[0])
    assert [one.lines for one in read_dump(folder / f"jit-{process}.dump") if one.lines] == []


def test_malformed_debug_information_is_left_out(
    compile: Compiler, folder: Path, run_script: RunScript
) -> None:
    path = compile('#include "safe_call.h"\nEXPORT(add) { RETURN(INT(0)); }', "-g", "-fPIC")
    command = ["readelf", "-SW", str(path)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    places = re.findall(r" (\.debug_\w+) +PROGBITS +\w+ (\w+) (\w+)", listed)
    ranges = [
        range(int(offset, 16), int(offset, 16) + int(size, 16))
        for section, offset, size in places
        if section in (".debug_line", ".debug_info", ".debug_abbrev", ".debug_aranges")
    ]
    assert len(ranges) == 4
    script = """
import sys
import tvm_ffi_object_loader as tol
content = open(sys.argv[1], "rb").read()
with tol.Session(profile="perf") as session:
    for begin, end in zip(*[map(int, sys.argv[2:])] * 2):
        for at in range(begin, end):
            for value in 255, content[at] ^ 1:
                changed = content[:at] + bytes([value]) + content[at + 1 :]
                assert session.load(changed)["add"](1) == 1
"""
    run_script(script, path, *(edge for place in ranges for edge in (place.start, place.stop)))
    (dump,) = folder.iterdir()
    assert len(read_dump(dump)) == 2 * sum(map(len, ranges))


def test_each_load_is_added(source: Path, folder: Path, run_script: RunScript) -> None:
    output = run_script(LOAD + "print(session.load(sys.argv[1]).lookup('caller'))", source)
    process, first, second = map(int, output.split())
    dump = read_dump(folder / f"jit-{process}.dump")
    assert [record.address for record in dump if record.name == "caller"] == [first, second]


def test_a_forked_process_has_files_of_its_own(
    source: Path, folder: Path, run_script: RunScript
) -> None:
    script = """
child = os.fork()
if child == 0:
    own = session.load(sys.argv[1])
    assert own["run"](10) == dylib["run"](10)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(child, session.load(sys.argv[1]).lookup("caller"))
"""
    parent, first, child, second = map(int, run_script(LOAD + script, source).split())
    of_parent = read_dump(folder / f"jit-{parent}.dump")
    of_child = read_dump(folder / f"jit-{child}.dump")
    assert [one.address for one in of_parent if one.name == "caller"] == [first, second]
    assert {one.process for one in of_child} == {child}
    assert "caller" in read_map(child)


def test_the_environment_variable(source: Path, folder: Path, run_script: RunScript) -> None:
    script = "import sys\nimport tvm_ffi_object_loader as tol\ntol.load_module(sys.argv[1])\n"
    run_script(script, source)
    assert list(folder.iterdir()) == []
    run_script(script, source, TVM_FFI_OBJECT_LOADER_PROFILE="")
    assert list(folder.iterdir()) == []
    run_script(script, source, TVM_FFI_OBJECT_LOADER_PROFILE="perf")
    assert len(list(folder.iterdir())) == 1


def test_what_cannot_be_profiled_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_script: RunScript, source: Path
) -> None:
    with pytest.raises(ValueError, match="profile must be 'perf', not 'vtune'"):
        tol.Session(profile="vtune")  # type: ignore[arg-type]
    monkeypatch.setenv("TVM_FFI_OBJECT_LOADER_PROFILE", "vtune")
    with pytest.raises(ValueError, match="TVM_FFI_OBJECT_LOADER_PROFILE must be 'perf'"):
        tol.Session()
    monkeypatch.delenv("TVM_FFI_OBJECT_LOADER_PROFILE")
    script = """
import os
import tvm_ffi_object_loader as tol
try:
    tol.Session(profile="perf")
except FileNotFoundError as error:
    print(error.filename)
os.unlink(f"/tmp/perf-{os.getpid()}.map")
assert tol.Session(profile=None).load(__import__("sys").argv[1])["run"](1) == 1
"""
    nowhere = tmp_path / "nowhere"
    output = run_script(script, source, JITDUMPDIR=str(nowhere))
    assert re.fullmatch(rf"{nowhere}/jit-\d+\.dump\n", output)


def test_files_of_others_are_left_alone(
    tmp_path: Path, folder: Path, run_script: RunScript
) -> None:
    """What is in a folder that everybody can write, may lead elsewhere."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    script = """
import os, sys
import tvm_ffi_object_loader as tol
path = f"/tmp/perf-{os.getpid()}.map"
if os.path.lexists(path):  # of an earlier process with this number
    os.unlink(path)
for link in (os.symlink, os.link):
    link(sys.argv[1], path)
    try:
        tol.Session(profile="perf")
    except OSError as error:
        print(error.filename == path)
    os.unlink(path)
"""
    assert run_script(script, victim) == "True\nTrue\n"
    assert victim.read_text() == "mine"


def record(tmp_path: Path, folder: Path, source: Path, *options: str) -> Path:
    """Profile a process; skip where the system lets nobody do so."""
    if PERF is None:
        pytest.skip("perf is not installed")
    script = tmp_path / "profiled.py"
    script.write_text(LOAD + 'dylib["run"](200_000_000)\n')
    data = tmp_path / "perf.data"
    command = [PERF, "record", "-q", "-k", "mono", "-e", "cpu-clock", "-o", str(data), *options]
    result = subprocess.run(
        [*command, sys.executable, str(script), str(source)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode or not data.exists():
        paranoid = Path("/proc/sys/kernel/perf_event_paranoid")
        level = paranoid.read_text().strip() if paranoid.exists() else "no such file"
        pytest.skip(
            f"perf cannot record here (perf_event_paranoid: {level}): {result.stderr[-200:]}"
        )
    return data


def perf(*arguments: str | Path) -> str:
    assert PERF
    result = subprocess.run(
        [PERF, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PERF_BUILDID_DIR": ""},
    )
    return result.stdout


def test_perf_report_names_functions(tmp_path: Path, folder: Path, source: Path) -> None:
    data = record(tmp_path, folder, source)
    report = perf("report", "--stdio", "-i", data)
    assert re.search(r"\d\d\.\d\d% .*\[JIT\].* hot$", report, re.MULTILINE), report


def test_perf_annotate_shows_code(tmp_path: Path, folder: Path, source: Path) -> None:
    data = record(tmp_path, folder, source)
    injected = tmp_path / "injected.data"
    perf("inject", "--jit", "-i", data, "-o", injected)
    report = perf("report", "--stdio", "-i", injected)
    assert re.search(r"\d\d\.\d\d% .*jitted-\d+-\d+\.so +\[\.\] hot$", report, re.MULTILINE), report
    annotated = perf("annotate", "--stdio", "-i", injected, "-s", "hot")
    assert "xor" in annotated
    assert re.search(r"^ +\d+\.\d+ .*(xor|add|lea|cmp|jne|jl)", annotated, re.MULTILINE), annotated


def test_perf_annotate_shows_lines(tmp_path: Path, folder: Path, lined: Path) -> None:
    data = record(tmp_path, folder, lined)
    injected = tmp_path / "injected.data"
    perf("inject", "--jit", "-i", data, "-o", injected)
    annotated = perf("annotate", "--stdio", "-l", "-i", injected, "-s", "hot")
    summary, _, code = annotated.partition("Disassembly of section")
    line = rf"^ +\d\d\d?\.\d+ +lined\.c:{numbered('total += i')}$"
    assert re.search(line, summary, re.MULTILINE), annotated
    # The text of the line stands between the instructions.
    assert "total += i ^ (total << 1);" in code


def test_perf_finds_the_way_out_by_frame_pointers(
    tmp_path: Path, folder: Path, compile: Compiler
) -> None:
    path = compile(SOURCE, "-O1", "-fPIC", "-fno-omit-frame-pointer", name="framed")
    data = record(tmp_path, folder, path, "--call-graph", "fp")
    report = perf("report", "--stdio", "--no-children", "-G", "-S", "hot", "-i", data)
    assert re.search(r"^ +__tvm_ffi_run\n +(caller\n +)?hot$", report, re.MULTILINE), report
