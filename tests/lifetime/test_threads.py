# SPDX-License-Identifier: Apache-2.0
"""Loading, looking up, calling, dropping and closing from many threads at once."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript
from threads import THREADS, run_in_threads

NUMBERED = """
#include "safe_call.h"
#include <stdexcept>
static int64_t numbers[] = {NUMBER, 2, 3};
struct Static { int64_t value; Static() : value(10) {} ~Static() { value = 0; } };
static Static object;
EXPORT(f_NUMBER) {
  try {
    if (INT(0) < 0) throw std::runtime_error("negative");
  } catch (const std::exception&) {
    RETURN(-1);
  }
  RETURN(numbers[0] + object.value + INT(0));
}
"""


@pytest.fixture(scope="module")
def numbered(compile: Compiler) -> list[Path]:
    """Return one object for each thread, which exports ``f_<number>``."""
    return [
        compile.cxx(NUMBERED.replace("NUMBER", str(number)), name=f"f{number}")
        for number in range(THREADS)
    ]


def check(function: tvm_ffi.Function, number: int) -> None:
    assert function(5) == number + 15
    assert function(-1) == -1


def test_load_call_and_drop_in_one_session(session: tol.Session, numbered: list[Path]) -> None:
    def work(number: int) -> None:
        for _ in range(50):
            dylib = session.load(numbered[number])
            assert dylib.functions == [f"f_{number}"]
            check(dylib[f"f_{number}"], number)

    before = session.stats().as_dict()
    run_in_threads(work)
    gc.collect()
    after = session.stats().as_dict()
    for key in ("dylibs", "objects", "symbols", "bytes_code", "bytes_data"):
        assert after[key] == before[key]


def test_sessions_in_many_threads(numbered: list[Path]) -> None:
    def work(number: int) -> None:
        for _ in range(20):
            with tol.Session() as session:
                function = session.load(numbered[number])[f"f_{number}"]
                check(function, number)
            with pytest.raises(tol.SessionClosedError):
                function(1)

    run_in_threads(work)


def test_load_into_one_dylib(session: tol.Session, numbered: list[Path]) -> None:
    for _ in range(10):
        dylib = session.create_dylib()

        def work(number: int, dylib: tol.Dylib = dylib) -> None:
            dylib.load(numbered[number])
            check(dylib[f"f_{number}"], number)

        run_in_threads(work)
        assert dylib.functions == sorted(f"f_{number}" for number in range(THREADS))
        for number in range(THREADS):
            check(dylib[f"f_{number}"], number)


def test_one_of_many_loads_of_the_same_symbol_wins(
    session: tol.Session, numbered: list[Path]
) -> None:
    for _ in range(10):
        dylib = session.create_dylib()
        outcomes: list[str] = []

        def work(_: int, dylib: tol.Dylib = dylib, outcomes: list[str] = outcomes) -> None:
            try:
                dylib.load(numbered[0])
                outcomes.append("loaded")
            except tol.DuplicateSymbolError:
                outcomes.append("duplicate")

        run_in_threads(work)
        assert sorted(outcomes) == ["duplicate"] * (THREADS - 1) + ["loaded"]
        check(dylib["f_0"], 0)


def test_one_of_many_threads_gets_a_name(session: tol.Session, numbered: list[Path]) -> None:
    winners: list[tol.Dylib] = []
    losers: list[str] = []

    def work(number: int) -> None:
        try:
            winners.append(session.load(numbered[number], name="wanted"))
        except tol.ObjectLoaderError as error:
            losers.append(str(error))

    run_in_threads(work)
    assert len(winners) == 1
    assert all("wanted" in message for message in losers)
    assert session["wanted"] is winners[0]


def test_lookups_and_calls_while_others_load_and_drop(
    session: tol.Session, numbered: list[Path]
) -> None:
    kept = session.load(numbered[0])
    function = kept["f_0"]

    def work(number: int) -> None:
        for _ in range(100):
            if number % 2:
                check(session.load(numbered[number])[f"f_{number}"], number)
            else:
                check(function, 0)
                check(kept["f_0"], 0)
                check(kept.module.get_function("f_0"), 0)
                assert kept.lookup("__tvm_ffi_f_0")
                with pytest.raises(tol.FunctionNotFoundError):
                    kept.get_function("f_1")
                assert session.stats().dylibs >= 1
                assert kept.name in session.dylibs

    run_in_threads(work)


def test_failing_loads_beside_good_ones(session: tol.Session, numbered: list[Path]) -> None:
    def work(number: int) -> None:
        for _ in range(50):
            if number % 2:
                with pytest.raises(tol.ObjectFormatError):
                    session.load(b"no object")
            else:
                check(session.load(numbered[number])[f"f_{number}"], number)

    run_in_threads(work)


def test_dropping_in_another_thread(session: tol.Session, numbered: list[Path]) -> None:
    loaded = [session.load(path) for path in numbered]
    functions = [dylib[f"f_{number}"] for number, dylib in enumerate(loaded)]
    loaded.clear()

    def work(number: int) -> None:
        check(functions[number], number)
        functions[number] = functions[0] if number else functions[number]

    run_in_threads(work)
    check(functions[0], 0)
    functions.clear()
    assert session.stats().objects == 0


def test_calls_of_one_function_run_side_by_side(session: tol.Session, compile: Compiler) -> None:
    """Two calls that each wait for the other: there is no lock around a call."""
    source = """
    #include "safe_call.h"
    #include <unistd.h>
    static volatile int64_t arrived;
    EXPORT(meet) {
      __atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST);
      for (int i = 0; i < 30000 && arrived < 2; ++i) usleep(1000);
      RETURN(arrived);
    }
    """
    function = session.load(compile(source))["meet"]
    results: list[int] = []
    run_in_threads(lambda _: results.append(function()), count=2)
    assert results == [2, 2]


CLOSE_DURING_CALL = """
import ctypes, sys, threading
import tvm_ffi_object_loader as tol

