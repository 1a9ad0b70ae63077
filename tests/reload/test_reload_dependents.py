# SPDX-License-Identifier: Apache-2.0
"""`Dylib.reload(dependents=True)`: what is linked against a dylib is linked anew with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import Trace
from reloading import version
from traced import sizes

# `use` adds BASE to what the dylib before gives, and the next one can link to `after_NAME`.
USER = """
#include "safe_call.h"
#include "trace.h"
int64_t BEFORE(void);
int64_t AFTER(void) { return BASE + BEFORE(); }
EXPORT(use) { RETURN(AFTER()); }
__attribute__((constructor)) static void init(void) { trace(BASE); }
__attribute__((destructor)) static void fini(void) { trace(-BASE); }
"""


def user(compile: Compiler, before: str, after: str, base: int) -> Path:
    flags = (f"-DBEFORE={before}", f"-DAFTER={after}", f"-DBASE={base}")
    return compile(USER, "-O2", "-fPIC", *flags, name=after)


def test_they_are_linked_anew_in_one_step(
    session: tol.Session, compile: Compiler, trace: Trace
) -> None:
    base = session.load(version(compile, 1), name="base")
    app = session.load(user(compile, "number", "app", 100), name="app", link_order=[base])
    top = session.load(user(compile, "app", "top", 1000), name="top", link_order=[app])
    other = session.load(version(compile, 5), name="other")
    before = sizes(session)
    use_app, use_top, number = app["use"], top["use"], other["number"]
    trace.take()
    base.reload(version(compile, 2), dependents=True)
    assert (base["number"](), use_app(), use_top()) == (2, 102, 1102)
    assert trace.take() == [2, 100, 1000, -1000, -100, -1]
    assert sizes(session)["objects"] == before["objects"]
    assert session.stats().retained == 0
    assert (number(), app.link_order, top.link_order) == (5, [base], [app])
    app.reload(user(compile, "number", "app", 200), dependents=True)
    assert (use_app(), use_top()) == (202, 1202)
    base.reload(version(compile, 3))
    assert (base["number"](), use_app(), use_top()) == (3, 202, 1202)


def test_a_diamond(session: tol.Session, compile: Compiler, trace: Trace) -> None:
    base = session.load(version(compile, 1))
    left = session.load(user(compile, "number", "left", 10), link_order=[base])
    right = session.load(user(compile, "number", "right", 20), link_order=[base])
    both = compile("""
#include "safe_call.h"
int64_t left(void), right(void), number(void);
EXPORT(use) { RETURN(10000 * left() + 100 * right() + number()); }
""")
    top = session.load(both, link_order=[left, right, base])
    use = top["use"]
    assert use() == 11_21_01
    base.reload(version(compile, 2), dependents=True)
    assert use() == 12_22_02
    assert sorted(trace.take()) == [-20, -10, -1, 1, 2, 10, 10, 20, 20]


def test_every_load_of_theirs_is_done_again(session: tol.Session, compile: Compiler) -> None:
    base = session.load(version(compile, 1))
    extra = compile("long extra(void) { return 7; }\n")
    app = session.create_dylib(link_order=[base]).load(extra)
    app.load(user(compile, "number", "app", 100))
    empty = session.create_dylib(link_order=[base])
    base.reload(version(compile, 2), dependents=True)
    assert app["use"]() == 102
    assert app.lookup("extra")
    assert empty.load(user(compile, "number", "app", 300))["use"]() == 302


@pytest.mark.parametrize("kind", ["changed", "gone", "bytes", "undefined"])
def test_if_one_cannot_be_nothing_has_changed(
    session: tol.Session, compile: Compiler, tmp_path: Path, trace: Trace, kind: str
) -> None:
    base = session.load(version(compile, 1), name="base")
    first = session.load(user(compile, "number", "first", 100), link_order=[base])
    path = tmp_path / "app.o"
    shutil.copy(user(compile, "number", "app", 200), path)
    if kind == "bytes":
        app = session.load(path.read_bytes(), name="app", link_order=[base])
    else:
        app = session.load(path, name="app", link_order=[base])
    if kind == "changed":
        shutil.copy(user(compile, "number", "app", 300), path)
    elif kind == "gone":
        path.unlink()
    reloaded = [version(compile, 2)]
    if kind == "undefined":
        reloaded = [compile('#include "safe_call.h"\nEXPORT(number) { RETURN(2); }')]
    before = sizes(session)
    trace.take()
    cases: dict[str, tuple[type[Exception], str]] = {
        "changed": (tol.ObjectLoaderError, "dylib 'app'.*has changed since it was loaded"),
        "gone": (FileNotFoundError, "app.o"),
        "bytes": (tol.ObjectLoaderError, "dylib 'app'.*picklable=True"),
        "undefined": (tol.UndefinedSymbolError, "number"),
    }
    error, message = cases[kind]
    with pytest.raises(error, match=message):
        base.reload(reloaded, dependents=True)
    assert trace.take() == []
    assert sizes(session) == before
    assert (base["number"](), first["use"](), app["use"]()) == (1, 101, 201)
    base.reload(version(compile, 2))
    assert (base["number"](), first["use"](), app["use"]()) == (2, 101, 201)


def test_bytes_that_the_session_keeps(compile: Compiler) -> None:
    with tol.Session(picklable=True) as session:
        base = session.load(version(compile, 1).read_bytes())
        app = session.load(user(compile, "number", "app", 1).read_bytes(), link_order=[base])
        base.reload(version(compile, 2).read_bytes(), dependents=True)
        assert app["use"]() == 3
        base.reload(version(compile, 4).read_bytes(), dependents=True)
        assert app["use"]() == 5


def test_a_closed_one_is_left_alone(session: tol.Session, compile: Compiler) -> None:
    base = session.load(version(compile, 1))
    app = session.load(user(compile, "number", "app", 100), link_order=[base])
    app.close()
    base.reload(version(compile, 2), dependents=True)
    assert app.closed
    assert base["number"]() == 2


def test_their_data_are_kept_too(session: tol.Session, compile: Compiler) -> None:
    counts = compile("""
#include "safe_call.h"
int64_t number(void);
int64_t calls;
EXPORT(use) { RETURN(100 * ++calls + number()); }
""")
    base = session.load(version(compile, 1))
    app = session.load(counts, link_order=[base])
    assert app["use"]() == 101
    base.reload(version(compile, 2), dependents=True, keep_data=True)
    assert app["use"]() == 202
    base.reload(version(compile, 3), dependents=True, keep_data=[])
    assert app["use"]() == 103
