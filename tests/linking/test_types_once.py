# SPDX-License-Identifier: Apache-2.0
"""Types and facets in several dylibs: what compares them, or their `id`, finds them to be one."""

from __future__ import annotations

import itertools
import json

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler, Toolchain, both_makes
from conftest import RunScript
from link_orders import Loaded, call, dlopen, link

pytestmark = pytest.mark.matrix

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
