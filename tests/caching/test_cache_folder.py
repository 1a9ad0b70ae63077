# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with an ObjectCache's folder, and with the entries in it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from conftest import RunScript

OTHER_USER = 12345


@pytest.fixture
def cache(tmp_path: Path) -> tol.ObjectCache:
    cache = tol.ObjectCache(tmp_path / "cache")
    cache.put("k", b"data" * 1000)
    return cache


def entry(cache: tol.ObjectCache) -> Path:
    (path,) = (cache.path / "objects").iterdir()
    return path


def make_foreign(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Have the file belong to somebody else, who is returned."""
    if os.geteuid() == 0:
        try:
            os.chown(path, OTHER_USER, -1)
        except OSError as error:
            pytest.skip(f"there is nobody else in this namespace: {error}")
        return OTHER_USER
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    return owner


def flip(byte: int) -> Callable[[Path], None]:
    def flip_in(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[byte] ^= 1
        path.write_bytes(content)

    return flip_in


def write(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def write_to(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))

    return write_to


def replace_by_another_entry(path: Path) -> None:
    other = tol.ObjectCache(path.parent.parent)
    other.put("other", b"other" * 1000)
    (written,) = set(path.parent.iterdir()) - {path}
    written.replace(path)


def replace_by_link(path: Path) -> None:
    moved = path.rename(path.parent.parent.parent / "moved.o")
    path.symlink_to(moved)


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


CORRUPT: dict[str, Callable[[Path], None]] = {
    "first bit": flip(0),
    "digest": flip(-20),
    "mark": flip(-1),
    "short": write(lambda content: content[:-1]),
    "half": write(lambda content: content[: len(content) // 2]),
    "shorter than a digest": write(lambda content: content[:10]),
    "empty": write(lambda content: b""),
    "long": write(lambda content: content + b"\0"),
    "first byte missing": write(lambda content: content[1:]),
    "of another key": replace_by_another_entry,
    "a link": replace_by_link,
    "a pipe": replace_by_fifo,
    "others can write": lambda path: path.chmod(0o622),
    "the group can write": lambda path: path.chmod(0o660),
}


@pytest.mark.parametrize("how", CORRUPT)
def test_a_corrupt_entry_is_missing_and_put_aside(cache: tol.ObjectCache, how: str) -> None:
    path = entry(cache)
    CORRUPT[how](path)
    assert cache.get("k") is None
    assert not os.path.lexists(path)
    assert [aside.name for aside in (cache.path / "aside").iterdir()] == [path.name]
    assert cache.get("k") is None
    assert cache.get_or_compile("k", lambda: b"compiled") == b"compiled"
    assert cache.get("k") == b"compiled"
    stats = cache.stats()
    assert (stats.put_aside, stats.misses, stats.compiled, stats.hits) == (1, 3, 1, 1)


def test_an_entry_of_somebody_else_is_missing(
    cache: tol.ObjectCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = entry(cache)
    with monkeypatch.context() as patched:
        make_foreign(path, patched)
        assert cache.get("k") is None
    assert cache.get_or_compile("k", lambda: b"compiled") == b"compiled"


def test_a_good_entry_is_not_put_aside(
    cache: tol.ObjectCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Between the read that found it corrupt and the lock, another process has written it anew.
    whole = entry(cache).read_bytes()
    entry(cache).write_bytes(b"corrupt")
    put_aside = cache._folder.put_aside

    def late(name: str) -> bool:
        entry(cache).write_bytes(whole)
        return put_aside(name)

    monkeypatch.setattr(cache._folder, "put_aside", late)
    assert cache.get("k") is None
    assert cache.stats().put_aside == 0
    assert cache.get("k") == b"data" * 1000


@pytest.mark.parametrize(("number", "is_missing"), [(errno.ESTALE, True), (errno.EIO, False)])
def test_an_entry_that_another_host_has_removed_is_missing(
    cache: tol.ObjectCache, monkeypatch: pytest.MonkeyPatch, number: int, is_missing: bool
) -> None:
    def fail(fd: int) -> os.stat_result:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", fail)
        if is_missing:
            assert cache.get("k") is None
        else:
            with pytest.raises(OSError, match=os.strerror(number)):
                cache.get("k")
    assert cache.get("k") == b"data" * 1000


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
@pytest.mark.parametrize("inner", ["", "objects", "flights"])
def test_a_folder_that_others_can_write_is_refused(
    cache: tol.ObjectCache, mode: int, inner: str
) -> None:
    (cache.path / inner).chmod(mode)
    for frozen in (False, True):
        with pytest.raises(
            PermissionError, match=r"can be written by others.*: chmod go-w"
        ) as caught:
            tol.ObjectCache(cache.path, frozen=frozen)
        assert Path(caught.value.filename) == cache.path / inner
    # One that is in use notices when it writes.
    with pytest.raises(PermissionError, match="can be written by others"):
        cache.put("k", b"new")
    with pytest.warns(RuntimeWarning, match="can be written by others"):
        assert cache.get_or_compile("new", lambda: b"new") == b"new"
    (cache.path / inner).chmod(0o700)
    assert tol.ObjectCache(cache.path).get("k") == b"data" * 1000


@pytest.mark.parametrize("inner", ["", "objects"])
def test_a_folder_of_somebody_else_is_refused(
    cache: tol.ObjectCache, monkeypatch: pytest.MonkeyPatch, inner: str
) -> None:
    owner = make_foreign(cache.path / inner, monkeypatch)
    with pytest.raises(PermissionError, match=f"belongs to the user {owner}, who could put any"):
        tol.ObjectCache(cache.path)


def test_a_link_is_not_followed(cache: tol.ObjectCache, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(cache.path)
    with pytest.raises(
        OSError, match=f"a link, which is not followed: pass the folder, {cache.path}"
    ):
        tol.ObjectCache(link)
    moved = (cache.path / "objects").rename(tmp_path / "moved")
    (cache.path / "objects").symlink_to(moved)
    with pytest.raises(OSError, match="a link, which is not followed"):
        tol.ObjectCache(cache.path)
    with pytest.raises(OSError, match="a link, which is not followed"):
        cache.put("k", b"new")


def test_files_that_are_links_are_not_written_through(
    cache: tol.ObjectCache, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    for name in ("state", "lock"):
        (cache.path / name).unlink()
        (cache.path / name).symlink_to(victim)
        with pytest.raises(OSError, match="Too many levels of symbolic links"):
            cache.put("k", b"new")
        (cache.path / name).unlink()
    assert victim.read_text() == "kept"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="the object cache's folder is no folder"):
        tol.ObjectCache(tmp_path / "file")
    with pytest.raises((NotADirectoryError, FileExistsError)) as caught:
        tol.ObjectCache(tmp_path / "file" / "cache")
    assert str(tmp_path / "file") in str(caught.value)


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_what_is_made_is_this_users_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        cache = tol.ObjectCache(tmp_path / "parent" / "cache")
        cache.put("k", b"data")
        cache.get_or_compile("other", lambda: b"data")
    finally:
        os.umask(before)
    for path in (cache.path, *cache.path.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
    assert tol.ObjectCache(cache.path).get("k") == b"data"


# Root may write everywhere, until it has given that up.
READ_ONLY = """
import ctypes, os, shutil, struct, sys, warnings
import tvm_ffi_object_loader as tol
from pathlib import Path

cache = tol.ObjectCache(sys.argv[1])
shutil.rmtree(cache.path / "aside")  # a cache may come without what is only for writing
libc = ctypes.CDLL(None, use_errno=True)
header = struct.pack("=Ii", 0x20080522, 0)
held = ctypes.create_string_buffer(24)
assert libc.capget(header, held) == 0
words = list(struct.unpack("=6I", held.raw))
words[0] &= ~0b111  # CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
assert libc.capset(header, struct.pack("=6I", *words)) == 0
for path in (cache.path, *cache.path.rglob("*")):
    path.chmod(0o500 if path.is_dir() else 0o400)
try:
    for one in (cache, tol.ObjectCache(cache.path), tol.ObjectCache(cache.path, frozen=True)):
        print(one.get("k") == b"data" * 1000, one.get("absent"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            print(cache.get_or_compile("absent", lambda: b"compiled"))
    print(len(caught), caught[0].category.__name__, "Permission denied" in str(caught[0].message))
    print(Path(caught[0].filename) == Path(__file__), cache.stats().not_stored)
    for call in (lambda: cache.put("k", b"new"), cache.clear):
        try:
            call()
        except PermissionError as error:
            print(error.strerror)
    try:
        tol.ObjectCache(cache.path / "new")
    except PermissionError as error:
        print(error.filename == str(cache.path / "new"))
finally:
    for path in (cache.path, *cache.path.rglob("*")):
        path.chmod(0o700)
"""


def test_a_folder_that_cannot_be_written_is_read(
    cache: tol.ObjectCache, run_script: RunScript
) -> None:
    assert run_script(READ_ONLY, cache.path).splitlines() == [
        *["True None"] * 3,
        *["b'compiled'"] * 2,
        "1 RuntimeWarning True",
        "True 2",
        *["Permission denied"] * 2,
        "True",
    ]


FULL = """
import os, sys, warnings
import tvm_ffi_object_loader as tol

cache = tol.ObjectCache(sys.argv[1] + "/cache")
cache.put("small", b"small" * 100)
try:
    cache.put("large", os.urandom(1 << 20))
except OSError as error:
    print(error.strerror)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(len(cache.get_or_compile("large", lambda: bytes(1 << 20))))
print(len(caught), str(caught[0].message).partition("not kept: ")[2][:35])
print(cache.get("large"), cache.get("small") == b"small" * 100)
print(sorted(os.listdir(cache.path / "writing")), os.listdir(cache.path / "flights"))
print(int((cache.path / "state").read_text().split()[1]) == cache.stats().bytes)
cache.put("small", b"other")
print(cache.get("small"))
print(int((cache.path / "state").read_text().split()[1]) == cache.stats().bytes)
"""


def test_a_full_disk(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=256k,mode=700 none "$1" || exit 77; shift; exec "$@"'
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("unshare (util-linux) is not installed")
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, "sh", disk, sys.executable, "-c", FULL, disk],
        capture_output=True,
        text=True,
    )
    if result.returncode == 77 or result.stderr.startswith("unshare:"):
        pytest.skip(f"no disk of its own can be had here: {result.stderr.strip()}")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "No space left on device",
        str(1 << 20),
        "1 [Errno 28] No space left on device",
        "None True",
        "[] []",
        "True",
        "b'other'",
        "True",
    ]


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"1", b"x y", b"-5 7", b"9" * 20 + b" " + b"9" * 20, b"1 -1"]
)
def test_a_broken_state_is_made_anew(cache: tol.ObjectCache, content: bytes) -> None:
    small = tol.ObjectCache(cache.path, max_bytes=9500)
    (cache.path / "state").write_bytes(content)
    assert cache.get("k") == b"data" * 1000
    small.put("b", b"b" * 4000)
    assert small.get("k") == b"data" * 1000
    small.put("c", b"c" * 4000)
    assert int((cache.path / "state").read_text().split()[1]) == small.stats().bytes
    assert [key for key in ("k", "b", "c") if small.get(key)] == ["k", "c"]


def test_a_lost_state_does_not_lose_the_order(tmp_path: Path) -> None:
    cache = tol.ObjectCache(tmp_path / "cache", max_bytes=6500)
    for key in "abcdef":
        cache.put(key, key.encode() * 1000)
    (cache.path / "state").unlink()
    assert cache.get("c")
    cache.put("x", b"x")
    assert cache.get("a")
    read = {path: path.stat() for path in (cache.path / "objects").iterdir()}
    order = sorted(read, key=lambda path: (int(read[path].st_mtime), read[path].st_atime_ns))
    assert b"".join(path.read_bytes()[:1] for path in order) == b"bcdefxa"


def test_files_of_another_purpose_are_not_touched(cache: tol.ObjectCache) -> None:
    others = [
        cache.path / folder / name
        for folder in ("objects", "aside", "writing", "flights")
        for name in ("main.o", "a" * 64 + ".c", "." + "a" * 64 + ".o")
    ]
    for path in others:
        path.write_text("kept")
    folders = [path.parent / ("b" * 64 + ".o") for path in others[::3]]
    for path in folders:
        path.mkdir()
    (cache.path / "state").unlink()
    small = tol.ObjectCache(cache.path, max_bytes=4050)
    small.put("other", b"data" * 1000)
    assert (small.stats().evicted, small.stats().entries, small.stats().bytes) == (1, 1, 4040)
    small.clear()
    assert small.stats().entries == 0
    assert [path.read_text() for path in others] == ["kept"] * len(others)
    assert all(path.is_dir() for path in folders)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_read(
    cache: tol.ObjectCache, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(fd: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    assert cache.get("k") == b"data" * 1000
    with pytest.raises(OSError, match=os.strerror(number)):
        cache.put("k", b"new")
    with pytest.warns(RuntimeWarning, match=f"compiled, but not kept: .*{os.strerror(number)}"):
        assert cache.get_or_compile("new", lambda: b"new") == b"new"
    assert cache.get("new") is None
