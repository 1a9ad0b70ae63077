# SPDX-License-Identifier: Apache-2.0
"""The processors that the package is for: all that tests have to know of the one they run on.

A test that is about one of them alone is marked with `only_on`, and one that needs what emulation
does not have with `not_emulated`. Flags that compilers have for some processors
alone are in `_LACKS`.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, eq=False)
class Processor:
    """What differs between processors.

    Attributes
    ----------
    name
        As errors name it.
    machine
        Its number in the header of an object (``e_machine``).
    triple
        As clang names it (``--target``).
    relocation_prefix
        What names of its relocations begin with.
    none, absolute_64, relative_32, copy
        The numbers of the relocations that do nothing, write an address, and write a distance; and
        of one that no object has.
    slot_distance
        That of the relocation that writes the distance of a slot, and how many bytes that has.
    return_nothing
        The code of a function that returns 0.
    dynamic_linker
        The file name of the dynamic linker.
    first_glibc
        The version of symbols that glibc had from its first release for this processor on.
    descriptors, through_function
        Flags of GCC for thread-local variables that are found by descriptors, and by calls of
        ``__tls_get_addr``.
    branch_protection
        The flag for code whose branches the processor can check.
    call, by_table
        The instruction, and what is written behind the name of a function that may be far away.
    calls
        The numbers of system calls.
    thread_local_accesses
        Instructions that take the variable ``ordinary`` for a thread-local one, in each way.
    static_alignment
        The largest one of a variable for which glibc has room in each thread.
    answer
        The code of an exported function that returns what the variable ``answer`` holds.
    near_access
        An instruction that takes the address SYMBOL, which has to be near, or small.
    """

    name: str
    machine: int
    triple: str
    relocation_prefix: str
    none: int
    absolute_64: int
    relative_32: int
    copy: int
    slot_distance: tuple[int, int]
    return_nothing: bytes
    dynamic_linker: str
    first_glibc: str
    descriptors: str
    through_function: str
    branch_protection: str
    call: str
    by_table: str
    calls: dict[str, int]
    thread_local_accesses: tuple[str, ...]
    static_alignment: int
    answer: str
    near_access: str

    def header(self) -> bytes:
        """Return `machine` as the header has it."""
        return self.machine.to_bytes(2, "little")


X86_64 = Processor(
    name="x86-64",
    machine=62,
    triple="x86_64-linux-gnu",
    relocation_prefix="R_X86_64_",
    none=0,
    absolute_64=1,
    relative_32=2,
    copy=5,
    slot_distance=(28, 8),  # GOTPCREL64
    return_nothing=b"\x31\xc0\xc3",  # xor %eax, %eax; ret
    dynamic_linker="ld-linux-x86-64.so.2",
    first_glibc="GLIBC_2.2.5",
    descriptors="-mtls-dialect=gnu2",
    through_function="-mtls-dialect=gnu",
    branch_protection="-fcf-protection=full",
    call="call",
    by_table="@PLT",
    calls={
        "mmap": 9,
        "mprotect": 10,
        "mremap": 25,
        "openat": 257,
        "memfd_create": 319,
        "membarrier": 324,
    },
    thread_local_accesses=(
        "leaq ordinary@tlsgd(%rip), %rdi",
        "leaq ordinary@tlsdesc(%rip), %rax",
        "movq ordinary@gottpoff(%rip), %rax",
        "movl %fs:ordinary@tpoff, %eax",
    ),
    static_alignment=64,
    near_access="movl $SYMBOL, %eax",
    answer="""
        movl $1, (%rcx)
        movl $0, 4(%rcx)
        movq answer(%rip), %rax
        movq %rax, 8(%rcx)
        xorl %eax, %eax
        ret""",
)
AARCH64 = Processor(
    name="AArch64",
    machine=183,
    triple="aarch64-linux-gnu",
    relocation_prefix="R_AARCH64_",
    none=0,
    absolute_64=257,
    relative_32=261,
    copy=1024,
    slot_distance=(315, 4),  # GOTPCREL32
    return_nothing=b"\x00\x00\x80\x52\xc0\x03\x5f\xd6",  # mov w0, #0; ret
    dynamic_linker="ld-linux-aarch64.so.1",
    first_glibc="GLIBC_2.17",
    descriptors="-mtls-dialect=desc",
    through_function="-mtls-dialect=trad",
    branch_protection="-mbranch-protection=standard",
    call="bl",
    by_table="",
    calls={
        "mmap": 222,
        "mprotect": 226,
        "mremap": 216,
        "openat": 56,
        "memfd_create": 279,
        "membarrier": 283,
    },
    thread_local_accesses=(
        "adrp x0, :tlsgd:ordinary",
        "adrp x0, :tlsdesc:ordinary",
        "adrp x0, :gottprel:ordinary",
        "add x0, x0, :tprel_hi12:ordinary",
    ),
    static_alignment=16,
    near_access="adrp x0, SYMBOL",
    answer="""
        mov x1, #1
        adrp x2, answer
        ldr x2, [x2, :lo12:answer]
        stp x1, x2, [x3]
        mov w0, #0
        ret""",
)
PROCESSORS = {"x86_64": X86_64, "aarch64": AARCH64}
PROCESSOR = PROCESSORS[platform.machine()]
OTHER = AARCH64 if PROCESSOR is X86_64 else X86_64


def _kernel_processor() -> str:
    try:
        return Path("/proc/sys/kernel/arch").read_text().strip()
    except OSError:  # before Linux 6.1
        return platform.machine()


# QEMU tells programs that they run on their own processor; a file that it does not know says more.
EMULATED = _kernel_processor() != platform.machine()


def only_on(processor: Processor, why: str) -> pytest.MarkDecorator:
    """Mark a test of what `why` says, which other processors do not have."""
    return pytest.mark.skipif(
        PROCESSOR is not processor, reason=f"for {processor.name} alone: {why}"
    )


def not_emulated(why: str) -> pytest.MarkDecorator:
    """Mark a test of what `why` says, which QEMU does not show to the programs that it runs."""
    return pytest.mark.skipif(EMULATED, reason=f"not under emulation: {why}")


needs_address_space_limit = not_emulated("limits of the address space have no effect")

# What compilers refuse for a processor: flags that are refused together, of which compilers.
_LACKS: dict[str, list[tuple[set[str], set[str]]]] = {
    "x86-64": [
        ({"-mcmodel=tiny"}, {"gcc", "clang"}),
        ({"-moutline-atomics"}, {"gcc", "clang"}),
        ({"-mbranch-protection=standard"}, {"gcc", "clang"}),
    ],
    "AArch64": [
        ({"-m32"}, {"gcc", "clang"}),
        ({"-mcmodel=medium"}, {"gcc", "clang"}),
        ({"-mcmodel=large", "-fPIC"}, {"gcc", "clang"}),
        ({"-mcmodel=large", "-fPIE"}, {"gcc", "clang"}),
        ({"-mtls-dialect=desc"}, {"clang"}),  # it has them without being told
        ({"-mtls-dialect=trad"}, {"clang"}),
        ({"-march=native"}, {"gcc", "clang"} if EMULATED else set()),
    ],
}


def lacks(compiler: str, flags: Iterable[str]) -> str:
    """Return why a compiler, "gcc" or "clang", does not take `flags` for this processor, or ""."""
    given = set(flags)
    for refused, compilers in _LACKS[PROCESSOR.name]:
        if compiler in compilers and refused <= given:
            return f"{compiler} has no {' '.join(sorted(refused))} for {PROCESSOR.name}"
    return ""
