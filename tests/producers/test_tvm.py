# SPDX-License-Identifier: Apache-2.0
"""Functions that TVM compiles: each gives what it gives in the library that TVM exports."""

from __future__ import annotations

import gc
import itertools
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript
from outcomes import outcome
from tvm_export import MARKS, Export, Exported, X, Y, compute, relocatable
from tvm_export import export as export

pytestmark = MARKS


def elementwise(name: str, compute: Any, count: int = 1, dtype: str = "float32") -> Any:
    """Return a function of TIR of `count` arrays, of one length, and the result's array."""
    from tvm import te, tirx

    length = tirx.Var("n", "int32")
    inputs = [te.placeholder((length,), name=f"X{i}", dtype=dtype) for i in range(count)]
    output = te.compute((length,), lambda i: compute(*(each[i] for each in inputs)), name="Y")
    return te.create_prim_func([*inputs, output]).with_attr("global_symbol", name)


def several() -> Any:
    import tvm
    from tvm import tirx

    return tvm.IRModule(
        {
            "add": elementwise("add", lambda x, y: x + y, 2),
            "double": elementwise("double", lambda x: x * 2.0),
            "exponential": elementwise("exponential", tirx.exp),
        }
    )


def halves() -> Any:
    import tvm

    return tvm.IRModule({"half": elementwise("half", lambda x: x * x - x, dtype="float16")})


def parallel() -> Any:
    import tvm
    from tvm import s_tir, te

    matrix = te.placeholder((512, 64), name="X", dtype="float32")
    result = te.compute((512, 64), lambda i, j: matrix[i, j] * 3.0 + 1.0, name="Y")
    function = te.create_prim_func([matrix, result]).with_attr("global_symbol", "in_parallel")
    schedule = s_tir.Schedule(tvm.IRModule({"in_parallel": function}))
    rows, columns = schedule.get_loops(schedule.get_sblock("Y", func_name="in_parallel"))
    schedule.parallel(rows)
    schedule.vectorize(columns)
    return schedule.mod


def calling() -> Any:
    """Return functions that call others by name: of the module's imports, and global ones."""
    import tvm
    from tvm.script import tirx as T  # noqa: N812

    @T.prim_func(s_tir=False)  # type: ignore[untyped-decorator]
    def call(x: T.int64) -> T.int64:
        T.func_attr({"global_symbol": "call"})
        return T.call_packed("tests_producers_imported", x)

    return tvm.IRModule({"call": call})


IMPORTED = """
#include "safe_call.h"
EXPORT(tests_producers_imported) { RETURN(7 * INT(0)); }
"""


def objects_of(exported: Exported, compile_c: Compiler) -> list[Path]:
    """Return an exported module's objects, compiled where TVM wrote C."""
    from tvm import libinfo

    include = f"-I{libinfo.find_include_path()}"
    return [
        compile_c(path.read_text(), "-O2", "-fPIC", include) if path.suffix == ".c" else path
        for path in exported.files
    ]


@pytest.mark.parametrize("target", ["llvm", "c"])
def test_functions(session: tol.Session, export: Export, compile: Compiler, target: str) -> None:
    exported = export("several", several, target)
    dylib, library = session.load(objects_of(exported, compile)), exported.dlopen()
    assert dylib.functions == ["add", "double", "exponential"]
    for name, inputs in (("add", (X, Y)), ("double", (X,)), ("exponential", (X,))):
        expected = compute(library.get_function(name), *inputs)
        assert numpy.count_nonzero(expected) > 900
        assert compute(dylib[name], *inputs).tobytes() == expected.tobytes()


@pytest.mark.parametrize("target", ["llvm", "c"])
def test_errors(session: tol.Session, export: Export, compile: Compiler, target: str) -> None:
    exported = export("several", several, target)
    add = session.load(objects_of(exported, compile))["add"]
    expected = exported.dlopen().get_function("add")
    wrong: tuple[tuple[object, ...], ...] = (
        (),
        (X, Y),
        (X, Y, 5),
        (X, Y[:10], X.copy()),
        (X, Y, X.astype("float64")),
        (X, Y, numpy.zeros((10, 10), "float32")),
    )
    for arguments in wrong:
        result = outcome(add, *arguments)
        assert result == outcome(expected, *arguments)
        assert issubclass(result[0], Exception)


def test_half_precision(session: tol.Session, export: Export) -> None:
    exported = export("halves", halves)
    half = X.astype("float16")
    result = compute(session.load(exported.files)["half"], half)
    assert result.tobytes() == compute(exported.dlopen().get_function("half"), half).tobytes()
    assert numpy.count_nonzero(result) > 900


def test_parallel_loops(session: tol.Session, export: Export) -> None:
    exported = export("parallel", parallel)
    module, library = session.load_module(exported.files), exported.dlopen()
    matrix = numpy.random.default_rng(1).standard_normal((512, 64), dtype="float32")
    for name in ("in_parallel", "main"):  # main is what TVM calls a module's only function, too
        expected = compute(library.get_function(name), matrix)
        assert compute(module.get_function(name), matrix).tobytes() == expected.tobytes()


def test_functions_are_fast_in_tvms_module_class(
    session: tol.Session, export: Export, add_object: Path
) -> None:
    import tvm

    module = session.load_module(export("several", several).files)
    assert type(module) is tvm.runtime.Module
    fast = type(session.load(add_object)["add"])
    assert type(module["add"]) is type(module.add) is fast
    assert fast is not tvm_ffi.Function


