# SPDX-License-Identifier: Apache-2.0
"""Objects that loaded code hands out by other ways than as results keep their code, too."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi
import tvm_ffi.testing

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript, Trace
from long_texts import of_texts, raised, text
from releases import needs

# Classes that tvm-ffi has for tests.
classes: Any = tvm_ffi.testing


def new_list(*values: object) -> Any:
    return tvm_ffi.List(values)


def new_dict() -> Any:
    return tvm_ffi.Dict({})


@pytest.fixture(scope="module")
def objects(compile: Compiler) -> Path:
    return compile.cxx("handing_out.cc", "-O1", "-fPIC", '-DTYPE_KEY="testing.handing_out.Pair"')


class Outliving:
    """A dylib that is closed while something that it handed out is held."""

    def __init__(self, objects: Path, session: tol.Session, trace: Trace) -> None:
        self._dylib = session.load(objects)
        self._session = session
        self._trace = trace

    def __getitem__(self, name: str) -> tvm_ffi.Function:
        return self._dylib[name]

    def close(self, *, retained: bool = True) -> None:
        """Close it; its code is to stay, or not."""
        self._dylib.close()
        del self._dylib
        gc.collect()
        assert self._session.stats().retained == int(retained)
        assert (-1 in self._trace.take()) != retained

    def check_gone(self) -> None:
        """Check that the code is gone when nothing holds what it handed out any more."""
        gc.collect()
        assert self._session.stats().retained == self._session.stats().bytes_code == 0
        assert self._trace.take()[-1:] == [-1]


@pytest.fixture
def outliving(objects: Path, session: tol.Session, trace: Trace) -> Iterator[Outliving]:
    yield Outliving(objects, session, trace)
    gc.collect()
    assert session.stats().retained == session.stats().bytes_code == 0


def test_into_a_list(outliving: Outliving) -> None:
    given = new_list(1)
    outliving["append"](given, 5)
    outliving.close()
    assert list(given) == [1, text(5)]
    del given
    outliving.check_gone()


def test_into_a_list_that_outgrows_its_memory(outliving: Outliving) -> None:
    given = new_list()
    outliving["extend"](given, 100)
    outliving.close()
    first = given[17]
    assert of_texts(99)(given[99])
    del given
    gc.collect()
    assert of_texts(17)(first)
    del first
    outliving.check_gone()


def test_into_a_dict(outliving: Outliving) -> None:
    given = new_dict()
    outliving["set"](given, "key", 5)
    outliving.close()
    assert given["key"] == text(5)
    given["key"] = 1
    outliving.check_gone()


@pytest.mark.parametrize("count", [3, 5, 200])
def test_the_memory_of_a_dict(outliving: Outliving, count: int) -> None:
    # The entries need nothing of the code, but the table that it allocated for them does.
    given = new_dict()
    outliving["fill"](given, count)
    outliving.close()
    assert sorted(given.items()) == [(i, i) for i in range(count)]
    for i in range(count, 3 * count):
        given[i] = i
    assert len(given) == 3 * count
    del given
    outliving.check_gone()


def test_a_dict_that_changes_hands(objects: Path, session: tol.Session, trace: Trace) -> None:
    given = new_dict()
    for count in (3, 5, 40, 80, 200):
        # The table that the one before made is gone by then.
        dylib = session.load(objects)
        dylib["fill"](given, count)
        del dylib
        gc.collect()
        assert session.stats().retained == 1
        assert trace.take().count(-1) == int(count > 3)
    given[-1] = 0
    assert given[199] == 199
    del given
    gc.collect()
    assert session.stats().retained == session.stats().bytes_code == 0


def test_into_nested_containers(outliving: Outliving) -> None:
    inner = [new_list(), new_list()]
    given = tvm_ffi.Map({"a": tvm_ffi.Array(inner), text(1): tvm_ffi.Array(inner[:1])})
    outliving["append_nested"](given, 5)
    outliving.close()
    del given
    gc.collect()
    assert [len(each) for each in inner] == [2, 1]
    assert inner[0][1](3) == text(8)
    inner.clear()
    outliving.check_gone()


@needs("instances of its classes for tests")
def test_into_a_field(outliving: Outliving) -> None:
    given = classes.TestObjectBase(v_str="before")
    outliving["set_field"](given, "testing.TestObjectBase", "v_str", 5)
    outliving.close()
    assert given.v_str == text(5)
    del given
    outliving.check_gone()


@needs("instances of its classes for tests")
def test_into_a_field_of_an_inherited_class(outliving: Outliving) -> None:
    given = classes.TestObjectDerived(v_map={}, v_array=[], v_str="before")
    outliving["set_field"](given, "testing.TestObjectBase", "v_str", 5)
    outliving.close()
    assert given.v_str == text(5)
    given.v_str = "after"
    outliving.check_gone()


@needs("instances of its classes for tests")
def test_into_a_list_in_a_field(outliving: Outliving) -> None:
    given = classes.TestObjectDerived(v_map={}, v_array=[new_list()])
    outliving["append_to_field"](given, "v_array", 5)
    outliving.close()
    lists = given.v_array
    del given
    gc.collect()
    assert lists[0][0] == text(5)
    del lists
    outliving.check_gone()


def test_arguments_of_a_callback(outliving: Outliving) -> None:
    kept: list[Any] = []
    assert outliving["call_back"](lambda *arguments: kept.extend(arguments), 5) == 5
    outliving.close()
    assert kept[0] == text(5)
    assert of_texts(5)(kept[1])
    assert of_texts(5)(kept[2][text(5)])
    assert kept[3](4) == text(9)
    del kept[1:3]
    gc.collect()
    assert kept[1](4) == text(9)
    kept.clear()
    outliving.check_gone()


def test_arguments_of_a_callback_that_is_held(outliving: Outliving) -> None:
    kept: list[Any] = []
    function = tvm_ffi.convert(lambda *arguments: kept.extend(arguments))
    for _ in range(3):
        outliving["call_back"](function, 5)
    function("from elsewhere")
    outliving.close()
    assert len(kept) == 13
    assert kept[7](4) == text(9)
    kept.clear()
    del function
    outliving.check_gone()


def test_arguments_of_a_callback_in_a_container(outliving: Outliving) -> None:
    kept: list[Any] = []
    function = tvm_ffi.convert(lambda value: kept.append(tvm_ffi.Array([value, [value]])))
    assert outliving["call_back_in_container"]([function, function], 5) == 5
    outliving.close()
    assert kept[1][0] == kept[0][1][0] == text(5)
    kept.clear()
    del function
    outliving.check_gone()


def test_arguments_of_a_global_function(outliving: Outliving) -> None:
    kept = new_list()
    tvm_ffi.register_global_func("testing.handing_out.keep", kept.append, override=True)
    assert outliving["call_global"]("testing.handing_out.keep", 5) == 5
    outliving.close()
    assert list(kept) == [text(5)]
    tvm_ffi.register_global_func("testing.handing_out.keep", lambda: None, override=True)
    del kept
    outliving.check_gone()


def test_a_list_of_lists_as_an_argument_of_a_callback(outliving: Outliving) -> None:
    kept: list[Any] = []
    outliving["call_back_with_list"](kept.append, 5)
    outliving.close()
    inner = kept.pop()[1]
    gc.collect()
    assert of_texts(5)(inner[0])
    del inner
    outliving.check_gone()


def test_into_the_result_of_a_callback(outliving: Outliving) -> None:
    held = [new_list()]
    outliving["append_to_result"](lambda: held[0], 5)
    outliving.close()
    assert list(held[0]) == [text(5)]
    held.clear()
    outliving.check_gone()


def test_into_the_result_of_a_global_function(outliving: Outliving) -> None:
    held = [new_list()]
    name = "ho.list"  # so short that it is no object
    tvm_ffi.register_global_func(name, lambda: held[0], override=True)
    outliving["append_to_global_result"](name, 5)
    outliving.close()
    assert list(held[0]) == [text(5)]
    held.clear()
    outliving.check_gone()


def test_arguments_of_the_result_of_a_callback(outliving: Outliving) -> None:
    held = [new_list()]
    outliving["call_result"](lambda: tvm_ffi.convert(held[0].append), 5)
    outliving.close()
    assert list(held[0]) == [text(5)]
    held.clear()
    outliving.check_gone()


def test_before_a_failure(outliving: Outliving) -> None:
    held = [new_list()]
    assert raised(lambda n: outliving["append_and_fail"](held[0], 5)) == text(5)
    outliving.close()
    assert list(held[0]) == [text(5)]
    held.clear()
    outliving.check_gone()


def test_by_a_function_of_loaded_code(outliving: Outliving) -> None:
    given = new_list()
    appender = outliving["appender"]()
    appender(given, 5)
    outliving.close()
    appender(given, 6)
    del appender
    gc.collect()
    assert list(given) == [text(5), text(6)]
    del given
    outliving.check_gone()


def test_by_a_function_of_tvm_ffi(outliving: Outliving) -> None:
    given = new_list()
    outliving["append_by_global"](given, 5)
    outliving.close()
    assert list(given) == [text(5)]
    del given
    outliving.check_gone()


def test_by_the_c_interface(outliving: Outliving) -> None:
    kept = new_list()
    outliving["call_back_from_c"](kept.append, 5)
    outliving.close()
    assert list(kept) == [text(5)]
    del kept
    outliving.check_gone()


def test_the_cause_of_an_error(outliving: Outliving) -> None:
    with pytest.raises(ValueError, match="outer") as caught:
        outliving["fail_with_cause"](5)
    error = tvm_ffi.convert(caught.value)
    del caught
    outliving.close()
    del error
    outliving.check_gone()


def test_a_view_of_a_tensor(outliving: Outliving) -> None:
    view = outliving["view"](5)
    outliving.close()
    assert view.shape == (5,)
    del view
    outliving.check_gone()


def test_a_module_that_is_imported(outliving: Outliving, add_object: Path) -> None:
    with tol.Session() as other:
        module = other.load_module(add_object)
        outliving["import_module"](module)
        outliving.close()
        assert module.get_function("anything", query_imports=True)(5) == text(2005)
        module.clear_imports()
        del module
        outliving.check_gone()


def test_nothing_is_kept_for_nothing(outliving: Outliving) -> None:
    given = new_list(1, "short", tvm_ffi.Shape((1, 2)))
    kept: list[Any] = []
    outliving["append_in_loop"]([given], 10)
    outliving["call_back"](lambda *arguments: None, 5)
    outliving["call_back"](lambda *arguments: kept.append(str(arguments[0])), 5)
    outliving.close(retained=False)
    assert list(given)[:2] == [1, "short"]


def test_lists_with_cycles(outliving: Outliving) -> None:
    given = new_list()
    given.append(given)
    outliving["append"](given, 5)
    outliving.close()
    assert given[1] == text(5)
    given.clear()
    outliving.check_gone()


def test_many_threads(objects: Path, session: tol.Session, trace: Trace) -> None:
    kept: list[Any] = []
    keep = tvm_ffi.convert(lambda *arguments: kept.extend(arguments))

    def work(outliving: Outliving) -> None:
        mine = new_list()
        for n in range(200):
            outliving["append"](mine, n)
            outliving["call_back"](keep, n)
            if n % 3 == 0:
                mine.clear()
            if n % 7 == 0:
                kept.clear()

    for _ in range(3):
        outliving = Outliving(objects, session, trace)
        threads = [threading.Thread(target=work, args=(outliving,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        outliving.close(retained=bool(kept))
        kept.clear()
        outliving.check_gone()


@pytest.fixture
def other(objects: Path) -> Iterator[tol.Dylib]:
    """Return a dylib of the same code in another session, which stays."""
    with tol.Session() as session:
        yield session.load(objects)
        gc.collect()


def test_a_function_of_loaded_code_calls_that_of_another_load(
    outliving: Outliving, other: tol.Dylib
) -> None:
    storer = outliving["storer"]()
    storer(other["store"])
    del storer
    outliving.close()
    assert list(other["get_held"]()) == [text(7)]
    other["clear_held"]()
    outliving.check_gone()


def test_a_thread_of_loaded_code_calls_the_function_of_another_load(
    outliving: Outliving, other: tol.Dylib
) -> None:
    outliving["call_in_thread"](other["store"])
    outliving.close()
    assert list(other["get_held"]()) == [text(8)]
    other["clear_held"]()
    outliving.check_gone()


def test_into_the_result_of_another_loads_function(outliving: Outliving, other: tol.Dylib) -> None:
    outliving["append_to_result"](other["get_held"], 5)
    outliving.close()
    assert list(other["get_held"]()) == [text(5)]
    other["clear_held"]()
    outliving.check_gone()


def test_into_the_result_of_a_callback_of_a_function_object(outliving: Outliving) -> None:
    held = [new_list()]
    outliving["appender_to_result"]()(lambda: held[0])
    outliving.close()
    assert list(held[0]) == [text(5)]
    held.clear()
    outliving.check_gone()


def test_an_array_that_was_moved_in(outliving: Outliving) -> None:
    given: Any = tvm_ffi.Array([1, 2])
    changed = outliving["replace"](given._move())
    outliving.close()
    assert list(changed) == [text(9), 2]
    del changed
    outliving.check_gone()


def test_an_object_of_others_with_a_string_of_its_own(outliving: Outliving) -> None:
    created = outliving["create"](5)
    outliving.close()
    assert created.v_str == text(5)
    del created
    outliving.check_gone()


def test_before_an_exception_of_cxx(outliving: Outliving, other: tol.Dylib) -> None:
    assert other["catch_standard"](outliving["append_and_throw"]()) is True
    outliving.close()
    assert list(other["get_held"]()) == [text(6)]
    other["clear_held"]()
    outliving.check_gone()


def test_out_of_memory_stays_what_it_is(outliving: Outliving, other: tol.Dylib) -> None:
    assert other["catch_bad_alloc"](outliving["throw_bad_alloc"]()) is True
    outliving.close(retained=False)


def test_an_own_function_that_was_called_before(outliving: Outliving) -> None:
    given = new_list()
    function = outliving["call_own_from_c"](given, 5)
    outliving.close()
    function(given, 6)
    del function
    gc.collect()
    assert list(given) == [text(5), text(6)]
    del given
    outliving.check_gone()


def test_one_object_in_several_threads(outliving: Outliving) -> None:
    outliving["hand_out_in_threads"](lambda value: None, 300)
    outliving.close(retained=False)


def test_calls_in_a_long_one_leave_nothing(outliving: Outliving) -> None:
    """What callbacks return is looked at when the call ends, if it is still there."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    seen: list[int] = []
    numbers = list(range(1000))

    def make() -> Any:
        seen.append(resident() if len(seen) % 1000 == 999 else 0)
        return tvm_ffi.List(numbers)

    outliving["call_many_times"](make, 20000)
    assert seen[-1] - seen[999] < 32 << 20
    outliving.close(retained=False)


