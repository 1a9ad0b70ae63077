# SPDX-License-Identifier: Apache-2.0
"""Modules that objects embed, as tvm-ffi's tools write them."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator

import pytest
import tvm_ffi

from compilation import Compiler


def library_bin(tree: list[list[int]], modules: list[tuple[str, bytes | None]]) -> str:
    """Return C source that defines ``__tvm_ffi__library_bin``.

    `tree` lists the imports of each module by index; the content of ``_lib``, which stands for the
    library itself, is None.
    """

    def vector(values: list[int]) -> bytes:
        return struct.pack(f"<Q{len(values)}Q", len(values), *values)

    def string(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    ends = [0, *itertools.accumulate(len(children) for children in tree)]
    blob = vector(ends) + vector([child for children in tree for child in children])
    for kind, content in modules:
        blob += string(kind.encode()) + (b"" if content is None else string(content))
    data = ",".join(str(byte) for byte in struct.pack("<Q", len(blob)) + blob)
    return f"const unsigned char __tvm_ffi__library_bin[] = {{{data}}};\n"


USES_IMPORTS = """
#include "safe_call.h"
#include <tvm/ffi/extra/c_env_api.h>
void* __tvm_ffi__library_ctx = 0;
EXPORT(context) { RETURN(__tvm_ffi__library_ctx != 0); }
EXPORT(call_import) {
  TVMFFIObjectHandle function;
  if (TVMFFIEnvModLookupFromImports(__tvm_ffi__library_ctx, "imported", &function)) return -1;
  TVMFFIAny call_args[1] = {args[0]};
  return TVMFFIFunctionCall(function, call_args, 1, ret);
}
"""
IMPORTED = """
#include "safe_call.h"
EXPORT(imported) { RETURN(FACTOR * INT(0)); }
EXPORT(NAME) { RETURN(FACTOR); }
"""


@pytest.fixture
def factor_kind(compile: Compiler) -> Iterator[str]:
    """Register a kind of module whose content is a factor; return the kind."""

    def load(content: bytes) -> tvm_ffi.Module:
        factor = int(bytes(content))
        flags = ("-O1", "-fPIC", f"-DFACTOR={factor}", f"-DNAME=factor_{factor}")
        return compile.dlopen(compile(IMPORTED, *flags))

    name = "ffi.Module.load_from_bytes.test_factor"
    tvm_ffi.register_global_func(name, load, override=True)
    yield "test_factor"
    tvm_ffi.remove_global_func(name)
