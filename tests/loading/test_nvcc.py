# SPDX-License-Identifier: Apache-2.0
"""Objects that nvcc itself makes, with NVIDIA's runtime as a library and as an archive.

Without a GPU a launch fails with the runtime's own error; with one its result is checked.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tvm_ffi import libinfo

import tvm_ffi_object_loader as tol
from conftest import RunScript
from instances import matrix_but

NVCC = shutil.which("nvcc")
pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc is not here")

KERNEL = """
#include <tvm/ffi/c_api.h>
__constant__ long offsets[4] = {100, 200, 300, 400};
DEVICE long scaled(long value, long factor) BODY
__global__ void scale(long* values, long factor) {
  values[threadIdx.x] = scaled(values[threadIdx.x], factor) + offsets[threadIdx.x];
}
extern "C" __attribute__((visibility("default"))) int __tvm_ffi_launch(
    void*, const TVMFFIAny* args, int32_t, TVMFFIAny* result) {
  long host[4] = {1, 2, 3, 4};
  long* device = nullptr;
  cudaError_t error = cudaMalloc(&device, sizeof(host));
  if (!error) error = cudaMemcpy(device, host, sizeof(host), cudaMemcpyHostToDevice);
  scale<<<1, 4>>>(device, args[0].v_int64);
  if (!error) error = cudaGetLastError();
  if (!error) error = cudaMemcpy(host, device, sizeof(host), cudaMemcpyDeviceToHost);
  cudaFree(device);
  if (error) {
    TVMFFIErrorSetRaisedFromCStr("RuntimeError", cudaGetErrorString(error));
    return -1;
  }
  result->type_index = kTVMFFIInt;
  result->v_int64 = host[0] + host[1] + host[2] + host[3];
  return 0;
}
"""
PLAIN = KERNEL.replace("DEVICE", "__device__").replace("BODY", "{ return value * factor; }")
# With a device function of another object, which takes `-rdc=true` and a link of the device code.
FIRST = KERNEL.replace("DEVICE", "extern __device__").replace("BODY", ";")
SECOND = "__device__ long scaled(long value, long factor) { return value * factor; }\n"


def nvcc(*arguments: object) -> None:
    assert NVCC
    includes = [f"-I{path}" for path in libinfo.include_paths()]
    command = [NVCC, "-Xcompiler", "-fPIC", *includes, *map(str, arguments)]
    subprocess.run(command, check=True, timeout=300)


def compiled(folder: Path, name: str, source: str, *flags: str) -> Path:
    path = folder / f"{name}.cu"
    path.write_text(source)
    nvcc("-c", *flags, path, "-o", path.with_suffix(".o"))
    return path.with_suffix(".o")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [compiled(tmp_path_factory.mktemp("nvcc"), "plain", PLAIN)]


@pytest.fixture(scope="module")
def relocatable(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return objects whose device code is linked, and last the result of linking it."""
    folder = tmp_path_factory.mktemp("nvcc")
    sources = {"first": FIRST, "second": SECOND}
    objects = [compiled(folder, name, text, "-rdc=true") for name, text in sources.items()]
    nvcc("-dlink", *objects, "-o", folder / "device.o")
    return [*objects, folder / "device.o"]


def runtime(name: str) -> Path:
    """Return the file of NVIDIA's runtime that lies beside nvcc."""
    assert NVCC
    dry = subprocess.run(
        [NVCC, "--dryrun", "-c", "-x", "cu", "/dev/null"], capture_output=True, text=True
    )
    tops = [line.split("=", 1)[1] for line in dry.stderr.splitlines() if line.startswith("#$ TOP=")]
    for folder in ("lib64", "lib", "targets/x86_64-linux/lib"):
        for top in tops:
            if (path := Path(top, folder, name)).exists():
                return path.resolve()
    pytest.skip(f"{name} is not beside nvcc")


