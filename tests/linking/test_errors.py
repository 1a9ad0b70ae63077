# SPDX-License-Identifier: Apache-2.0
"""Symbols, names and arguments that are wrong: the error's type and what its message names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import ADD
from processors import PROCESSOR
from refusal import Refusal

PLAIN = "int plain(int n) { return n + 1; }\n"


def test_the_classes_are_the_documented_ones() -> None:
    parents = {
        tol.ObjectLoaderError: (RuntimeError,),
        tol.ObjectFormatError: (tol.ObjectLoaderError, ValueError),
        tol.LinkError: (tol.ObjectLoaderError,),
        tol.UndefinedSymbolError: (tol.LinkError,),
        tol.DuplicateSymbolError: (tol.LinkError,),
        tol.FunctionNotFoundError: (tol.ObjectLoaderError, AttributeError, LookupError),
        tol.SessionClosedError: (tol.ObjectLoaderError,),
    }
    for error, bases in parents.items():
        assert all(issubclass(error, base) for base in bases)
    for error in (tol.LinkError, tol.FunctionNotFoundError, tol.SessionClosedError):
        assert not issubclass(error, ValueError)


UNDEFINED = """
#include "safe_call.h"
namespace ns { int missing_one(int, const char*); }
extern "C" int missing_two(void);
extern "C" int missing_data;
extern "C" __attribute__((weak)) int absent_but_weak(void);
EXPORT(broken) {
  if (absent_but_weak) RETURN(absent_but_weak());
  RETURN(ns::missing_one(1, "x") + missing_two() + missing_data);
}
"""


def test_undefined_symbols(refusal: Refusal, compile: Compiler) -> None:
    broken, innocent = compile.cxx(UNDEFINED, name="broken"), compile(PLAIN, name="innocent")
    expected = {"_ZN2ns11missing_oneEiPKc", "missing_two", "missing_data"}
    with refusal.of(
        tol.UndefinedSymbolError,
        broken,
        "ns::missing_one(int, char const*)",
        "missing_two",
        "missing_data",
    ) as caught:
        refusal.dylib.load([innocent, broken])
    assert isinstance(caught.value, tol.UndefinedSymbolError)
    assert isinstance(caught.value.symbols, tuple)
    assert sorted(caught.value.symbols) == sorted(expected)
    lines = [line for line in str(caught.value).splitlines() if "missing_" in line]
    assert all(str(broken) in line and "innocent" not in line for line in lines)
    assert "absent_but_weak" not in str(caught.value)


def test_undefined_symbols_of_bytes(refusal: Refusal, compile: Compiler) -> None:
    broken = compile.cxx(UNDEFINED, name="broken").read_bytes()
    for load in refusal.entry_points():
        with refusal.of(tol.UndefinedSymbolError, "<bytes>", "missing_two"):
            load(broken)


def test_undefined_symbols_of_several_objects(refusal: Refusal, compile: Compiler) -> None:
    first = compile("int gone_a(void);\nint a(void) { return gone_a(); }\n", name="first")
    second = compile("int gone_b(void);\nint b(void) { return gone_b(); }\n", name="second")
    with refusal.of(tol.UndefinedSymbolError, first, second, "gone_a", "gone_b") as caught:
        refusal.dylib.load([first, second])
    assert isinstance(caught.value, tol.UndefinedSymbolError)
    assert sorted(caught.value.symbols) == ["gone_a", "gone_b"]


def test_very_many_undefined_symbols_are_all_listed(refusal: Refusal, compile: Compiler) -> None:
    names = [f"gone_{number}" for number in range(300)]
    source = "".join(f"int {name}(void);\n" for name in names)
    source += f"int all(void) {{ return {' + '.join(f'{name}()' for name in names)}; }}\n"
    with refusal.of(tol.UndefinedSymbolError, *names) as caught:
        refusal.dylib.load(compile(source))
    assert isinstance(caught.value, tol.UndefinedSymbolError)
    assert sorted(caught.value.symbols) == sorted(names)


def test_duplicate_symbols_in_one_load(refusal: Refusal, compile: Compiler) -> None:
    first = compile("int twice(void) { return 1; }\nint more = 1;\n", name="first")
    second = compile("int twice(void) { return 2; }\nint more = 2;\n", name="second")
    with refusal.of(tol.DuplicateSymbolError, "twice", "more", first, second) as caught:
        refusal.dylib.load([first, second])
    assert isinstance(caught.value, tol.DuplicateSymbolError)
    assert sorted(caught.value.symbols) == ["more", "twice"]


def test_duplicate_symbol_in_a_later_load(refusal: Refusal, compile: Compiler) -> None:
    again = compile(ADD, "-O0", "-fPIC", name="again")
    with refusal.of(tol.DuplicateSymbolError, "__tvm_ffi_add", again) as caught:
        refusal.dylib.load(again)
    assert isinstance(caught.value, tol.DuplicateSymbolError)
    assert caught.value.symbols == ("__tvm_ffi_add",)
    with refusal.of(tol.DuplicateSymbolError, "__tvm_ffi_add", "<bytes>"):
        refusal.dylib.load(again.read_bytes())


def test_duplicate_symbol_is_demangled(refusal: Refusal, compile: Compiler) -> None:
    source = "namespace ns {{ int twice(char) {{ return {}; }} }}\n"
    first, second = (compile.cxx(source.format(number)) for number in (1, 2))
    with refusal.of(tol.DuplicateSymbolError, "ns::twice(char)") as caught:
        refusal.dylib.load([first, second])
    assert isinstance(caught.value, tol.DuplicateSymbolError)
    assert caught.value.symbols == ("_ZN2ns5twiceEc",)


def test_relocation_out_of_range(refusal: Refusal, compile: Compiler) -> None:
    far = compile(".globl far_away\nfar_away = 0x123456789abcdef0\n", language="assembler")
    near = compile(
        f".text\n.globl near\nnear:\n{PROCESSOR.near_access}\nret\n".replace("SYMBOL", "far_away"),
        language="assembler",
        name="near",
    )
    with refusal.of(tol.LinkError, near, "far_away", "-fPIC"):
        refusal.dylib.load([far, near])


def test_absolute_symbols_link(session: tol.Session, compile: Compiler) -> None:
    absolute = compile(".globl far_away\nfar_away = 0x123456789abcdef0\n", language="assembler")
    user = compile(
        '#include "safe_call.h"\nextern char far_away;\nEXPORT(address) { RETURN(&far_away); }\n'
    )
    dylib = session.load([absolute, user])
    assert dylib["address"]() == 0x123456789ABCDEF0 == compile.dlopen(absolute, user).address()
    other = session.create_dylib(link_order=[dylib])
    other.load(user)
    assert other["address"]() == 0x123456789ABCDEF0
    assert dylib.lookup("far_away") == 0x123456789ABCDEF0


def test_missing_function(refusal: Refusal) -> None:
    with refusal.of(tol.FunctionNotFoundError, "ad", "good", "add"):
        refusal.dylib.get_function("ad")
    with refusal.of(tol.FunctionNotFoundError, "ad", "add"):
        refusal.dylib["ad"]


def test_missing_function_where_there_is_none(refusal: Refusal) -> None:
    empty = refusal.session.create_dylib("empty")
    with refusal.of(tol.FunctionNotFoundError, "anything", "empty"):
        empty.get_function("anything")


def test_taken_name(refusal: Refusal, add_object: Path) -> None:
    with refusal.of(tol.ObjectLoaderError, "good"):
        refusal.session.create_dylib("good")
    with refusal.of(tol.ObjectLoaderError, "good"):
        refusal.session.load(add_object, name="good")
    with refusal.of(tol.ObjectLoaderError, "good"):
        refusal.session.load_module(add_object, name="good")


def test_name_of_no_dylib(refusal: Refusal) -> None:
    with pytest.raises(LookupError, match="unheard_of"):
        refusal.session["unheard_of"]


@pytest.mark.parametrize("objects", [None, 5, 1.5, object(), {"a": 1}, [None], [5], [["k.o"]]])
def test_objects_of_the_wrong_type(refusal: Refusal, objects: Any) -> None:
    for load in refusal.entry_points():
        with refusal.of(TypeError):
            load(objects)


def test_other_arguments_of_the_wrong_type(refusal: Refusal, add_object: Path) -> None:
    session: Any = refusal.session
    dylib: Any = refusal.dylib
    calls: list[Callable[[], object]] = [
        lambda: tol.Session(5),  # type: ignore[arg-type]
        lambda: session.create_dylib(5),
        lambda: session.create_dylib("x", link_order=5),
        lambda: session.create_dylib("x", link_order="good"),
        lambda: session.create_dylib("x", link_order=[b"good"]),
        lambda: session.load(add_object, name=b"x"),
        lambda: session.load(add_object, link_order=[None]),
        lambda: dylib.get_function(5),
        lambda: dylib.get_function(None),
        lambda: dylib.lookup(b"add"),
        lambda: dylib[0],
        lambda: dylib.load(),
    ]
    for call in calls:
        with refusal.of(TypeError):
            call()


def test_tvm_ffi_load_module_passes_the_errors_on(
    refusal: Refusal, compile: Compiler, tmp_path: Path
) -> None:
    broken = compile.cxx(UNDEFINED, name="broken")
    with pytest.raises(tol.UndefinedSymbolError, match="missing_two") as caught:
        tvm_ffi.load_module(broken)
    assert str(broken) in str(caught.value)
    assert caught.value.symbols
    text = tmp_path / "text.o"
    text.write_text("text")
    with pytest.raises(tol.ObjectFormatError):
        tvm_ffi.load_module(text)
    with pytest.raises(FileNotFoundError) as missing:
        tvm_ffi.load_module(tmp_path / "absent.o")
    assert missing.value.filename == str(tmp_path / "absent.o")


def test_errors_of_called_functions_are_not_ours(session: tol.Session, compile: Compiler) -> None:
    source = """
    #include "safe_call.h"
    EXPORT(fail) { TVMFFIErrorSetRaisedFromCStr("ValueError", "from the object"); return -1; }
    """
    with pytest.raises(ValueError, match="from the object") as caught:
        session.load(compile(source))["fail"]()
    assert type(caught.value) is ValueError


@pytest.mark.parametrize(
    ("symbol", "origin"),
    [
        ("GOMP_no_such_function", "libgomp"),
        ("cudaNoSuchFunction", "libcudart"),
        ("__cudaNoSuchFunction", "libcudart"),
        ("__cudaRegisterLinkedBinary_d1a49734_4_k_cu", "nvcc -dlink"),
        ("cuNoSuchFunction", "libcuda.so.1"),
        ("__asan_no_such_function", "-fsanitize"),
    ],
)
def test_where_a_missing_symbol_is_known_to_come_from(
    refusal: Refusal, compile: Compiler, symbol: str, origin: str
) -> None:
    path = compile(f"int {symbol}(void);\nint use(void) {{ return {symbol}(); }}\n")
    with refusal.of(tol.UndefinedSymbolError, symbol, origin):
        refusal.dylib.load(path)


@pytest.mark.parametrize("symbol", ["cuda_add", "current", "cut", "cu", "__cuda"])
def test_a_name_of_the_users_own_gets_no_hint(
    refusal: Refusal, compile: Compiler, symbol: str
) -> None:
    path = compile(f"int {symbol}(void);\nint use(void) {{ return {symbol}(); }}\n")
    with refusal.of(tol.UndefinedSymbolError, symbol) as caught:
        refusal.dylib.load(path)
    assert "load it first" not in str(caught.value)
