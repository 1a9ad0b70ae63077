# SPDX-License-Identifier: Apache-2.0
"""Which objects an ObjectCache removes to make room for others, whatever the clock says."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol


def entries(cache: tol.ObjectCache) -> list[Path]:
    return sorted((cache.path / "objects").iterdir())


def test_the_least_recently_read_go_first(tmp_path: Path) -> None:
    cache = tol.ObjectCache(tmp_path / "cache", max_bytes=3500)
    for key in "abc":
        cache.put(key, key.encode() * 1000)
    assert cache.get("a") is not None
    cache.put("d", b"d" * 1000)
    assert [key for key in "abcd" if cache.get(key)] == ["a", "c", "d"]
    # These reads have made `a` the oldest.
    cache.put("e", b"e" * 1000)
    assert [key for key in "abcde" if cache.get(key)] == ["c", "d", "e"]
    assert cache.stats().evicted == 2
    assert cache.stats().bytes <= 3500


def test_replacing_needs_no_room_for_the_older_one(tmp_path: Path) -> None:
    cache = tol.ObjectCache(tmp_path / "cache", max_bytes=2200)
    cache.put("a", b"a" * 1000)
    cache.put("b", b"b" * 1000)
    cache.put("a", b"A" * 1000)
    assert cache.get("a") == b"A" * 1000
    assert cache.get("b") == b"b" * 1000
    cache.put("a", b"a" * 2000)
    assert cache.get("a") == b"a" * 2000
    assert cache.get("b") is None
    assert cache.stats().evicted == 1


def test_without_a_limit_nothing_is_evicted(tmp_path: Path) -> None:
    cache = tol.ObjectCache(tmp_path / "cache", max_bytes=None)
    assert cache.max_bytes is None
    for number in range(20):
        cache.put(str(number), bytes(1000))
    assert cache.stats().entries == 20


def test_what_is_put_aside_goes_before_entries(tmp_path: Path) -> None:
    cache = tol.ObjectCache(tmp_path / "cache", max_bytes=3500)
    for key in "abc":
        cache.put(key, key.encode() * 1000)
    (entry,) = (path for path in entries(cache) if path.read_bytes().startswith(b"a"))
    entry.write_bytes(bytes(1040))
    assert cache.get("a") is None
    cache.put("d", b"d" * 1000)
    assert [key for key in "bcd" if cache.get(key)] == ["b", "c", "d"]
    assert list((cache.path / "aside").iterdir()) == []


def test_an_object_that_never_fits_is_not_kept(tmp_path: Path) -> None:
    cache = tol.ObjectCache(tmp_path / "cache", max_bytes=1000)
    cache.put("k", b"small")
    with pytest.raises(OSError, match="1040 bytes with its digest, more than max_bytes=1000"):
        cache.put("k", bytes(1000))
    assert cache.get("k") == b"small"
    with pytest.warns(RuntimeWarning, match="compiled, but not kept: .*more than max_bytes"):
        assert cache.get_or_compile("large", lambda: bytes(1000)) == bytes(1000)
    assert cache.get_or_compile("large", lambda: bytes(1000)) == bytes(1000)  # warned once
    assert cache.stats().not_stored == 2
    assert cache.stats().evicted == 0


def test_wrong_times_of_entries_are_set_right(tmp_path: Path) -> None:
    cache = tol.ObjectCache(tmp_path / "cache", max_bytes=3500)
    for key in "abc":
        cache.put(key, key.encode() * 1000)
    for entry in entries(cache):  # as in a copy of the folder
        os.utime(entry, (4e9, 4e9))
    for key in "def":
        assert cache.get("b") is not None
        cache.put(key, key.encode() * 1000)
    assert [key for key in "abcdef" if cache.get(key)] == ["b", "e", "f"]


def test_wrong_times_do_not_come_back(tmp_path: Path) -> None:
    cache = tol.ObjectCache(tmp_path / "cache", max_bytes=3500)
    for key in "abc":
        cache.put(key, key.encode() * 1000)
    for entry in entries(cache):
        os.utime(entry, (4e9, 4e9))
    cache.get("b")
    cache.put("d", b"d" * 1000)  # for which the times are looked at, and one of a and c goes
    for key in "xy":
        cache.put(key, key.encode())
    cache.put("e", b"e" * 400)
    assert [key for key in "abcdexy" if cache.get(key)] == ["b", "d", "e", "x", "y"]


@pytest.mark.parametrize("jump", [10**18, -(10**18)])
def test_a_clock_that_jumps_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: int
) -> None:
    cache = tol.ObjectCache(tmp_path / "cache", max_bytes=3500)
    now = 1_800_000_000 * 10**9
    clock = [now]
    monkeypatch.setattr(time, "time_ns", lambda: clock[0])
    cache.put("a", b"a" * 1000)
    clock[0] = now + jump
    cache.put("b", b"b" * 1000)
    assert cache.get("a")
    clock[0] = now
    cache.put("c", b"c" * 1000)
    clock[0] = now - jump
    assert cache.get("b")
    cache.put("d", b"d" * 1000)  # a was read before c was written, b after
    assert [key for key in "abcd" if cache.get(key)] == ["b", "c", "d"]
