# SPDX-License-Identifier: Apache-2.0
"""What is pickled and what pickles hold: in the same process it is what it was, without a link."""

from __future__ import annotations

import copy
import gc
import io
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript, Trace
from embedded_modules import USES_IMPORTS, library_bin
from releases import needs
from traced import USER
from tvm_ffi_object_loader import _native

pytestmark = pytest.mark.usefixtures("nothing_received")

PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)


def again(value: Any, protocol: int | None = None) -> Any:
    return pickle.loads(pickle.dumps(value, protocol))


def owner(function: Any) -> _native.Dylib:
    found = _native.owner_of(function)
    assert found is not None
    return found[0]


def test_nothing_of_it_is_imported_before_it_is_needed(run_script: RunScript) -> None:
    script = """
import sys
import tvm_ffi
before = set(sys.modules)
import tvm_ffi_object_loader
imported = set(sys.modules) - before
own = ("transport", "recipes", "_received", "keys")
print(imported & {"pickle", "hashlib", "dask", *(f"tvm_ffi_object_loader.{name}" for name in own)})
"""
    assert run_script(script) == "set()\n"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_round_trip(session: tol.Session, add_object: Path, protocol: int) -> None:
    dylib = session.load(add_object)
    function = again(dylib["add"], protocol)
    assert function == dylib["add"]
    assert type(function) is type(dylib["add"])
    assert function(1, 2) == 3
    assert again(dylib, protocol) is dylib
    assert again(dylib.module, protocol) == dylib.module
    assert again([dylib, session.dylibs], protocol) == [dylib, session.dylibs]
    assert session.stats().loads == 1


def test_a_loader(add_object: Path) -> None:
    with tol.ObjectLoader().load(add_object) as loader:
        restored = again(loader)
        assert type(restored) is tol.ObjectLoader
        assert restored.dylib is loader.dylib


def test_a_function_of_a_session_that_nobody_has(add_object: Path) -> None:
    function = tol.Session("gone").load(add_object, name="d")["add"]
    gc.collect()
    assert again(function) == function


def test_a_dylib_of_a_session_that_nobody_has(session: tol.Session, add_object: Path) -> None:
    function = tol.Session("gone").load(add_object, name="d")["add"]
    data = pickle.dumps(tol.Session._of(owner(function).session)["d"])
    gc.collect()
    dylib = pickle.loads(data)
    assert dylib["add"] == function
    assert dylib.session.name == "gone"
    assert dylib.session is again(dylib).session


def plain(dylib: tol.Dylib, name: str) -> tvm_ffi.Function:
    """Return a function as tvm-ffi makes it."""
    function = tvm_ffi.Module.get_function.__wrapped__(dylib.module, name)  # type: ignore[attr-defined]
    assert type(function) is tvm_ffi.Function
    return function


def test_a_function_of_tvm_ffis_own_class(session: tol.Session, add_object: Path) -> None:
    function = plain(session.load(add_object), "add")
    assert again(function)(1, 2) == 3
    assert again([function, function])[0] is not None
    assert copy.copy(function) is function
    assert copy.deepcopy([function])[0] is function


@pytest.mark.parametrize("first", ["_lib", "test_factor"])
def test_embedded_modules(
    session: tol.Session, compile: Compiler, factor_kind: str, first: str
) -> None:
    parts: list[tuple[str, bytes | None]] = [("_lib", None), (factor_kind, b"10")]
    if first != "_lib":
        parts.reverse()
    dylib = session.load(compile(USES_IMPORTS + library_bin([[1], []], parts)))
    root = dylib.module
    (imported,) = root.imports
    assert again(root) == root
    own, other = (root, imported) if first == "_lib" else (imported, root)
    assert again(own) == own
    assert again(own).context() == 1
    assert other.factor_10() == 10
    data = pickle.dumps((own, root))
    del dylib, root, imported, own, other
    gc.collect()
    own, root = pickle.loads(data)  # made anew
    assert own.context() == 1
    assert root.get_function("factor_10", query_imports=True)() == 10


