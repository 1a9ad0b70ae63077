# SPDX-License-Identifier: Apache-2.0
"""Objects that `tvm_ffi.cpp.build_inline` leaves beside the library that it links of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest
import tvm_ffi
import tvm_ffi.cpp

import tvm_ffi_object_loader as tol
from outcomes import outcome
from releases import needs

pytestmark = [
    pytest.mark.skipif(shutil.which("ninja") is None, reason="ninja is not installed"),
    needs("objects of its build_inline"),
]

SOURCE = """
#include <sstream>
int64_t twice(int64_t n) { return 2 * n; }
void scale(tvm::ffi::TensorView x, double factor) {
  TVM_FFI_CHECK(x.ndim() == 1, ValueError) << "x must have one dimension, not " << x.ndim();
  auto data = static_cast<float*>(x.data_ptr());
  for (int64_t i = 0; i < x.size(0); ++i) data[i] *= factor;
}
tvm::ffi::Array<tvm::ffi::String> words(tvm::ffi::String text) {
  std::istringstream stream(text);
  tvm::ffi::Array<tvm::ffi::String> found;
  for (std::string word; stream >> word;) found.push_back(word);
  return found;
}
"""
FUNCTIONS = {"twice": "Add a number to itself.", "scale": "", "words": ""}


class Built(NamedTuple):
    objects: list[Path]
    library: tvm_ffi.Module


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("inline")
    library = tvm_ffi.cpp.build_inline(
        "inline",
        cpp_sources=SOURCE,
        functions=FUNCTIONS,
        extra_cflags=["-DTVM_FFI_DLL_EXPORT_INCLUDE_METADATA=1"],
        build_directory=str(folder),
    )
    return Built(sorted(folder.glob("*.o")), tvm_ffi.load_module(library))


def calls() -> list[tuple[str, tuple[Any, ...]]]:
    array = numpy.arange(5, dtype="float32")
    return [
        ("twice", (21,)),
        ("twice", ("x",)),
        ("twice", ()),
        ("scale", (array, 2.5)),
        ("scale", (array.reshape(5, 1), 2.5)),
        ("words", ("of  some text",)),
        ("words", (1.5,)),
    ]


def test_it_is_what_its_library_is(session: tol.Session, built: Built) -> None:
    dylib = session.load(built.objects)
    assert dylib.functions == sorted(FUNCTIONS)
    for (name, arguments), (_, others) in zip(calls(), calls(), strict=True):
        expected = outcome(built.library.get_function(name), *others)
        assert outcome(dylib[name], *arguments) == expected
        for mine, theirs in zip(arguments, others, strict=True):
            assert numpy.array_equal(mine, theirs)
    assert dylib["twice"](21) == 42


def test_metadata_and_documentation(session: tol.Session, built: Built) -> None:
    module = session.load_module(built.objects)
    for name in FUNCTIONS:
        for ask in ("get_function_metadata", "get_function_doc"):
            assert getattr(module, ask)(name) == getattr(built.library, ask)(name)
    assert module.get_function_doc("twice") == "Add a number to itself."
