# SPDX-License-Identifier: Apache-2.0
"""register_as_orcjit: be what TVM and jax-tvm-ffi load objects through.

They ask tvm-ffi for two global functions by the names under which the package
apache-tvm-ffi-orcjit registers its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
from typing import TYPE_CHECKING

import tvm_ffi

from .process_session import default_session
from .session import Session

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_PEER = "tvm_ffi_orcjit"
_NAMES = ("tvm_ffi_orcjit.GlobalDefaultSession", "tvm_ffi_orcjit.SessionLoadModule")
_lock = threading.Lock()


class OrcjitRegistration:
    """What `register_as_orcjit` has done: `undo`, or leaving the ``with`` block, takes it back.

    Raises
    ------
    RuntimeError
        If tvm-ffi refuses the registration.

    Examples
    --------
    >>> import tvm_ffi
    >>> import tvm_ffi_object_loader as tol
    >>> registration = tol.register_as_orcjit()
    >>> load = tvm_ffi.get_global_func("tvm_ffi_orcjit.SessionLoadModule")
    >>> registration.undo()
    """

    __slots__ = ("_before", "_functions", "_undone")

    def __init__(self, functions: tuple[tvm_ffi.Function, tvm_ffi.Function]) -> None:
        self._functions = functions
        self._undone = False
        with _lock:
            self._before = [tvm_ffi.get_global_func(name, allow_missing=True) for name in _NAMES]
            for name, function in zip(_NAMES, functions, strict=True):
                tvm_ffi.register_global_func(name, function, override=True)

    def undo(self) -> None:
        """Give the names back to the functions that had them before, or to nobody.

        A name that somebody else has taken meanwhile is left to them. Modules that were loaded stay
        loaded. Undoing twice is fine.
        """
        with _lock:
            if self._undone:
                return
            self._undone = True
            for name, own, before in zip(_NAMES, self._functions, self._before, strict=True):
                now = tvm_ffi.get_global_func(name, allow_missing=True)
                if now is None or not now.same_as(own):
                    continue
                if before is None:
                    tvm_ffi.registry.remove_global_func(name)
                else:
                    tvm_ffi.register_global_func(name, before, override=True)

    def __enter__(self) -> Self:
        """Return the registration itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Undo it."""
        self.undo()


def register_as_orcjit(session: Session | None = None) -> OrcjitRegistration:
    """Let TVM and jax-tvm-ffi load objects through a session.

    From now on it is this package that is found as ``tvm_ffi_orcjit.GlobalDefaultSession`` and
    ``tvm_ffi_orcjit.SessionLoadModule``. The functions are native: they need no interpreter. If
    apache-tvm-ffi-orcjit is installed it is imported first, since it refuses to register its own
    functions after others.

    Parameters
    ----------
    session
        The session to load into; the default session if it is `None`. What is loaded is linked
        against the `Session.libraries` that it has now.

    Returns
    -------
    OrcjitRegistration
        What takes it back: a context manager, and `OrcjitRegistration.undo`.

    Raises
    ------
    SessionClosedError
        If the session is closed.
    TypeError
        If the session is not a `Session`.

    Examples
    --------
    >>> import pathlib
    >>> import tvm_ffi
    >>> import tvm_ffi_object_loader as tol
    >>> with tol.register_as_orcjit():
    ...     session = tvm_ffi.get_global_func("tvm_ffi_orcjit.GlobalDefaultSession")()
    ...     load = tvm_ffi.get_global_func("tvm_ffi_orcjit.SessionLoadModule")
    ...     module = load(session, [pathlib.Path("math_ops.o").read_bytes()], "")
    >>> module.simple_add(1, 2)
    3
    """
    if session is None:
        session = default_session()
    elif not isinstance(session, Session):
        raise TypeError(f"session must be a Session, not {type(session).__name__}")
    if importlib.util.find_spec(_PEER) is not None:
        importlib.import_module(_PEER)
    return OrcjitRegistration(session._native.orcjit_functions(session.libraries))
