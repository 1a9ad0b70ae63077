# SPDX-License-Identifier: Apache-2.0
"""Which definition a symbol gets: the dylib's own, then its link order's, then the process's."""

from __future__ import annotations

import ctypes
import re

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript

VALUE = """
#include "safe_call.h"
int64_t value = NUMBER;
int64_t get_value(void) { return value; }
EXPORT(own_value) { RETURN(get_value()); }
EXPORT(set_own_value) { value = INT(0); RETURN(value); }
"""
USES_VALUE = """
#include "safe_call.h"
extern int64_t value;
int64_t get_value(void);
EXPORT(seen_value) { RETURN(get_value() * 1000 + value); }
"""


def value_object(compile: Compiler, number: int) -> bytes:
    return compile(VALUE, "-O2", "-fPIC", f"-DNUMBER={number}").read_bytes()


def test_two_dylibs_define_the_same_symbol(session: tol.Session, compile: Compiler) -> None:
    first, second = (session.load(value_object(compile, number)) for number in (1, 2))
    assert [first["own_value"](), second["own_value"]()] == [1, 2]
    first["set_own_value"](10)
    assert [first["own_value"](), second["own_value"]()] == [10, 2]
    assert first.lookup("value") != second.lookup("value")


def test_two_sessions_define_the_same_symbol(session: tol.Session, compile: Compiler) -> None:
    with tol.Session() as other:
        first = session.load(value_object(compile, 1), name="same")
        second = other.load(value_object(compile, 2), name="same")
        assert [first["own_value"](), second["own_value"]()] == [1, 2]
    assert first["own_value"]() == 1


def test_dylibs_of_a_session_do_not_see_each_other(session: tol.Session, compile: Compiler) -> None:
    kept = session.load(value_object(compile, 1))
    with pytest.raises(tol.UndefinedSymbolError, match="get_value"):
        session.load(compile(USES_VALUE))
    del kept


def test_modules_of_the_default_session_do_not_see_each_other(compile: Compiler) -> None:
    kept = tol.load_module(value_object(compile, 1))
    again = tol.load_module(value_object(compile, 2))
    assert [kept.own_value(), again.own_value()] == [1, 2]
    with pytest.raises(tol.UndefinedSymbolError, match="get_value"):
        tol.load_module(compile(USES_VALUE))


def test_the_link_order_is_searched_in_order(session: tol.Session, compile: Compiler) -> None:
    one, two = (session.load(value_object(compile, number)) for number in (1, 2))
    user = compile(USES_VALUE)
    assert session.load(user, link_order=[one, two])["seen_value"]() == 1001
    assert session.load(user, link_order=[two, one])["seen_value"]() == 2002
    app = session.create_dylib("app", link_order=(two,))
    app.load(user)
    assert app["seen_value"]() == 2002
    assert app.link_order == [two]


def test_globals_are_shared_along_the_link_order(session: tol.Session, compile: Compiler) -> None:
    base = session.load(value_object(compile, 1))
    users = [session.load(compile(USES_VALUE), link_order=[base]) for _ in range(2)]
    base["set_own_value"](7)
    assert [user["seen_value"]() for user in users] == [7007, 7007]


def test_an_own_definition_comes_before_the_link_order(
    session: tol.Session, compile: Compiler
) -> None:
    base = session.load(value_object(compile, 1))
    app = session.load(
        [compile(USES_VALUE), value_object(compile, 2)], link_order=[base], name="app"
    )
    assert app["seen_value"]() == 2002
    assert base["own_value"]() == 1


def test_an_earlier_load_of_the_dylib_comes_before_the_link_order(
    session: tol.Session, compile: Compiler
) -> None:
    base = session.load(value_object(compile, 1))
    app = session.create_dylib("app", link_order=[base])
    app.load(value_object(compile, 2))
    app.load(compile(USES_VALUE))
    assert app["seen_value"]() == 2002


def test_what_is_loaded_into_the_link_order_later_is_found(
    session: tol.Session, compile: Compiler
) -> None:
    base = session.create_dylib("base")
    app = session.create_dylib("app", link_order=[base])
    with pytest.raises(tol.UndefinedSymbolError):
        app.load(compile(USES_VALUE))
    base.load(value_object(compile, 3))
    app.load(compile(USES_VALUE))
    assert app["seen_value"]() == 3003


