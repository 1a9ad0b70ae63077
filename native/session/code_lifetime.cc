// SPDX-License-Identifier: Apache-2.0
#include "session/code_lifetime.h"

#include <mutex>
#include <utility>

#include "base/interpreter_lock.h"
#include "session/code_map.h"
#include "session/dylib.h"

namespace object_loader {

std::shared_ptr<void> CodeLifetime::KeepCodeAt(const void* address) {
  CodeOwner* owner = CodeMap::OfProcess().Find(reinterpret_cast<uintptr_t>(address));
  return owner ? static_cast<Loaded*>(owner)->Keep() : nullptr;
}

// Made before it is counted: there may be no memory for it.
struct CodeLifetime::Use {
  ~Use() {
    if (dylib) dylib->code().RemoveUser(kind, of);
  }
  std::shared_ptr<Dylib> dylib;
  User kind;
  Loaded* of;
};

std::shared_ptr<void> CodeLifetime::Loaded::Keep() {
  std::lock_guard<Mutex> lock(dylib.code().mutex_);
  if (std::shared_ptr<void> known = kept.lock()) return known;
  auto use = std::make_shared<Use>();
  Count(*use, User::kOther);
  kept = use;
  return use;
}

std::shared_ptr<void> CodeLifetime::Loaded::KeepForThread() {
  auto use = std::make_shared<Use>();
  std::lock_guard<Mutex> lock(dylib.code().mutex_);
  Count(*use, User::kThread);
  return use;
}

void CodeLifetime::Loaded::Count(Use& use, User kind) {
  use.dylib = dylib.shared_from_this();
  use.kind = kind;
  use.of = this;
  ++users;
  ++dylib.code().users_;
  if (kind == User::kThread) ++dylib.code().thread_users_;
}

CodeLifetime::~CodeLifetime() {
  if (!std::exchange(unloaded_, true)) UnloadNow();
}

void CodeLifetime::Add(std::list<Loaded>& loaded) {
  std::lock_guard<Mutex> lock(mutex_);
  loads_.splice(loads_.end(), loaded);
}

void CodeLifetime::Undo(std::list<Loaded>& loaded, bool is_used) {
  Loaded& load = loaded.front();
  Image& image = load.image;
  image.finalizers.clear();
  image.late_finalizers.clear();
  {
    std::lock_guard<Mutex> lock(mutex_);
    if (is_used || load.users > PendingOnThisThread({image.dso_handle})) {
      load.objects = load.symbols = 0;
      load.libraries = dylib_.scope().InitializingLibraries();
      loads_.splice(loads_.end(), loaded);
      return;
    }
  }
  RunPendingOnThisThread({image.dso_handle});
  image.RunFinalizers();
  RunPendingOnThisThread({image.dso_handle});  // of what they have made
  CodeMap::OfProcess().Remove(image.code);
  dylib_.session()->linker().Unlink(image);
}

void CodeLifetime::AddUser() {
  std::lock_guard<Mutex> lock(mutex_);
  // What is closed already cannot be linked to.
  if (abandoned_) dylib_.ThrowIfClosed();
  ++users_;
}

void CodeLifetime::RemoveUser(User kind, Loaded* of) {
  {
    std::lock_guard<Mutex> lock(mutex_);
    --users_;
    if (of) --of->users;
    if (kind == User::kThread) --thread_users_;
    if (!abandoned_) return;
  }
  TryUnload();
}

void CodeLifetime::Abandon() {
  {
    std::lock_guard<Mutex> lock(mutex_);
    if (abandoned_) return;
    abandoned_ = true;
    ++dylib_.session()->retained;
  }
  Unload([this] { return !dylib_.gate().IsInsideOnThisThread(); });
}

void CodeLifetime::TryUnload() {
  Unload([this] { return dylib_.gate().IsEmpty(); });
}

void CodeLifetime::Unload(llvm::function_ref<bool()> is_left) {
  std::vector<const void*> dso_handles;
  {
    std::lock_guard<Mutex> lock(mutex_);
    // The last of the other users tries again.
    if (!abandoned_ || unloaded_ || users_ > thread_users_) return;
    for (const Loaded& load : loads_) {
      if (load.image.dso_handle) dso_handles.push_back(load.image.dso_handle);
    }
  }
  auto self = dylib_.shared_from_this();
  Session& session = *dylib_.session();
  session.Defer(self);
  if (!is_left()) return;
  {
    std::lock_guard<Mutex> lock(mutex_);
    if (unloaded_ || users_ > PendingOnThisThread(dso_handles)) return;
    unloaded_ = true;
  }
  OutsideInterpreter outside;
  session.Forget(dylib_);
  RunPendingOnThisThread(dso_handles);
  --session.retained;
  UnloadNow();
}

void CodeLifetime::UnloadNow() {
  std::vector<const void*> dso_handles;
  for (auto load = loads_.rbegin(); load != loads_.rend(); ++load) {
    load->image.RunFinalizers();
    if (load->image.dso_handle) dso_handles.push_back(load->image.dso_handle);
  }
  RunPendingOnThisThread(dso_handles);  // of what the finalizers have made
  std::vector<Link> link_order;
  Scope::Libraries libraries;  // closed when no lock is held
  // Before the memory goes: whoever finds a symbol may use it there.
  dylib_.symbols().Clear();
  dylib_.scope().Clear(link_order, libraries);
  Session& session = *dylib_.session();
  for (auto load = loads_.rbegin(); load != loads_.rend(); ++load) {
    CodeMap::OfProcess().Remove(load->image.code);
    session.linker().Unlink(load->image);
    session.objects -= load->objects;
    session.symbols -= load->symbols;
  }
  std::list<Loaded> loads;
  {
    std::lock_guard<Mutex> lock(mutex_);
    loads.swap(loads_);
  }
  for (const Link& link : link_order) {
    if (link.dylib) link.dylib->code().RemoveUser();
  }
}

}  // namespace object_loader