def test_modules_imported_by_hand(
    session: tol.Session, compile: Compiler, add_object: Path
) -> None:
    module = session.load_module(add_object, name="d")
    module.import_module(session.load_module(add_object))
    with pytest.raises(TypeError, match=r"module of dylib 'd' .* import_module; pickle these"):
        pickle.dumps(module)
    assert again(module.add) == module.add


def test_functions_that_are_equal(
    session: tol.Session, compile: Compiler, add_object: Path
) -> None:
    two = compile('#include "safe_call.h"\nEXPORT(a) { RETURN(1); }\nEXPORT(b) { RETURN(2); }\n')
    dylib, other = session.load(two), session.load(two)
    assert dylib["a"] == dylib["a"] == dylib.module.a
    assert (dylib["a"] != dylib["a"]) is False
    assert hash(dylib["a"]) == hash(dylib.module.a)
    assert dylib["a"] != dylib["b"]
    assert dylib["a"] != other["a"]
    assert dylib["a"] not in (None, "a", len, tvm_ffi.get_global_func("ffi.ModuleGetKind"))
    assert len({dylib["a"], dylib["a"], dylib["b"], other["a"]}) == 3
    assert {dylib["a"]: 1}[dylib["a"]] == 1
    with pytest.raises(TypeError):
        dylib["a"] < dylib["b"]  # type: ignore[operator]  # noqa: B015
    held = dylib["a"], dylib["a"]
    dylib.close()
    assert held[0] == held[1]
    assert hash(held[0]) == hash(held[1])


def test_copies_are_the_thing_itself(session: tol.Session, add_object: Path) -> None:
    dylib = session.load(add_object.read_bytes())  # which cannot be pickled
    for one in (dylib["add"], dylib.module, dylib, session):
        assert copy.copy(one) is one
        assert copy.deepcopy({"one": [one]})["one"][0] is one


def test_copies_of_what_others_have_loaded(compile: Compiler, add_object: Path) -> None:
    module = compile.dlopen(add_object)
    for one in (module, module.add, tvm_ffi.get_global_func("ffi.ModuleGetKind")):
        assert copy.copy(one) is one
        assert copy.deepcopy([one])[0] is one


def test_a_thousand_functions_hold_the_bytes_once(session: tol.Session, compile: Compiler) -> None:
    exports = "".join(f"EXPORT(f{i}) {{ RETURN({i}); }}\n" for i in range(1000))
    path = compile(f'#include "safe_call.h"\n{exports}', "-O1", "-fPIC")
    dylib = session.load(path)
    functions = [dylib[name] for name in dylib]
    data = pickle.dumps([functions, dylib, dylib.module])
    assert data.count(path.read_bytes()) == 1
    assert len(data) < path.stat().st_size + 40_000
    assert pickle.loads(data) == [functions, dylib, dylib.module]


BASE = (
    '#include "safe_call.h"\nint64_t base(void) { return 40; }\nEXPORT(base) { RETURN(base()); }\n'
)
MIDDLE = """
#include "safe_call.h"
int64_t base(void);
int64_t NAME(void) { return base() + N; }
EXPORT(NAME) { RETURN(NAME()); }
"""
TOP = """
#include "safe_call.h"
int64_t left(void);
int64_t right(void);
EXPORT(top) { RETURN(left() * right()); }
"""


def diamond(session: tol.Session, compile: Compiler) -> tol.Dylib:
    base = session.load(compile(BASE), name="base")
    left, right = (
        session.load(
            compile(MIDDLE, "-O1", "-fPIC", f"-DNAME={name}", f"-DN={number}"),
            name=name,
            link_order=[base],
        )
        for name, number in (("left", 1), ("right", 2))
    )
    return session.load(compile(TOP), name="top", link_order=[left, right, base])