GETPID = """
#include "safe_call.h"
int getpid(void) { return -5; }
"""
CALLS_GETPID = """
#include "safe_call.h"
int getpid(void);
EXPORT(pid) { RETURN(getpid()); }
"""


def test_the_process_comes_last(session: tol.Session, compile: Compiler) -> None:
    caller, definer = compile(CALLS_GETPID), compile(GETPID)
    pid = session.load(caller)["pid"]
    assert pid() == ctypes.CDLL(None).getpid() > 0
    assert session.load([caller, definer])["pid"]() == -5
    base = session.load(definer)
    assert session.load(caller, link_order=[base])["pid"]() == -5
    assert pid() > 0


def test_symbols_of_libraries_that_python_loaded_globally_are_found(
    session: tol.Session, compile: Compiler
) -> None:
    library = compile.link(compile("int from_a_global_library(void) { return 9; }\n"))
    user = compile(
        """
        #include "safe_call.h"
        int from_a_global_library(void);
        EXPORT(nine) { RETURN(from_a_global_library()); }
        """
    )
    with pytest.raises(tol.UndefinedSymbolError, match="from_a_global_library"):
        session.load(user)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    assert session.load(user)["nine"]() == 9


OF_DEPENDENCIES = """
#include "safe_call.h"
#define WEAK extern __attribute__((weak))
WEAK void LLVMGetVersion(unsigned*, unsigned*, unsigned*);
WEAK const char* ZSTD_versionString(void);
EXPORT(has_llvm) { RETURN(LLVMGetVersion != 0); }
EXPORT(has_zstd) { RETURN(ZSTD_versionString != 0); }
"""


def test_libraries_that_only_the_extension_depends_on_are_not_bound_to(
    compile: Compiler, run_script: RunScript
) -> None:
    """As for a linked library: unless somebody has opened them for all."""
    script = """
import ctypes, shutil, sys
import tvm_ffi
import tvm_ffi_object_loader as tol

obj, linked, again, llvm = sys.argv[1:]
session = tol.Session()


def has(module):
    return module.has_llvm(), module.has_zstd()


def load():
    return has(session.load_module(obj))


assert load() == has(tvm_ffi.load_module(linked)) == (0, 0), load()
named = session.create_dylib(link_order=[llvm])
named.load(obj)
assert named["has_llvm"]() == 1
assert load() == (0, 0)
ctypes.CDLL(llvm, mode=ctypes.RTLD_GLOBAL)
assert load() == has(tvm_ffi.load_module(again))
assert load()[0] == 1
print("done")
"""
    maps = "import tvm_ffi_object_loader; print(open('/proc/self/maps').read())"
    llvm = sorted(set(re.findall(r"/\S*libLLVM\S*", run_script(maps))))
    if not llvm:
        pytest.skip("the extension has LLVM in itself, and depends on no library but tvm-ffi's")
    obj = compile(OF_DEPENDENCIES, "-O2", "-fPIC")
    arguments = [obj, compile.link(obj), compile.link(obj), llvm[0]]
    assert run_script(script, *arguments) == "done\n"


WEAK = """
#include "safe_call.h"
__attribute__((weak)) int64_t choice(void) { return 1; }
extern __attribute__((weak)) int64_t optional(void);
extern __attribute__((weak)) int64_t optional_data;
EXPORT(choose) { RETURN(choice()); }
EXPORT(has_optional) { RETURN(optional ? optional() : -1); }
EXPORT(has_optional_data) { RETURN(&optional_data ? optional_data : -1); }
"""
STRONG = """
#include <stdint.h>
int64_t choice(void) { return 2; }
int64_t optional(void) { return 3; }
int64_t optional_data = 4;
"""


def test_an_undefined_weak_symbol_is_null(session: tol.Session, compile: Compiler) -> None:
    for flags in ((), ("-O2",), ("-O2", "-fPIC")):
        dylib = session.load(compile(WEAK, *flags))
        assert [dylib[name]() for name in ("choose", "has_optional", "has_optional_data")] == [
            1,
            -1,
            -1,
        ]


