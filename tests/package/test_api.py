# SPDX-License-Identifier: Apache-2.0
"""The public names and their behaviour as Python objects."""

from __future__ import annotations

import copy
import doctest
import importlib
import inspect
import os
import pathlib
import pkgutil
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript
from releases import has

NAMES = [
    "DuplicateSymbolError",
    "Dylib",
    "DylibStats",
    "FrozenCacheError",
    "FunctionNotFoundError",
    "Holders",
    "Inspection",
    "LinkError",
    "LoadAllError",
    "Location",
    "ObjectCache",
    "ObjectFormatError",
    "ObjectLoader",
    "ObjectLoaderError",
    "OrcjitRegistration",
    "Session",
    "SessionClosedError",
    "SessionStats",
    "Symbol",
    "UndefinedSymbolError",
    "__version__",
    "build_object",
    "default_session",
    "inspect",
    "load_inline",
    "load_module",
    "object_key",
    "register_as_orcjit",
    "symbolize",
]


def test_public_names() -> None:
    assert sorted(tol.__all__) == NAMES
    assert all(hasattr(tol, name) for name in NAMES)
    assert tol.__version__.count(".") >= 2


def test_the_package_is_typed() -> None:
    assert (Path(tol.__file__).parent / "py.typed").is_file()


def test_parameters() -> None:
    def parameters(function: object) -> dict[str, inspect.Parameter]:
        assert callable(function)
        return dict(inspect.signature(function).parameters)

    assert list(parameters(tol.Session.create_dylib)) == ["self", "name", "link_order"]
    for method in (tol.Session.load, tol.Session.load_module):
        found = parameters(method)
        options = ["name", "link_order", "whole_archive", "replace"]
        assert list(found) == ["self", "objects", *options]
        assert all(found[name].kind is inspect.Parameter.KEYWORD_ONLY for name in options)
    for load in (tol.Dylib.load, tol.ObjectLoader.load):
        found = parameters(load)
        assert list(found) == ["self", "objects", "whole_archive"]
        assert found["whole_archive"].kind is inspect.Parameter.KEYWORD_ONLY
    assert list(parameters(tol.Dylib.get_function)) == ["self", "name"]
    assert list(parameters(tol.Dylib.lookup)) == ["self", "symbol"]
    assert list(parameters(tol.load_module)) == ["objects", *options]
    assert list(parameters(tol.ObjectLoader)) == ["name", "session", "link_order"]
    assert list(parameters(tol.Session)) == ["name", "libraries", "debug", "profile", "picklable"]
    assert parameters(tol.Session)["name"].default is None


def test_object_loader_is_chainable_and_incremental(compile: Compiler, add_object: Path) -> None:
    other = compile('#include "safe_call.h"\nEXPORT(three) { RETURN(3); }\n')
    loader = tol.ObjectLoader()
    assert loader.load(add_object).load([other]) is loader
    assert loader.get_function("add")(1, 2) == 3 == loader["three"]()
    assert loader.functions == ["add", "three"]
    assert isinstance(loader.get_function("add"), tvm_ffi.Function)
    loader.close()
    assert loader.closed


def test_object_loader_as_context_manager(add_object: Path) -> None:
    with tol.ObjectLoader() as loader:
        assert loader.load(add_object)["add"](1, 2) == 3
        assert not loader.closed
    assert loader.closed
    with pytest.raises(tol.SessionClosedError):
        loader.load(add_object)


def test_object_loaders_are_independent(add_object: Path) -> None:
    first, second = tol.ObjectLoader().load(add_object), tol.ObjectLoader().load(add_object)
    first.close()
    assert second["add"](1, 2) == 3


def test_session_as_context_manager(add_object: Path) -> None:
    session = tol.Session("named")
    with session as entered:
        assert entered is session
        assert session.name == "named"
        assert not session.closed
        session.load(add_object)
    assert session.closed


