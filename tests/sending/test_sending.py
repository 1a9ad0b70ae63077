# SPDX-License-Identifier: Apache-2.0
"""Functions of objects in worker processes: of multiprocessing, joblib, cloudpickle, Dask and Ray.

Nothing is left behind: no process, no shared memory, no file.
"""

from __future__ import annotations

import contextlib
import pickle
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript
from packages import requires

SOURCE = """
#include "safe_call.h"
static int64_t calls;
EXPORT(add) { ++calls; RETURN(INT(0) + INT(1)); }
EXPORT(calls) { RETURN(calls); }
"""


MARK = "OBJECT_LOADER_TEST"  # of the processes that a test starts


@pytest.fixture
def path(compile: Compiler) -> Path:
    return compile(SOURCE, name="workers")


def processes(mark: str) -> list[str]:
    """Return the commands of the processes in whose environment the mark is."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is not ours
            if f"{MARK}={mark}".encode() in process.joinpath("environ").read_bytes().split(b"\0"):
                found.append(process.joinpath("cmdline").read_text())
    return found


def shared_memory() -> set[str]:
    """Return the names of what lies in shared memory, but for what none of these makes."""
    return {path.name for path in Path("/dev/shm").iterdir() if not path.name.startswith("psm_")}


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give what makes temporary files a folder of their own, and look for what stays."""
    monkeypatch.setenv(MARK, str(tmp_path))
    shared = shared_memory()
    # Sockets lie there, whose paths may not be long.
    with tempfile.TemporaryDirectory(prefix="sending", dir="/tmp") as name:
        monkeypatch.setenv("TMPDIR", name)
        yield
        # Those that were told to end may take a moment; and so do other tests' shared memory.
        until = time.monotonic() + 60
        while left(str(tmp_path), shared) and time.monotonic() < until:
            time.sleep(0.05)
        assert left(str(tmp_path), shared) == []
        assert list(Path(name).iterdir()) == []


def left(mark: str, shared: set[str]) -> list[str]:
    return [*map(str, processes(mark)), *shared_memory() - shared]


MULTIPROCESSING = """
import multiprocessing, os, sys
import tvm_ffi_object_loader as tol


def work(function, module, number):
    from tvm_ffi_object_loader import _received

    session = _received._session
    loads = 0 if session is None else session.stats().loads
    return os.getpid(), function(number, 1), module.add(number, 2), loads, function


if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[2])
    module = tol.load_module(sys.argv[1])
    with context.Pool(2) as pool:
        results = pool.starmap(work, [(module.add, module, number) for number in range(20)], 1)
        pool.close()
        pool.join()
    assert os.getpid() not in {result[0] for result in results}
    assert [result[1:3] for result in results] == [(n + 1, n + 2) for n in range(20)]
    assert all(result[4] == module.add for result in results)
    print({result[3] for result in results})
"""


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_multiprocessing(run_script: RunScript, path: Path, method: str) -> None:
    loads = "{0}" if method == "fork" else "{1}"
    assert run_script(MULTIPROCESSING, path, method) == f"{loads}\n"


EXECUTOR = """
import concurrent.futures, multiprocessing, sys
import tvm_ffi, tvm_ffi_object_loader as tol


def call(function, *arguments):
    return function(*arguments)


if __name__ == "__main__":
    path, method = sys.argv[1:3]
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        dylib = tol.Session().load(path)
        print(list(pool.map(dylib["add"], range(3), range(3))))
        # Its variables live as long as the worker has it.
        print(pool.submit(dylib["calls"]).result(), dylib["calls"]())
        kept = tol.Session(picklable=True).load(open(path, "rb").read())
        print(pool.submit(call, kept["calls"]).result())
        for bad in (
            tol.Session().load(open(path, "rb").read())["add"],
            tvm_ffi.get_global_func("ffi.ModuleGetKind"),
            tol.Session(),
        ):
            try:
                pool.submit(call, bad).result()
            except TypeError as error:
                print(" ".join(str(error).split()[-6:]))
        try:
            pool.submit(call, dylib["add"], 1, "x").result()
        except TypeError as error:
            print("called")
        print(pool.submit(call, dylib["add"], 20, 22).result())
"""


