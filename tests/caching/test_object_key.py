# SPDX-License-Identifier: Apache-2.0
"""Keys of objects: what gives one key, and what different ones."""

from __future__ import annotations

import enum
import itertools
import math
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from tvm_ffi_object_loader import keys

DIFFERENT: list[tuple[object, ...]] = [
    ("ab", "c"),
    ("a", "bc"),
    ("abc",),
    (("ab", "c"),),
    (("ab",), "c"),
    ("1",),
    (b"1",),
    (1,),
    (-1,),
    (1.0,),
    (True,),
    (0,),
    (0.0,),
    (-0.0,),
    (False,),
    (None,),
    ("",),
    (b"",),
    ("None",),
    ((),),
    ({},),
    (set(),),
    ("", ""),
    ((), ()),
    ({"a": 1, "b": 2},),
    ({"a": 2, "b": 1},),
    ({"a": "b"},),
    ({1: "a"},),
    ({"1": "a"},),
    (["a", "b"],),
    (["b", "a"],),
    ({"a", "b"},),
    (math.nan,),
    (math.inf,),
    (2**200,),
    ("é",),
    ("e\u0301",),
    ("\udc80",),  # as os.fsdecode gives it
    ("1:s",),
    ("s1:a",),
]


def test_different_parts_have_different_keys() -> None:
    made = [tol.object_key(*parts) for parts in DIFFERENT]
    for (one, first), (two, second) in itertools.combinations(zip(DIFFERENT, made, strict=True), 2):
        assert first != second, (one, two)
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in made)


class Level(enum.IntEnum):
    TWO = 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": {"x": [1], "y": None}}, {"b": {"y": None, "x": [1]}, "a": 1}),
        ({"a", "b", "c"}, frozenset(["c", "b", "a"])),
        (OrderedDict(a=1, b=2), {"b": 2, "a": 1}),
        (["-O2", "-fPIC"], ("-O2", "-fPIC")),
        (b"abc", bytearray(b"abc")),
        (b"abc", memoryview(b"abc")),
        (memoryview(b"abc")[::2], b"ac"),
        (2, Level.TWO),
    ],
)
def test_the_same_parts_have_one_key(one: object, other: object) -> None:
    assert tol.object_key(one) == tol.object_key(other)


def test_a_key_is_the_same_in_every_process() -> None:
    script = "import tvm_ffi_object_loader as tol; print(tol.object_key({'b', 'a'}, {'x': 1.5}))"
    seeds = ("1", "2")  # of str's hashes, which order sets
    printed = {
        subprocess.run(
            [sys.executable, "-c", script],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in seeds
    }
    assert printed == {tol.object_key({"b", "a"}, {"x": 1.5})}


def test_a_path_stands_for_the_files_content(tmp_path: Path) -> None:
    one, other = tmp_path / "one.cc", tmp_path / "other.cc"
    one.write_text("int one;")
    other.write_text("int one;")
    key = tol.object_key(one)
    assert key == tol.object_key(other)
    assert key not in (tol.object_key(str(one)), tol.object_key("int one;"))
    one.write_text("int two;")
    assert tol.object_key(one) != key
    with pytest.raises(FileNotFoundError):
        tol.object_key(tmp_path / "absent.cc")
    with pytest.raises(IsADirectoryError):
        tol.object_key(tmp_path)


def test_versions_and_the_machine_are_in_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {tol.object_key("a")}
    monkeypatch.setattr(keys, "__version__", "0.0.1")
    made.add(tol.object_key("a"))
    monkeypatch.setattr(tvm_ffi, "__version__", "0.0.1")
    made.add(tol.object_key("a"))
    fields = list(os.uname())
    machine = os.uname_result([*fields[:4], "another"])
    monkeypatch.setattr(os, "uname", lambda: machine)
    made.add(tol.object_key("a"))
    assert len(made) == 4


@pytest.mark.parametrize("part", [object(), [1, object()], {"a": object()}, 1j, range(3)])
def test_a_part_of_another_type_is_refused(part: object) -> None:
    with pytest.raises(TypeError, match=r"cannot be a (object|complex|range): pass what it consi"):
        tol.object_key("a", part)


def test_a_key_of_nothing_is_refused() -> None:
    with pytest.raises(TypeError, match="needs parts: the sources, the flags"):
        tol.object_key()