def test_sessions_are_named_when_no_name_is_given() -> None:
    with tol.Session() as first, tol.Session() as second:
        assert first.name
        assert second.name
        assert first.name != second.name


def test_dylibs_by_name(session: tol.Session, add_object: Path) -> None:
    base = session.create_dylib("base")
    impl = session.load(add_object, name="impl", link_order=[base])
    assert session.dylibs == {"base": base, "impl": impl}
    assert session["impl"] is impl
    assert impl.name == "impl"
    assert impl.session is session
    assert impl.link_order == [base]
    assert base.link_order == []
    base.close()
    assert list(session.dylibs) == ["impl"]
    with pytest.raises(KeyError, match="base"):
        session["base"]


def test_dylibs_without_a_name_get_their_own(session: tol.Session, add_object: Path) -> None:
    dylibs = [session.load(add_object) for _ in range(3)]
    assert len({dylib.name for dylib in dylibs}) == 3
    assert all(session[dylib.name] is dylib for dylib in dylibs)
    named = session.create_dylib(dylibs[0].name + "x")
    assert named.name not in {dylib.name for dylib in dylibs}


def test_a_made_up_name_is_never_one_that_is_taken(session: tol.Session) -> None:
    made_up = session.create_dylib()
    name = made_up.name
    made_up.close()
    digits = int("".join(filter(str.isdigit, name)) or 0)
    taken = [session.create_dylib(name.replace(str(digits), str(digits + n))) for n in range(5)]
    assert session.create_dylib().name not in {dylib.name for dylib in taken}


def test_dylibs_is_a_snapshot(session: tol.Session) -> None:
    dylib = session.create_dylib("one")
    snapshot = session.dylibs
    snapshot.clear()
    assert session.dylibs == {"one": dylib}


def test_load_module_returns_a_tvm_ffi_module(session: tol.Session, add_object: Path) -> None:
    for module in (
        session.load_module(add_object, name="by_name"),
        session.load(add_object).module,
        tol.load_module(add_object),
    ):
        assert isinstance(module, tvm_ffi.Module)
        assert module.add(1, 2) == 3


def test_the_default_session(add_object: Path) -> None:
    default = tol.default_session()
    assert default is tol.default_session()
    module = tol.load_module(add_object)
    assert default.stats().dylibs >= 1
    with pytest.raises(tol.ObjectLoaderError, match="default session"):
        default.close()
    assert not default.closed
    assert module.add(1, 2) == 3


def test_tvm_ffi_load_module_takes_objects_after_the_import(
    add_object: Path, run_script: RunScript
) -> None:
    script = """
import pathlib, sys
import tvm_ffi

try:
    tvm_ffi.load_module(sys.argv[1])
except RuntimeError as error:
    assert "not registered" in str(error)
else:
    raise AssertionError("loaded without the package")

import tvm_ffi_object_loader

print(tvm_ffi.load_module(sys.argv[1]).add(1, 2))
print(tvm_ffi.load_module(pathlib.Path(sys.argv[1]), keep_module_alive=False).add(3, 4))
"""
    assert run_script(script, add_object) == "3\n7\n"


def test_tvm_ffi_load_module_still_loads_libraries(compile: Compiler, add_object: Path) -> None:
    assert compile.dlopen(add_object).add(1, 2) == 3


def test_reprs_tell_what_is_there(session: tol.Session, add_object: Path) -> None:
    dylib = session.load(add_object, name="shown")
    assert "shown" in repr(dylib)
    assert "add" in repr(dylib)
    assert session.name in repr(session)
    session.close()
    assert "closed" in repr(dylib)
    assert "closed" in repr(session)


def test_a_dylib_is_made_by_a_session_only() -> None:
    with pytest.raises(TypeError):
        tol.Dylib()


def test_errors_can_be_pickled() -> None:
    import pickle

    error = tol.UndefinedSymbolError("needs f()", ("_Z1fv",))
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is tol.UndefinedSymbolError
    assert copied.symbols == ("_Z1fv",)
    assert str(copied) == str(error)


