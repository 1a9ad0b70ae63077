# SPDX-License-Identifier: Apache-2.0
"""Functions by name, symbols by address, and what a dylib lists."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler

NAMES = """
#include "safe_call.h"
int64_t answer = 42;
int64_t twice(int64_t n) { return 2 * n; }
EXPORT(zeta) { RETURN(1); }
EXPORT(alpha) { RETURN(2); }
EXPORT(load) { RETURN(3); }
EXPORT(name) { RETURN(4); }
__attribute__((weak)) EXPORT(weak) { RETURN(5); }
__attribute__((visibility("hidden"))) EXPORT(hidden) { RETURN(6); }
__attribute__((visibility("protected"))) EXPORT(guarded) { RETURN(7); }
static int64_t dotted(void) { return 8; }
int dotted_entry(void*, const TVMFFIAny*, int32_t, TVMFFIAny*) __asm__("__tvm_ffi_ns.dotted");
int dotted_entry(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* ret) {
  RETURN(dotted());
}
__attribute__((visibility("hidden"))) int64_t hidden_data = 1;
static int64_t local_data = 1;
int64_t uses_local(void) { return ++local_data; }
int __tvm_ffi__metadata_zeta(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* ret) {
  RETURN(0);
}
int __tvm_ffi__doc_zeta(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* ret) {
  RETURN(0);
}
void* __tvm_ffi__library_ctx = 0;
"""
EXPORTED = {
    "alpha": 2,
    "guarded": 7,
    "load": 3,
    "name": 4,
    "ns.dotted": 8,
    "weak": 5,
    "zeta": 1,
}


@pytest.fixture
def names(session: tol.Session, compile: Compiler) -> tol.Dylib:
    return session.load(compile(NAMES, name="names"), name="names")


def test_functions_are_the_exported_names_sorted(names: tol.Dylib) -> None:
    assert names.functions == list(EXPORTED)


def test_every_listed_function_can_be_called(names: tol.Dylib) -> None:
    assert {name: names.get_function(name)() for name in names.functions} == EXPORTED
    assert {name: names[name]() for name in names.functions} == EXPORTED


def test_dlsym_finds_the_same_functions(names: tol.Dylib, compile: Compiler) -> None:
    dlopened = compile.dlopen(compile(NAMES, name="names"))
    assert {name: dlopened[name]() for name in names.functions} == EXPORTED
    assert not dlopened.implements_function("hidden")


def test_an_empty_dylib_has_no_functions(session: tol.Session) -> None:
    assert session.create_dylib("empty").functions == []


def test_a_function_is_a_tvm_ffi_function(names: tol.Dylib) -> None:
    assert isinstance(names["alpha"], tvm_ffi.Function)


def test_a_function_can_be_passed_to_another_function(
    session: tol.Session, compile: Compiler
) -> None:
    increment = """
    #include "safe_call.h"
    EXPORT(increment) { RETURN(INT(0) + 1); }
    """
    held = session.load(compile(increment))["increment"]
    assert compile.dlopen(compile("rich.cc", *RICH)).apply(held, 41) == 42
    assert session.load(compile("rich.cc", *RICH))["apply"](held, 41) == 42


RICH = ("-O2", "-fPIC", "-DTVM_FFI_DLL_EXPORT_INCLUDE_METADATA=1")


def test_a_hidden_function_is_not_found(names: tol.Dylib) -> None:
    with pytest.raises(tol.FunctionNotFoundError, match="hidden"):
        names.get_function("hidden")


def test_a_function_is_not_found_by_its_symbol(names: tol.Dylib) -> None:
    with pytest.raises(tol.FunctionNotFoundError):
        names.get_function("__tvm_ffi_alpha")


def test_a_symbol_is_not_a_function_name(names: tol.Dylib) -> None:
    with pytest.raises(tol.FunctionNotFoundError, match="twice"):
        names["twice"]


def test_functions_are_not_attributes_of_a_dylib(names: tol.Dylib) -> None:
    assert not hasattr(names, "alpha")
    assert names.name == "names"


def test_functions_are_attributes_of_a_module(names: tol.Dylib) -> None:
    assert names.module.alpha() == 2
    assert names.module.load() == 3
    with pytest.raises(AttributeError, match="nothing_like_it"):
        names.module.nothing_like_it  # noqa: B018


def test_lookup_gives_the_address_of_data(names: tol.Dylib) -> None:
    answer = ctypes.c_int64.from_address(names.lookup("answer"))
    assert answer.value == 42


def test_lookup_gives_the_address_of_code(names: tol.Dylib) -> None:
    twice = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(names.lookup("twice"))
    assert twice(21) == 42


def test_lookup_finds_the_symbol_of_a_function(names: tol.Dylib) -> None:
    assert isinstance(names.lookup("__tvm_ffi_alpha"), int)


@pytest.mark.parametrize("symbol", ["hidden_data", "local_data", "__tvm_ffi_hidden", "absent"])
def test_lookup_of_what_is_not_exported(names: tol.Dylib, symbol: str) -> None:
    with pytest.raises(tol.ObjectLoaderError, match=symbol):
        names.lookup(symbol)


def test_a_missing_function_is_also_a_lookup_error_and_an_attribute_error(
    names: tol.Dylib,
) -> None:
    for builtin in (AttributeError, LookupError):
        with pytest.raises(builtin):
            names["absent"]


def test_the_nearest_names_come_first(session: tol.Session, compile: Compiler) -> None:
    source = """
    #include "safe_call.h"
    EXPORT(aardvark) { RETURN(1); }
    EXPORT(simple_add) { RETURN(1); }
    EXPORT(string_concat) { RETURN(1); }
    """
    dylib = session.load(compile(source), name="nearest")
    for wrong, nearest in {
        "simple_ad": "simple_add",
        "simpel_add": "simple_add",
        "string_conct": "string_concat",
        "ardvark": "aardvark",
    }.items():
        with pytest.raises(tol.FunctionNotFoundError) as caught:
            dylib.get_function(wrong)
        message = str(caught.value)
        assert f"{wrong}" in message.replace(nearest, "")
        others = {"aardvark", "simple_add", "string_concat"} - {nearest}
        assert nearest in message
        for other in others:
            position = message.find(other)
            assert position == -1 or message.index(nearest) < position


def test_what_is_exported_is_named_for_a_missing_function(names: tol.Dylib) -> None:
    with pytest.raises(tol.FunctionNotFoundError) as caught:
        names.get_function("alhpa")
    assert "alpha" in str(caught.value)


def test_stats_count_what_is_loaded(session: tol.Session, add_object: Path) -> None:
    empty = session.stats()
    dylib = session.load(add_object)
    loaded = session.stats()
    assert loaded.dylibs == empty.dylibs + 1
    assert loaded.objects == empty.objects + 1
    assert loaded.bytes_code > empty.bytes_code
    dylib.close()
    closed = session.stats()
    for key in ("dylibs", "objects", "bytes_code", "bytes_data"):
        assert getattr(closed, key) == getattr(empty, key)