def test_a_link_order_that_meets_again(session: tol.Session, compile: Compiler) -> None:
    top = diamond(session, compile)
    data = pickle.dumps([top["top"], session["left"], session["base"]["base"]])
    assert data.count(compile(BASE).read_bytes()) == 1
    assert pickle.loads(data) == [top["top"], session["left"], session["base"]["base"]]
    session.close()
    function, left, base = pickle.loads(data)  # linked anew
    assert function() == 41 * 42
    (received,) = left.link_order
    assert received["base"] == base
    assert received.name == "base"


def test_the_same_object_with_another_link_order(session: tol.Session, compile: Compiler) -> None:
    flags = ("-O1", "-fPIC", "-DNAME=sum", "-DN=1")
    data = [
        pickle.dumps(session.load(compile(MIDDLE, *flags), link_order=[session.load(base)])["sum"])
        for base in (compile(BASE), compile(BASE.replace("40", "60")))
    ]
    session.close()
    assert [pickle.loads(one)() for one in data] == [41, 61]


def test_a_long_chain(session: tol.Session, compile: Compiler) -> None:
    """What pickle does is not the deeper the longer a chain of dylibs is."""
    dylib = session.load(compile(BASE), name="base")
    empty = dylib
    for _ in range(400):
        empty = session.create_dylib(link_order=[empty])
    flags = ("-O1", "-fPIC", "-DNAME=end", "-DN=2")
    end = session.load(compile(MIDDLE, *flags), name="end", link_order=[empty, dylib])
    assert again(end["end"]) == end["end"]


def test_contents_out_of_band(session: tol.Session, add_object: Path) -> None:
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(session.load(add_object)["add"], 5, buffer_callback=buffers.append)
    assert len(data) < 1000
    assert [bytes(buffer) for buffer in buffers] == [add_object.read_bytes()]
    session.close()
    for form in (bytes, bytearray, memoryview):
        assert pickle.loads(data, buffers=list(map(form, buffers)))(1, 2) == 3


def test_a_pickler_in_python(session: tol.Session, add_object: Path) -> None:
    file = io.BytesIO()
    function = session.load(add_object)["add"]
    pickle._Pickler(file).dump(function)
    assert pickle.loads(file.getvalue()) == function


def test_a_pickler_that_goes_on_after_a_load(
    session: tol.Session, compile: Compiler, add_object: Path
) -> None:
    file = io.BytesIO()
    pickler = pickle.Pickler(file)
    dylib = session.load(add_object)
    pickler.dump(dylib["add"])
    dylib.load(compile('#include "safe_call.h"\nEXPORT(more) { RETURN(7); }\n'))
    pickler.dump(dylib["more"])
    session.close()
    unpickler = pickle.Unpickler(io.BytesIO(file.getvalue()))
    assert unpickler.load()(1, 2) == 3
    assert unpickler.load()() == 7


def test_nothing_holds_what_was_pickled(session: tol.Session, traced: Path, trace: Trace) -> None:
    dylib = session.load(traced)
    data = pickle.dumps([dylib, dylib.module, dylib["add_value"]])
    assert pickle.loads(data)[0] is dylib
    del dylib
    gc.collect()
    assert trace.take() == [1, -1]
    assert list(session) == []


def test_a_dylib_with_another_load_is_another_one(
    session: tol.Session, compile: Compiler, add_object: Path
) -> None:
    dylib = session.load(add_object)
    before = pickle.dumps(dylib)
    dylib.load(compile('#include "safe_call.h"\nEXPORT(more) { RETURN(7); }\n'))
    assert again(dylib) is dylib
    as_it_was = pickle.loads(before)
    assert as_it_was != dylib
    assert list(as_it_was) == ["add"]
    data = pickle.dumps(dylib)
    session.close()
    assert list(pickle.loads(data)) == ["add", "more"]


