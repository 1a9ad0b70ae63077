// SPDX-License-Identifier: Apache-2.0
#include "session/load.h"

#include <cxxabi.h>

#include <deque>
#include <list>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "link/graph_builder.h"
#include "os/headroom.h"
#include "session/binder.h"
#include "session/code_map.h"
#include "session/dylib.h"
#include "support/supplied.h"

namespace object_loader {

namespace {

// What the exception being handled says, also when its type is the loaded code's own.
std::string CurrentExceptionText() {
  try {
    throw;
  } catch (const std::exception& exception) {
    return exception.what();
  } catch (...) {
    return "an exception that is no std::exception";
  }
}

// Whoever closes the dylib meanwhile waits for what is run.
void RunInside(const Dylib& dylib, llvm::function_ref<void()> run) {
  {
    CallScope scope(&dylib.gate());
    if (scope.entered()) return run();
  }
  throw SessionClosedError(dylib.ClosedMessage());
}

void RunInitializers(const Dylib& dylib, const std::string& name, const Image& image) {
  if (!image.has_initializers()) return;
  std::string thrown;
  try {
    RunInside(dylib, [&] { image.RunInitializers(); });
    return;
  } catch (const SessionClosedError&) {
    throw;
  } catch (const abi::__forced_unwind&) {
    throw;  // the thread is being cancelled
  } catch (...) {
    // The exception may be of a type that goes with the image, so it must not leave this block.
    thrown = CurrentExceptionText();
  }
  throw LinkError(name + ": an initializer threw: " + thrown);
}

// What is left of a link when it is done.
struct Linked {
  Image image;
  std::string name;
  std::vector<Definition> definitions;
  std::vector<uint64_t> values;
  std::vector<NameRef> groups;
  std::deque<std::string> made_names;
};

// Links the objects, and what is supplied to them.
Linked LinkInto(const Dylib& dylib, std::vector<ElfView>& objects) {
  ForkExclusion exclusion;
  Linker& linker = dylib.session()->linker();
  const size_t own = objects.size();
  for (;;) {
    Resolution resolution(objects, own,
                          [&](NameRef signature) { return dylib.symbols().HasGroup(signature); });
    Binder binder(dylib, resolution);
    std::vector<uint32_t> definitions = binder.BindDefinitions();
    Liveness liveness(resolution);
    std::vector<uint32_t> supplied = binder.BindReferences();
    if (!supplied.empty()) {
      for (uint32_t member : supplied) objects.push_back(SuppliedArchive().Extract(member));
      continue;
    }
    Linked linked;
    linked.name = resolution.name();
    linked.groups = resolution.groups();
    for (uint32_t number : definitions) {
      linked.definitions.push_back(Definition(resolution.globals()[number]));
    }
    linked.made_names = resolution.TakeMadeNames();
    linked.image = LinkAnywhere(linker, resolution, liveness, definitions);
    linked.values = std::move(linked.image.defined);
    linked.image.defined = {};
    return linked;
  }
}

}  // namespace

// Code that shows no sign of -fPIC lies below 2 GiB, where code without it can name it. From there
// it may not reach what it reaches from elsewhere.
Image LinkAnywhere(Linker& linker, Resolution& resolution, Liveness& liveness,
                   const std::vector<uint32_t>& definitions) {
  GraphBuilder builder(resolution, liveness, /*stay_high=*/false);
  try {
    return linker.Link(builder, definitions);
  } catch (const OutOfReachError&) {
    if (!builder.is_low() || builder.must_be_low()) throw;
  }
  GraphBuilder higher(resolution, liveness, /*stay_high=*/true);
  return linker.Link(higher, definitions);
}

void LoadObjects(Dylib& dylib, Inputs inputs, llvm::function_ref<void()> on_initialized,
                 LoadRecord& record) {
  record.Enter(LoadRecord::kLinking);
  Session& session = *dylib.session();
  SymbolTable& symbols = dylib.symbols();
  std::vector<ElfView> objects =
      inputs.TakeObjects([&](llvm::StringRef name) { return symbols.HasOwn(NameRef(name)); });
  size_t object_count = objects.size();
  uint64_t object_bytes = 0;
  uint64_t table_bytes = 0;
  for (const ElfView& object : objects) {
    object_bytes += object.size();
    table_bytes += object.table_bytes();
  }
  auto headroom = std::make_optional<Headroom>(object_bytes, table_bytes);
  // Made beforehand: once the initializers have run, nothing may fail any more.
  std::list<LoadedCode> loaded;
  LoadedCode& load = loaded.emplace_back(dylib);
  Linked linked = LinkInto(dylib, objects);
  load.image = std::move(linked.image);
  load.objects = object_count;
  load.symbols = linked.definitions.size();
  uint64_t early_uses = dylib.early_uses();
  bool is_initialized = false;
  try {
    symbols.Add(linked.definitions, linked.values, load.image.tls_module, linked.groups);
    headroom.reset();
    load.EnterMap();
    record.Enter(LoadRecord::kInitializing);
    RunInitializers(dylib, linked.name, load.image);
    is_initialized = true;
    load.image.KeepForExit(load);
    RunInside(dylib, on_initialized);
  } catch (...) {
    symbols.Remove(linked.definitions, linked.groups);
    if (!is_initialized) load.image.finalizers = load.image.late_finalizers = {};
    dylib.code().Undo(loaded, early_uses != dylib.early_uses());
    throw;
  }
  session.objects += object_count;
  session.symbols += linked.definitions.size();
  record.objects = object_count;
  record.bytes = load.image.bytes();
  load.from = inputs.TakeSources();
  if (load.from) load.version = dylib.TakeVersion();
  // Before anybody sees what the load brings: whoever has a function of it can send it.
  dylib.code().Add(loaded);
  symbols.Publish(linked.definitions);
}

}  // namespace object_loader
