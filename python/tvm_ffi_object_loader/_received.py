# SPDX-License-Identifier: Apache-2.0
"""The dylibs that recipes stand for in this process: those received, and those that are its own.

What is received is linked once for each digest, in a session of its own, and stays loaded for
whoever receives it again, up to a bound. A dylib of the process itself that has a digest, since it
was sent, is found by that, as long as it lives and is what it was; nothing here keeps it loaded.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from logging import DEBUG
from pickle import UnpicklingError
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ._native import WeakDylib, find_dylib
from .dylib import is_logged
from .errors import ObjectLoaderError, SessionClosedError
from .recipes import Part, Recipe, digest_of, recipe_of
from .session import PROCESS, Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._native import Dylib as NativeDylib
    from .dylib import Dylib

Value = TypeVar("Value")

# So many dylibs stay loaded, whose objects have so many bytes together, with nobody holding them:
# those that were received last.
MOST_DYLIBS = 1000
MOST_BYTES = 256 << 20


class _Known(NamedTuple):
    """A dylib, and the digest that it has while its versions are these."""

    dylib: WeakDylib
    versions: list[int]
    digest: bytes
    received: int | None  # so many bytes; none of the process's own


class _Link:
    """A dylib that a thread is linking."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.is_over = threading.Event()


_known: dict[int, _Known] = {}  # by the dylib's serial number
_by_digest: dict[bytes, list[int]] = {}
_look_through_at = 64
_links: dict[bytes, _Link] = {}  # by the part's digest
_kept: OrderedDict[bytes, tuple[NativeDylib, int]] = OrderedDict()  # with the size in bytes
_kept_bytes = 0
_session: Session | None = None

# Reentrant: a garbage collection can come here. Taken over a fork, so that a child never finds it
# taken by a thread that it does not have; nor does it wait for what such a thread was linking.
_lock = threading.RLock()


def _start_child() -> None:
    for digest, link in list(_links.items()):
        if link.thread != threading.get_ident():
            del _links[digest]
    _lock.release()


os.register_at_fork(
    before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_start_child
)


def send(dylib: NativeDylib) -> Recipe:
    """Return the recipe of a dylib, which is found by its digest from now on.

    Raises
    ------
    TypeError
        As `recipe_of` raises it.
    """
    recipe = recipe_of(dylib)
    _note(recipe.digest, dylib, recipe.versions, None)
    return recipe


def digest(dylib: NativeDylib) -> bytes:
    """Return the digest of a dylib as it is now.

    Raises
    ------
    TypeError
        As `recipe_of` raises it.
    """
    known = _known.get(dylib.id)
    if known is not None and known.versions == dylib.versions():
        return known.digest
    return send(dylib).digest


def receive(recipe: Recipe, get: Callable[[NativeDylib], Value]) -> Value:
    """Return what ``get`` returns for the dylib that a recipe stands for.

    The dylib is linked if there is none yet; and again if somebody closes it meanwhile.

    Raises
    ------
    ObjectLoaderError
        As `Session.load` raises it, with all its subclasses, and as ``get`` raises it.
    OSError
        If a shared library cannot be read.
    pickle.UnpicklingError
        If what arrived is not what was sent.
    """
    while True:
        linked: dict[bytes, NativeDylib] = {}
        session = _receiving_session()
        try:
            dylib = _find(recipe.digest, recipe.serial_number)
            if dylib is None and os.getpid() != PROCESS:
                dylib = _find_inherited(recipe)
            if dylib is None:
                for part in recipe.parts:
                    linked[part.digest] = _receive_part(session, part, linked)
                dylib = linked[recipe.digest]
            linked[recipe.digest] = dylib
            return get(dylib)
        except _ClosedError:
            continue
        except SessionClosedError:
            if session.closed or any(dylib.closed for dylib in linked.values()):
                continue
            raise


class _ClosedError(Exception):
    """A dylib was closed by somebody while it was linked."""


def _receiving_session() -> Session:
    global _session, _kept, _kept_bytes
    session = _session
    if session is None or session.closed:
        made = Session("received", picklable=True)
        with _lock:
            session = _session
            if session is None or session.closed:
                session = _session = made
                # All of them are closed. They go when the lock is not held.
                _closed, _kept, _kept_bytes = _kept, OrderedDict(), 0
    return session


def _note(digest: bytes, dylib: NativeDylib, versions: list[int], received: int | None) -> None:
    number = dylib.id
    with _lock:
        before = _known.get(number)
        if before is not None and before.versions == versions:
            return
        if before is not None:
            _forget(number)
        if len(_known) >= _look_through_at:
            _forget_the_gone()
        _known[number] = _Known(WeakDylib(dylib), versions, digest, received)
        _by_digest.setdefault(digest, []).append(number)


