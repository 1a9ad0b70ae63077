# SPDX-License-Identifier: Apache-2.0
"""What a header defines exists once: in a dylib, along a link order, and where the process has it.

Two dylibs of which neither is in the other's link order each have their own.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import GCC, TOOLCHAINS, Compiler, Toolchain
from conftest import RunScript

pytestmark = pytest.mark.matrix

both_makes = pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)

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
numbers = itertools.count()


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
Loaded = tol.Dylib | tvm_ffi.Module


def call(of: Loaded, name: str, *arguments: int) -> Any:
    return of.get_function(name)(*arguments)


def addresses(users: dict[str, Loaded]) -> set[int]:
    return {call(user, f"{name}_address") for name, user in users.items()}


def values(entity: Entity, users: dict[str, Loaded]) -> list[int]:
    """Return what the users see when each adds to the variable, again and again."""
    seen = []
    for name, user in [*users.items()] * 2:
        if entity.is_variable:
            seen.append(call(user, f"{name}_add", len(users)))
        seen.append(call(user, f"{name}_initializations"))
    return seen


def link(compile: Compiler, path: Path, *libraries: Path) -> Path:
    """Link an object to libraries."""
    flags = ["-Wl,--no-as-needed"]
    for library in libraries:
        flags += [f"-L{library.parent}", f"-l:{library.name}", f"-Wl,-rpath,{library.parent}"]
    return compile.link(path, flags=tuple(flags))


def dlopen(*libraries: Path) -> list[tvm_ffi.Module]:
    """Open libraries; those that the first depends on come with it, and are one with it."""
    return [tvm_ffi.load_module(library, keep_module_alive=False) for library in libraries]


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


# How long it lives: as long as the dylib that defines it, whoever's code has made it.

DESTROYED = """
#include "safe_call.h"
#include "trace.h"
namespace NS {
struct Traced {
  explicit Traced(int64_t event) : event_(event) { trace(event); }
  ~Traced() { trace(-event_); event_ = 0; }
  int64_t event_;
};
inline Traced& local() { static Traced object(40); return object; }
inline Traced variable(4);
template <typename T> struct Holder { static T member; };
template <typename T> T Holder<T>::member(5);
}
EXPORT(NAME) {
  int64_t events = NS::local().event_ * 10 + NS::variable.event_;
  RETURN(events * 10 + NS::Holder<NS::Traced>::member.event_);
}
"""


# What C has of the kind: weak definitions. Those of data are one; a function is its dylib's own.

WEAK_DATA = {
    "initialized": "BOUND int64_t entity = 100;",
    "zero": "BOUND int64_t entity;",
    "constant": "BOUND const int64_t entity = 100;",
    "an array": "BOUND int64_t entity[50] = {100};",
    "a pointer": "static int64_t target = 100; BOUND int64_t* entity = &target;",
    "thread-local": "BOUND _Thread_local int64_t entity = 100;",
}
WEAK = """
#include "safe_call.h"
#define BOUND __attribute__((BINDING))
DEFINITION
__attribute__((weak, noinline)) int64_t entity_function(void) { return NUMBER; }
EXPORT(NAME_address) { RETURN(&entity); }
EXPORT(NAME_own) { RETURN(entity_function()); }
EXPORT(NAME_function) { int64_t (*volatile function)(void) = entity_function; RETURN(function()); }
"""


def weak(
    compile: Compiler,
    toolchain: Toolchain,
    data: str,
    name: str,
    number: int,
    entity: str,
    binding: str = "weak",
) -> Path:
    """An object that defines the data, and a weak function that returns `number`."""
    source = WEAK.replace("DEFINITION", WEAK_DATA[data]).replace("entity", entity)
    source = source.replace("NAME", name).replace("BINDING", binding)
    return compile(source, "-O1", "-fPIC", f"-DNUMBER={number}", toolchain=toolchain)


@pytest.mark.parametrize("binding", ["weak", "used"], ids=["weak in base", "strong in base"])
@both_makes
@pytest.mark.parametrize("data", WEAK_DATA)
def test_weak_definitions_of_c_along_a_link_order(
    session: tol.Session, compile: Compiler, binding: str, toolchain: Toolchain, data: str
) -> None:
    entity = f"weak{next(numbers)}"
    base = weak(compile, toolchain, data, "base", 1, entity, binding)
    app = weak(compile, toolchain, data, "app", 2, entity)
    base_dylib = session.load(base)
    app_dylib = session.load(app, link_order=[base_dylib])
    base_library = compile.link(base)
    app_module, base_module = dlopen(link(compile, app, base_library), base_library)
    assert len(addresses({"base": base_module, "app": app_module})) == 1
    assert len(addresses({"base": base_dylib, "app": app_dylib})) == 1
    for name in ("app_own", "app_function"):
        assert call(app_dylib, name) == call(app_module, name) == 2
    assert call(base_dylib, "base_function") == 1


@both_makes
@pytest.mark.parametrize("data", WEAK_DATA)
def test_weak_definitions_of_c_in_dylibs_that_are_not_linked(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, data: str
) -> None:
    first, second = (
        session.load(weak(compile, toolchain, data, "f", number, "entity")) for number in (1, 2)
    )
    assert addresses({"f": first}).isdisjoint(addresses({"f": second}))
    assert [call(first, "f_function"), call(second, "f_function")] == [1, 2]


WITH_THE_PROCESS = """
import ctypes, json, sys
import tvm_ffi, tvm_ffi_object_loader as tol

