// SPDX-License-Identifier: Apache-2.0
//
// Dylib: loading into it, as a transaction.
#include <cxxabi.h>

#include <algorithm>
#include <list>
#include <mutex>
#include <utility>

#include "code_map.h"
#include "dylib.h"
#include "error.h"
#include "headroom.h"

namespace object_loader {

namespace {

using llvm::orc::SymbolStringPtr;

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

}  // namespace

void Dylib::Load(Inputs inputs, std::vector<std::shared_ptr<SharedLibrary>> libraries,
                 const std::function<void()>& on_initialized) {
  session_->ReleaseDeferred();
  ThrowIfClosed();
  Turn turn(*this);
  ThrowIfClosed();
  AddLibraries(libraries);
  try {
    if (inputs.has_objects()) LoadObjects(std::move(inputs), on_initialized);
  } catch (...) {
    RemoveLibraries(libraries);
    throw;
  }
  PublishLibraries(libraries);
  ++session_->loads;
}

void Dylib::LoadObjects(Inputs inputs, const std::function<void()>& on_initialized) {
  std::vector<ObjectFile> objects = inputs.TakeObjects(
      [this](llvm::StringRef name) { return symbols_.count(Intern(name.str())) != 0; });
  size_t object_count = objects.size();
  uint64_t object_bytes = 0;
  uint64_t table_bytes = 0;
  for (const ObjectFile& object : objects) {
    object_bytes += object.buffer().getBufferSize();
    table_bytes += object.facts().table_bytes;
  }
  auto headroom = std::make_optional<Headroom>(object_bytes, table_bytes);
  std::unique_ptr<LoadGraph> load;
  std::vector<Definition> definitions;
  std::vector<uint32_t> support;
  do {
    for (uint32_t member : support) objects.push_back(SupportArchive().Extract(member));
    support.clear();
    load = MakeGraph(objects, object_count);
    definitions = Bind(*load, support);
  } while (!support.empty());

  std::vector<SymbolStringPtr> names;
  for (const Definition& definition : definitions) {
    names.push_back(definition.symbol->getName());
  }
  // Made beforehand: once the initializers have run, nothing may fail any more.
  std::list<Loaded> loaded;
  loaded.emplace_back(*this);
  loaded.front().objects = object_count;
  loaded.front().symbols = names.size();
  Image& image = loaded.front().image;
  image = session_->platform().Link(*load, definitions);
  uint64_t early_uses = early_uses_;
  try {
    {
      std::lock_guard<Mutex> lock(mutex_);
      for (size_t i = 0; i < names.size(); ++i) {
        AddSymbol(names[i], definitions[i], image.defined[i].getValue());
        if (definitions[i].is_thread_local) thread_local_modules_[names[i]] = image.tls_module;
      }
    }
    image.defined = std::vector<llvm::orc::ExecutorAddr>();
    headroom.reset();
    if (image.dso_handle) image.dso_handle->owner = &loaded.front();
    CodeMap::OfProcess().Add(image.code, &loaded.front());
    Initialize(*load, image);
    on_initialized();
  } catch (...) {
    {
      std::lock_guard<Mutex> lock(mutex_);
      for (const SymbolStringPtr& name : names) {
        EraseSymbol(name);
      }
    }
    Undo(loaded, early_uses != early_uses_);
    throw;
  }
  image.KeepForExit();
  session_->objects += object_count;
  session_->symbols += names.size();
  std::lock_guard<Mutex> lock(mutex_);
  for (const SymbolStringPtr& name : names) symbols_[name].initializing = false;
  loads_.splice(loads_.end(), loaded);
}

void Dylib::EraseSymbol(const SymbolStringPtr& name) {
  symbols_.erase(name);
  thread_local_modules_.erase(name);
  wide_values_.erase(name);
}

void Dylib::AddSymbol(const SymbolStringPtr& name, const Definition& definition, uint64_t value) {
  Symbol symbol = {};
  symbol.place = value;
  symbol.weak = definition.weak;
  symbol.exported = definition.exported;
  symbol.initializing = true;
  symbol.is_thread_local = definition.is_thread_local;
  symbol.is_wide = symbol.place != value;
  if (symbol.is_wide) wide_values_[name] = value;
  symbols_[name] = symbol;
}

// What the initializers constructed and registered goes with the code. Where that is needed, since
// they gave away a function or an object, it goes when the dylib does.
void Dylib::Undo(std::list<Loaded>& loaded, bool is_used) {
  Loaded& load = loaded.front();
  Image& image = load.image;
  image.finalizers.clear();
  image.late_finalizers.clear();
  {
    std::lock_guard<Mutex> lock(mutex_);
    if (is_used || load.users > PendingOnThisThread({image.dso_handle})) {
      load.objects = load.symbols = 0;
      for (const Library& entry : libraries_) {
        if (entry.initializing) load.libraries.push_back(entry.library);
      }
      loads_.splice(loads_.end(), loaded);
      return;
    }
  }
  RunPendingOnThisThread({image.dso_handle});
  image.RunFinalizers();
  RunPendingOnThisThread({image.dso_handle});  // of what they have made
  CodeMap::OfProcess().Remove(image.code);
  session_->platform().Unlink(image);
}

std::unique_ptr<LoadGraph> Dylib::MakeGraph(std::vector<ObjectFile>& objects, size_t own) const {
  ForkExclusion exclusion;
  return std::make_unique<LoadGraph>(objects, own, session_->platform().names());
}

void Dylib::Initialize(const LoadGraph& load, const Image& image) const {
  if (!image.has_initializers()) return;
  // Whoever closes the dylib meanwhile waits for the initializers.
  CallScope scope(gate_);
  if (!scope.entered()) throw SessionClosedError(ClosedMessage());
  std::string thrown;
  try {
    image.RunInitializers();
    return;
  } catch (const abi::__forced_unwind&) {
    throw;  // the thread is being cancelled
  } catch (...) {
    // The exception may be of a type that goes with the image, so it must not leave this block.
    thrown = CurrentExceptionText();
  }
  throw LinkError(load.name() + ": an initializer threw: " + thrown);
}

void Dylib::AddLibraries(const std::vector<std::shared_ptr<SharedLibrary>>& libraries) {
  std::lock_guard<Mutex> lock(mutex_);
  for (const auto& library : libraries) libraries_.push_back({library, true});
}

void Dylib::RemoveLibraries(const std::vector<std::shared_ptr<SharedLibrary>>& libraries) {
  std::lock_guard<Mutex> lock(mutex_);
  for (const auto& library : libraries) {
    libraries_.erase(std::find_if(libraries_.begin(), libraries_.end(),
                                  [&](const Library& entry) { return entry.library == library; }));
  }
}

void Dylib::PublishLibraries(const std::vector<std::shared_ptr<SharedLibrary>>& libraries) {
  std::lock_guard<Mutex> lock(mutex_);
  for (Library& entry : libraries_) {
    if (std::find(libraries.begin(), libraries.end(), entry.library) != libraries.end()) {
      entry.initializing = false;
    }
  }
}

std::vector<std::shared_ptr<SharedLibrary>> Dylib::Libraries() const {
  std::lock_guard<Mutex> lock(mutex_);
  std::vector<std::shared_ptr<SharedLibrary>> libraries;
  for (const Library& entry : libraries_) {
    if (entry.initializing && !turns_.IsMine()) continue;
    if (entry.initializing) ++early_uses_;
    libraries.push_back(entry.library);
  }
  return libraries;
}

// In a forked child, what another thread of the parent was in the middle of loading.
void Dylib::ForgetInterruptedLoad() {
  std::lock_guard<Mutex> lock(mutex_);
  std::vector<SymbolStringPtr> names;
  for (const auto& [name, symbol] : symbols_) {
    if (symbol.initializing) names.push_back(name);
  }
  for (const SymbolStringPtr& name : names) EraseSymbol(name);
  // The left thread's copy keeps the library open, whose constructors may never have finished.
  libraries_.erase(std::remove_if(libraries_.begin(), libraries_.end(),
                                  [](const Library& entry) { return entry.initializing; }),
                   libraries_.end());
}

}  // namespace object_loader
