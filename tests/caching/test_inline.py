# SPDX-License-Identifier: Apache-2.0
"""From source to a function, through the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tvm_ffi
import tvm_ffi.cpp

import tvm_ffi_object_loader as tol
from compilation import Compiler
from releases import needs

pytestmark = [
    pytest.mark.skipif(shutil.which("ninja") is None, reason="ninja is not installed"),
    needs("objects of its build_inline"),
]

SOURCE = "int64_t twice(int64_t n) { return 2 * n; }"


class CountedCompiler:
    """A C++ compiler that counts how often it compiles."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.log.touch()
        self.program = folder / "c++"
        self.program.write_text(f'#!/bin/sh\necho run >>{self.log}\nexec g++ "$@"\n')
        self.program.chmod(0o755)

    def runs(self) -> int:
        count = len(self.log.read_text().splitlines())
        self.log.write_text("")
        return count


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CountedCompiler:
    folder = tmp_path / "compiler"
    folder.mkdir()
    compiler = CountedCompiler(folder)
    monkeypatch.setenv("CXX", str(compiler.program))
    return compiler


@pytest.fixture
def cache(tmp_path: Path) -> tol.ObjectCache:
    return tol.ObjectCache(tmp_path / "objects")


def test_a_source_is_compiled_once(
    session: tol.Session, cache: tol.ObjectCache, compiler: CountedCompiler
) -> None:
    def load(source: str, **options: object) -> tvm_ffi.Module:
        return tol.load_inline(
            "numbers",
            cpp_sources=source,
            cache=cache,
            session=session,
            **options,  # type: ignore[arg-type]
        )

    assert load(SOURCE, functions="twice").twice(21) == 42
    assert compiler.runs() > 0
    assert load(SOURCE, functions="twice").twice(21) == 42
    assert compiler.runs() == 0
    assert load(SOURCE, functions=["twice"]).twice(21) == 42
    with_doc = ["-DTVM_FFI_DLL_EXPORT_INCLUDE_METADATA=1"]
    documented = load(SOURCE, functions={"twice": "Double it."}, extra_cflags=with_doc)
    assert documented.get_function_doc("twice") == "Double it."
    assert compiler.runs() > 0
    assert load(SOURCE.replace("2 *", "3 *"), functions="twice").twice(21) == 63
    assert compiler.runs() > 0
    assert load(SOURCE, functions="twice", extra_cflags=["-O1"]).twice(21) == 42
    assert compiler.runs() > 0
    again = load(SOURCE, functions="twice", extra_cflags=["-O1"])
    assert compiler.runs() == 0
    assert session["numbers"].module == again


