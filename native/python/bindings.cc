// SPDX-License-Identifier: Apache-2.0
//
// The Python module `_native`: names, argument conversion, exceptions. No logic.
//
// The GIL is released while objects are read and linked, and while anything is closed or dropped.
// Where there is none, threads detach from the interpreter there.
#include <llvm/Config/llvm-config.h>
#include <llvm/Demangle/Demangle.h>
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"
#include "base/interpreter_lock.h"
#include "ffi/abi.h"
#include "ffi/orcjit_functions.h"
#include "ffi/reload.h"
#include "os/exit_handlers.h"
#include "python/conversions.h"
#include "python/exceptions.h"
#include "python/fast_function.h"
#include "python/handles.h"
#include "python/inspection.h"
#include "python/interpreter.h"
#include "python/recipes.h"
#include "python/results.h"
#include "python/statistics.h"
#include "session/locations.h"
#include "session/recipe.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace object_loader {

namespace {

// How long a close waits for calls: until they end, so many seconds have passed, or a signal's
// handler raises, as that of Ctrl-C does.
class Patience {
 public:
  explicit Patience(std::optional<double> seconds) : seconds_(seconds) {}

  bool has_end() const { return seconds_.has_value(); }

  // Calls `close`, which waits, outside of the interpreter.
  template <typename Close>
  void Wait(const Close& close) {
    try {
      OutsideInterpreter outside;
      close([this] { return GoesOn(); });
    } catch (const GaveUpWaiting& waiting) {
      if (raised_) std::rethrow_exception(raised_);
      std::ostringstream message;
      message << waiting.what() << " after " << *seconds_
              << " s: nothing was closed. Close again when it has returned, or without a timeout, "
                 "which waits for it";
      PyErr_SetString(PyExc_TimeoutError, message.str().c_str());
      throw nb::python_error();
    }
  }

 private:
  using Clock = std::chrono::steady_clock;

  bool GoesOn() {
    Clock::time_point now = Clock::now();
    if (seconds_ && std::chrono::duration<double>(now - start_).count() >= *seconds_) return false;
    // Handlers run on the main thread alone. Others may be ended where they take the GIL, if the
    // interpreter has come to its end. And taking it may mean waiting, so that is not done each
    // time.
    if (!is_main_ || now - asked_ < std::chrono::milliseconds(20)) return true;
    asked_ = now;
    nb::gil_scoped_acquire inside;
    if (PyErr_CheckSignals() != 0) raised_ = std::make_exception_ptr(nb::python_error());
    return !raised_;
  }