flag = (ctypes.c_int64 * 2)()
session = tol.Session()
dylib = session.load(sys.argv[1])
function = dylib["wait"]
results, outcomes = [], []


def close():
    try:
        (dylib if sys.argv[2] == "dylib" else session).close()
        outcomes.append("closed")
    except tol.ObjectLoaderError:
        outcomes.append("refused")
        flag[1] = 1


caller = threading.Thread(target=lambda: results.append(function(ctypes.addressof(flag))))
closer = threading.Thread(target=close)
caller.start()
while not flag[0]:
    pass
closer.start()
closer.join(0.2)  # either it waits for the call, or it is over
flag[1] = 1
caller.join()
closer.join()
assert results == [1], results
if outcomes == ["refused"]:
    session.close()
try:
    function(ctypes.addressof(flag))
except tol.SessionClosedError:
    print(outcomes[0] in ("closed", "refused"))
"""
WAIT = """
#include "safe_call.h"
#include <unistd.h>
EXPORT(wait) {
  volatile int64_t* flag = (int64_t*)INT(0);
  flag[0] = 1;
  for (int i = 0; i < 30000 && !flag[1]; ++i) usleep(1000);
  RETURN(flag[1]);
}
"""


@pytest.mark.parametrize("what", ["dylib", "session"])
def test_closing_during_a_call_waits_or_is_refused(
    compile: Compiler, run_script: RunScript, what: str
) -> None:
    assert run_script(CLOSE_DURING_CALL, compile(WAIT), what, timeout=120) == "True\n"


CLOSE_IN_CALL = """
import sys
import tvm_ffi_object_loader as tol

session = tol.Session()
dylib = session.load(sys.argv[1])
call_back = dylib["call_back"]


def close():
    try:
        dylib.close()
    except tol.ObjectLoaderError as error:
        print("refused", flush=True)
    else:
        print("closed", flush=True)


print(call_back(close))
session.close()
try:
    call_back(close)
except tol.SessionClosedError:
    print("end")
"""


def test_a_call_that_closes_its_own_dylib_does_not_crash(
    compile: Compiler, run_script: RunScript
) -> None:
    source = """
    #include "safe_call.h"
    EXPORT(call_back) {
      TVMFFIAny result = {0};
      if (TVMFFIFunctionCall(args[0].v_obj, 0, 0, &result)) return -1;
      RETURN(5);
    }
    """
    output = run_script(CLOSE_IN_CALL, compile(source), timeout=120).split()
    assert output[0] in ("refused", "closed")
    assert output[1:] == ["5", "end"]
