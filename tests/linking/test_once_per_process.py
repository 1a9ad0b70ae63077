# SPDX-License-Identifier: Apache-2.0
"""What a header defines exists once: in a dylib, along a link order, and where the process has it.

Two dylibs of which neither is in the other's link order each have their own.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import GCC, TOOLCHAINS, Compiler, Toolchain, both_makes
from conftest import RunScript
from link_orders import Loaded, addresses, call, dlopen, link, numbers

pytestmark = pytest.mark.matrix

# What each defines: `entity`, which gives the address of an integer. Those that call `initial` have
# a guard variable besides, or a constructor that asks for it.
VARIABLES = {
    "static local": "inline int64_t* entity() { static int64_t n = 100; return &n; }",
    "static local, guarded": """
        inline int64_t* entity() { static int64_t n = initial(); return &n; }""",
    "static local of a template": """
        template <typename T> T* generic() { static T n = 100; return &n; }
        inline int64_t* entity() { return generic<int64_t>(); }""",
    "static local of a method": """
        struct Class { int64_t* get() { static int64_t n = initial(); return &n; } };
        inline int64_t* entity() { return Class().get(); }""",
    "static local of a lambda": """
        inline auto lambda = [] { static int64_t n = 100; return &n; };
        inline int64_t* entity() { return lambda(); }""",
    "zeros": "inline int64_t* entity() { static int64_t many[1000]; return &many[500]; }",
    "inline variable": "inline int64_t n = 100; inline int64_t* entity() { return &n; }",
    "inline variable, guarded": """
        inline int64_t n = initial(); inline int64_t* entity() { return &n; }""",
    "inline member": """
        struct Class { inline static int64_t n = 100; };
        inline int64_t* entity() { return &Class::n; }""",
    "template member": """
        template <typename T> struct Class { static T n; };
        template <typename T> T Class<T>::n = 100;
        inline int64_t* entity() { return &Class<int64_t>::n; }""",
    "template member, guarded": """
        template <typename T> struct Class { static T n; };
        template <typename T> T Class<T>::n = initial();
        inline int64_t* entity() { return &Class<int64_t>::n; }""",
    "variable template": """
        template <typename T> T n = 100; inline int64_t* entity() { return &n<int64_t>; }""",
    "inline thread_local": """
        inline thread_local int64_t n = 100; inline int64_t* entity() { return &n; }""",
    "inline thread_local, guarded": """
        inline thread_local int64_t n = initial(); inline int64_t* entity() { return &n; }""",
    "thread_local of a function": """
        inline int64_t* entity() { static thread_local int64_t n = initial(); return &n; }""",
}
# What has an address to compare, and no value.
ADDRESSES = {
    "inline function": """
        inline int64_t function(int64_t n) { return n + 1; }
        inline const void* entity() { return (const void*)function; }""",
    "template function": """
        template <typename T> T function(T n) { return n + 1; }
        inline const void* entity() { return (const void*)function<int64_t>; }""",
    "static method": """
        struct Class { static int64_t method(int64_t n) { return n + 1; } };
        inline const void* entity() { return (const void*)Class::method; }""",
    "type information": """
        struct Class { virtual ~Class() = default; };
        inline const void* entity() { return &typeid(Class); }""",
    "name of a type": """
        struct Class { virtual ~Class() = default; };
        inline const void* entity() { return typeid(Class).name(); }""",
    "vtable": """
        struct Class { virtual ~Class() = default; };
        inline const void* entity() { Class object; return *(const void**)&object; }""",
    "constant": """
        inline constexpr int64_t n[] = {1, 2, 3}; inline const void* entity() { return n; }""",
}
HEADER = """
#include "safe_call.h"
#include <typeinfo>
"""
OF_AN_ENTITY = """
namespace VISIBLE NS {
inline int64_t initializations = 0;
inline int64_t initial() { return 100 * ++initializations; }
BODY
}
EXPORT(NAME_address) { RETURN(NS::entity()); }
EXPORT(NAME_initializations) { RETURN(NS::initializations); }
"""
OF_A_VARIABLE = """
EXPORT(NAME_add) { RETURN(*NS::entity() += INT(0)); }
"""
HIDDEN = '__attribute__((visibility("hidden")))'


class Entity:
    """One of the above, in a namespace that no other test uses.

    A unique symbol (STB_GNU_UNIQUE) is one for all libraries that the process ever opens.
    """

    def __init__(self, compile: Compiler, name: str, visible: str = "") -> None:
        self._compile = compile
        self.is_variable = name in VARIABLES
        source = HEADER + OF_AN_ENTITY + OF_A_VARIABLE * self.is_variable
        source = source.replace("BODY", {**VARIABLES, **ADDRESSES}[name])
        source = source.replace("VISIBLE", visible)
        self._source = source.replace("NS", f"entity{next(numbers)}")

    def __call__(self, name: str, toolchain: Toolchain = GCC) -> Path:
        """An object of functions whose names begin with `name`."""
        source = self._source.replace("NAME", name)
        return self._compile.cxx(source, "-O1", "-fPIC", toolchain=toolchain)


entities = pytest.mark.parametrize("name", [*VARIABLES, *ADDRESSES])
some_entities = pytest.mark.parametrize(
    "name",
    [
        "static local, guarded",
        "inline variable, guarded",
        "template member",
        "inline thread_local, guarded",
        "inline function",
        "vtable",
    ],
)


def values(entity: Entity, users: dict[str, Loaded]) -> list[int]:
    """Return what the users see when each adds to the variable, again and again."""
    seen = []
    for name, user in [*users.items()] * 2:
        if entity.is_variable:
            seen.append(call(user, f"{name}_add", len(users)))
        seen.append(call(user, f"{name}_initializations"))
    return seen


@pytest.mark.parametrize("together", [True, False], ids=["together", "one by one"])
@both_makes
@entities
def test_in_a_dylib(
    session: tol.Session, compile: Compiler, together: bool, toolchain: Toolchain, name: str
) -> None:
    entity = Entity(compile, name)
    objects = [entity("a", toolchain), entity("b", toolchain)]
    dylib = session.create_dylib()
    for given in [objects] if together else [[each] for each in objects]:
        dylib.load(given)
    ours: dict[str, Loaded] = {"a": dylib, "b": dylib}
    module = compile.dlopen(*objects)
    dlopened: dict[str, Loaded] = {"a": module, "b": module}
    assert len(addresses(ours)) == len(addresses(dlopened)) == 1
    assert values(entity, ours) == values(entity, dlopened)


@both_makes
@entities
def test_along_a_link_order(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, name: str
) -> None:
    entity = Entity(compile, name)
    base, app = entity("base", toolchain), entity("app", toolchain)
    base_dylib = session.load(base)
    ours: dict[str, Loaded] = {
        "base": base_dylib,
        "app": session.load(app, link_order=[base_dylib]),
    }
    base_library = compile.link(base)
    app_module, base_module = dlopen(link(compile, app, base_library), base_library)
    dlopened: dict[str, Loaded] = {"base": base_module, "app": app_module}
    assert len(addresses(ours)) == len(addresses(dlopened)) == 1
    assert values(entity, ours) == values(entity, dlopened)


@both_makes
@some_entities
def test_of_two_makes_along_a_link_order(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, name: str
) -> None:
    entity = Entity(compile, name)
    base = session.load(entity("base", toolchain))
    (other,) = [make for make in TOOLCHAINS if make != toolchain] or [toolchain]
    app = session.load(entity("app", other), link_order=[base])
    assert len(addresses({"base": base, "app": app})) == 1


@both_makes
@some_entities
def test_along_a_link_order_through_a_dylib_that_lacks_it(
    session: tol.Session, compile: Compiler, add_object: Path, toolchain: Toolchain, name: str
) -> None:
    entity = Entity(compile, name)
    base, app = entity("base", toolchain), entity("app", toolchain)
    base_dylib = session.load(base)
    middle = session.load(add_object, link_order=[base_dylib])
    ours: dict[str, Loaded] = {"base": base_dylib, "app": session.load(app, link_order=[middle])}
    base_library = compile.link(base)
    middle_library = link(compile, add_object, base_library)
    app_module, base_module = dlopen(link(compile, app, middle_library), base_library)
    dlopened: dict[str, Loaded] = {"base": base_module, "app": app_module}
    assert len(addresses(ours)) == len(addresses(dlopened)) == 1
    assert values(entity, ours) == values(entity, dlopened)


@both_makes
@some_entities
def test_of_several_dylibs_on_one(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, name: str
) -> None:
    """Base, two dylibs on it, and one on these two: all see one, also after two more loads."""
    entity = Entity(compile, name)
    base = session.create_dylib("base")
    base.load(entity("base", toolchain))
    left, right = (session.create_dylib(name, link_order=[base]) for name in ("left", "right"))
    left.load(entity("left", toolchain))
    right.load(entity("right", toolchain))
    top = session.create_dylib("top", link_order=[left, right])
    top.load(entity("top", toolchain))
    left.load(entity("left2", toolchain))
    top.load(entity("top2", toolchain))
    users: dict[str, Loaded] = {"base": base, "left": left, "right": right}
    users |= {"top": top, "left2": left, "top2": top}
    assert len(addresses(users)) == 1
    if entity.is_variable:
        seen = [call(user, f"{name}_add", 1) for name, user in users.items()]
        assert seen == list(range(seen[0], seen[0] + len(users)))
    assert {call(user, f"{name}_initializations") for name, user in users.items()} <= {0, 1}


@both_makes
@some_entities
def test_the_first_of_the_link_order(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, name: str
) -> None:
    entity = Entity(compile, name)
    first, second = (session.load(entity(name, toolchain)) for name in ("first", "second"))
    # These two know nothing of each other.
    assert len(addresses({"first": first, "second": second})) == 2
    (of_first,), (of_second,) = addresses({"first": first}), addresses({"second": second})
    for order, address in (([first, second], of_first), ([second, first], of_second)):
        app = session.load(entity("app", toolchain), link_order=order)
        assert addresses({"app": app}) == {address}


@both_makes
@some_entities
def test_dylibs_that_are_not_linked_have_their_own(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, name: str
) -> None:
    entity = Entity(compile, name)
    path = entity("f", toolchain)
    first, second = session.load(path), session.load(path)
    assert addresses({"f": first}).isdisjoint(addresses({"f": second}))
    if entity.is_variable:
        start = call(first, "f_add", 0)
        assert call(first, "f_add", 5) == start + 5
        assert call(second, "f_add", 0) == start
    assert call(first, "f_initializations") == call(second, "f_initializations") <= 1


@both_makes
@some_entities
def test_hidden_ones_are_each_dylibs_own(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, name: str
) -> None:
    entity = Entity(compile, name, HIDDEN)
    base, app = entity("base", toolchain), entity("app", toolchain)
    base_dylib = session.load(base)
    ours: dict[str, Loaded] = {
        "base": base_dylib,
        "app": session.load(app, link_order=[base_dylib]),
    }
    base_library = compile.link(base)
    app_module, base_module = dlopen(link(compile, app, base_library), base_library)
    dlopened: dict[str, Loaded] = {"base": base_module, "app": app_module}
    assert len(addresses(ours)) == len(addresses(dlopened)) == 2
    assert values(entity, ours) == values(entity, dlopened)


@both_makes
@entities
def test_with_a_shared_library(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, name: str
) -> None:
    entity = Entity(compile, name)
    library, app = compile.link(entity("library", toolchain)), entity("app", toolchain)
    dylib = session.load(app, link_order=[library])
    (module,) = dlopen(library)
    ours: dict[str, Loaded] = {"library": module, "app": dylib}
    twin = Entity(compile, name)
    twin_library, twin_app = compile.link(twin("library", toolchain)), twin("app", toolchain)
    app_module, library_module = dlopen(link(compile, twin_app, twin_library), twin_library)
    dlopened: dict[str, Loaded] = {"library": library_module, "app": app_module}
    assert len(addresses(ours)) == len(addresses(dlopened)) == 1
    assert values(entity, ours) == values(twin, dlopened)
    assert addresses({"library": module}) == addresses({"app": session.load([app, library])})


# With the process: a library that was opened for all (RTLD_GLOBAL) has them.

IN_THE_PROCESS = """
import ctypes, json, sys
import tvm_ffi, tvm_ffi_object_loader as tol