library, how, count, *paths = sys.argv[1:]
ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
of_library = tvm_ffi.load_module(library)
mine = tol.Session().load(paths) if how == "loaded" else tvm_ffi.load_module(*paths)
print(json.dumps([
    of_library.get_function(f"library{n}_address")() == mine.get_function(f"mine{n}_address")()
    for n in range(int(count))
]))
"""


@pytest.mark.parametrize("binding", ["weak", "used"], ids=["weak there", "strong there"])
@both_makes
def test_weak_data_of_c_with_a_library_that_the_process_has(
    compile: Compiler, run_script: RunScript, binding: str, toolchain: Toolchain
) -> None:
    library, objects = [], []
    for n, data in enumerate(WEAK_DATA):
        library.append(weak(compile, toolchain, data, f"library{n}", 1, f"entity{n}", binding))
        objects.append(weak(compile, toolchain, data, f"mine{n}", 2, f"entity{n}"))
    path = compile.link(*library)
    ways = (("loaded", *objects), ("dlopened", compile.link(*objects)))
    ours, dlopened = (
        dict(zip(WEAK_DATA, json.loads(output), strict=True))
        for output in (
            run_script(WITH_THE_PROCESS, path, how, len(objects), *paths) for how, *paths in ways
        )
    )
    assert ours == dlopened == dict.fromkeys(WEAK_DATA, True)


# Types: what compares them must find that they are one.

TYPES = """
#include "safe_call.h"
#include <any>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <typeindex>
struct Base { virtual ~Base() = default; virtual int64_t number() const { return 1; } };
struct Derived : virtual Base { int64_t number() const override { return 2; } };
struct Final final : Derived { int64_t number() const override { return 3; } };
template <typename T> struct Generic final : Base { T value{}; };
struct Virtual : virtual Base { int64_t more = 5; };
struct Diamond final : Virtual, virtual Derived { int64_t number() const override { return 6; } };
struct Error : std::runtime_error { using std::runtime_error::runtime_error; };
template <typename T> struct GenericError : std::exception { T value{}; };
enum class Code : int { kOne = 1 };
struct Deleter { void operator()(Base* base) const { delete base; } };
inline int64_t callee(int64_t n) { return n + 1; }

