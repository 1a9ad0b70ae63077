# SPDX-License-Identifier: Apache-2.0
"""What the package tells Python's `logging`, all of it at the level ``DEBUG``.

What a handler raises neither undoes a load nor gets into the way of its error: `sys.unraisablehook`
gets it. A handler may load, close and drop: nothing is held while it runs.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import _native
from .statistics import Holders, stats_of_dylib, stats_of_session

if TYPE_CHECKING:
    from .dylib import Dylib
    from .session import Session

_logger = logging.getLogger("tvm_ffi_object_loader")

_MOST_NAMES = 8


def _tell(message: str, *arguments: object) -> None:
    try:
        _logger.debug(message, *arguments)
    except Exception as error:
        _native.discard(error, _logger)


def _name(given: Any) -> str:
    if isinstance(given, str):
        return given
    return given[0] if isinstance(given, tuple) else "<bytes>"


def _names(given: Sequence[Any]) -> str:
    more = len(given) - _MOST_NAMES
    names = ", ".join(map(_name, given[:_MOST_NAMES]))
    return f"{names} and {more} more" if more > 0 else names


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()] or [""]
    # A list is of no use without what it begins with.
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])


def _where(dylib: Dylib) -> str:
    return f"dylib {dylib.name!r} of session {dylib.session.name!r}"


def _keepers(holders: Holders) -> str:
    # The others only hold something that is closed.
    return str(dataclasses.replace(holders, functions=0, modules=0))


def tell_created(dylib: Dylib) -> None:
    """Tell of a new dylib that is linked against others or shared libraries."""
    entries = dylib.link_order
    names = [entry if isinstance(entry, str) else repr(entry.name) for entry in entries]
    _tell("made %s, linked against %s", _where(dylib), _names(names))


def load(dylib: Dylib, objects: Sequence[Any], whole_archive: bool, as_module: bool) -> None:
    """Load objects into a dylib, and tell how it went.

    Raises
    ------
    Exception
        What the load raises.
    """
    try:
        figures = dylib._native.load_and_report(objects, whole_archive, as_module)
    except Exception as error:
        names, kind = _names(objects), type(error).__name__
        _tell("failed to load %s into %s: %s: %s", names, _where(dylib), kind, _first_line(error))
        raise
    _tell_loaded("loaded %s into %s", dylib, objects, figures)


def reload(
    dylib: Dylib,
    objects: Sequence[Any],
    whole_archive: bool,
    dependents: bool,
    keep_data: bool | list[str],
) -> None:
    """Reload a dylib, and tell how it went.

    Raises
    ------
    Exception
        What the reload raises.
    """
    try:
        figures = dylib._native.reload(objects, whole_archive, dependents, keep_data)
    except Exception as error:
        names, kind = _names(objects), type(error).__name__
        _tell("failed to reload %s in %s: %s: %s", names, _where(dylib), kind, _first_line(error))
        raise
    _tell_loaded("reloaded %s in %s", dylib, objects, figures)


def _tell_loaded(what: str, dylib: Dylib, objects: Sequence[Any], figures: dict[str, Any]) -> None:
    libraries = figures["libraries"]
    if libraries:
        _tell("opened %s for %s", _names(libraries), _where(dylib))
    _tell(
        f"{what}: %d object(s); %d bytes of code, %d of constants, %d of data; "
        "%.3f ms reading, %.3f ms linking, %.3f ms initializing",
        *(_names(objects), _where(dylib), figures["objects"]),
        *(figures[f"bytes_{area}"] for area in ("code", "constants", "data")),
        *(1e3 * figures[f"seconds_{stage}"] for stage in ("reading", "linking", "initializing")),
    )


def close_dylib(dylib: Dylib, timeout: float | None) -> None:
    """Close a dylib, and tell what of it is kept.

    Raises
    ------
    Exception
        What the close raises.
    """
    was_closed = dylib.closed
    dylib._native.close(timeout)
    if was_closed:
        return
    stats = stats_of_dylib(dylib._native)
    if stats.retained:
        _tell("closed %s, whose code is kept by %s", _where(dylib), _keepers(stats.held_by))
    else:
        _tell("closed %s, and nothing is kept", _where(dylib))


def close_session(session: Session, timeout: float | None) -> None:
    """Close a session, and tell what of it is kept.

    Raises
    ------
    Exception
        What the close raises.
    """
    was_closed = session.closed
    session._native.close(timeout)
    if was_closed:
        return
    retained = stats_of_session(session._native).retained_dylibs
    kept = [f"{dylib.name!r} by {_keepers(dylib.held_by)}" for dylib in retained]
    if kept:
        _tell("closed session %r; code is kept of dylibs %s", session.name, _names(kept))
    else:
        _tell("closed session %r, and nothing is kept", session.name)
