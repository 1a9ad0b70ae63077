# SPDX-License-Identifier: Apache-2.0
"""ObjectCache in one process: objects by key, and what is refused.

test_cache_eviction.py has what makes room for others, test_cache_processes.py several processes and
threads, test_cache_folder.py what can be wrong with the folder and its entries.
"""

from __future__ import annotations

import dataclasses
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

import tvm_ffi_object_loader as tol
from conftest import RunScript

SEAL = 40  # bytes of an entry beside the object


def never() -> bytes:
    raise AssertionError("compiled")


def files(cache: tol.ObjectCache, folder: str = "objects") -> list[Path]:
    return sorted((cache.path / folder).iterdir())


@pytest.fixture
def cache(tmp_path: Path) -> tol.ObjectCache:
    return tol.ObjectCache(tmp_path / "cache")


def test_an_object_is_compiled_once(cache: tol.ObjectCache, add_object: Path) -> None:
    key = tol.object_key("add.c", "-O2")
    assert cache.get(key) is None
    compiled = cache.get_or_compile(key, add_object.read_bytes)
    assert type(compiled) is bytes
    assert compiled == add_object.read_bytes()
    assert cache.get_or_compile(key, never) == compiled == cache.get(key)
    assert tol.ObjectCache(cache.path).get_or_compile(key, never) == compiled
    assert tol.ObjectLoader().load(compiled)["add"](1, 2) == 3
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.compiled, stats.waits) == (2, 2, 1, 0)
    assert (stats.entries, stats.bytes) == (1, len(compiled) + SEAL)


def test_an_entry_is_an_object_that_tools_can_read(
    cache: tol.ObjectCache, add_object: Path
) -> None:
    cache.put("add", add_object.read_bytes())
    (entry,) = files(cache)
    assert entry.suffix == ".o"
    assert tol.ObjectLoader().load(entry)["add"](1, 2) == 3


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_put_takes_bytes_of_each_kind_and_replaces(
    cache: tol.ObjectCache, make: Callable[[bytes], Any]
) -> None:
    cache.put("k", make(b"older"))
    cache.put("k", make(b"new"))
    assert cache.get("k") == b"new"
    assert cache.stats().bytes == len(b"new") + SEAL
    assert cache.get_or_compile("other", lambda: make(b"x")) == b"x"


@pytest.mark.parametrize("key", ["../../escape", "/etc/passwd", "a\0b", "x" * 10000, "\udc80", "é"])
def test_any_string_is_a_key(cache: tol.ObjectCache, key: str) -> None:
    cache.put(key, b"data")
    assert cache.get(key) == b"data"
    (entry,) = files(cache)
    assert set(entry.stem) <= set("0123456789abcdef")


def test_clear_removes_everything(cache: tol.ObjectCache) -> None:
    for number in range(3):
        cache.put(f"k{number}", b"data")
    files(cache)[0].write_bytes(b"corrupt")
    assert [cache.get(f"k{number}") for number in range(3)].count(None) == 1
    assert len(files(cache, "aside")) == 1
    cache.clear()
    assert cache.stats().entries == cache.stats().bytes == 0
    assert files(cache) == files(cache, "aside") == []
    assert cache.get("k0") is None
    cache.put("k0", b"again")
    assert cache.get("k0") == b"again"


def test_a_frozen_cache_gives_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    with pytest.raises(FileNotFoundError, match="no object cache here: one that is not frozen"):
        tol.ObjectCache(path, frozen=True)
    tol.ObjectCache(path).put("k", b"data")
    frozen = tol.ObjectCache(path, frozen=True)
    assert frozen.frozen
    assert frozen.get_or_compile("k", never) == b"data" == frozen.get("k")
    with pytest.raises(tol.FrozenCacheError, match="has no object with the key 'absent': compile"):
        frozen.get_or_compile("absent", never)
    with pytest.raises(LookupError):
        frozen.get_or_compile("absent", never)
    with pytest.raises(tol.FrozenCacheError, match="put an object into it, make one with froz"):
        frozen.put("k", b"new")
    with pytest.raises(tol.FrozenCacheError, match="clear it, make one with frozen=False"):
        frozen.clear()
    assert frozen.get("absent") is None
    (entry,) = files(frozen)
    entry.write_bytes(b"corrupt")
    assert frozen.get("k") is None
    assert entry.read_bytes() == b"corrupt"
    assert (frozen.stats().hits, frozen.stats().misses) == (2, 4)


def test_what_compile_raises_is_raised(cache: tol.ObjectCache) -> None:
    class Failed(BaseException):
        pass

    def fail() -> bytes:
        raise Failed

    for _ in range(2):
        with pytest.raises(Failed):
            cache.get_or_compile("k", fail)
    assert cache.get_or_compile("k", lambda: b"data") == b"data"
    assert cache.stats().compiled == 1
    assert files(cache, "flights") == []


def test_compile_may_ask_for_other_keys_but_not_for_its_own(cache: tol.ObjectCache) -> None:
    def outer() -> bytes:
        inner = cache.get_or_compile("inner", lambda: b"inner")
        return inner + tol.ObjectCache(cache.path).get_or_compile("other", lambda: b" and other")

    assert cache.get_or_compile("outer", outer) == b"inner and other"
    assert cache.get("inner") == b"inner"

    def itself() -> bytes:
        return tol.ObjectCache(cache.path).get_or_compile("k", itself)

    with pytest.raises(tol.ObjectLoaderError, match="with the key 'k': give the two different"):
        cache.get_or_compile("k", itself)
    assert cache.get_or_compile("k", lambda: b"data") == b"data"