def test_an_executor(run_script: RunScript, compile: Compiler) -> None:
    source = SOURCE.replace(
        "EXPORT(add) {",
        """EXPORT(add) {
  if (args[1].type_index != kTVMFFIInt) {
    TVMFFIErrorSetRaisedFromCStr("TypeError", "no integer");
    return -1;
  }""",
    )
    assert run_script(EXECUTOR, compile(source), "spawn").splitlines() == [
        "[0, 2, 4]",
        "3 0",
        "3",  # the same bytes are one dylib there
        "or into a session with picklable=True",
        "get those that have a name",
        "which bring all that they need",
        "called",
        "42",
    ]


JOBLIB = """
import os, sys
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
import tvm_ffi_object_loader as tol

if __name__ == "__main__":
    add = tol.load_module(sys.argv[1]).add
    twice = lambda number: (add(number, number), os.getpid())
    with Parallel(n_jobs=2) as parallel:
        print(parallel(delayed(add)(number, 1) for number in range(5)))
        results = parallel(delayed(twice)(number) for number in range(5))
    print([result for result, _ in results], os.getpid() in {pid for _, pid in results})
    get_reusable_executor().shutdown(wait=True)
"""


@requires("joblib", "joblib")
def test_joblib(run_script: RunScript, path: Path) -> None:
    found = run_script(JOBLIB, path)
    assert found == "[1, 2, 3, 4, 5]\n[0, 2, 4, 6, 8] False\n"


@requires("joblib", "joblib")
def test_joblib_tells_functions_apart_by_their_objects(
    run_script: RunScript, path: Path, tmp_path: Path
) -> None:
    script = """
import sys
import joblib
import tvm_ffi_object_loader as tol
module = tol.load_module(sys.argv[1])
print(joblib.hash(module.add), joblib.hash(module.calls), joblib.hash([module.add, 1]))
"""
    found = {run_script(script, path) for _ in range(2)}
    assert len(found) == 1
    assert len(set(found.pop().split())) == 3


@requires("cloudpickle", "cloudpickle")
def test_cloudpickle(
    run_script: RunScript, session: tol.Session, path: Path, tmp_path: Path
) -> None:
    import cloudpickle

    dylib = session.load(path)
    add = dylib["add"]

    def closure(number: int) -> int:
        return int(add(number, dylib["add"](1, 1)))

    main: dict[str, Any] = {"__name__": "__main__", "add": add}
    exec("class Kernel:\n  def __call__(self, n): return add(n, 5)\n", main)
    data = cloudpickle.dumps([closure, main["Kernel"](), lambda n: add(n, 1)])
    assert data.count(path.read_bytes()) == 1
    assert [function(1) for function in pickle.loads(data)] == [3, 6, 2]
    (tmp_path / "pickled").write_bytes(data)
    script = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    functions = pickle.load(file)
print([function(1) for function in functions])
"""
    assert run_script(script, tmp_path / "pickled") == "[3, 6, 2]\n"


DASK = """
import logging, os, sys
import dask, distributed
import tvm_ffi_object_loader as tol


def twice(function, number):
    return function(number, number), os.getpid()


if __name__ == "__main__":
    dask.config.set({"distributed.worker.profile.enabled": False})
    module = tol.load_module(sys.argv[1])
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1",
        dashboard_address=None,
    ) as cluster, distributed.Client(cluster) as client:
        print(client.gather(client.map(module.add, range(4), range(4))))
        results = client.gather([client.submit(twice, module.add, n) for n in range(8)])
        print([result for result, _ in results], os.getpid() in {pid for _, pid in results})
        (scattered,) = client.scatter([module.add], broadcast=True)
        print(client.submit(lambda function: function(20, 22), scattered).result())
        print(client.submit(lambda: module).result() == module)
        print(dask.delayed(module.add)(3, 4).compute())
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        try:
            bad = tol.Session().load(open(sys.argv[1], "rb").read())["add"]
            client.submit(bad, 1, 2).result()
        except TypeError as error:
            print("with picklable=True" in str(error) + str(error.__cause__))
