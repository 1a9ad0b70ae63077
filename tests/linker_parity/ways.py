# SPDX-License-Identifier: Apache-2.0
"""Load objects in one of three ways and call ``run``: ``ways.py WAY < REQUESTS``.

Standard input is a list of requests, as JSON; for each of them, one line of JSON says what came of
it: results, or the text of an error. A process that crashes ends after the lines it had written.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import tvm_ffi


class Request(TypedDict):
    """What to load and to call."""

    objects: list[str]
    library: str  # what `cc -shared` made of the objects
    arguments: list[int]
    preload: list[str]


class Answer(TypedDict):
    """What came of it: either is empty."""

    results: list[int]
    refused: str


def dlopen(request: Request) -> tvm_ffi.Module:
    """Load the shared library that the linker made of the objects."""
    return tvm_ffi.load_module(request["library"], keep_module_alive=False)


def loader(request: Request) -> tvm_ffi.Module:
    """Load the objects with this package."""
    module: tvm_ffi.Module = importlib.import_module("tvm_ffi_object_loader").load_module(
        request["objects"]
    )
    return module


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


def answer(way: str, request: Request) -> Answer:
    """Load and call."""
    for library in request["preload"]:
        ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    try:
        module = WAYS[way](request)
        results = [module.run(argument) for argument in request["arguments"]]
    except Exception as error:
        return Answer(results=[], refused=f"{type(error).__name__}: {error}")
    return Answer(results=results, refused="")


if __name__ == "__main__":
    for each in json.load(sys.stdin):
        print(json.dumps(answer(sys.argv[1], each)), flush=True)
