# SPDX-License-Identifier: Apache-2.0
"""Session: the JITDylibs that can be linked against each other, and their memory.

A session keeps its `Dylib` wrappers in a weak mapping only, keyed by the native dylib's serial
number, so that asking twice gives the same object while dropping it still unloads the dylib.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from logging import DEBUG
from typing import TYPE_CHECKING, Literal, NoReturn

from . import _native
from ._handles import Handle
from .arguments import (
    check_timeout,
    normalize_libraries,
    normalize_link_order,
    normalize_objects,
    require_bool,
    require_name,
    wants_debug,
    wants_picklable,
    wants_profile,
)
from .dylib import Dylib, is_logged

if TYPE_CHECKING:
    import tvm_ffi

    from .arguments import LinkOrder, Objects, PathLike
    from .statistics import SessionStats
    from .symbols import Location


# That imported this; in a forked child it is another one.
PROCESS = os.getpid()

_serial_numbers = itertools.count(1)

# By the address of what they stand for, which they hold.
_sessions: weakref.WeakValueDictionary[int, Session] = weakref.WeakValueDictionary()

# For the wrappers of all sessions. Reentrant: making a wrapper can
# start a garbage collection whose finalizers come here. Taken over a fork, so that a child never
# finds it taken by a thread that it does not have.
_lock = threading.RLock()
os.register_at_fork(
    before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
)


class Session(Handle):
    """Dylibs that can be linked against each other, with the memory that they share.

    Sessions are independent: closing one touches no other. They cost little, so that one for each
    job is fine. A dylib keeps its session open; `close`, or leaving the ``with`` block, unloads
    all its dylibs at once.

    Parameters
    ----------
    name
        A name for messages; one is made up if it is `None`. It need not be unique.
    libraries
        Paths of shared libraries, which come last in the link order of every dylib that is made in
        the session: what its objects need and the process does not have, such as the runtime
        library of a compiler.
    debug
        Let debuggers see what is loaded, as they see a library: names, source lines and variables,
        as far as the objects have debug information (``-g``); and breakpoints. It costs time and
        memory for each load. `None` stands for whether the environment variable
        ``TVM_FFI_OBJECT_LOADER_DEBUG`` is 1.
    profile
        ``"perf"`` lets Linux's perf know what is loaded, by ``/tmp/perf-PID.map`` and by
        ``jit-PID.dump``, in the folder that the environment variable ``JITDUMPDIR`` names or else
        in the current one. Both files stay when the process ends. `None` stands for what the
        environment variable ``TVM_FFI_OBJECT_LOADER_PROFILE`` says.
    picklable
        As `picklable`. `None` stands for whether the environment variable
        ``TVM_FFI_OBJECT_LOADER_PICKLABLE`` is 1.

    Raises
    ------
    ObjectLoaderError
        If the session cannot be set up.
    OSError
        If the files of the profile cannot be written.
    TypeError
        If the name is not a `str`, a library not a path, or `debug` or `picklable` not a `bool`.
    ValueError
        If a path holds a null character, or there is no such kind of profile, or one of the
        environment variables has another value.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> with tol.Session() as session:
    ...     base = session.load("math_ops.o", name="base")
    ...     app = session.load("string_ops.o", name="app", link_order=[base])
    ...     app["string_concat"]("a", "b")
    'ab'
    >>> session.closed
    True
    """

    __slots__ = ("__weakref__", "_libraries", "_native", "_wrappers")

    def __init__(
        self,
        name: str | None = None,
        *,
        libraries: Iterable[PathLike] = (),
        debug: bool | None = None,
        profile: Literal["perf"] | None = None,
        picklable: bool | None = None,
    ) -> None:
        if name is not None:
            require_name("a session's name", name)
        self.libraries = libraries
        keeps_contents = wants_picklable(picklable)
        self._native = _native.Session(
            f"session{next(_serial_numbers)}" if name is None else name,
            wants_debug(debug),
            wants_profile(profile),
        )
        self._native.keeps_contents = keeps_contents
        self._enter()

    def _enter(self) -> None:
        self._wrappers: weakref.WeakValueDictionary[int, Dylib] = weakref.WeakValueDictionary()
        with _lock:
            _sessions[self._native.address] = self

    @classmethod
    def _of(cls, native: _native.Session) -> Session:
        """Return the session that stands for it; where nobody has one any more, another one."""
        with _lock:
            found = _sessions.get(native.address)
            if found is None:
                found = cls.__new__(cls)
                found._native = native
                found._libraries = ()
                found._enter()
            return found

    def _wrap(self, native: _native.Dylib) -> Dylib:
        with _lock:
            found = self._wrappers.get(native.id)
            return self._wrap_new(native) if found is None else found

    def _wrap_new(self, native: _native.Dylib) -> Dylib:
        return self._wrappers.setdefault(native.id, Dylib._wrap(self, native))

    @property
    def name(self) -> str:
        """The session's name."""
        return self._native.name

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._native.closed

    @property
    def libraries(self) -> tuple[str, ...]:
        """The shared libraries that come last in the link order of every new dylib.

        They can be set, also for the default session, for dylibs that are made from then on.

        Raises
        ------
        TypeError
            If a path, or anything but paths, is set.
        ValueError
            If a path holds a null character.
        """
        return self._libraries

    @libraries.setter
    def libraries(self, libraries: Iterable[PathLike]) -> None:
        self._libraries = normalize_libraries(libraries)

    @property
    def picklable(self) -> bool:
        """Whether the contents of what is loaded are kept, so that it can always be pickled.

        Dylibs, modules and functions can be pickled as long as the files that they were loaded from
        are there and unchanged. With this they can be always, also those that were loaded from
        bytes; it takes as much memory as the files, and reading all of each. It can be set, also
        for the default session, for what is loaded from then on.

        Raises
        ------
        TypeError
            If anything but a `bool` is set.
        """
        return self._native.keeps_contents

    @picklable.setter
    def picklable(self, picklable: bool) -> None:
        require_bool("picklable", picklable)
        self._native.keeps_contents = picklable

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError(
            f"session {self.name!r} cannot be pickled: pickle its dylibs, modules or functions, "
            "which bring all that they need"
        )

    @property
    def dylibs(self) -> dict[str, Dylib]:
        """The live dylibs by name, in order of creation.

        The `dict` is a snapshot, and holding it holds the dylibs. It is empty for a closed session.
        Dylibs whose name another one got (``replace=True``) are not among them.
        """
        if self._native.closed:
            return {}
        return {native.name: self._wrap(native) for native in self._native.dylibs()}

    def create_dylib(self, name: str | None = None, link_order: LinkOrder = ()) -> Dylib:
        """Make an empty dylib.

        Parameters
        ----------
        name
            A name that no live dylib of the session has; one is made up if it is `None`.
        link_order
            Dylibs of this session (or loaders into them) and paths of shared libraries (``.so``),
            searched in this order for what the new one does not define itself, and before the
            session's `libraries`. They stay loaded for as long as the new one is. The libraries are
            opened privately; a path without a slash is a file in the current folder.

        Returns
        -------
        Dylib
            The new dylib.

        Raises
        ------
        ObjectLoaderError
            If the name is taken, or a dylib belongs to another session.
        ObjectFormatError
            If a path does not lead to a shared library.
        LinkError
            If a shared library cannot be opened; the message says what the dynamic linker says.
        SessionClosedError
            If the session, or a dylib in ``link_order``, is closed.
        OSError
            If a file cannot be read.
        TypeError
            If an argument is of another type.
        ValueError
            If a path holds a null character.

        Examples
        --------
        >>> import tvm_ffi_object_loader as tol
        >>> session = tol.Session()
        >>> base = session.create_dylib("base")
        >>> session.create_dylib("app", link_order=[base]).link_order == [base]
        True
        """
        return self._create(name, normalize_link_order(link_order), replace=False)

    def _create(
        self, name: str | None, entries: list[_native.Dylib | str], *, replace: bool
    ) -> Dylib:
        if name is not None:
            require_name("a dylib's name", name)
        linked = [*entries, *self._libraries]
        native = self._native.create_dylib(name, linked, replace)
        with _lock:
            dylib = self._wrap_new(native)
        if linked and is_logged(DEBUG):
            from ._log import tell_created

            tell_created(dylib)
        return dylib

    def load(
        self,
        objects: Objects,
        *,
        name: str | None = None,
        link_order: LinkOrder = (),
        whole_archive: bool = False,
        replace: bool = False,
    ) -> Dylib:
        """Load objects into a new dylib: `create_dylib` and `Dylib.load` in one step.

        Parameters
        ----------
        objects
            As for `Dylib.load`: objects, archives and shared libraries.
        name
            As for `create_dylib`.
        link_order
            As for `create_dylib`.
        whole_archive
            As for `Dylib.load`.
        replace
            Give the name to the new dylib if another one has it. Whoever holds the other one, its
            module or its functions keeps that; only its name is gone from the session.

        Returns
        -------
        Dylib
            The new dylib.

        Raises
        ------
        ObjectLoaderError
            As `create_dylib` and `Dylib.load` raise it, with all its subclasses.
        OSError
            If a file cannot be read.
        TypeError
            If an argument is of another type.
        ValueError
            If ``objects`` has no elements, a path holds a null character, or there is no name to
            replace.

        Notes
        -----
        When it raises, the session is as it was before: the name is free, or the other dylib's.

        Examples
        --------
        >>> import tvm_ffi_object_loader as tol
        >>> session = tol.Session()
        >>> first = session.load("math_ops.o", name="math")
        >>> second = session.load("math_ops.o", name="math", replace=True)
        >>> session["math"] is second
        True
        >>> first["simple_add"](1, 2)
        3
        """
        return self._load(objects, name, normalize_link_order(link_order), whole_archive, replace)

    def _load(
        self,
        objects: Objects,
        name: str | None,
        entries: list[_native.Dylib | str],
        whole_archive: bool,
        replace: bool,
        as_module: bool = False,
    ) -> Dylib:
        if whole_archive is not False or replace is not False:  # a call of each takes its time
            require_bool("whole_archive", whole_archive)
            require_bool("replace", replace)
        if replace and name is None:
            raise ValueError("replace=True needs the name of the dylib to replace: name='...'")
        normalized = normalize_objects(objects)
        dylib = self._create(name, entries, replace=replace)
        try:
            if is_logged(DEBUG):
                from ._log import load

                load(dylib, normalized, whole_archive, as_module)
            else:
                dylib._native.load(normalized, whole_archive, as_module)
        except BaseException:
            dylib._native.close(None)
            raise
        if replace:
            dylib._native.take_name()
        return dylib

    def load_module(
        self,
        objects: Objects,
        *,
        name: str | None = None,
        link_order: LinkOrder = (),
        whole_archive: bool = False,
        replace: bool = False,
    ) -> tvm_ffi.Module:
        """Load objects into a new dylib and return it as a module.

        Parameters
        ----------
        objects
            As for `load`.
        name
            As for `create_dylib`.
        link_order
            As for `create_dylib`.
        whole_archive
            As for `Dylib.load`.
        replace
            As for `load`.

        Returns
        -------
        tvm_ffi.Module
            The module, whose attributes are the exported functions. It keeps the dylib loaded.

        Raises
        ------
        ObjectFormatError
            Also if there is no object, but only a shared library.
        ObjectLoaderError
            As `load` raises it, with all its subclasses.
        OSError
            If a file cannot be read.
        TypeError
            If an argument is of another type.
        ValueError
            As `load` raises it.

        Examples
        --------
        >>> import tvm_ffi_object_loader as tol
        >>> session = tol.Session()
        >>> session.load_module("math_ops.o").simple_add(1, 2)
        3
        """
        entries = normalize_link_order(link_order)
        return self._load(objects, name, entries, whole_archive, replace, as_module=True).module

    def load_all(
        self,
        objects: Iterable[Objects] | Mapping[str, Objects],
        *,
        threads: int | None = None,
        progress: bool = False,
        link_order: LinkOrder = (),
        whole_archive: bool = False,
        replace: bool = False,
    ) -> list[Dylib]:
        """Load each of many objects into a dylib of its own, several at a time.

        What cannot be loaded keeps nothing else from being loaded.

        Parameters
        ----------
        objects
            For each dylib what `load` takes: a path, bytes, or a list of these; or a mapping to
            that from the names of the dylibs. An iterator is read as the loads go on, in this
            thread, so that it can make the objects.
        threads
            How many threads load, and run the objects' static initializers; 1 is the calling
            thread alone. `None` stands for one for each processor that this process may use.
        progress
            Show a progress bar on standard error, or in a notebook. It needs rich, which the extra
            ``cli`` installs.
        link_order
            As for `create_dylib`, for all of them.
        whole_archive
            As for `Dylib.load`.
        replace
            As for `load`.

        Returns
        -------
        list[Dylib]
            The dylibs, in the order of `objects`.

        Raises
        ------
        LoadAllError
            If some could not be loaded. It names them, with the causes, and has what was loaded.
        ImportError
            If there is to be a progress bar, and rich is not installed.
        TypeError
            If an argument is of another type.
        ValueError
            If there is not one thread, a path in `link_order` holds a null character, or there are
            no names to replace.

        Notes
        -----
        An exception of an iterator, such as a compiler's, is passed on when the loads that were
        begun have ended; so is Ctrl-C.

        Examples
        --------
        >>> import tvm_ffi_object_loader as tol
        >>> session = tol.Session()
        >>> dylibs = session.load_all({"math": "math_ops.o", "string": "string_ops.o"}, threads=2)
        >>> [dylib.name for dylib in dylibs]
        ['math', 'string']
        """
        from ._load_all import load_all  # few need it, and it takes long

        require_bool("whole_archive", whole_archive)
        require_bool("replace", replace)
        if replace and not isinstance(objects, Mapping):
            raise ValueError("replace=True needs names: objects={'name': ...}")
        entries = normalize_link_order(link_order)

        def load(name: str | None, item: Objects) -> Dylib:
            return self._load(item, name, entries, whole_archive, replace)

        return load_all(load, objects, threads, progress)

    def __getitem__(self, name: str) -> Dylib:
        """Return the live dylib of this name.

        Raises
        ------
        KeyError
            If there is none.
        """
        dylibs = self.dylibs
        try:
            return dylibs[name]
        except KeyError:
            live = ", ".join(map(repr, dylibs)) or "none"
            message = f"session {self.name!r} has no dylib {name!r}; its dylibs: {live}"
            raise KeyError(message) from None

    def __contains__(self, name: object) -> bool:
        """Tell whether a live dylib has this name."""
        return name in self.dylibs

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the live dylibs, in order of creation."""
        return iter(self.dylibs)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.dylibs)

    def _repr_html_(self) -> str:
        from ._html import show_session

        return show_session(self)

    def symbolize(self, address: int) -> Location | None:
        """Return what an address is, in the code that this session has loaded.

        Parameters
        ----------
        address
            An address of code, such as a backtrace or a profiler shows.

        Returns
        -------
        Location or None
            What is there; `None` if it is no code of this session's.

        Raises
        ------
        TypeError
            If the address is no `int`.

        Examples
        --------
        >>> import tvm_ffi_object_loader as tol
        >>> session = tol.Session()
        >>> dylib = session.load("math_ops.o", name="math")
        >>> session.symbolize(dylib.lookup("__tvm_ffi_simple_add") + 1).offset
        1
        """
        from .symbols import symbolize_in

        return symbolize_in(self._native, address)

    def stats(self) -> SessionStats:
        """Count what the session has in memory, what keeps it there, and what its loads came to.

        A session that was closed has figures as well.

        Returns
        -------
        SessionStats
            The figures, each as of some moment of the call.
        """
        from .statistics import stats_of_session

        return stats_of_session(self._native)

    def close(self, timeout: float | None = None) -> None:
        """Unload all dylibs of the session now, and refuse new ones.

        Calls in other threads are waited for; Ctrl-C ends the wait. Functions and modules that are
        still held raise `SessionClosedError` when used. Closing twice is fine.

        Parameters
        ----------
        timeout
            How many seconds to wait for calls; `None` waits until they have returned.

        Raises
        ------
        ObjectLoaderError
            If this is the default session, or it is called from within a dylib's own code.
        TimeoutError
            If a call still runs after `timeout` seconds. Nothing was closed then.
        TypeError, ValueError
            If `timeout` is no number, or negative.
        """
        seconds = check_timeout(timeout)
        if is_logged(DEBUG):
            from ._log import close_session

            close_session(self, seconds)
        else:
            self._native.close(seconds)

    def __repr__(self) -> str:
        """Show the name and the number of live dylibs."""
        if self.closed:
            return f"<Session {self.name!r}, closed>"
        return f"<Session {self.name!r}, {len(self.dylibs)} dylib(s)>"
