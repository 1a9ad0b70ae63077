// SPDX-License-Identifier: Apache-2.0
#include "python/sessions.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/interpreter_lock.h"
#include "base/wait.h"
#include "ffi/link_order.h"
#include "ffi/orcjit_functions.h"
#include "python/conversions.h"
#include "python/exceptions.h"
#include "python/handles.h"
#include "python/patience.h"
#include "python/results.h"
#include "python/statistics.h"
#include "python/symbols.h"

namespace object_loader {

namespace nb = nanobind;
using namespace nb::literals;

static std::vector<PyDylib> Wrap(std::vector<ModulePtr> modules) {
  std::vector<PyDylib> dylibs;
  dylibs.reserve(modules.size());
  for (ModulePtr& module : modules) dylibs.emplace_back(std::move(module));
  return dylibs;
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

}  // namespace object_loader