@pytest.mark.matrix
def test_it_is_what_tvm_ffi_makes_of_the_source(
    cache: tol.ObjectCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TVM_FFI_CACHE_DIR", str(tmp_path / "tvm"))
    sources = [SOURCE, 'std::string greet(std::string name) { return "hello " + name; }']
    options = {"cpp_sources": sources, "functions": ["twice", "greet"]}
    ours = tol.load_inline("both", **options, cache=cache)  # type: ignore[arg-type]
    theirs = tvm_ffi.cpp.load_inline("both", **options)  # type: ignore[arg-type]
    for module in (ours, theirs):
        assert module.twice(4) == 8
        assert module.greet("you") == "hello you"
        with pytest.raises(TypeError, match="Expected 1"):
            module.twice()


@pytest.mark.slow
def test_headers_belong_to_the_source(
    cache: tol.ObjectCache, compiler: CountedCompiler, tmp_path: Path
) -> None:
    folder = tmp_path / "include"
    folder.mkdir()
    (folder / "factor.h").write_text("#define FACTOR 2\n")
    source = '#include "factor.h"\nint64_t scale(int64_t n) { return FACTOR * n; }'

    def scale() -> int:
        module = tol.load_inline(
            "scaling",
            cpp_sources=source,
            functions="scale",
            extra_include_paths=[str(folder)],
            cache=cache,
        )
        result: int = module.scale(10)
        return result

    assert (scale(), compiler.runs() > 0) == (20, True)
    assert (scale(), compiler.runs()) == (20, 0)
    (folder / "factor.h").write_text('#include "other.h"\n')
    (folder / "other.h").write_text("#define FACTOR 3\n")
    assert (scale(), compiler.runs() > 0) == (30, True)
    assert (scale(), compiler.runs()) == (30, 0)
    (folder / "other.h").write_text("#define FACTOR 4\n")
    assert (scale(), compiler.runs() > 0) == (40, True)
    assert (scale(), compiler.runs()) == (40, 0)
    # As it was: that object is still there.
    (folder / "other.h").write_text("#define FACTOR 3\n")
    assert (scale(), compiler.runs()) == (30, 0)


@pytest.mark.slow
def test_another_compiler_compiles_again(
    cache: tol.ObjectCache,
    compiler: CountedCompiler,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build() -> bytes:
        return tol.build_object("numbers", cpp_sources=SOURCE, functions="twice", cache=cache)

    build()
    assert compiler.runs() > 0
    compiler.program.write_text(compiler.program.read_text() + "# a newer version\n")
    build()
    assert compiler.runs() > 0
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("CPATH", str(tmp_path / "other"))
    build()
    assert compiler.runs() > 0
    build()
    assert compiler.runs() == 0


@pytest.mark.slow
def test_processes_compile_once(compiler: CountedCompiler, tmp_path: Path) -> None:
    script = f"""
import tvm_ffi_object_loader as tol
cache = tol.ObjectCache({str(tmp_path / "objects")!r})
print(tol.load_inline("n", cpp_sources={SOURCE!r}, functions="twice", cache=cache).twice(4))
"""
    command = [sys.executable, "-c", script]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    runs = compiler.runs()
    shutil.rmtree(tmp_path / "objects")
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    results = [process.communicate() for process in processes]
    assert results == [(first.stdout, "")] * 4 == [("8\n", "")] * 4
    assert compiler.runs() == runs


def test_libraries_and_sessions(cache: tol.ObjectCache, compile: Compiler) -> None:
    library = compile.link(compile("long from_library(void) { return 77; }\n", "-fPIC"))
    source = 'extern "C" long from_library();\nint64_t ask() { return from_library(); }'
    with tol.Session() as session:
        module = tol.load_inline(
            "asks",
            cpp_sources=source,
            functions="ask",
            session=session,
            link_order=[library],
            cache=cache,
        )
        assert module.ask() == 77
        assert list(session) == ["asks"]
        with pytest.raises(tol.UndefinedSymbolError, match="from_library"):
            tol.load_inline(
                "asks", cpp_sources=source, functions="ask", session=session, cache=cache
            )
        assert session["asks"].module == module


def test_a_frozen_cache_compiles_nothing(cache: tol.ObjectCache, compiler: CountedCompiler) -> None:
    frozen = tol.ObjectCache(cache.path, frozen=True)
    with pytest.raises(tol.FrozenCacheError):
        tol.build_object("numbers", cpp_sources=SOURCE, functions="twice", cache=frozen)
    assert compiler.runs() == 0
    made = tol.build_object("numbers", cpp_sources=SOURCE, functions="twice", cache=cache)
    found = tol.build_object("numbers", cpp_sources=SOURCE, functions="twice", cache=frozen)
    assert made == found


@pytest.mark.slow
def test_what_does_not_compile_says_why(
    cache: tol.ObjectCache, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match="nonsense"):
            tol.build_object("broken", cpp_sources="nonsense;", functions="f", cache=cache)
    assert cache.stats().entries == 0
    assert capfd.readouterr().err == ""


def test_the_default_cache_is_the_users(tmp_path: Path) -> None:
    script = f"""
import tvm_ffi_object_loader as tol
assert tol.load_inline("n", cpp_sources={SOURCE!r}, functions="twice").twice(4) == 8
"""
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], env=env, check=True)
    assert any((tmp_path / "tvm-ffi-object-loader").rglob("*"))


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        (5, {}, TypeError, "name must be a str"),
        ("a/b", {}, ValueError, "identifier"),
        ("n", {"cache": "folder"}, TypeError, "cache must be an ObjectCache or None, not str"),
        ("n", {"session": "s"}, TypeError, "session must be a Session, not str"),
    ],
)
def test_arguments(name: object, options: dict[str, object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        tol.load_inline(name, cpp_sources=SOURCE, functions="twice", **options)  # type: ignore[arg-type]


def test_a_release_that_makes_no_objects(
    monkeypatch: pytest.MonkeyPatch, cache: tol.ObjectCache
) -> None:
    monkeypatch.setattr(tvm_ffi.cpp, "build_inline", lambda name, cpp_sources: "a library")
    with pytest.raises(RuntimeError, match=r"makes no objects: pip install --upgrade"):
        tol.load_inline("n", cpp_sources=SOURCE, functions="twice", cache=cache)