def test_every_public_thing_has_a_docstring_and_every_name_an_example() -> None:
    for name in set(NAMES) - {"__version__"}:
        public = getattr(tol, name)
        assert ">>> " in (inspect.getdoc(public) or ""), name
        for member, value in vars(public).items() if inspect.isclass(public) else ():
            if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                assert inspect.getdoc(value), f"{name}.{member}"


def test_docstring_examples_run(
    compile: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = Path(tol.__file__).parent / "demo"
    for name in ("math_ops", "string_ops"):
        compiled = compile.cxx((demo / f"{name}.cc").read_text(), name=name)
        shutil.copy(compiled, tmp_path / f"{name}.o")
    monkeypatch.chdir(tmp_path)
    attempted = 0
    for info in pkgutil.iter_modules(tol.__path__):
        if info.name in {"__main__", "_native"}:
            continue
        if info.name == "inline" and not has("objects of its build_inline"):
            continue
        module = importlib.import_module(f"tvm_ffi_object_loader.{info.name}")
        result = doctest.testmod(module, extraglobs={"pathlib": pathlib}, raise_on_error=False)
        assert result.failed == 0
        attempted += result.attempted
    assert doctest.testmod(tol).failed == 0
    assert attempted > 20
    assert os.getcwd() == str(tmp_path)  # noqa: PTH109


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, d: tol.Session(cast("str", 5)), "a session's name must be a str, not int: 5"),
        (lambda s, d: s.create_dylib(5), "a dylib's name must be a str, not int: 5"),
        (lambda s, d: s.load(b"", name=b"x"), "a dylib's name must be a str, not bytes: b'x'"),
        (
            lambda s, d: tol.ObjectLoader(cast("str", Path("x.o"))),
            "name must be a str, not PosixPath: objects",
        ),
        (lambda s, d: d.get_function(5), "a function's name must be a str, not int: 5"),
        (lambda s, d: d[None], "a function's name must be a str, not NoneType: None"),
        (lambda s, d: d.lookup(5), "a symbol must be a str, not int: 5"),
        (lambda s, d: d.load(b"", whole_archive="no"), "whole_archive must be True or False"),
        (lambda s, d: s.load(b"", whole_archive=1), "whole_archive must be True or False"),
    ],
)
def test_arguments_of_another_type_are_said(
    session: tol.Session, call: Callable[[Any, Any], object], message: str
) -> None:
    dylib = session.create_dylib("of the test")
    with pytest.raises(TypeError) as caught:
        call(session, dylib)
    assert str(caught.value).startswith(message)
    assert list(session.dylibs) == ["of the test"]


def test_names_with_null_characters_are_shown_whole(session: tol.Session) -> None:
    dylib = session.create_dylib("a\0b")
    assert session["a\0b"] == dylib
    for call in (lambda: session.create_dylib("a\0b"), lambda: dylib.get_function("x\0y")):
        with pytest.raises(tol.ObjectLoaderError) as caught:
            call()
        assert "'a\\0b'" in str(caught.value)
    assert "'x\\0y'" in str(caught.value)
    with pytest.raises(tol.UndefinedSymbolError) as undefined:
        dylib.lookup("p\0q")
    assert "p\\0q" in str(undefined.value)
    assert undefined.value.symbols == ("p\0q",)


def test_a_missing_function_is_an_attribute_error_in_full(session: tol.Session) -> None:
    dylib = session.create_dylib()
    for look_up in (dylib.get_function, dylib.__getitem__):
        with pytest.raises(AttributeError) as caught:
            look_up("absent")
        assert isinstance(caught.value, tol.FunctionNotFoundError)
        assert (caught.value.name, caught.value.obj) == ("absent", dylib)


def test_what_is_loaded_is_not_copied(session: tol.Session) -> None:
    for one in (session, session.create_dylib(), tol.ObjectLoader(session=session)):
        assert copy.copy(one) is one
        assert copy.deepcopy([one])[0] is one