static Base* make(int64_t which) {
  switch (which) {
    case 0: return new Base;
    case 1: return new Derived;
    case 2: return new Final;
    case 3: return new Generic<int64_t>;
    case 4: return new Generic<std::string>;
    case 5: return new Virtual;
    default: return new Diamond;
  }
}
template <typename... T> int64_t is(Base* base) {
  int64_t bits = 0;
  ((bits = bits * 4 + (dynamic_cast<T*>(base) != nullptr) * 2 + (typeid(*base) == typeid(T))), ...);
  return bits;
}
static void raise(int64_t which) {
  switch (which) {
    case 0: throw Error("error");
    case 1: throw GenericError<int64_t>();
    case 2: throw GenericError<std::string>();
    case 3: throw Code::kOne;
    case 4: throw Derived();
    case 5: throw static_cast<Base*>(nullptr);
    case 6: throw std::string("text");
    default: throw 7;
  }
}
static int64_t caught(void (*function)(int64_t), int64_t which) {
  try { function(which); }
  catch (const Error& error) { return 10 + std::string(error.what()).size(); }
  catch (const GenericError<int64_t>&) { return 1; }
  catch (const GenericError<std::string>&) { return 2; }
  catch (Code code) { return 3; }
  catch (const Base& base) { return 40 + base.number(); }
  catch (const Base* base) { return 5; }
  catch (const std::string& text) { return 60 + text.size(); }
  catch (...) { return 7; }
  return -1;
}
struct Held {
  std::any derived = Derived(), generic = std::string("text"), code = Code::kOne;
  std::function<int64_t(int64_t)> function = callee;
  std::shared_ptr<Base> shared{new Final, Deleter()};
  std::type_index index = typeid(Generic<std::string>);
};
EXPORT(NAME_make) { RETURN(make(INT(0))); }
EXPORT(NAME_is) {
  RETURN((is<Base, Derived, Final, Generic<int64_t>, Generic<std::string>, Virtual, Diamond>(
      reinterpret_cast<Base*>(INT(0)))));
}
EXPORT(NAME_raiser) { RETURN(raise); }
EXPORT(NAME_caught) { RETURN(caught(reinterpret_cast<void (*)(int64_t)>(INT(0)), INT(1))); }
EXPORT(NAME_hold) { RETURN(new Held); }
EXPORT(NAME_held) {
  Held* held = reinterpret_cast<Held*>(INT(0));
  auto target = held->function.target<int64_t (*)(int64_t)>();
  int64_t bits = 0;
  for (bool bit : {std::any_cast<Derived>(&held->derived) != nullptr,
                   std::any_cast<std::string>(&held->generic) != nullptr,
                   std::any_cast<Code>(&held->code) != nullptr,
                   std::any_cast<int>(&held->code) != nullptr,
                   target != nullptr,
                   target != nullptr && *target == callee,
                   std::get_deleter<Deleter>(held->shared) != nullptr,
                   dynamic_cast<Final*>(held->shared.get()) != nullptr,
                   std::dynamic_pointer_cast<Diamond>(held->shared) != nullptr,
                   held->index == typeid(Generic<std::string>)}) bits = bits * 2 + bit;
  delete held;
  RETURN(bits);
}
"""


def types(maker: tuple[str, Loaded], asker: tuple[str, Loaded]) -> list[int]:
    """Return what one says of the types that the other makes."""
    (made, maker_), (asked, asker_) = maker, asker
    seen = [call(asker_, f"{asked}_is", call(maker_, f"{made}_make", n)) for n in range(7)]
    raiser = call(maker_, f"{made}_raiser")
    seen += [call(asker_, f"{asked}_caught", raiser, n) for n in range(8)]
    return [*seen, call(asker_, f"{asked}_held", call(maker_, f"{made}_hold"))]


@pytest.mark.parametrize("level", ["-O0", "-O2"])
@both_makes
def test_types_along_a_link_order(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, level: str
) -> None:
    base, app = (
        compile.cxx(TYPES.replace("NAME", name), level, "-fPIC", toolchain=toolchain)
        for name in ("base", "app")
    )
    base_dylib = session.load(base)
    app_dylib = session.load(app, link_order=[base_dylib])
    base_library = compile.link(base)
    app_module, base_module = dlopen(link(compile, app, base_library), base_library)
    itself = types(("base", base_module), ("base", base_module))
    assert len(set(itself)) == 16
    for maker, asker in itertools.product(range(2), repeat=2):
        ours: list[tuple[str, Loaded]] = [("base", base_dylib), ("app", app_dylib)]
        dlopened: list[tuple[str, Loaded]] = [("base", base_module), ("app", app_module)]
        assert types(ours[maker], ours[asker]) == itself
        assert types(dlopened[maker], dlopened[asker]) == itself


# Facets: std::locale finds them by the address of their `id`.

FACETS = """
#include "safe_call.h"
#include <iomanip>
#include <locale>
#include <sstream>
struct Plain : std::locale::facet { static std::locale::id id; int64_t value = 7; };
#ifdef DEFINES
std::locale::id Plain::id;
#endif
template <typename T> struct Generic : std::locale::facet {
  static std::locale::id id;
  T value = 8;
};
template <typename T> std::locale::id Generic<T>::id;
struct Inline : std::locale::facet { inline static std::locale::id id; int64_t value = 9; };
struct Dots : std::numpunct<char> {
  char do_thousands_sep() const override { return '.'; }
  std::string do_grouping() const override { return "\\3"; }
};
template <typename... Facet> int64_t has(const std::locale& locale) {
  int64_t bits = 0;
  ((bits = bits * 2 + std::has_facet<Facet>(locale)), ...);
  return bits;
}
static int64_t standard(const std::locale& locale) {
  return has<std::ctype<char>, std::ctype<wchar_t>, std::numpunct<char>, std::numpunct<wchar_t>,
             std::num_put<char>, std::num_get<char>, std::num_get<wchar_t>, std::collate<char>,
             std::moneypunct<char>, std::moneypunct<char, true>, std::money_get<char>,
             std::money_put<wchar_t>, std::time_get<char>, std::time_put<char>,
             std::messages<char>, std::codecvt<char, char, std::mbstate_t>,
             std::codecvt<char16_t, char, std::mbstate_t>, std::num_get<char, const char*>,
             std::num_put<char, char*>>(locale);
}
EXPORT(NAME_standard) {
  const std::locale& classic = std::locale::classic();
  int64_t uses = std::use_facet<std::ctype<char>>(classic).toupper('a');
  uses = uses * 256 + std::use_facet<std::numpunct<char>>(classic).decimal_point();
  uses = uses * 256 + std::use_facet<std::numpunct<char>>(classic).truename().size();
  RETURN(uses << 32 | standard(classic) << 8 | (has<Plain, Generic<int64_t>, Inline>(classic)));
}
EXPORT(NAME_streams) {
  std::ostringstream out;
  out.imbue(std::locale(std::locale::classic(), new Dots));
  out << 1234567 << ' ' << 1.5 << ' ' << std::boolalpha << true << std::put_money(99.0);
  std::istringstream in("7.654.321 2.25");
  in.imbue(out.getloc());
  int64_t number = 0;
  double real = 0;
  in >> number >> real;
  int64_t hash = number + int64_t(real * 100);
  for (char c : out.str()) hash = hash * 31 + c;
  RETURN(hash);
}
EXPORT(NAME_make) {
  std::locale plain(std::locale::classic(), new Plain);
  std::locale dots(std::locale(plain, new Generic<int64_t>), new Dots);
  RETURN(new std::locale(dots, new Inline));
}
EXPORT(NAME_use) {
  const std::locale& locale = *reinterpret_cast<std::locale*>(INT(0));
  int64_t found = has<Plain, Generic<int64_t>, Inline, Generic<double>>(locale);
  if (found == 14) {
    found = found * 10 + std::use_facet<Plain>(locale).value;
    found = found * 10 + std::use_facet<Generic<int64_t>>(locale).value;
    found = found * 10 + std::use_facet<Inline>(locale).value;
  }
  try { std::use_facet<Generic<double>>(locale); } catch (const std::bad_cast&) { found += 100000; }
  RETURN(found * 256 + std::use_facet<std::numpunct<char>>(locale).thousands_sep());
}
"""
ASKS_FOR_FACETS = """
import json, sys
import tvm_ffi, tvm_ffi_object_loader as tol