library, how, count, *paths = sys.argv[1:]
ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
of_library = tvm_ffi.load_module(library)
if how == "loaded":
    mine = tol.Session().load(paths)
else:
    mine = tvm_ffi.load_module(*paths)


def call(user, name, *arguments):
    return user.get_function(name)(*arguments)


outcomes = []
for number in range(int(count)):
    users = [(of_library, f"library{number}"), (mine, f"mine{number}")]
    outcome = [len({call(user, f"{name}_address") for user, name in users})]
    for user, name in users * 2:
        try:
            outcome.append(call(user, f"{name}_add", 1))
        except AttributeError:
            pass
        outcome.append(call(user, f"{name}_initializations"))
    outcomes.append(outcome)
print(json.dumps(outcomes))
"""


@pytest.mark.parametrize(
    "makes",
    list(itertools.product(TOOLCHAINS, repeat=2)),
    ids=lambda makes: f"{makes[0].name}'s library, {makes[1].name}'s object",
)
def test_with_a_library_that_the_process_has(
    compile: Compiler, run_script: RunScript, makes: tuple[Toolchain, Toolchain]
) -> None:
    names = [*VARIABLES, *ADDRESSES]
    made = [Entity(compile, name) for name in names]
    library = compile.link(*(entity(f"library{n}", makes[0]) for n, entity in enumerate(made)))
    objects = [entity(f"mine{n}", makes[1]) for n, entity in enumerate(made)]
    ways = (("loaded", *objects), ("dlopened", compile.link(*objects)))
    ours, dlopened = (
        json.loads(run_script(IN_THE_PROCESS, library, how, len(made), *paths))
        for how, *paths in ways
    )
    named = dict(zip(names, ours, strict=True))
    assert named == dict(zip(names, dlopened, strict=True))
    assert {name: outcome[0] for name, outcome in named.items()} == dict.fromkeys(names, 1)
