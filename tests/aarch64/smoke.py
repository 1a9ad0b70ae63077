#!/usr/bin/python3.11 -B
# SPDX-License-Identifier: Apache-2.0
"""Load objects where nothing else runs: the first process of a system, or a list of what it needs.

``smoke.py FOLDER`` loads the folder's objects, and prints the files that this took, with their
folders. Without an argument it is the first process: it does the same with the folder that the
kernel's parameter ``objects=`` names, says which size pages have, and turns the system off.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

RELOADS = 100
POWER_OFF = 0x4321FEDC


def check(folder: Path) -> None:
    """Load and call."""
    import tvm_ffi_object_loader as tol

    paths = {int(path.stem): path for path in folder.glob("*.o")}
    with tol.Session() as session:
        number, path = next(iter(paths.items()))
        dylib = session.load(path)
        assert dylib["number"]() == number
        assert dylib["aligned"]() == 0
        assert (dylib["caught"](1), dylib["caught"](-1)) == (0, 8)
        assert (dylib["counted"](), dylib["counted"]()) == (2, 5)
        seen: list[int] = []
        threads = [
            threading.Thread(target=lambda: seen.append(dylib["threads"]())) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
            thread.join()
        assert seen == [47] * 4, seen
        try:
            session.load(path.read_bytes()[:-100])
        except tol.ObjectFormatError:
            pass
        else:
            raise AssertionError("an object that is cut was loaded")
        # Code that comes where other code was.
        for _ in range(RELOADS):
            for number, path in paths.items():
                other = session.load(path)
                assert other["number"]() == number
                other.close()


def needed() -> Iterator[Path]:
    """Give the files that are in this process, and all names of its libraries."""
    for module in [*sys.modules.values()]:
        if file := getattr(module, "__file__", None):
            yield Path(file)
    yield Path(os.path.realpath(sys.executable))
    maps = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    for library in {Path(fields[5]) for fields in maps if fields[5:] and fields[5][0] == "/"}:
        if library.is_file():
            yield from (name for name in library.parent.iterdir() if name.resolve() == library)


def with_folders(paths: Iterable[Path]) -> Iterator[Path]:
    """Give the paths, each after the folders and links that it is reached by."""
    known = set()
    for path in paths:
        for each in (*reversed(path.parents), path):
            if each not in known:
                known.add(each)
                yield each


def first_process() -> None:
    """Check, say so, and turn the system off."""
    libc = ctypes.CDLL(None)
    try:
        for kind, place in ((b"proc", b"/proc"), (b"devtmpfs", b"/dev")):
            assert libc.mount(kind, place, kind, 0, None) == 0, place
        parameters = dict(
            word.partition("=")[::2] for word in Path("/proc/cmdline").read_text().split()
        )
        check(Path(parameters["objects"]))
        print(f"passed with pages of {mmap.PAGESIZE} bytes", flush=True)
    except BaseException:
        traceback.print_exc(file=sys.stdout)
    sys.stdout.flush()
    libc.reboot(POWER_OFF)


if sys.argv[1:]:
    objects = Path(sys.argv[1])
    check(objects)
    always = [Path("/usr/lib/ld-linux-aarch64.so.1"), Path("/lib"), Path("/proc"), Path("/dev")]
    print(*with_folders([*always, Path(__file__), *objects.glob("*.o"), *needed()]), sep="\n")
else:
    first_process()
