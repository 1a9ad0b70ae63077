# SPDX-License-Identifier: Apache-2.0
"""The session that a whole process shares."""

from __future__ import annotations

import os
import threading
from typing import NoReturn

from .errors import ObjectLoaderError
from .session import Session

# Reentrant: making the session can start a garbage collection whose finalizers come here. Taken
# over a fork, so that a child never finds it taken by a thread that it does not have.
_lock = threading.RLock()
os.register_at_fork(
    before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
)


class _DefaultSession(Session):
    __slots__ = ()

    def close(self, timeout: float | None = None) -> NoReturn:
        raise ObjectLoaderError("the default session is never closed; close its dylibs instead")

    def __enter__(self) -> NoReturn:
        self.close()


_default_session: Session | None = None


def default_session() -> Session:
    """Return the session that the whole process shares.

    It is made when it is first asked for, and never closed: its `Session.close` raises.

    Returns
    -------
    Session
        The same object each time.

    Raises
    ------
    ObjectLoaderError
        If the session cannot be set up.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> tol.default_session() is tol.default_session()
    True
    """
    global _default_session
    if _default_session is None:
        with _lock:
            if _default_session is None:
                _default_session = _DefaultSession("default")
    return _default_session
