# SPDX-License-Identifier: Apache-2.0
"""Sessions, dylibs and loaders, as programs use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tvm_ffi

import tvm_ffi_object_loader as tol


def load(path: Path, content: bytes) -> dict[str, Any]:
    """Load objects of every form, in every way."""
    with tol.Session("kernels", libraries=[Path("libfoo.so")]) as session:
        base: tol.Dylib = session.create_dylib("base").load([path, content, bytearray(content)])
        app = session.load(path, name="app", link_order=[base, "libbar.so"], replace=False)
        function: tvm_ffi.Function = app["run"]
        by_name: tvm_ffi.Function = app.get_function("run")
        address: int = app.lookup("symbol")
        names: list[str] = [*app.functions, *app.keys(), *app, *session]
        metadata: dict[str, Any] | None = app.get_function_metadata("run")
        doc: str | None = app.get_function_doc("run")
        module: tvm_ffi.Module = session.load_module(path, whole_archive=True)
        dylibs: dict[str, tol.Dylib] = session.dylibs
        functions: dict[str, tvm_ffi.Function] = dict(app)
        order: list[tol.Dylib | str] = app.link_order
        try:
            many: list[tol.Dylib] = session.load_all({"a": path, "b": [content]}, threads=2)
            many += session.load_all(iter([path, path]), progress=True, link_order=[base])
        except tol.LoadAllError as error:
            many = [result for result in error.results if isinstance(result, tol.Dylib)]
        app.close(timeout=1.5)
        print(
            function, by_name, address, names, metadata, doc, module, dylibs, functions, order, many
        )
        print(len(app), "run" in app, app.closed, app.name, session["app"] == app, app.session.name)
        of_dylib: tol.DylibStats = app.stats()
        holders: tol.Holders = of_dylib.held_by
        seconds: float = of_dylib.seconds_linking
        retained: tuple[tol.DylibStats, ...] = session.stats().retained_dylibs
        objects: dict[str, int] = holders.as_dict()
        print(seconds, retained, objects, of_dylib.as_dict())
        stats: tol.SessionStats = session.stats()
        return stats.as_dict()


def load_in_the_default_session(path: Path) -> object:
    """Load without naming a session."""
    loader: tol.ObjectLoader = tol.ObjectLoader("loader").load(path).load(b"")
    module: tvm_ffi.Module = tol.load_module(path, name="module")
    with tol.register_as_orcjit() as registration:
        registered: tol.OrcjitRegistration = registration
        print(registered)
    return loader.get_function("run")(1), module, tol.default_session().name, tol.__version__
