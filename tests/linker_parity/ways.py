# SPDX-License-Identifier: Apache-2.0
"""Load objects in one of three ways and call ``run``: ``ways.py WAY REQUEST``.

Each way takes the same request, runs in a process of its own, since it may crash, and prints what
came of it as JSON.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import tvm_ffi


class Request(TypedDict):
    """What to load and to call."""

    objects: list[str]
    library: str
    arguments: list[int]
    preload: list[str]


def dlopen(request: Request) -> tvm_ffi.Module:
    """Load the shared library that the linker made of the objects."""
    return tvm_ffi.load_module(request["library"], keep_module_alive=False)


def loader(request: Request) -> tvm_ffi.Module:
    """Load the objects with this package."""
    import tvm_ffi_object_loader as tol

    return tol.load_module(request["objects"])


def peer(request: Request) -> tvm_ffi.Module:
    """Load the objects with apache-tvm-ffi-orcjit."""
    session = importlib.import_module("tvm_ffi_orcjit").default_session()
    module: tvm_ffi.Module = session.load_module([Path(path) for path in request["objects"]])
    return module


WAYS: dict[str, Callable[[Request], tvm_ffi.Module]] = {
    "dlopen": dlopen,
    "loader": loader,
    "peer": peer,
}


def main(way: str, request_text: str) -> None:
    """Print the results of the calls, or why there are none."""
    request: Request = json.loads(request_text)
    for library in request["preload"]:
        ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    answer: dict[str, Any] = {}
    try:
        run = WAYS[way](request).run
    except Exception as error:
        answer["refused"] = f"{type(error).__name__}: {error}"
    else:
        answer["results"] = [run(argument) for argument in request["arguments"]]
        del run
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
