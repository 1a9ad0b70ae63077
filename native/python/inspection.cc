// SPDX-License-Identifier: Apache-2.0
#include "python/inspection.h"

#include <nanobind/stl/string.h>

#include <exception>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/interpreter_lock.h"
#include "ffi/link_order.h"
#include "object/file_kind.h"
#include "python/conversions.h"
#include "python/exceptions.h"
#include "session/check.h"

namespace object_loader {

namespace nb = nanobind;
using namespace nb::literals;

namespace {

const char* NameOf(Check::Source source) {
  switch (source) {
    case Check::Source::kProcess:
      return "process";
    case Check::Source::kPackage:
      return "package";
    case Check::Source::kLinker:
      return "linker";
    case Check::Source::kNothing:
      return "null";
    default:
      return "nowhere";
  }
}

// The error that a load would end with or None, the objects that it would link, and of each symbol
// that these refer to: name, object, source, library, whether the reference is weak.
nb::tuple CheckObjects(nb::sequence objects, bool whole_archive) {
  Given given(objects);
  Check check;
  std::exception_ptr failure;
  {
    OutsideInterpreter outside;
    try {
      auto session = std::make_shared<Session>("inspection", Session::Inspection{});
      ModulePtr module = CreateModule(session, std::string("inspection"), {}, false);
      CheckLoad(*module->dylib(), given.Read(whole_archive, /*keep_contents=*/false), check);
    } catch (...) {
      failure = std::current_exception();
    }
  }
  nb::object error = failure ? ErrorOf(failure) : nb::none();
  nb::list references;
  for (const Check::Reference& reference : check.references) {
    references.append(nb::make_tuple(ToStr(reference.symbol), ToStr(reference.object),
                                     NameOf(reference.source), ToStr(reference.library),
                                     reference.is_weak));
  }
  return nb::make_tuple(error, ToTuple(check.objects), references);
}

}  // namespace

void BindInspection(nb::module_& m) {
  m.def("check", CheckObjects, "objects"_a, "whole_archive"_a,
        nb::sig("def check(objects: collections.abc.Sequence[str | typing_extensions.Buffer | "
                "tuple[str, typing_extensions.Buffer]], whole_archive: bool) -> tuple[Exception | "
                "None, tuple[str, ...], "
                "list[tuple[str, str, str, str, bool]]]"));
  m.def(
      "demangle",
      [](nb::str symbol) { return nb::cast<nb::str>(ToStr(Demangled(FromStr(symbol)))); },
      "symbol"_a);
  m.def("machine_name", MachineName, "machine"_a, "narrow"_a);
  m.def("relocation_name", ElfRelocationName, "machine"_a, "kind"_a);
}

}  // namespace object_loader
