# SPDX-License-Identifier: Apache-2.0
"""What tools that know only of files make of loaded code, as the documentation says it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from compilation import Compiler
from conftest import RunScript

VALGRIND = shutil.which("valgrind")
PY_SPY = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.mark.slow
def test_valgrind_finds_faults_and_symbolize_names_them(compile: Compiler, tmp_path: Path) -> None:
    """Valgrind shows addresses, of which the process tells the names."""
    if VALGRIND is None:
        pytest.skip("valgrind is not installed")
    source = """
    #include <stdlib.h>
    #include "safe_call.h"
    EXPORT(run) {
      int64_t* block = (int64_t*)calloc(4, 8);
      int64_t found = ((volatile int64_t*)block)[4];
      free(block);
      RETURN(found == 77);
    }
    """
    path = compile(source, "-g", "-O1", "-fPIC", name="fault")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nimport tvm_ffi_object_loader as tol\n"
        "dylib = tol.Session(debug=True).load(sys.argv[1])\ndylib['run']()\n"
        "for line in sys.stdin:\n    print(tol.symbolize(int(line, 16)), flush=True)\n"
    )
    log = tmp_path / "log"
    process = subprocess.Popen(
        [VALGRIND, f"--log-file={log}", sys.executable, str(script), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONMALLOC": "malloc"},
    )
    assert process.stdin
    assert process.stdout
    process.stdin.write("0\n")
    process.stdin.flush()
    assert process.stdout.readline() == "None\n"  # the call is over
    (address,) = re.findall(
        r"Invalid read of size 8\n==\d+== +at (0x\w+): \?\?\?\n(?:.* by .*\n)*"
        r".* is 0 bytes after a block of size 32 alloc'd",
        log.read_text(),
    )[-1:]
    found, _ = process.communicate(f"{address}\n")
    assert re.search(r" __tvm_ffi_run\+0x\w+ at .*:6 in dylib", found), found


def test_py_spy_shows_python_frames(compile: Compiler, tmp_path: Path) -> None:
    """With ``--native`` it finds no way out of code that no file holds."""
    if PY_SPY is None:
        pytest.skip("py-spy is not installed")
    source = '#include "safe_call.h"\nEXPORT(run) { for (;;) __asm__ volatile(""); }'
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nimport tvm_ffi_object_loader as tol\n"
        "def calls_loaded_code():\n    print('ready', flush=True)\n    run()\n"
        "run = tol.Session().load(sys.argv[1])['run']\ncalls_loaded_code()\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script), str(compile(source, name="forever"))],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        command = [PY_SPY, "dump", "--pid", str(process.pid)]
        plain = subprocess.run(command, capture_output=True, text=True, check=False)
        if "ermission" in plain.stderr:
            pytest.skip("the system lets no process be looked at (ptrace)")
        assert "calls_loaded_code" in plain.stdout, plain
        native = subprocess.run([*command, "--native"], capture_output=True, text=True, check=False)
        assert "run" not in re.findall(r"^ +(\w+) \(forever", native.stdout, re.MULTILINE)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def test_faulthandler_shows_python_frames(compile: Compiler, tmp_path: Path) -> None:
    """Of loaded code as of a library's: Python has nothing else to show."""
    path = compile('#include "safe_call.h"\nEXPORT(run) { *(volatile int*)8 = 1; RETURN(0); }')
    script = tmp_path / "script.py"
    script.write_text(
        "import faulthandler, sys\nimport tvm_ffi\nimport tvm_ffi_object_loader as tol\n"
        "faulthandler.enable()\n"
        "run = tvm_ffi.load_module(sys.argv[1]).run\n"
        "def calls_loaded_code():\n    run()\ncalls_loaded_code()\n"
    )
    shown = []
    for kind in (path, compile.link(path)):
        command = [sys.executable, str(script), str(kind)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == -signal.SIGSEGV
        assert "in calls_loaded_code" in result.stderr
        shown.append(re.findall(r'File "(.*script.py)", line (\d+) in (\w+)', result.stderr))
    assert shown[0] == shown[1]


def test_dl_iterate_phdr_knows_libraries_alone(compile: Compiler, run_script: RunScript) -> None:
    source = """
    #define _GNU_SOURCE
    #include <link.h>
    #include "safe_call.h"
    static int visit(struct dl_phdr_info* info, size_t size, void* found) {
      for (int i = 0; i < info->dlpi_phnum; ++i) {
        uint64_t begin = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
        if ((uint64_t)visit - begin < info->dlpi_phdr[i].p_memsz) *(int64_t*)found = 1;
      }
      return 0;
    }
    EXPORT(is_found) {
      int64_t found = 0;
      dl_iterate_phdr(visit, &found);
      RETURN(found);
    }
    """
    script = """
import sys
import tvm_ffi
import tvm_ffi_object_loader as tol
print(*(tvm_ffi.load_module(path).is_found() for path in sys.argv[1:]))
"""
    path = compile(source, "-O2", "-fPIC")
    assert run_script(script, path, compile.link(path)) == "0 1\n"
