# SPDX-License-Identifier: Apache-2.0
"""The functions through which TVM and jax-tvm-ffi load objects."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript

DEFAULT = "tvm_ffi_orcjit.GlobalDefaultSession"
LOAD = "tvm_ffi_orcjit.SessionLoadModule"

# As they do it: natively, from a thread of their own too.
USER = """
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/tvm_ffi.h>
#include <thread>
namespace ffi = tvm::ffi;
static ffi::Module Load(ffi::Bytes content, bool with_runtimes) {
  auto get = *ffi::Function::GetGlobal("tvm_ffi_orcjit.GlobalDefaultSession");
  auto session = get().cast<ffi::ObjectRef>();
  auto load = *ffi::Function::GetGlobal("tvm_ffi_orcjit.SessionLoadModule");
  ffi::Array<ffi::Any> objects{content};
  if (!with_runtimes) return load(session, objects, ffi::String()).cast<ffi::Module>();
  return load(session, objects, ffi::String(), ffi::String("libstdc++.so.6"), nullptr)
      .cast<ffi::Module>();
}
static int64_t Add(ffi::Bytes content, int64_t a, int64_t b) {
  int64_t sum = 0;
  std::thread([&] {
    ffi::Function add = Load(content, false)->GetFunction("add").value();
    sum = add(a, b).cast<int64_t>();
  }).join();
  return sum;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(load, Load)
TVM_FFI_DLL_EXPORT_TYPED_FUNC(add, Add)
"""


@pytest.fixture
def registration() -> Iterator[tol.OrcjitRegistration]:
    with tol.register_as_orcjit() as registration:
        yield registration


def load(*arguments: Any) -> tvm_ffi.Module:
    session = tvm_ffi.get_global_func(DEFAULT)()
    module: tvm_ffi.Module = tvm_ffi.get_global_func(LOAD)(session, *arguments)
    return module


@pytest.mark.usefixtures("registration")
@pytest.mark.parametrize("rest", [("",), (None,), ("", None, None), ("", "libstdc++.so", "x.a")])
def test_paths_and_contents_are_loaded(
    rest: tuple[object, ...], compile: Compiler, add_object: Path
) -> None:
    other = compile('#include "safe_call.h"\nEXPORT(three) { RETURN(3); }\n')
    module = load([str(add_object), other.read_bytes()], *rest)
    assert isinstance(module, tvm_ffi.Module)
    assert (module.add(1, 2), module.three()) == (3, 3)
    assert type(module.add) is type(tol.load_module(add_object).add)


@pytest.mark.usefixtures("registration")
def test_native_code_loads_in_any_thread(compile: Compiler, add_object: Path) -> None:
    user = compile.dlopen(compile.cxx(USER))
    content = add_object.read_bytes()
    assert user.add(content, 2, 3) == 5
    for with_runtimes in (True, False):
        assert user.load(content, with_runtimes).add(2, 3) == 5


@pytest.mark.usefixtures("registration")
def test_names(add_object: Path) -> None:
    first, second = load([str(add_object)], "orcjit"), load([str(add_object)], "orcjit")
    assert first.add(1, 2) == second.add(1, 2) == 3
    assert tol.default_session()["orcjit"].module == second


def test_another_session(compile: Compiler, add_object: Path) -> None:
    library = compile.link(compile("long from_library(void) { return 77; }\n", "-fPIC"))
    source = '#include "safe_call.h"\nint64_t from_library(void);\n'
    needs = compile(source + "EXPORT(ask) { RETURN(from_library()); }\n")
    with tol.Session(libraries=[library]) as session:
        with tol.register_as_orcjit(session):
            module = load([str(needs)], "")
            assert module.ask() == 77
            assert len(session.dylibs) == 1
        session.close()
        with pytest.raises(tol.SessionClosedError):
            module.ask()
    with tol.register_as_orcjit(session), pytest.raises(tol.SessionClosedError):
        load([str(add_object)], "")


@pytest.mark.usefixtures("registration")
def test_errors_have_their_types(compile: Compiler, tmp_path: Path) -> None:
    missing = compile("int missing(void);\nint f(void) { return missing(); }\n", "-fPIC")
    with pytest.raises(tol.UndefinedSymbolError, match="missing"):
        load([str(missing)], "")
    with pytest.raises(tol.ObjectFormatError):
        load([b"nothing"], "")
    with pytest.raises(RuntimeError, match=r"absent\.o: No such file"):
        load([str(tmp_path / "absent.o")], "")
    with pytest.raises(TypeError, match="paths"):
        load([5], "")
    with pytest.raises(TypeError, match="a session, objects and a name"):
        tvm_ffi.get_global_func(LOAD)()


def test_what_was_there_before_comes_back(run_script: RunScript, add_object: Path) -> None:
    script = """
import sys
import tvm_ffi
import tvm_ffi_object_loader as tol

sys.modules["tvm_ffi_orcjit"] = None  # as if it were not installed
DEFAULT, LOAD = "tvm_ffi_orcjit.GlobalDefaultSession", "tvm_ffi_orcjit.SessionLoadModule"
now = lambda: [tvm_ffi.get_global_func(name, allow_missing=True) for name in (DEFAULT, LOAD)]

assert now() == [None, None]
with tol.register_as_orcjit() as registration:
    assert None not in now()
assert now() == [None, None]
registration.undo()

tvm_ffi.register_global_func(DEFAULT, lambda: "theirs")
first = tol.register_as_orcjit()
second = tol.register_as_orcjit(tol.Session())
second.undo()
load = tvm_ffi.get_global_func(LOAD)
assert load(None, [sys.argv[1]], "").add(1, 2) == 3
assert tol.default_session().stats().loads == 1
first.undo()
assert now()[0]() == "theirs"
assert now()[1] is None

# Somebody else's is left alone.
third = tol.register_as_orcjit()
tvm_ffi.register_global_func(LOAD, lambda *arguments: "others", override=True)
third.undo()
assert now()[0]() == "theirs"
assert now()[1]() == "others"
"""
    run_script(script, add_object)


@pytest.mark.skipif(
    importlib.util.find_spec("tvm_ffi_orcjit") is None,
    reason="apache-tvm-ffi-orcjit is not installed",
)
def test_beside_the_package_of_that_name(run_script: RunScript, add_object: Path) -> None:
    script = """
import sys
import tvm_ffi
import tvm_ffi_object_loader as tol

load = lambda: tvm_ffi.get_global_func("tvm_ffi_orcjit.SessionLoadModule")
session = lambda: tvm_ffi.get_global_func("tvm_ffi_orcjit.GlobalDefaultSession")()
with tol.register_as_orcjit():
    import tvm_ffi_orcjit

    theirs = tvm_ffi_orcjit.default_session()
    for given in (session(), theirs):
        assert load()(given, [sys.argv[1]], "").add(1, 2) == 3
    assert tol.default_session().stats().loads == 2
assert load()(session(), [sys.argv[1]], "", None, None).add(1, 2) == 3
assert tol.default_session().stats().loads == 2
"""
    run_script(script, add_object)


def test_in_many_threads(registration: tol.OrcjitRegistration, add_object: Path) -> None:
    results: list[int] = []

    def work() -> None:
        for _ in range(25):
            results.append(load([add_object.read_bytes()], "threads").add(1, 2))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [3] * 100
    registration.undo()


def test_it_takes_a_session() -> None:
    with pytest.raises(TypeError, match="session must be a Session, not str"):
        tol.register_as_orcjit("session")  # type: ignore[arg-type]
