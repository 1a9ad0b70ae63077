# SPDX-License-Identifier: Apache-2.0
"""Sessions with ``debug=True``, under real debuggers: what they show of a library, they show."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import tvm_ffi_object_loader as tol
from compilation import CLANG, GCC, Compiler, Toolchain

pytestmark = pytest.mark.slow

GDB = shutil.which("gdb")
LLDB = next(
    (
        path
        for name in ("lldb", *(f"lldb-{version}" for version in range(30, 13, -1)))
        if (path := shutil.which(name))
    ),
    None,
)
needs_gdb = pytest.mark.skipif(GDB is None, reason="gdb is not installed")
needs_lldb = pytest.mark.skipif(LLDB is None, reason="lldb is not installed")

SOURCE = """
#include <stdint.h>
#include <tvm/ffi/c_api.h>

struct Pair {
  int64_t first;
  int64_t second;
};
int64_t counter = 40;

static __attribute__((noinline)) int64_t inner(int64_t n, int64_t* where) {
  struct Pair pair = {n, n * 2};
  int64_t total = pair.first + pair.second;  // line TOTAL
  *where = total;  // line STORE
  counter += 1;
  return total;
}

int64_t outer(int64_t n) {
  int64_t place = 0;
  return inner(n, n == 13 ? (int64_t*)0 : &place) + 1;
}

__attribute__((visibility("default")))
int __tvm_ffi_run(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result) {
  result->type_index = kTVMFFIInt;
  result->v_int64 = outer(args[0].v_int64);
  return 0;
}
"""
FLAGS = ("-g", "-O0", "-fPIC")


class Program(NamedTuple):
    """A source with its object."""

    source: Path
    object: Path

    def line(self, mark: str) -> int:
        lines = self.source.read_text().splitlines()
        return next(i for i, line in enumerate(lines, 1) if f"// line {mark}" in line)


Build = Callable[..., Program]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Compile `SOURCE` from a file, which debuggers show."""

    def run(*flags: str, toolchain: Toolchain = GCC, name: str = "kernel.c") -> Program:
        source = tmp_path / name
        source.write_text(SOURCE)
        path = source.with_suffix(".o")
        from tvm_ffi import libinfo

        includes = [f"-I{folder}" for folder in libinfo.include_paths()]
        command = [toolchain.cc, *includes, *(flags or FLAGS), "-c", source.name, "-o", str(path)]
        subprocess.run(command, check=True, cwd=tmp_path)
        return Program(source, path)

    return run


LOAD = """
import sys
import tvm_ffi_object_loader as tol
session = tol.Session(debug=True)
dylib = session.load(sys.argv[1])
"""


