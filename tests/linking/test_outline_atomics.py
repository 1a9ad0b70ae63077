# SPDX-License-Identifier: Apache-2.0
"""AArch64's outline atomics: functions of libgcc that compilers call in place of instructions."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import TOOLCHAINS, Compiler, Toolchain
from processors import AARCH64, only_on

pytestmark = only_on(AARCH64, "its compilers' functions")

ORDERS = {"RELAXED": "relax", "ACQUIRE": "acq", "RELEASE": "rel", "ACQ_REL": "acq_rel"}
SIZES = {"unsigned char": 1, "unsigned short": 2, "unsigned": 4, "unsigned long": 8}
# With each operation, what it makes of 12 and 10.
OPERATIONS = {
    "swp": ("__atomic_exchange_n(&word, 10, {order})", 10),
    "ldadd": ("__atomic_fetch_add(&word, 10, {order})", 22),
    "ldclr": ("__atomic_fetch_and(&word, (type)~10, {order})", 4),
    "ldeor": ("__atomic_fetch_xor(&word, 10, {order})", 6),
    "ldset": ("__atomic_fetch_or(&word, 10, {order})", 14),
}
CAS = """({{ type expected = 12;
  __atomic_compare_exchange_n(&word, &expected, 10, 0, {order}, __ATOMIC_RELAXED);
  expected; }})"""


def source() -> str:
    text = ['#include "safe_call.h"']
    for type, size in SIZES.items():
        for order in ORDERS:
            calls = {**OPERATIONS, "cas": (CAS, 10)}
            for name, (call, after) in calls.items():
                code = call.format(order=f"__ATOMIC_{order}")
                text.append(
                    f"EXPORT({name}{size}_{ORDERS[order]}) {{ typedef {type} type;"
                    f" static type word; word = 12; type before = {code};"
                    f" RETURN(before == 12 && word == {after}); }}"
                )
    return "\n".join(text) + "\n"


def called(path: Path) -> set[str]:
    listing = subprocess.run(["nm", "-u", path], check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"__aarch64_\w+", listing))


@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_each_of_them(session: tol.Session, compile: Compiler, toolchain: Toolchain) -> None:
    path = compile(source(), "-O2", "-fPIC", "-moutline-atomics", toolchain=toolchain)
    wanted = {
        f"__aarch64_{name}{size}_{order}"
        for name in [*OPERATIONS, "cas"]
        for size in SIZES.values()
        for order in ORDERS.values()
    }
    assert wanted <= called(path)
    dylib = session.load(path)
    assert len(dylib.functions) == len(wanted)
    assert [name for name in dylib.functions if dylib[name]() != 1] == []


def test_sixteen_bytes(session: tol.Session, compile: Compiler) -> None:
    text = """
#include "safe_call.h"
static __int128 word = 12;
EXPORT(sixteen) {
  __int128 before = __sync_val_compare_and_swap(&word, (__int128)12, (__int128)10);
  RETURN(before == 12 && word == 10);
}
"""
    path = compile(text, "-O2", "-fPIC", "-moutline-atomics")
    assert called(path) <= {"__aarch64_cas16_acq_rel", "__aarch64_cas16_sync"} != set()
    assert session.load(path)["sixteen"]() == 1


def test_loads_share_one_copy(session: tol.Session, compile: Compiler) -> None:
    text = """
#include "safe_call.h"
static long word;
EXPORT(add) { RETURN(__atomic_add_fetch(&word, INT(0), __ATOMIC_RELAXED)); }
"""
    outline = compile(text, "-O2", "-fPIC", "-moutline-atomics")
    assert called(outline) == {"__aarch64_ldadd8_relax"}
    first = session.load(outline)
    one = session.stats().bytes_code
    second = session.load(outline)
    assert (first["add"](5), second["add"](7)) == (5, 7)
    # The function, and a jump to the other one.
    assert session.stats().bytes_code - one <= 256
    assert [symbol.name for symbol in first.symbols if "aarch64" in symbol.name] == []


@pytest.mark.parametrize("flags", ["-march=armv8-a+lse", "-mno-outline-atomics"])
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_without_them(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, flags: str
) -> None:
    path = compile(source(), "-O2", "-fPIC", flags, toolchain=toolchain)
    assert called(path) == set()
    dylib = session.load(path)
    assert [name for name in dylib.functions if dylib[name]() != 1] == []