  const std::optional<double> seconds_;
  const bool is_main_ = PyThread_get_thread_native_id() == static_cast<unsigned long>(getpid());
  const Clock::time_point start_ = Clock::now();
  Clock::time_point asked_ = start_;
  std::exception_ptr raised_;  // by the handler
};

nb::object Steal(PyObject* object) {
  if (!object) throw nb::python_error();
  return nb::steal(object);
}

std::vector<PyDylib> Wrap(std::vector<ModulePtr> modules) {
  std::vector<PyDylib> dylibs;
  dylibs.reserve(modules.size());
  for (ModulePtr& module : modules) dylibs.emplace_back(std::move(module));
  return dylibs;
}

const char* SectionName(Image::Area area) {
  constexpr const char* kNames[] = {".text", ".rodata", ".data", ".bss"};
  return kNames[area];
}

// The fields of symbols.Symbol after the names of session and dylib.
nb::tuple ToTuple(const LoadedSymbol& symbol) {
  return nb::make_tuple(ToStr((*symbol.name).str()), ToStr(llvm::demangle(*symbol.name)),
                        symbol.address, symbol.size, ToStr((*symbol.object).str()),
                        SectionName(symbol.area), symbol.is_function, symbol.is_local,
                        symbol.exported, symbol.weak);
}

// The names of session, dylib and object, file and line of the source, and the symbol.
nb::object LocationOf(uint64_t address, const Session* only) {
  std::optional<Location> location = Locate(address, /*with_line=*/true, only);
  if (!location) return nb::none();
  nb::object symbol = nb::none();
  if (location->symbol) symbol = ToTuple(*location->symbol);
  nb::object file = nb::none();
  nb::object line = nb::none();
  if (location->line) {
    file = ToStr(location->line->file);
    line = nb::int_(location->line->line);
  }
  return nb::make_tuple(ToStr(location->session), ToStr(location->dylib),
                        ToStr((*location->object).str()), file, line, symbol);
}

void BindSession(nb::module_& m) {
  nb::class_<PySession>(m, "Session")
      .def(
          "__init__",
          [](PySession* self, nb::str name, bool debug, bool profile) {
            new (self) PySession{
                std::make_shared<Session>(FromStr(name), Session::Inspection{debug, profile})};
          },
          "name"_a, "debug"_a, "profile"_a)
      .def_prop_ro(
          "name",
          [](const PySession& self) { return nb::cast<nb::str>(ToStr(self.session->name())); })
      .def_prop_ro("closed", [](const PySession& self) { return self.session->closed(); })
      .def_prop_ro(
          "address",
          [](const PySession& self) { return reinterpret_cast<uintptr_t>(self.session.get()); })
      .def_prop_rw(
          "keeps_contents", [](const PySession& self) { return self.session->keeps_contents(); },
          [](const PySession& self, bool keep) { self.session->KeepContents(keep); })
      .def(
          "create_dylib",
          [](const PySession& self, const std::optional<nb::str>& given_name,
             nb::sequence link_order, bool replaces) {
            std::optional<std::string> name;
            if (given_name) name = FromStr(*given_name);
            std::vector<LinkedTo> entries;
            bool opens_library = false;
            for (nb::handle entry : link_order) {
              if (PyUnicode_Check(entry.ptr())) {
                entries.push_back(FilePath(entry));
                opens_library = true;
              } else {
                entries.push_back(nb::cast<const PyDylib&>(entry).module);
              }
            }
            std::optional<OutsideInterpreter> left;
            if (opens_library) left.emplace();
            return PyDylib{CreateModule(self.session, name, entries, replaces)};
          },
          "name"_a.none(), "link_order"_a, "replaces"_a,
          nb::sig("def create_dylib(self, name: str | None, link_order: "
                  "collections.abc.Sequence[Dylib | str], replaces: bool) -> Dylib"))
      .def("dylibs", [](const PySession& self) { return Wrap(ModulesOf(*self.session)); })
      .def(
          "symbolize",
          [](const PySession& self, uint64_t address) {
            return LocationOf(address, self.session.get());
          },
          "address"_a,
          nb::sig("def symbolize(self, address: int) -> tuple[str, str, str, str | None, int | "
                  "None, tuple[str, str, int, "
                  "int, str, str, bool, bool, bool, bool] | None] "
                  "| None"))
      .def(
          "stats", [](const PySession& self) { return FiguresOf(*self.session); },
          nb::sig("def stats(self) -> dict[str, typing.Any]"))
      .def(
          "orcjit_functions",
          [](const PySession& self, const std::vector<std::string>& libraries) {
            OrcjitFunctions functions = MakeOrcjitFunctions(self.session, libraries, MessageOf);
            nb::object default_session = Steal(ToPython(std::move(functions.default_session)));
            return nb::make_tuple(default_session,
                                  Steal(ToPython(std::move(functions.load_module))));
          },
          "libraries"_a,
          nb::sig("def orcjit_functions(self, libraries: collections.abc.Sequence[str]) -> "
                  "tuple[tvm_ffi.Function, tvm_ffi.Function]"))
      .def(
          "close",
          [](const PySession& self, std::optional<double> timeout) {
            Patience patience(timeout);
            patience.Wait([&](const KeepWaiting& keep_waiting) {
              self.session->Close(keep_waiting, patience.has_end());
            });
          },
          "timeout"_a.none());
}

// What code of the module says of a function.
nb::object TextOf(
    ObjectModuleObj& module,
    tvm::ffi::Optional<tvm::ffi::String> (ObjectModuleObj::*getter)(const tvm::ffi::String&),
    const std::string& name) {
  std::optional<std::string> text;
  {
    OutsideInterpreter outside;
    auto result = (module.*getter)(name);
    if (result.has_value()) text = std::string(*result);
  }
  return text ? ToStr(*text) : nb::none();
}

void LoadInto(PyDylib& dylib, nb::sequence objects, bool whole_archive, bool as_module,
              LoadRecord& record) {
  Given given(objects);
  std::optional<tvm::ffi::Module> root;
  {
    // Left once: each time, another thread may have to be waited for.
    OutsideInterpreter left;
    auto read = [&] {
      Inputs inputs = given.Read(whole_archive, record.dylib().session()->keeps_contents());
      if (as_module) inputs.RequireObjects();
      return inputs;
    };
    root = dylib.module->Load(read, record);
    if (root->get() == dylib.module.get()) root.reset();
  }
  dylib.root.swap(root);
}

void ReloadFrom(PyDylib& dylib, nb::sequence objects, bool whole_archive, bool dependents,
                const KeptData& kept, LoadRecord& record) {
  Given given(objects);
  std::optional<tvm::ffi::Module> root;
  {
    OutsideInterpreter left;
    Inputs inputs = given.Read(whole_archive, record.dylib().session()->keeps_contents());
    std::vector<ModulePtr> modules = {dylib.module};
    if (dependents) {
      for (ModulePtr& module : DependentsOf(dylib.module)) modules.push_back(std::move(module));
    }
    Reload reload(modules);
    reload.Load(std::move(inputs), record);
    reload.Keep(kept);
    reload.Switch();
    root = reload.root();
    if (root->get() == dylib.module.get()) root.reset();
    record.Succeed();
  }
  dylib.root.swap(root);
}

std::vector<std::string> FunctionNamesOf(const ObjectModuleObj& module) {
  return module.WithCurrent([](const Dylib& dylib) { return dylib.FunctionNames(); });
}

void BindDylib(nb::module_& m) {
  nb::class_<PyDylib>(m, "Dylib")
      .def_prop_ro("id", [](const PyDylib& self) { return self.dylib()->id(); })
      .def_prop_ro(
          "name",
          [](const PyDylib& self) { return nb::cast<nb::str>(ToStr(self.dylib()->name())); })
      .def_prop_ro("closed", [](const PyDylib& self) { return self.module->closed(); })
      .def("take_name", [](const PyDylib& self) { self.dylib()->TakeName(); })
      .def_prop_ro("session",
                   [](const PyDylib& self) { return PySession{self.dylib()->session()}; })
      .def_prop_ro(
          "link_order",
          [](const PyDylib& self) {
            nb::list entries;
            for (LinkedTo& entry : LinkOrderOf(*self.module)) {
              if (const auto* path = std::get_if<std::string>(&entry)) {
                entries.append(ToStr(*path));
              } else {
                entries.append(PyDylib{std::get<ModulePtr>(std::move(entry))});
              }
            }
            return entries;
          },
          nb::for_getter(nb::sig("def link_order(self) -> list[Dylib | str]")))
      .def(
          "load",
          [](PyDylib& self, nb::sequence objects, bool whole_archive, bool as_module) {
            LoadRecord record(self.dylib());
            LoadInto(self, objects, whole_archive, as_module, record);
          },
          nb::lock_self(), "objects"_a, "whole_archive"_a, "as_module"_a,
          nb::sig("def load(self, objects: collections.abc.Sequence[str | typing_extensions.Buffer "
                  "| tuple[str, typing_extensions.Buffer]], whole_archive: bool, as_module: bool) "
                  "-> None"))
      .def(
          "load_and_report",
          [](PyDylib& self, nb::sequence objects, bool whole_archive, bool as_module) {
            LoadRecord record(self.dylib());
            LoadInto(self, objects, whole_archive, as_module, record);
            return FiguresOf(record);
          },
          nb::lock_self(), "objects"_a, "whole_archive"_a, "as_module"_a,
          nb::sig("def load_and_report(self, objects: collections.abc.Sequence[str | "
                  "typing_extensions.Buffer | tuple[str, typing_extensions.Buffer]], "
                  "whole_archive: bool, as_module: bool) -> dict[str, typing.Any]"))
      .def(
          "reload",
          [](PyDylib& self, nb::sequence objects, bool whole_archive, bool dependents,
             nb::handle keep_data) {
            LoadRecord record(self.dylib());
            KeptData kept;
            if (nb::isinstance<nb::bool_>(keep_data)) {
              kept.all = nb::cast<bool>(keep_data);
            } else {
              for (nb::handle name : keep_data) kept.names.push_back(FromStr(nb::str(name)));
            }
            ReloadFrom(self, objects, whole_archive, dependents, kept, record);
            return FiguresOf(record);
          },
          nb::lock_self(), "objects"_a, "whole_archive"_a, "dependents"_a, "keep_data"_a,
          nb::sig("def reload(self, objects: collections.abc.Sequence[str | "
                  "typing_extensions.Buffer | tuple[str, typing_extensions.Buffer]], "
                  "whole_archive: bool, dependents: bool, keep_data: bool | "
                  "collections.abc.Sequence[str]) -> dict[str, typing.Any]"))
      .def_prop_ro("reloads", [](const PyDylib& self) { return self.module->reloads(); })
      .def(
          "stats", [](const PyDylib& self) { return FiguresOf(self.module); },
          nb::sig("def stats(self) -> dict[str, typing.Any]"))
      .def("embeds_modules",
           [](const PyDylib& self) {
             return self.dylib()->FindSymbol(tvm::ffi::symbol::tvm_ffi_library_bin) != nullptr;
           })
      .def("versions", [](const PyDylib& self) { return VersionsOf(*self.dylib()); })
      .def(
          "recipe", [](const PyDylib& self) { return RecipeOf(self); },
          nb::sig("def recipe(self) -> list[tuple[str, int, list[int | str], list[tuple[bool, "
                  "list[Source]]]]]"))
      .def(
          "functions",
          [](const PyDylib& self) {
            nb::list names;
            for (const std::string& name : FunctionNamesOf(*self.module)) names.append(ToStr(name));
            return names;
          },
          nb::sig("def functions(self) -> list[str]"))
      .def(
          "symbols",
          [](const PyDylib& self) {
            std::vector<LoadedSymbol> found = self.module->WithCurrent([](Dylib& dylib) {
              dylib.ThrowIfClosed();
              return dylib.code().Symbols();
            });
            nb::list symbols;
            for (const LoadedSymbol& symbol : found) symbols.append(ToTuple(symbol));
            return symbols;
          },
          nb::sig("def symbols(self) -> list[tuple[str, str, int, int, str, str, bool, bool, bool, "
                  "bool]]"))
      .def(
          "lookup",
          [](const PyDylib& self, nb::str symbol) {
            std::string name = FromStr(symbol);
            return self.module->WithCurrent([&](const Dylib& dylib) {
              return reinterpret_cast<uintptr_t>(dylib.Lookup(name));
            });
          },
          "symbol"_a)
      .def(
          "get_function",
          [](const PyDylib& self, nb::str name) {
            return Steal(FunctionToPython(self.module->RequireFunction(FromStr(name))));
          },
          "name"_a, nb::sig("def get_function(self, name: str) -> tvm_ffi.Function"))
      .def(
          "metadata",
          [](const PyDylib& self, nb::str name) {
            return TextOf(*self.module, &ObjectModuleObj::GetFunctionMetadata, FromStr(name));
          },
          "name"_a, nb::sig("def metadata(self, name: str) -> str | None"))
      .def(
          "doc",
          [](const PyDylib& self, nb::str name) {
            return TextOf(*self.module, &ObjectModuleObj::GetFunctionDoc, FromStr(name));
          },
          "name"_a, nb::sig("def doc(self, name: str) -> str | None"))
      .def(
          "find_constants",
          [](const PyDylib& self, nb::bytes start, size_t size) {
            std::string text(start.c_str(), start.size());
            std::vector<std::string> pieces = self.module->WithCurrent([&](Dylib& dylib) {
              CallScope scope(&dylib.gate());
              return scope.entered() ? dylib.code().FindConstants(text, size)
                                     : std::vector<std::string>();
            });
            nb::list found;
            for (const std::string& piece : pieces) {
              found.append(nb::bytes(piece.data(), piece.size()));
            }
            return found;
          },
          "start"_a, "size"_a,
          nb::sig("def find_constants(self, start: bytes, size: int) -> list[bytes]"))
      .def(
          "module", [](const PyDylib& self) { return Steal(ToPython(self.module->Root())); },
          nb::sig("def module(self) -> tvm_ffi.Module"))
      .def(
          "close",
          [](PyDylib& self, std::optional<double> timeout) {
            Patience(timeout).Wait(
                [&](const KeepWaiting& keep_waiting) { self.module->Close(keep_waiting); });
            std::optional<tvm::ffi::Module> root = std::exchange(self.root, std::nullopt);
            OutsideInterpreter outside;
            root.reset();
          },
          nb::lock_self(), "timeout"_a.none());
}

}  // namespace

}  // namespace object_loader

