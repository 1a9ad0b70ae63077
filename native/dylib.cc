// SPDX-License-Identifier: Apache-2.0
#include "dylib.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <utility>

#include "code_map.h"
#include "error.h"
#include "interpreter_lock.h"

namespace object_loader {

namespace {

std::atomic<uint64_t> last_id{0};

}  // namespace

Dylib::Turn::Turn(Dylib& dylib) : dylib_(dylib) {
  switch (dylib.turns_.Take()) {
    case Turns::kTaken:
      break;
    case Turns::kInherited:
      dylib.ForgetInterruptedLoad();
      break;
    case Turns::kCircle:
      dylib.ThrowCircle("load into");
  }
}

Dylib::Turn::~Turn() { dylib_.turns_.End(); }

std::shared_ptr<Dylib> Dylib::Create(std::shared_ptr<Session> session,
                                     const std::optional<std::string>& name,
                                     std::vector<Link> link_order) {
  session->ReleaseDeferred();
  for (const Link& link : link_order) {
    if (!link.dylib || link.dylib->session_ == session) continue;
    throw ObjectLoaderError("dylib '" + link.dylib->name() + "' belongs to session '" +
                            link.dylib->session_->name() + "', not to '" + session->name() +
                            "': a link order stays within one session");
  }
  std::string reserved = session->ReserveName(name);
  std::shared_ptr<Dylib> dylib(new Dylib(session, reserved));
  for (Link& link : link_order) {
    if (link.dylib) link.dylib->AddUser();
    dylib->link_order_.push_back(std::move(link));
  }
  return dylib;
}

Dylib::Dylib(std::shared_ptr<Session> session, std::string name)
    : id_(++last_id), name_(std::move(name)), session_(std::move(session)) {}

Dylib::~Dylib() {
  gate_.Close();
  LeaveSession();
  // Users hold the dylib itself, so there are none.
  if (!std::exchange(unloaded_, true)) UnloadNow();
}

void Dylib::Publish(std::shared_ptr<void> representation) {
  representation_ = std::move(representation);
  session_->Add(weak_from_this(), name_);
}

std::vector<Dylib::Link> Dylib::link_order() const {
  std::lock_guard<Mutex> lock(mutex_);
  return link_order_;
}

std::string Dylib::ClosedMessage() const {
  return session_->closed()
             ? "session '" + session_->name() + "' is closed, and its dylib '" + name_ + "' with it"
             : "dylib '" + name_ + "' is closed";
}

void Dylib::ThrowIfClosed() const {
  if (closed()) throw SessionClosedError(ClosedMessage());
}

void Dylib::CheckClosable() const {
  if (turns_.IsMine() || gate_.IsInsideOnThisThread()) {
    throw ObjectLoaderError("dylib '" + name_ +
                            "' cannot be closed from within its own code: close it when the call "
                            "has returned");
  }
}

void Dylib::Close() {
  CheckClosable();
  {
    std::lock_guard<Mutex> lock(mutex_);
    ++closers_;
  }
  try {
    WaitAndUnload();
  } catch (...) {
    CancelClose();
    throw;
  }
  std::lock_guard<Mutex> lock(mutex_);
  --closers_;
}

void Dylib::WaitAndUnload() {
  {
    Waiting calls(gate_);
    if (!calls.can_end()) ThrowCircle("close");
    gate_.Close();
    gate_.WaitUntilEmpty();
  }
  Turn turn(*this);  // a load that has not reached its initializers yet
  LeaveSession();
  Abandon();
}

void Dylib::Drop() {
  gate_.Close();
  LeaveSession();
  Abandon();
}

// The dylib stays open, unless another thread is closing it as well.
void Dylib::CancelClose() {
  std::lock_guard<Mutex> lock(mutex_);
  if (--closers_ == 0 && !left_session_) gate_.Reopen();
}

void Dylib::ThrowCircle(const char* what) const {
  throw ObjectLoaderError("cannot " + std::string(what) + " dylib '" + name_ +
                          "' here: a thread that has to finish with it first waits for this one, "
                          "in a load or a close of its own");
}

// The name is free from here on; another dylib may have it when this one is destroyed.
void Dylib::LeaveSession() {
  if (!left_session_.exchange(true)) session_->Remove(name_);
}

void Dylib::AddUser() {
  std::lock_guard<Mutex> lock(mutex_);
  // What is closed already cannot be linked to.
  if (abandoned_) ThrowIfClosed();
  ++users_;
}

void Dylib::RemoveUser(User kind, Loaded* of) {
  {
    std::lock_guard<Mutex> lock(mutex_);
    --users_;
    if (of) --of->users;
    if (kind == User::kThread) --thread_users_;
    if (!abandoned_) return;
  }
  TryUnload();
}

std::shared_ptr<void> Dylib::KeepCodeAt(const void* address) {
  CodeOwner* owner = CodeMap::OfProcess().Find(reinterpret_cast<uintptr_t>(address));
  return owner ? static_cast<Loaded*>(owner)->Keep() : nullptr;
}

// Made before it is counted: there may be no memory for it.
struct Dylib::Use {
  ~Use() {
    if (dylib) dylib->RemoveUser(kind, of);
  }
  std::shared_ptr<Dylib> dylib;
  User kind;
  Loaded* of;
};

std::shared_ptr<void> Dylib::Loaded::Keep() {
  std::lock_guard<Mutex> lock(dylib.mutex_);
  if (std::shared_ptr<void> known = kept.lock()) return known;
  auto use = std::make_shared<Use>();
  Count(*use, User::kOther);
  kept = use;
  return use;
}

std::shared_ptr<void> Dylib::Loaded::KeepForThread() {
  auto use = std::make_shared<Use>();
  std::lock_guard<Mutex> lock(dylib.mutex_);
  Count(*use, User::kThread);
  return use;
}

void Dylib::Loaded::Count(Use& use, User kind) {
  use.dylib = dylib.shared_from_this();
  use.kind = kind;
  use.of = this;
  ++users;
  ++dylib.users_;
  if (kind == User::kThread) ++dylib.thread_users_;
}

void Dylib::Abandon() {
  {
    std::lock_guard<Mutex> lock(mutex_);
    if (abandoned_) return;
    abandoned_ = true;
    ++session_->retained;
  }
  // Whoever calls holds a function or the module, and nobody does: only this thread can be in the
  // midst of a call, whose function it has dropped itself.
  Unload([this] { return !gate_.IsInsideOnThisThread(); });
}

void Dylib::TryUnload() {
  Unload([this] { return gate_.IsEmpty(); });
}

void Dylib::Unload(llvm::function_ref<bool()> is_left) {
  std::vector<const void*> dso_handles;
  {
    std::lock_guard<Mutex> lock(mutex_);
    // The last of the other users tries again.
    if (!abandoned_ || unloaded_ || users_ > thread_users_) return;
    for (const Loaded& load : loads_) {
      if (load.image.dso_handle) dso_handles.push_back(load.image.dso_handle);
    }
  }
  auto self = shared_from_this();
  session_->Defer(self);
  if (!is_left()) return;
  {
    std::lock_guard<Mutex> lock(mutex_);
    if (unloaded_ || users_ > PendingOnThisThread(dso_handles)) return;
    unloaded_ = true;
  }
  OutsideInterpreter outside;
  session_->Forget(*this);
  RunPendingOnThisThread(dso_handles);
  --session_->retained;
  UnloadNow();
}

void Dylib::UnloadNow() {
  Platform& platform = session_->platform();
  std::vector<const void*> dso_handles;
  for (auto load = loads_.rbegin(); load != loads_.rend(); ++load) {
    load->image.RunFinalizers();
    if (load->image.dso_handle) dso_handles.push_back(load->image.dso_handle);
  }
  RunPendingOnThisThread(dso_handles);  // of what the finalizers have made
  std::vector<Link> link_order;
  std::vector<Library> libraries;  // closed when no lock is held
  {
    // Before the memory goes: whoever finds a symbol under the mutex may use it there.
    std::lock_guard<Mutex> lock(mutex_);
    symbols_.clear();
    thread_local_modules_.clear();
    wide_values_.clear();
    link_order.swap(link_order_);
    libraries.swap(libraries_);
  }
  for (auto load = loads_.rbegin(); load != loads_.rend(); ++load) {
    CodeMap::OfProcess().Remove(load->image.code);
    platform.Unlink(load->image);
    session_->objects -= load->objects;
    session_->symbols -= load->symbols;
  }
  std::list<Loaded> loads;
  {
    std::lock_guard<Mutex> lock(mutex_);
    loads.swap(loads_);
  }
  for (const Link& link : link_order) {
    if (link.dylib) link.dylib->RemoveUser(User::kOther);
  }
}

}  // namespace object_loader