def test_a_removed_folder_is_made_again(cache: tol.ObjectCache) -> None:
    cache.put("k", b"data")
    shutil.rmtree(cache.path)
    assert cache.get("k") is None
    assert cache.get_or_compile("k", lambda: b"again") == b"again"
    assert cache.get_or_compile("k", never) == b"again"
    assert cache.path.stat().st_mode & 0o777 == 0o700


def test_stats_are_a_record(cache: tol.ObjectCache) -> None:
    cache.put("k", b"data")
    stats = cache.stats()
    assert stats.as_dict() == dataclasses.asdict(stats)
    assert stats.as_dict()["entries"] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.hits = 5  # type: ignore[misc]


def test_a_pickled_cache_is_one_of_the_same_folder(cache: tol.ObjectCache) -> None:
    cache.put("k", b"data")
    copied = pickle.loads(pickle.dumps(tol.ObjectCache(cache.path, max_bytes=5000, frozen=True)))
    assert (copied.path, copied.max_bytes, copied.frozen) == (cache.path, 5000, True)
    assert copied.get("k") == b"data"
    assert repr(copied) == f"ObjectCache({str(cache.path)!r}, max_bytes=5000, frozen=True)"


def test_the_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache = tol.ObjectCache("here")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    cache.put("k", b"data")
    assert cache.path == tmp_path / "here"
    assert tol.ObjectCache(tmp_path / "here").get("k") == b"data"


def test_the_default_is_the_users_folder_for_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    cache = tol.ObjectCache()
    assert cache.path == tmp_path / "xdg" / "tvm-ffi-object-loader" / "objects"
    assert cache.path.stat().st_mode & 0o777 == 0o700
    assert cache.max_bytes == 1 << 30


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda c: tol.ObjectCache(cast("str", 5)), TypeError, "expected str"),
        (lambda c: tol.ObjectCache(cast("str", b"x")), TypeError, "path must be a str or an os.Pa"),
        (lambda c: tol.ObjectCache("x", max_bytes=0), ValueError, "max_bytes must be positive"),
        (
            lambda c: tol.ObjectCache("x", max_bytes=cast("int", 1.5)),
            TypeError,
            "max_bytes must be an int or None, not 1.5",
        ),
        (lambda c: tol.ObjectCache("x", max_bytes=True), TypeError, "max_bytes must be an int"),
        (
            lambda c: tol.ObjectCache("x", frozen=cast("bool", 1)),
            TypeError,
            "frozen must be True or False, not 1",
        ),
        (lambda c: c.get(b"k"), TypeError, "a key must be a str, not bytes: see object_key"),
        (lambda c: c.get(""), ValueError, "a key must not be empty: see object_key"),
        (lambda c: c.put("k", "text"), TypeError, "data must be an object's bytes, not str: read"),
        (lambda c: c.put("k", b""), ValueError, "data is empty, and no object"),
        (
            lambda c: c.get_or_compile("k", b"data"),
            TypeError,
            "compile must be callable, not bytes",
        ),
        (
            lambda c: c.get_or_compile("k", lambda: Path("k.o")),
            TypeError,
            "what compile returns must be an object's bytes, not PosixPath: read the file",
        ),
        (lambda c: c.get_or_compile("k", lambda: None), TypeError, "bytes, not NoneType"),
        (lambda c: c.get_or_compile("k", bytes), ValueError, "what compile returns is empty"),
    ],
)
def test_bad_arguments_are_said(
    cache: tol.ObjectCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[Any], object],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        call(cache)
    assert files(cache) == files(cache, "flights") == []
    assert not Path("x").exists()


def test_the_import_brings_nothing_of_the_cache(run_script: RunScript) -> None:
    script = """
import sys
sys.modules["torch"] = None  # it brings filelock
import tvm_ffi
before = set(sys.modules)
import tvm_ffi_object_loader as tol
new = set(sys.modules) - before
names = ("filelock", "platformdirs", "hashlib", "dataclasses", "tvm_ffi_object_loader.cache",
         "tvm_ffi_object_loader.keys")
print(sorted(new.intersection(names)))
print({"ObjectCache", "object_key"} <= set(dir(tol)))
tol.object_key
print("filelock" in set(sys.modules) - before)
print(tol.ObjectCache.__module__, tol.ObjectCache is tol.ObjectCache)
try:
    tol.absent
except AttributeError as error:
    print(error)
"""
    assert run_script(script).splitlines() == [
        "[]",
        "True",
        "False",
        "tvm_ffi_object_loader.cache True",
        "module 'tvm_ffi_object_loader' has no attribute 'absent'",
    ]


@pytest.mark.parametrize("missing", ["filelock", "platformdirs"])
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        ImportError, match=r"pip install 'tvm-ffi-object-loader\[cache\]'$"
    ) as caught:
        tol.ObjectCache(tmp_path / "cache")
    assert missing in str(caught.value)
    assert caught.value.name == missing
    assert not (tmp_path / "cache").exists()