def test_a_strong_definition_replaces_a_weak_one(session: tol.Session, compile: Compiler) -> None:
    weak, strong = compile(WEAK), compile(STRONG)
    for objects in ([weak, strong], [strong, weak]):
        ours, dlopened = session.load(objects), compile.dlopen(*objects)
        results = [ours[name]() for name in ("choose", "has_optional", "has_optional_data")]
        assert results == [2, 3, 4]
        assert results == [dlopened.choose(), dlopened.has_optional(), dlopened.has_optional_data()]


def test_two_weak_definitions_are_no_duplicate(session: tol.Session, compile: Compiler) -> None:
    first = compile(WEAK)
    second = compile(
        """
        #include "safe_call.h"
        __attribute__((weak)) int64_t choice(void) { return 5; }
        EXPORT(choose_again) { RETURN(choice()); }
        """
    )
    together, dlopened = session.load([first, second]), compile.dlopen(first, second)
    assert [together["choose"](), together["choose_again"]()] == [1, 1]
    assert [dlopened.choose(), dlopened.choose_again()] == [1, 1]
    one_by_one = session.create_dylib()
    one_by_one.load(first)
    one_by_one.load(second)
    assert [one_by_one["choose"](), one_by_one["choose_again"]()] == [1, 1]


def test_a_weak_symbol_of_the_link_order_is_found(session: tol.Session, compile: Compiler) -> None:
    base = session.load(compile(STRONG))
    app = session.load(compile(WEAK), link_order=[base])
    assert [app["has_optional"](), app["has_optional_data"]()] == [3, 4]
    assert app["choose"]() == 1


COMDAT = """
#include "safe_call.h"
inline int64_t& shared_counter() { static int64_t counter = 0; return counter; }
inline int64_t inline_variable = 50;
template <typename T> struct Slot { static T value; };
template <typename T> T Slot<T>::value = 500;
EXPORT(NAME) {
  ++inline_variable;
  ++Slot<int64_t>::value;
  RETURN(1000000 * ++shared_counter() + 1000 * (inline_variable - 50) + Slot<int64_t>::value - 500);
}
"""


@pytest.mark.parametrize("together", [True, False], ids=["together", "one by one"])
def test_inline_entities_exist_once_in_a_dylib(
    session: tol.Session, compile: Compiler, together: bool
) -> None:
    first, second = (compile.cxx(COMDAT, "-O1", "-fPIC", f"-DNAME={name}") for name in ("a", "b"))
    dylib = session.create_dylib()
    if together:
        dylib.load([first, second])
    else:
        dylib.load(first)
        dylib.load(second)
    assert [dylib["a"](), dylib["b"](), dylib["a"]()] == [1001001, 2002002, 3003003]
    assert session.load(first)["a"]() == 1001001


def test_hidden_symbols_link_within_a_load_only(session: tol.Session, compile: Compiler) -> None:
    definer = compile(
        '#include "safe_call.h"\n'
        '__attribute__((visibility("hidden"))) int64_t secret = 11;\n'
        '__attribute__((visibility("hidden"))) int64_t get_secret(void) { return secret; }\n'
    )
    user = compile(
        '#include "safe_call.h"\n'
        "extern int64_t secret;\n"
        '__attribute__((visibility("hidden"))) int64_t get_secret(void);\n'
        "EXPORT(reveal) { RETURN(secret + get_secret()); }\n"
    )
    together = session.load([user, definer])
    assert together["reveal"]() == 22 == compile.dlopen(user, definer).reveal()
    base = session.load(definer)
    with pytest.raises(tol.ObjectLoaderError, match="secret"):
        base.lookup("secret")
    with pytest.raises(tol.UndefinedSymbolError, match="secret"):
        session.load(user, link_order=[base])
    both = session.load([compile(VALUE, "-O2", "-fPIC", "-DNUMBER=1"), definer])
    assert both.functions == ["own_value", "set_own_value"]


def test_local_symbols_of_one_name_do_not_clash(session: tol.Session, compile: Compiler) -> None:
    source = """
    #include "safe_call.h"
    static int64_t state = NUMBER;
    static __attribute__((noinline)) int64_t step(void) { return state += NUMBER; }
    EXPORT(NAME) { RETURN(step()); }
    """
    objects = [
        compile(source, "-O1", "-fPIC", f"-DNUMBER={number}", f"-DNAME=f{number}")
        for number in (1, 10)
    ]
    dylib = session.load(objects)
    assert [dylib["f1"](), dylib["f10"](), dylib["f1"]()] == [2, 20, 3]