"""


@requires("distributed", "distributed")
def test_dask(run_script: RunScript, path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dask"
    found = run_script(DASK, path, folder, DASK_TEMPORARY_DIRECTORY=str(folder))
    assert found.splitlines() == [
        "[0, 2, 4, 6]",
        "[0, 2, 4, 6, 8, 10, 12, 14] False",
        "42",
        "True",
        "7",
        "True",
    ]


TOKENS = """
import sys
import tvm_ffi, tvm_ffi_object_loader as tol
from dask.base import tokenize

path, other = sys.argv[1:3]
dylib = tol.Session().load(path)
plain = tvm_ffi.Module.get_function.__wrapped__(dylib.module, "add")
loader = tol.ObjectLoader().load(other)
add = dylib["add"]
for one in (
    add, dylib["calls"], dylib.module, dylib, loader, loader["add"], [add, 1],
    plain, lambda n: add(n, 1),
):
    print(tokenize(one, ensure_deterministic=True))
"""


@requires("dask", "dask")
def test_tokens_are_the_same_in_every_process(
    run_script: RunScript, path: Path, add_object: Path
) -> None:
    found = {run_script(TOKENS, path, add_object) for _ in range(2)}
    assert len(found) == 1
    tokens = found.pop().split()
    assert len(set(tokens)) == len(tokens) == 9


@requires("dask", "dask")
def test_tokens_of_what_cannot_be_sent(session: tol.Session, path: Path) -> None:
    import tvm_ffi
    from dask.base import tokenize
    from dask.tokenize import TokenizationError

    dylib = session.load(path.read_bytes())
    for one in (dylib, dylib["add"], dylib.module, tvm_ffi.get_global_func("ffi.ModuleGetKind")):
        assert tokenize(one) != tokenize(one)
        with pytest.raises(TokenizationError):
            tokenize(one, ensure_deterministic=True)


@requires("dask", "dask")
def test_tokens_of_the_same_objects(session: tol.Session, path: Path, compile: Compiler) -> None:
    from dask.base import tokenize

    other = compile("int unused;\n")

    first, second = session.load(path, name="one"), session.load(path, name="two")
    assert tokenize(first) == tokenize(second)
    assert tokenize(first["add"]) == tokenize(second["add"])
    assert tokenize(first["add"]) != tokenize(first["calls"])
    before = tokenize(second)
    second.load(other)
    assert tokenize(second) != before


RAY = """
import os, sys
import ray
import tvm_ffi_object_loader as tol

module = tol.load_module(sys.argv[1])
add = module.add
ray.init(
    address="local", num_cpus=2, num_gpus=0, object_store_memory=80 << 20, include_dashboard=False,
    log_to_driver=False, logging_level="error", configure_logging=False,
    _temp_dir=sys.argv[2],
)
assert ray.util.get_node_ip_address() == "127.0.0.1"


@ray.remote
def closure(number):
    return add(number, 1), os.getpid()


@ray.remote
def call(function, *arguments):
    return function(*arguments)


@ray.remote
class Kernel:
    def __init__(self, function):
        self.function = function

    def call(self, *arguments):
        return self.function(*arguments)


results = ray.get([closure.remote(number) for number in range(6)])
print([result for result, _ in results], os.getpid() in {pid for _, pid in results})
print(ray.get([call.remote(add, 1, 2), call.remote(ray.put(add), 3, 4)]))
kernel = Kernel.remote(module.add)
print(ray.get([kernel.call.remote(n, n) for n in range(3)]))
print(ray.get(ray.put(module)) == module, ray.get(call.remote(lambda: add)) == add)
try:
    ray.put(tol.Session().load(open(sys.argv[1], "rb").read())["add"])
except TypeError as error:
    print("picklable=True" in str(error) + str(error.__cause__))
ray.shutdown()
"""


# The last one lets it listen on the loopback interface alone, as on the systems in its name.
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}


@requires("ray", "ray")
def test_ray(run_script: RunScript, path: Path) -> None:
    # Sockets lie there, whose paths may not be long.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        found = run_script(RAY, path, folder, **RAY_ENVIRONMENT, TMPDIR=folder)
    assert found.splitlines() == [
        "[1, 2, 3, 4, 5, 6] False",
        "[3, 7]",
        "[0, 2, 4]",
        "True True",
        "True",
    ]