def test_a_dylib_whose_link_order_was_loaded_into_is_another_one(
    session: tol.Session, compile: Compiler, add_object: Path
) -> None:
    top = diamond(session, compile)
    before = pickle.dumps(top["top"])
    session["base"].load(add_object)
    assert pickle.loads(before) != top["top"]
    assert again(top["top"]) == top["top"]


def test_a_dylib_that_was_reloaded(session: tol.Session, compile: Compiler) -> None:
    """It is another one; what is linked against it has, and sends, the version that it uses."""
    top = diamond(session, compile)
    base = session["base"]
    before = pickle.dumps(base["base"])
    function = base["base"]
    base.reload(compile(BASE.replace("40", "60")))
    assert again(function) == function
    assert function() == 60
    assert pickle.loads(before)() == 40
    assert pickle.loads(before) != function
    data = pickle.dumps([top["top"], function])
    assert pickle.loads(data) == [top["top"], function]
    session.close()
    received, function = pickle.loads(data)
    assert received() == 41 * 42
    assert function() == 60


def test_twins(session: tol.Session, add_object: Path) -> None:
    """Each of two dylibs of the same objects is itself, as long as both are there."""
    first, second = session.load(add_object), session.load(add_object)
    data = [pickle.dumps(dylib) for dylib in (first, second)]
    assert [pickle.loads(one) for one in data] == [first, second]
    first.close()
    assert [pickle.loads(one) for one in data] == [second, second]


def test_several_loads_in_their_order(
    session: tol.Session, compile: Compiler, traced: Path, trace: Trace
) -> None:
    user = compile(USER, "-O1", "-fPIC")
    dylib = session.load(traced).load(user).load([compile("int unused;\n")])
    data = pickle.dumps(dylib)
    session.close()
    assert trace.take() == [1, -200, -1]
    received = pickle.loads(data)
    assert trace.take() == [1]
    assert received["use"](2) == 84
    received.close()
    assert trace.take() == [-200, -1]


def test_loads_that_initializers_make_are_not_made_twice(
    session: tol.Session, compile: Compiler, add_object: Path
) -> None:
    source = """
#include "safe_call.h"
__attribute__((constructor)) static void init(void) {
  TVMFFIByteArray name = {"test_pickling.load_more", 23};
  TVMFFIObjectHandle load;
  TVMFFIAny result = {0};
  TVMFFIFunctionGetGlobal(&name, &load);
  TVMFFIFunctionCall(load, 0, 0, &result);
}
EXPORT(outer) { RETURN(1); }
"""
    dylib = session.create_dylib()
    loading = [dylib]
    tvm_ffi.register_global_func(
        "test_pickling.load_more", lambda: loading[0].load(add_object) and None, override=True
    )
    try:
        dylib.load(compile(source))
        assert list(dylib) == ["add", "outer"]
        data = pickle.dumps(dylib)
    finally:
        tvm_ffi.remove_global_func("test_pickling.load_more")
    assert data.count(add_object.read_bytes()) == 0


@pytest.mark.parametrize("name", ["", "ö \n 'x' \U0001f600", "a/b", "\udcff\udcfe", "nul\0nul"])
def test_names_with_odd_characters(session: tol.Session, add_object: Path, name: str) -> None:
    dylib = session.load(add_object, name=name)
    data = pickle.dumps(dylib)
    assert pickle.loads(data) is dylib
    session.close()
    with pickle.loads(data) as received:
        assert received.name == name