def test_calls_of_imported_functions(
    session: tol.Session, export: Export, compile: Compiler
) -> None:
    exported = export("calling", calling)
    imported = compile(IMPORTED)
    library = compile.link(imported)
    callers: list[Callable[[], tvm_ffi.Module]] = [
        lambda: session.load_module(exported.files),
        exported.dlopen,
    ]
    called: list[Callable[[], tvm_ffi.Module]] = [
        lambda: session.load_module(imported),
        lambda: tvm_ffi.load_module(str(library), keep_module_alive=False),
    ]
    for make_caller, make_called in itertools.product(callers, called):
        module = make_caller()
        module.import_module(make_called())
        gc.collect()
        call = module["call"]
        del module
        assert call(6) == 42
        # The library is to be another one each time: it keeps what it has looked up.
        del call


def test_calls_of_global_functions(session: tol.Session, export: Export) -> None:
    exported = export("calling", calling)
    name = "tests_producers_imported"
    for module in (session.load_module(exported.files), exported.dlopen()):
        with pytest.raises(RuntimeError, match=name):
            module["call"](1)
        tvm_ffi.register_global_func(name, lambda n: n + 10)
        try:
            assert module["call"](1) == 11
        finally:
            tvm_ffi.remove_global_func(name)


@pytest.mark.parametrize("way", ["given", "reversed", "ld -r", "tar"])
def test_objects_of_several_modules_together(
    session: tol.Session, export: Export, compile: Compiler, tmp_path: Path, way: str
) -> None:
    objects = [
        path
        for name, functions in (("several", several), ("halves", halves), ("parallel", parallel))
        for path in export(name, functions).files
    ]
    library = compile.dlopen(*objects)
    ways: dict[str, Callable[[], list[Path]]] = {
        "given": lambda: objects,
        "reversed": lambda: objects[::-1],
        "ld -r": lambda: [relocatable(objects, tmp_path)],
        "tar": lambda: [tar_of(objects, tmp_path)],
    }
    dylib = session.load(ways[way]())
    assert dylib.functions == ["add", "double", "exponential", "half", "in_parallel", "main"]
    matrix = numpy.ones((512, 64), "float32")
    for name, inputs in (
        ("add", (X, Y)),
        ("exponential", (X,)),
        ("half", (X.astype("float16"),)),
        ("in_parallel", (matrix,)),
    ):
        expected = compute(library.get_function(name), *inputs)
        assert compute(dylib[name], *inputs).tobytes() == expected.tobytes()


def tar_of(objects: list[Path], folder: Path) -> Path:
    path = folder / "together.tar"
    with tarfile.open(path, "w") as tar:
        for index, each in enumerate(objects):
            tar.add(each, f"{index}.o")
    return path


def test_an_exported_tar(session: tol.Session, export: Export) -> None:
    import tvm

    exported = export("several", several)
    expected = compute(tvm.runtime.load_module(str(exported.tar))["add"], X, Y)
    assert compute(session.load_module(exported.tar)["add"], X, Y).tobytes() == expected.tobytes()
    in_c = export("several", several, "c").tar
    with pytest.raises(tol.ObjectFormatError, match=r"module\.tar\(lib0\.c\): is not an object"):
        session.load(in_c)


def test_through_the_functions_that_tvm_is_to_load_with(
    session: tol.Session, export: Export
) -> None:
    exported = export("several", several)
    with tol.register_as_orcjit(session):
        theirs = tvm_ffi.get_global_func("tvm_ffi_orcjit.GlobalDefaultSession")()
        load = tvm_ffi.get_global_func("tvm_ffi_orcjit.SessionLoadModule")
        module = load(theirs, [path.read_bytes() for path in exported.files], "")
    expected = compute(exported.dlopen()["exponential"], X)
    assert compute(module["exponential"], X).tobytes() == expected.tobytes()
    assert len(session.dylibs) == 1


SYSTEM_LIBRARIES = """
import sys
import warnings
warnings.simplefilter("ignore")
import numpy
import tvm
import tvm_ffi
import tvm_ffi_object_loader as tol

for path in sys.argv[1:]:
    tvm_ffi.load_module(path, keep_module_alive=path.endswith(".so"))
for prefix in ("first_", "second_"):
    library = tvm_ffi.system_lib(prefix)
    for name in ("scale", prefix + "scale", "absent"):
        try:
            result = numpy.zeros(4, "float32")
            library[name](*map(tvm_ffi.from_dlpack, (numpy.arange(4, dtype="float32"), result)))
            print(prefix, name, result.tolist())
        except AttributeError as error:
            print(prefix, name, error)
"""


def test_system_libraries(export: Export, run_script: RunScript) -> None:
    def scaling(prefix: str, factor: float) -> Any:
        import tvm

        name = f"{prefix}scale"
        functions = tvm.IRModule({name: elementwise(name, lambda x: x * factor)})
        return functions.with_attr("system_lib_prefix", prefix)

    exported = [
        export("first", lambda: scaling("first_", 2.0)),
        export("second", lambda: scaling("second_", 3.0)),
    ]
    expected = run_script(SYSTEM_LIBRARIES, *(each.library for each in exported))
    assert "first_ scale [0.0, 2.0, 4.0, 6.0]" in expected
    assert "second_ scale [0.0, 3.0, 6.0, 9.0]" in expected
    # What they registered stays, though their modules were dropped.
    loaded = run_script(SYSTEM_LIBRARIES, *(path for each in exported for path in each.files))
    assert loaded == expected