def test_a_static_object_at_exit(objects: Path, run_script: RunScript) -> None:
    """Its destructor drops the last object that keeps the code it is in."""
    script = """
import sys
import tvm_ffi_object_loader as tol
session = tol.Session()
text = session.load(sys.argv[1])["cached"]()
assert text.endswith("value 1")
del text
"""
    run_script(script, objects)
    run_script(script + "session.close()\n", objects)


@pytest.mark.slow
def test_thousands_of_objects_leave_nothing(
    objects: Path, session: tol.Session, trace: Trace
) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    content = objects.read_bytes()

    def load_hand_out_and_drop() -> None:
        dylib = session.load(content)
        given, table = new_list(), new_dict()
        dylib["extend"](given, 3)
        dylib["fill"](table, 9)
        dylib["call_back"](lambda *arguments: given.append(arguments[3]), 5)
        trace.take()

    for _ in range(200):
        load_hand_out_and_drop()
    gc.collect()
    before = resident()
    for _ in range(1000):
        load_hand_out_and_drop()
    gc.collect()
    assert session.stats().retained == session.stats().bytes_code == 0
    assert resident() - before < 1 << 20


ALLOCATOR = """
#include "safe_call.h"
static TVMFFICustomAllocator* before;
static void* allocate(size_t size, size_t alignment, int32_t type_index, void* context) {
  return before->allocate(size, alignment, type_index, before->context);
}
static TVMFFICustomAllocator own = {allocate, 0};
EXPORT(install) {
  before = TVMFFIGetCustomAllocator();
  RETURN(TVMFFISetCustomAllocator(&own));
}
EXPORT(restore) { RETURN(TVMFFISetCustomAllocator(0)); }
"""


@needs("allocators")
def test_an_allocator_keeps_its_code(compile: Compiler, run_script: RunScript) -> None:
    script = """
import ctypes, sys
import tvm_ffi
import tvm_ffi_object_loader as tol

session = tol.Session()
dylib = session.load(sys.argv[1])
assert dylib["restore"]() == 0
dylib.close()
assert session.stats().retained == 0
dylib = session.load(sys.argv[1])
assert dylib["install"]() == 0
dylib.close()
assert session.stats().retained == 1
allocate = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int32)
tvm_ffi.LIB.TVMFFIGetCustomAllocator.restype = ctypes.POINTER(allocate)
assert tvm_ffi.LIB.TVMFFIGetCustomAllocator()[0](64, 8, 64)
"""
    run_script(script, compile(ALLOCATOR))