def _forget(number: int) -> None:
    digest = _known.pop(number).digest
    numbers = _by_digest[digest]
    numbers.remove(number)
    if not numbers:
        del _by_digest[digest]


def _forget_the_gone() -> None:
    global _look_through_at
    for number, known in list(_known.items()):
        if known.dylib.is_gone():
            _forget(number)
    _look_through_at = max(64, 2 * len(_known))


def _find(
    digest: bytes, serial_number: int = 0, within: Session | None = None
) -> NativeDylib | None:
    """Return a dylib that has the digest, in a session or in any.

    If there are several, it is the one with the serial number.
    """
    with _lock:
        numbers = _by_digest.get(digest, ())
        first = [serial_number] if serial_number in numbers else []
        candidates = [_known[number] for number in (*first, *numbers)]
    for known in candidates:
        dylib = known.dylib.get()
        if dylib is None or dylib.closed or dylib.versions() != known.versions:
            continue
        if within is not None and dylib.session.address != within._native.address:
            continue
        if known.received is not None:
            _keep(digest, dylib, known.received)
        return dylib
    return None


def _find_inherited(recipe: Recipe) -> NativeDylib | None:
    """Return the sender's own dylib where this process was forked from it before it was sent."""
    dylib = find_dylib(recipe.serial_number)
    try:
        return dylib if dylib is not None and digest(dylib) == recipe.digest else None
    except TypeError:  # another one
        return None


def _keep(digest: bytes, dylib: NativeDylib, size: int) -> None:
    """Note that a dylib was received just now, and let go of those that were longest ago."""
    global _kept_bytes
    dropped = []  # let go of when the lock is not held: it may unload them
    with _lock:
        before = _kept.get(digest)
        if before is not None and before[0].id == dylib.id:
            _kept.move_to_end(digest)
            return
        if before is not None:
            dropped.append(_kept.pop(digest))
            _kept_bytes -= before[1]
        _kept[digest] = (dylib, size)
        _kept_bytes += size
        while len(_kept) > MOST_DYLIBS or (_kept_bytes > MOST_BYTES and len(_kept) > 1):
            dropped.append(_kept.popitem(last=False)[1])
            _kept_bytes -= dropped[-1][1]


def _receive_part(session: Session, part: Part, linked: dict[bytes, NativeDylib]) -> NativeDylib:
    """Return a dylib of the session for a part, linked by one thread; the others wait for it."""
    while True:
        found = _find(part.digest, within=session)
        if found is not None:
            return found
        own = threading.get_ident()
        with _lock:
            other = _links.get(part.digest)
            is_linking = any(link.thread == own for link in _links.values())
            if other is None:
                link = _links[part.digest] = _Link()
        if other is None:
            try:
                # Another thread may have been done with it a moment ago.
                found = _find(part.digest, within=session)
                return _link(session, part, linked) if found is None else found
            finally:
                with _lock:
                    del _links[part.digest]
                link.is_over.set()
        if other.thread == own:
            raise ObjectLoaderError(
                f"dylib {part.name!r} was received from within its own initializers, which would "
                "never end: unpickle it when it is loaded"
            )
        if is_linking:  # an initializer receives something else: threads could wait in a circle
            return _link(session, part, linked)
        other.is_over.wait()


def _link(session: Session, part: Part, linked: dict[bytes, NativeDylib]) -> NativeDylib:
    is_whole = all(entry in linked for entry in part.link_order if isinstance(entry, bytes))
    if not is_whole or digest_of(part.link_order, part.loads) != part.digest:
        raise UnpicklingError(
            f"dylib {part.name!r} is not what was pickled: its digest differs; send it again"
        )
    entries = [linked[entry] if isinstance(entry, bytes) else entry for entry in part.link_order]
    dylib = _make(session, part, entries)
    native = dylib._native
    try:
        for whole_archive, inputs in part.loads:
            given = [name if content is None else (name, content) for name, content in inputs]
            if is_logged(DEBUG):
                from ._log import load

                load(dylib, given, whole_archive, as_module=False)
            else:
                native.load(given, whole_archive, False)
    except BaseException as error:
        was_closed = native.closed
        native.close(None)
        if was_closed and isinstance(error, SessionClosedError):
            raise _ClosedError from error
        raise
    size = part.size
    _note(part.digest, native, native.versions(), size)
    _keep(part.digest, native, size)
    return native


def _make(session: Session, part: Part, entries: list[NativeDylib | str]) -> Dylib:
    """Make a dylib with the part's name, or one like it."""
    for name in (part.name, f"{part.name}-{part.digest.hex()[:8]}"):
        try:
            return session._create(name, entries, replace=False)
        except ObjectLoaderError as error:
            if type(error) is not ObjectLoaderError:
                raise
    return session._create(None, entries, replace=False)