NB_MODULE(_native, m) {
  using namespace object_loader;
  if (!IsMainInterpreter()) throw nb::python_error();
  // Removed from sys.modules and imported again, it is as it was: what it has set up stays.
  static PyObject* contents = nullptr;
  if (contents) {
    if (PyDict_Update(PyModule_GetDict(m.ptr()), contents) != 0) throw nb::python_error();
    return;
  }
  m.doc() = "The linker behind tvm_ffi_object_loader.";
  m.attr("llvm_version") = LLVM_VERSION_STRING;
  nb::register_exception_translator(Translate);
  // The default session lives until the process ends, and so do its Python objects.
  nb::set_leak_warnings(false);
  CheckAbi();
  if (!InitFunctions()) throw nb::python_error();
  RunFinalizersAtExit();
  BindSession(m);
  BindDylib(m);
  BindInspection(m);
  BindRecipes(m);
  m.def(
      "fast_function", [](nb::handle function) { return Steal(FastFunction(function.ptr())); },
      "function"_a, nb::sig("def fast_function(function: tvm_ffi.Function) -> tvm_ffi.Function"));
  m.def(
      "owner_of",
      [](nb::handle function) -> nb::object {
        const ExportedFunctionObj* exported = ExportedFunction(function.ptr());
        if (!exported) return nb::none();
        return nb::make_tuple(PyDylib{exported->module()}, ToStr(exported->name()));
      },
      "function"_a,
      nb::sig("def owner_of(function: tvm_ffi.Function) -> tuple[Dylib, str] | None"));
  // For what nobody is there to catch: sys.unraisablehook gets it.
  m.def(
      "discard",
      [](nb::handle error, nb::handle where) {
        PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
        PyErr_WriteUnraisable(where.ptr());
      },
      "error"_a, "where"_a, nb::sig("def discard(error: BaseException, where: object) -> None"));
  m.def(
      "functions_of",
      [](uintptr_t handle) {
        nb::list names;
        ObjectModuleObj* module = ObjectModuleObj::From(reinterpret_cast<TVMFFIObject*>(handle));
        if (!module || module->closed()) return names;
        for (const std::string& name : FunctionNamesOf(*module)) names.append(ToStr(name));
        return names;
      },
      "handle"_a, nb::sig("def functions_of(handle: int) -> list[str]"));
  m.def(
      "symbolize", [](uint64_t address) { return LocationOf(address, nullptr); }, "address"_a,
      nb::sig("def symbolize(address: int) -> tuple[str, str, str, str | None, int | None, "
              "tuple[str, str, int, int, str, "
              "str, bool, bool, bool, bool] | None] | None"));
  contents = PyDict_Copy(PyModule_GetDict(m.ptr()));
  if (!contents) throw nb::python_error();
}
