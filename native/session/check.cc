// SPDX-License-Identifier: Apache-2.0
#include "session/check.h"

#include <cstdint>

#include "base/error.h"
#include "link/graph_builder.h"
#include "os/headroom.h"
#include "os/process_symbols.h"
#include "session/binder.h"
#include "session/dylib.h"
#include "session/load.h"
#include "support/supplied.h"

namespace object_loader {

namespace {

using State = Global::State;
using Source = Check::Source;

// The package's own library: what it defines in the place of the process's.
const std::string& OwnPath() {
  static const std::string path = LibraryAt(reinterpret_cast<const void*>(&CheckLoad));
  return path;
}

Check::Reference Describe(const Resolution& resolution, const Global& global) {
  Check::Reference reference = {global.name.str(), resolution.objects()[global.object].name(),
                                Source::kNowhere, "", global.weak};
  switch (global.state) {
    case State::kUndefined:
      if (!SuppliedArchive().Definers(*global.name).empty()) reference.source = Source::kPackage;
      break;
    case State::kNull:
      reference.source = Source::kNothing;
      break;
    case State::kLinker:
      reference.source = Source::kLinker;
      break;
    case State::kBound:
      if (const TlsVariable* variable = resolution.ThreadLocal(global)) {
        reference.source = variable->may_be_null ? Source::kNothing : Source::kProcess;
        reference.library = variable->library;
      } else {
        reference.library = LibraryAt(reinterpret_cast<const void*>(global.value));
        bool is_own = !reference.library.empty() && reference.library == OwnPath();
        reference.source = is_own ? Source::kPackage : Source::kProcess;
        if (is_own) reference.library.clear();
      }
      break;
    default:
      // Defined, though not by the objects of the load: by what was supplied to it.
      reference.source = Source::kPackage;
  }
  return reference;
}

// Of those that a supplied object refers to, too.
void Describe(const Resolution& resolution, Check& check) {
  for (const Global& global : resolution.globals()) {
    if (!global.is_own && global.is_referenced) {
      check.references.push_back(Describe(resolution, global));
    }
  }
}

}  // namespace

void CheckLoad(const Dylib& dylib, Inputs inputs, Check& check) {
  std::vector<ElfView> objects = inputs.TakeObjects([](llvm::StringRef) { return false; });
  uint64_t object_bytes = 0;
  uint64_t table_bytes = 0;
  for (const ElfView& object : objects) {
    check.objects.push_back(object.name());
    object_bytes += object.size();
    table_bytes += object.table_bytes();
  }
  if (objects.empty()) return;  // shared libraries alone
  Headroom headroom(object_bytes, table_bytes);
  ForkExclusion exclusion;
  const size_t own = objects.size();
  for (std::vector<uint32_t> supplied;;) {
    for (uint32_t member : supplied) objects.push_back(SuppliedArchive().Extract(member));
    Resolution resolution(objects, own, [](NameRef) { return false; });
    Binder binder(dylib, resolution);
    std::vector<uint32_t> definitions = binder.BindDefinitions();
    Liveness liveness(resolution);
    try {
      supplied = binder.BindReferences();
    } catch (const UndefinedSymbolError&) {
      Describe(resolution, check);
      throw;
    }
    if (!supplied.empty()) continue;
    Describe(resolution, check);
    Linker& linker = dylib.session()->linker();
    Image image = LinkAnywhere(linker, resolution, liveness, definitions);
    linker.Unlink(image);
    return;
  }
}

}  // namespace object_loader