def test_files_with_odd_names(session: tol.Session, add_object: Path, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff \n.o"
    Path(os.fsdecode(path)).write_bytes(add_object.read_bytes())
    dylib = session.load(os.fsdecode(path))
    data = pickle.dumps(dylib["add"])
    session.close()
    assert pickle.loads(data)(1, 2) == 3


def test_a_symbol_that_is_no_identifier(session: tol.Session, compile: Compiler) -> None:
    source = """
#include "safe_call.h"
int function(void*, const TVMFFIAny*, int32_t, TVMFFIAny*) __asm__("__tvm_ffi_b\u00f6.c$1");
int function(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* ret) { RETURN(5); }
"""
    dylib = session.load(compile(source))
    (name,) = dylib
    data = pickle.dumps(dylib[name])
    session.close()
    assert pickle.loads(data)() == 5


def test_while_another_thread_loads(session: tol.Session, compile: Compiler) -> None:
    """A function that is there is in what is pickled."""
    source = '#include "safe_call.h"\nEXPORT(NAME) { RETURN(N); }\n'
    names = [f"f{number}" for number in range(30)]
    paths = [
        compile(source, "-O1", "-fPIC", f"-DNAME={name}", f"-DN={number}")
        for number, name in enumerate(names)
    ]
    dylib = session.create_dylib()
    pickled: list[tuple[int, bytes]] = []
    is_over = threading.Event()

    def pickle_them() -> None:
        while not (is_over.is_set() and len(pickled) == len(names)):
            count = len(pickled)
            if f"f{count}" in dylib:
                pickled.append((count, pickle.dumps(dylib[f"f{count}"])))

    thread = threading.Thread(target=pickle_them)
    thread.start()
    for path in paths:
        dylib.load(path)
    is_over.set()
    thread.join()
    session.close()
    assert [pickle.loads(data)() for _, data in pickled] == list(range(30))


def test_twenty_threads_pickle_at_once(session: tol.Session, compile: Compiler) -> None:
    functions = [diamond(session, compile)["top"]] * 20
    results: list[bytes] = []
    together = threading.Barrier(20)

    def pickle_one(function: tvm_ffi.Function) -> None:
        together.wait()
        results.append(pickle.dumps(function))

    threads = [threading.Thread(target=pickle_one, args=(f,)) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 1
    assert pickle.loads(results[0]) == functions[0]


@pytest.mark.parametrize(
    "closes", [lambda d: d.close(), lambda d: d.session.close()], ids=["dylib", "session"]
)
def test_what_is_closed(
    session: tol.Session, add_object: Path, closes: Callable[[tol.Dylib], None]
) -> None:
    dylib = session.load(add_object, name="d")
    loader = tol.ObjectLoader._of(dylib)
    held = [dylib["add"], plain(dylib, "add"), dylib.module, dylib, loader]
    data = pickle.dumps(dylib["add"])
    closes(dylib)
    for one in held:
        with pytest.raises(TypeError, match="dylib 'd' cannot be pickled: it is closed"):
            pickle.dumps(one)
    assert pickle.loads(data)(1, 2) == 3


def test_what_is_linked_against_a_closed_dylib(session: tol.Session, compile: Compiler) -> None:
    """The code that it needs is loaded as before."""
    top = diamond(session, compile)
    session["base"].close()
    data = pickle.dumps(top["top"])
    assert pickle.loads(data) == top["top"]
    session.close()
    assert pickle.loads(data)() == 41 * 42


def test_a_session(session: tol.Session) -> None:
    for one in (session, tol.default_session()):
        with pytest.raises(TypeError, match="cannot be pickled: pickle its dylibs, modules or"):
            pickle.dumps(one)


def test_functions_of_others(compile: Compiler, add_object: Path) -> None:
    module = compile.dlopen(add_object)
    for function in (module.add, tvm_ffi.get_global_func("ffi.ModuleGetKind")):
        with pytest.raises(
            TypeError, match=r"no function of an object that .* tvm_ffi.get_global_func"
        ):
            pickle.dumps(function)


@needs("error for modules that cannot be pickled")
def test_modules_of_others(compile: Compiler, add_object: Path) -> None:
    with pytest.raises(TypeError, match=r"kind 'library' .* not loaded it from objects: send the"):
        pickle.dumps(compile.dlopen(add_object))


def test_other_objects_of_tvm_ffi_are_pickled_as_before() -> None:
    assert list(again(tvm_ffi.convert([1, "two"]))) == [1, "two"]