RUN = """
import ctypes, gc, os, sys
import tvm_ffi
import tvm_ffi_object_loader as tol

how, library, *objects = sys.argv[1:]
if how == "in the process":
    ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    given = objects
elif how == "first":
    given = objects
else:
    given = [*objects, library]


def mapped():
    lines = open("/proc/self/maps").read().splitlines()
    # Once it has been used, the runtime leaves a part of its file mapped, also when dlclosed.
    return sum("cudart" in line and "x" in line.split()[1] for line in lines), len(lines)


def state():
    statm = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "libraries": mapped()[0],
        "mappings": mapped()[1],
        "resident": statm,
        **session.stats().as_dict(),
    }


def outcome(function):
    try:
        return function(3)
    except RuntimeError as error:
        return type(error).__name__, str(error)


def load():
    order = [library] if how == "first" else []
    return session.load(given, link_order=order)


session = tol.Session()
dylib = load()
result = outcome(dylib["launch"])
assert outcome(dylib["launch"]) == result
dylib.close()
del dylib
for _ in range(10):
    assert outcome(load()["launch"]) == result
gc.collect()
before = state()
for _ in range(100):
    assert outcome(load()["launch"]) == result
gc.collect()
print({"outcome": result, "before": before, "after": state()})
"""
DEVICES = """
import ctypes, sys
runtime = ctypes.CDLL(sys.argv[1])
runtime.cudaGetErrorString.restype = ctypes.c_char_p
count = ctypes.c_int()
error = runtime.cudaGetDeviceCount(ctypes.byref(count))
print(repr((count.value, runtime.cudaGetErrorString(error).decode())))
"""


def run(run_script: RunScript, how: str, library: Path, objects: list[Path]) -> dict[str, Any]:
    found: dict[str, Any] = ast.literal_eval(run_script(RUN, how, library, *objects))
    devices, error = ast.literal_eval(run_script(DEVICES, runtime("libcudart.so")))
    assert found["outcome"] == (1030 if devices > 0 else ("RuntimeError", error))
    return found


def check_that_nothing_is_left(found: dict[str, Any]) -> None:
    before, after = found["before"], found["after"]
    for key in ("files", "threads", "libraries", "bytes_code", "bytes_data", "objects", "retained"):
        assert after[key] == before[key], key
    assert after["bytes_code"] == after["retained"] == 0
    assert after["mappings"] - before["mappings"] < 10
    assert after["resident"] - before["resident"] < 4 << 20


@pytest.mark.parametrize("how", matrix_but(["beside", "first", "in the process"], "first"))
@pytest.mark.parametrize("objects", ["plain", "relocatable"])
def test_runtime_as_a_library(
    request: pytest.FixtureRequest, run_script: RunScript, objects: str, how: str
) -> None:
    found = run(run_script, how, runtime("libcudart.so"), request.getfixturevalue(objects))
    # NVIDIA's runtime uses threads, so it stays, once.
    assert found["after"]["libraries"] > 0
    found["before"]["libraries"] = found["after"]["libraries"]
    check_that_nothing_is_left(found)


@pytest.mark.parametrize("objects", ["plain", "relocatable"])
def test_runtime_as_an_archive(
    request: pytest.FixtureRequest, run_script: RunScript, objects: str
) -> None:
    """Each load has a runtime of its own."""
    found = run(
        run_script, "beside", runtime("libcudart_static.a"), request.getfixturevalue(objects)
    )
    check_that_nothing_is_left(found)


def test_device_code_that_is_not_linked(session: tol.Session, relocatable: list[Path]) -> None:
    with pytest.raises(tol.UndefinedSymbolError, match="nvcc -dlink") as caught:
        session.load([*relocatable[:-1], runtime("libcudart.so")])
    assert len(caught.value.symbols) == 2
    assert all(name.startswith("__cudaRegisterLinkedBinary_") for name in caught.value.symbols)
    assert "libcudart" not in str(caught.value).replace(str(runtime("libcudart.so")), "")
