// SPDX-License-Identifier: Apache-2.0
#include "python/dylibs.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/interpreter_lock.h"
#include "base/wait.h"
#include "ffi/link_order.h"
#include "ffi/reload.h"
#include "python/conversions.h"
#include "python/fast_function.h"
#include "python/handles.h"
#include "python/patience.h"
#include "python/recipes.h"
#include "python/results.h"
#include "python/statistics.h"
#include "python/symbols.h"
#include "session/recipe.h"

namespace object_loader {

namespace nb = nanobind;
using namespace nb::literals;

namespace {

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

}  // namespace

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
  m.def(
      "owner_of",
      [](nb::handle function) -> nb::object {
        const ExportedFunctionObj* exported = ExportedFunction(function.ptr());
        if (!exported) return nb::none();
        return nb::make_tuple(PyDylib{exported->module()}, ToStr(exported->name()));
      },
      "function"_a,
      nb::sig("def owner_of(function: tvm_ffi.Function) -> tuple[Dylib, str] | None"));
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
}

}  // namespace object_loader