how, base, app = sys.argv[1:]
if how == "loaded":
    session = tol.Session()
    base = session.load(base)
    app = session.load(app, link_order=[base])
else:
    app, base = tvm_ffi.load_module(app), tvm_ffi.load_module(base)
users = [(base, "base"), (app, "app")]
outcomes = []
for user, name in users:
    outcomes += [user.get_function(f"{name}_{what}")() for what in ("standard", "streams")]
    locale = user.get_function(f"{name}_make")()
    outcomes += [other.get_function(f"{name}_use")(locale) for other, name in users]
print(json.dumps(outcomes))
"""


@pytest.mark.parametrize(
    "flags",
    [("-O0",), ("-O2",), ("-O2", "-D_GLIBCXX_EXTERN_TEMPLATE=0")],
    ids=lambda flags: " ".join(flags),
)
@both_makes
def test_facets(
    compile: Compiler, run_script: RunScript, toolchain: Toolchain, flags: tuple[str, ...]
) -> None:
    base, app = (
        compile.cxx(source, *flags, "-fPIC", toolchain=toolchain)
        for source in (
            "#define DEFINES\n" + FACETS.replace("NAME", "base"),
            FACETS.replace("NAME", "app"),
        )
    )
    base_library = compile.link(base)
    app_library = link(compile, app, base_library)
    dlopened = json.loads(run_script(ASKS_FOR_FACETS, "dlopened", base_library, app_library))
    assert dlopened[:4] == dlopened[4:]
    has_standard, has_own = dlopened[0] >> 8 & 0xFFFFF, dlopened[0] & 0xFF
    assert (has_standard, has_own) == (0b1111111111111111100, 0)
    assert dlopened[2] == dlopened[3] == (100000 + 14789) * 256 + ord(".")
    assert json.loads(run_script(ASKS_FOR_FACETS, "loaded", base, app)) == dlopened