@pytest.fixture
def under_gdb(tmp_path: Path) -> Callable[..., str]:
    """Run Python source under gdb in batch mode, with these commands of gdb's."""

    def run(commands: str, source: str, *args: object) -> str:
        script = tmp_path / "debugged.py"
        script.write_text(source)
        file = tmp_path / "commands.gdb"
        settings = ["pagination off", "breakpoint pending on", "debuginfod enabled off", "width 0"]
        file.write_text("".join(f"set {one}\n" for one in settings) + commands)
        assert GDB
        command = [*(GDB, "-nx", "-batch", "-x", str(file)), "--args", sys.executable, str(script)]
        # A fault that is not the debugger's to see is nobody else's either.
        env = {**os.environ, "TVM_FFI_BACKTRACE_ON_SEGFAULT": "0"}
        result = subprocess.run(
            ["timeout", "-s", "KILL", "120", *command, *map(str, args)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=tmp_path,
            env=env,
            check=False,
        )
        if "ptrace: Operation not permitted" in result.stdout:
            pytest.skip("the system lets no process be debugged (ptrace)")
        return result.stdout

    return run


@needs_gdb
def test_gdb_shows_a_crash(build: Build, under_gdb: Callable[..., str]) -> None:
    program = build()
    output = under_gdb(
        "run\nbt 3\ninfo locals\ninfo args\nprint counter\nup\ninfo locals\n",
        f'{LOAD}\ndylib["run"](13)\n',
        program.object,
    )
    line = program.line("STORE")
    assert re.search(rf"#0 +0x\w+ in inner \(n=13, where=0x0\) at kernel\.c:{line}", output), output
    assert re.search(r"#1 +0x\w+ in outer \(n=13\) at kernel\.c:", output)
    assert re.search(r"#2 +0x\w+ in __tvm_ffi_run \(", output)
    assert "*where = total;  // line STORE" in output
    assert "pair = {first = 13, second = 26}" in output
    assert "total = 39" in output
    assert "$1 = 40" in output
    assert "place = 0" in output


@needs_gdb
def test_gdb_stops_at_breakpoints_set_before_loading(
    build: Build, under_gdb: Callable[..., str]
) -> None:
    program = build()
    line = program.line("STORE")
    output = under_gdb(
        f"break inner\nbreak kernel.c:{line}\nrun\nprint n\nnext\nprint pair\ncontinue\n"
        "print total\nfinish\n",
        f'{LOAD}\nprint("result", dylib["run"](4))\n',
        program.object,
    )
    assert re.search(r"Breakpoint 1, inner \(n=4, where=0x\w+\) at kernel\.c:", output), output
    assert "$1 = 4" in output
    assert f"{program.line('TOTAL')}\t" in output  # a step
    assert "$2 = {first = 4, second = 8}" in output
    assert "Breakpoint 2, inner (n=4, where=" in output
    assert f"kernel.c:{line}" in output
    assert "$3 = 12" in output
    assert "Value returned is $4 = 12" in output


@needs_gdb
@pytest.mark.parametrize(
    "flags",
    [
        ("-gdwarf-4",),
        ("-gdwarf-5",),
        ("-g", "-gz"),
        ("-g3",),
        ("-g", "-gsplit-dwarf"),
        ("-g", "-ffunction-sections", "-fdata-sections"),
        ("-g", "-fdebug-types-section"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("toolchain", [GCC, CLANG], ids=["gcc", "clang"])
def test_gdb_reads_every_kind_of_debug_information(
    flags: tuple[str, ...],
    toolchain: Toolchain | None,
    build: Build,
    under_gdb: Callable[..., str],
) -> None:
    if toolchain is None:
        pytest.skip("clang is not installed")
    program = build(*flags, "-O0", "-fPIC", toolchain=toolchain)
    line = program.line("STORE")
    output = under_gdb(
        f"break kernel.c:{line}\nrun\nbt 2\nprint pair\nptype pair\n",
        f'{LOAD}\ndylib["run"](4)\n',
        program.object,
    )
    assert re.search(rf"#0 +inner \(n=4, where=0x\w+\) at \S*kernel\.c:{line}", output), output
    assert "$1 = {first = 4, second = 8}" in output
    assert "type = struct Pair {" in output


@needs_gdb
def test_gdb_tells_the_objects_of_a_load_apart(
    compile: Compiler, under_gdb: Callable[..., str]
) -> None:
    """And what is not loaded of them is nowhere: the second one's group, an unused function."""
    text = """
    inline __attribute__((noinline)) int of_both(int n) { return n + 1; }
    static int unused(int n) { return n; }
    int function_NAME(int n) {
      int local_NAME = of_both(n);
      return local_NAME;
    }
    """
    objects = [
        compile.cxx(text.replace("NAME", name), *FLAGS, "-ffunction-sections", name=name)
        for name in ("first", "second")
    ]
    caller = compile.cxx(
        """
        #include "safe_call.h"
        int function_first(int n);
        int function_second(int n);
        extern "C" EXPORT(run) { RETURN(function_first(INT(0)) + function_second(INT(0))); }
        """,
        *FLAGS,
    )
    output = under_gdb(
        "break function_first\nbreak function_second\nbreak of_both\nrun\nnext\ninfo breakpoints\n"
        "continue\ncontinue\nbt 2\n",
        """
import sys
import tvm_ffi_object_loader as tol
dylib = tol.Session(debug=True).load(sys.argv[1:])
dylib["run"](4)
""",
        caller,
        *objects,
    )
    assert re.search(r"Breakpoint 1, function_first \(n=4\)", output), output
    assert re.search(r"Breakpoint 2, function_second \(n=4\)", output)
    assert not re.search(r"breakpoint +keep +y +<MULTIPLE>", output)
    assert re.search(r"#1 +0x\w+ in function_(first|second) \(n=4\)", output)


@needs_gdb
def test_gdb_has_names_without_debug_information(
    build: Build, under_gdb: Callable[..., str]
) -> None:
    program = build("-O1", "-fPIC", "-fno-inline")
    output = under_gdb("run\nbt 3\n", f'{LOAD}\ndylib["run"](13)\n', program.object)
    # The compiler may split a function whose argument it knows.
    assert re.search(r"#0 +0x\w+ in inner(\.\w+)* \(\)", output), output
    assert re.search(r"#1 +0x\w+ in outer \(\)", output)
    assert re.search(r"#2 +0x\w+ in __tvm_ffi_run \(\)", output)


@needs_gdb
def test_gdb_has_addresses_alone_where_nobody_asked(
    build: Build, under_gdb: Callable[..., str]
) -> None:
    program = build()
    plain = LOAD.replace("debug=True", "")
    output = under_gdb("run\nbt 3\n", f'{plain}\ndylib["run"](13)\n', program.object)
    assert re.search(r"#0 +0x\w+ in \?\? \(\)", output), output
    assert "inner (" not in output


@needs_gdb
def test_gdb_forgets_what_is_unloaded(build: Build, under_gdb: Callable[..., str]) -> None:
    program = build()
    output = under_gdb(
        "break getppid\nrun\ninfo functions ^outer$\ncontinue\ninfo functions ^outer$\ncontinue\n",
        f'{LOAD}\nimport os\nos.getppid()\ndylib.close()\nos.getppid()\nprint("the end")\n',
        program.object,
    )
    assert re.findall(r"int64_t outer\(int64_t\);", output) == ["int64_t outer(int64_t);"], output
    assert output.count('All functions matching regular expression "^outer$"') == 2
    assert "the end" in output


@needs_gdb
def test_gdb_stops_in_each_of_many_loads(build: Build, under_gdb: Callable[..., str]) -> None:
    """Also where the memory of what was unloaded is used again."""
    program = build()
    output = under_gdb(
        'break inner\ncommands 1\nsilent\nprintf "stopped for %d\\n", (int)n\ncontinue\nend\nrun\n',
        f"""{LOAD}
for number in range(20, 26):
    other = session.load(sys.argv[1])
    assert other["run"](number) == 3 * number + 1
    if number % 2:
        other.close()
    assert dylib["run"](number + 100) == 3 * (number + 100) + 1
""",
        program.object,
    )
    expected = [text for n in range(20, 26) for text in (f"for {n}\n", f"for {n + 100}\n")]
    assert re.findall(r"stopped (for \d+\n)", output) == expected, output


@pytest.fixture
def running(build: Build, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process that has loaded, and calls in a loop."""
    started: list[subprocess.Popen[str]] = []

    def start(program: Program) -> subprocess.Popen[str]:
        script = tmp_path / "running.py"
        script.write_text(
            f'{LOAD}\nimport time\nprint("ready", flush=True)\n'
            'while True:\n    dylib["run"](4)\n    time.sleep(0.01)\n'
        )
        process = subprocess.Popen(
            [sys.executable, str(script), str(program.object)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.send_signal(signal.SIGKILL)
        process.communicate()


@needs_gdb
def test_gdb_attaches(
    build: Build, running: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    program = build()
    process = running(program)
    commands = ["break inner", "continue", "bt 2", "print counter > 0", "detach"]
    options = [part for command in commands for part in ("-ex", command)]
    settings = ["-iex", "set debuginfod enabled off", "-iex", "set pagination off"]
    assert GDB
    command = [GDB, "-nx", "-batch", *settings, *options, "-p", str(process.pid)]
    result = subprocess.run(
        ["timeout", "-s", "KILL", "120", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        cwd=tmp_path,
        check=False,
    )
    if "ptrace" in result.stderr:
        pytest.skip("the system lets no process be attached to (ptrace)")
    assert re.search(r"Breakpoint 1, inner \(n=4, where=", result.stdout), result
    assert re.search(r"#1 +0x\w+ in outer \(n=4\) at kernel\.c:", result.stdout)
    assert "$1 = 1" in result.stdout
    assert process.poll() is None


@needs_lldb
def test_lldb_stops_at_breakpoints_and_shows_a_crash(build: Build, tmp_path: Path) -> None:
    program = build()
    script = tmp_path / "debugged.py"
    script.write_text(f'{LOAD}\ndylib["run"](4)\ndylib["run"](13)\n')
    line = program.line("STORE")
    commands = [
        "settings set plugin.jit-loader.gdb.enable on",
        "breakpoint set --name inner",
        f"breakpoint set --file kernel.c --line {line}",
        f"run {script} {program.object}",
        "bt 3",
        "continue",
        "frame variable total pair",
        "breakpoint disable",
        "continue",
        "bt 3",
    ]
    file = tmp_path / "commands.lldb"
    file.write_text("\n".join(commands) + "\n")
    assert LLDB
    result = subprocess.run(
        ["timeout", "-s", "KILL", "120", LLDB, "-x", "-b", "-s", str(file), "--", sys.executable],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        cwd=tmp_path,
        env={**os.environ, "TVM_FFI_BACKTRACE_ON_SEGFAULT": "0"},
        check=False,
    )
    output = result.stdout + result.stderr
    if "Operation not permitted" in output:
        pytest.skip("the system lets no process be debugged (ptrace)")
    assert re.search(r"stop reason = breakpoint 1\.1", output), output
    assert re.search(r"`inner\(n=4, where=0x\w+\) at kernel\.c:", output)
    assert re.search(r"`outer\(n=4\) at kernel\.c:", output)
    assert re.search(r"stop reason = breakpoint 2\.1", output)
    assert "total = 12" in output
    assert "(first = 4, second = 8)" in output
    assert re.search(rf"`inner\(n=13, where=0x0000000000000000\) at kernel\.c:{line}", output)


def test_results_are_the_same(add_object: Path, compile: Compiler) -> None:
    """Whatever a session is for, what it loads runs, and goes; also with large data."""
    large = compile(
        """
        #include "safe_call.h"
        const int table[200000] = {1, 2, 3};
        int data[200000] = {4, 5, 6};
        int zeros[1 << 20];
        EXPORT(sum) { RETURN(table[2] + data[2] + zeros[INT(0)]); }
        """,
        "-g",
        "-O2",
        "-fPIC",
    )
    with tol.Session(debug=True) as session:
        assert session.load(add_object)["add"](1, 2) == 3
        assert session.load(large)["sum"](9) == 9
        assert session.load([add_object, large])["add"](3, 4) == 7
        for _ in range(50):
            session.load(large).close()
    assert session.stats().bytes_code == 0


@pytest.mark.parametrize(
    ("flags", "section"),
    [(("-gz",), ".debug_info"), ((), ".debug_info"), ((), ".rela.debug_info")],
)
def test_malformed_debug_information_is_left_out(
    flags: tuple[str, ...], section: str, compile: Compiler
) -> None:
    source = '#include "safe_call.h"\nEXPORT(add) { RETURN(INT(0) + INT(1)); }'
    path = compile(source, *FLAGS, *flags)
    sections = subprocess.run(
        ["readelf", "-SW", str(path)], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(rf" {re.escape(section)} +\w+ +\w+ (\w+) (\w+)", sections)
    assert found
    offset, size = int(found[1], 16), int(found[2], 16)
    content = path.read_bytes()
    with tol.Session(debug=True) as debugged:
        for at in range(offset, offset + size, 3):
            changed = content[:at] + b"\xff\xff\xff" + content[at + 3 :]
            dylib = debugged.load(changed)
            assert dylib["add"](1, 2) == 3
            location = debugged.symbolize(dylib.lookup("__tvm_ffi_add"))
            assert location is not None
            assert location.symbol is not None


def test_the_environment_variable(run_script: Callable[..., str], add_object: Path) -> None:
    """Code in private memory is what tells a session with ``debug=True``, from outside."""
    script = """
import sys
import tvm_ffi_object_loader as tol
explicit = {"on": True, "off": False, "none": None}[sys.argv[2]]
dylib = tol.Session(debug=explicit).load(sys.argv[1])
address = dylib.lookup("__tvm_ffi_add")
for line in open("/proc/self/maps"):
    begin, end = (int(number, 16) for number in line.split()[0].split("-"))
    if begin <= address < end:
        print(line.split()[1])
"""
    variable = "TVM_FFI_OBJECT_LOADER_DEBUG"
    assert run_script(script, add_object, "none") == "r-xs\n"
    assert run_script(script, add_object, "none", **{variable: "0"}) == "r-xs\n"
    assert run_script(script, add_object, "none", **{variable: "1"}) == "r-xp\n"
    assert run_script(script, add_object, "off", **{variable: "1"}) == "r-xs\n"
    assert run_script(script, add_object, "on") == "r-xp\n"


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="debug must be True or False, not int: 1"):
        tol.Session(debug=1)  # type: ignore[arg-type]
    monkeypatch.setenv("TVM_FFI_OBJECT_LOADER_DEBUG", "yes")
    with pytest.raises(ValueError, match="TVM_FFI_OBJECT_LOADER_DEBUG must be 1 or 0, not 'yes'"):
        tol.Session()
