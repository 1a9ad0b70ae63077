// SPDX-License-Identifier: Apache-2.0
#include "session/dylib.h"

#include <atomic>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "object/symbol_names.h"
#include "session/load.h"

namespace object_loader {

namespace {

std::atomic<uint64_t> last_id{0};

}  // namespace

Dylib::Turn::Turn(Dylib& dylib) : dylib_(dylib) {
  switch (dylib.turns_.Take()) {
    case Turns::kTaken:
      break;
    case Turns::kInherited:
      // What another thread of the forked process was in the midst of.
      dylib.symbols_.RemoveInitializing();
      dylib.scope_.RemoveInitializing();
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
  std::vector<Link> linked;
  for (Link& link : link_order) {
    if (link.dylib) link.dylib->code_.AddUser();
    linked.push_back(std::move(link));
    dylib->scope_.SetLinkOrder(linked);
  }
  return dylib;
}

Dylib::Dylib(std::shared_ptr<Session> session, std::string name)
    : id_(++last_id), name_(std::move(name)), session_(std::move(session)) {}

Dylib::~Dylib() {
  gate_.Close();
  LeaveSession();
}

void Dylib::Publish(std::shared_ptr<void> representation) {
  representation_ = std::move(representation);
  session_->Add(weak_from_this(), name_);
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
  code_.Abandon();
}

void Dylib::Drop() {
  gate_.Close();
  LeaveSession();
  code_.Abandon();
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

void Dylib::Load(Inputs inputs, const Scope::Libraries& libraries,
                 const std::function<void()>& on_initialized) {
  session_->ReleaseDeferred();
  ThrowIfClosed();
  Turn turn(*this);
  ThrowIfClosed();
  scope_.Add(libraries);
  try {
    if (inputs.has_objects()) LoadObjects(*this, std::move(inputs), on_initialized);
  } catch (...) {
    scope_.Remove(libraries);
    throw;
  }
  scope_.Publish(libraries);
  ++session_->loads;
}

std::optional<Found> Dylib::FindOffered(const Scope::Name& name) const {
  if (auto symbol = symbols_.FindExported(name)) {
    symbols_.NoteUse(*symbol);
    return Found{*symbol, this, nullptr};
  }
  return scope_.FindInLibraries(name);
}

std::vector<std::string> Dylib::FunctionNames() const {
  ThrowIfClosed();
  return symbols_.FunctionNames();
}

void* Dylib::FindFunction(const std::string& name) const {
  auto symbol = symbols_.FindExported(Intern(FunctionSymbol(name)));
  if (!symbol) return nullptr;
  symbols_.NoteUse(*symbol);
  return symbol->Address();
}

void* Dylib::GetFunction(const std::string& name) const {
  ThrowIfClosed();
  if (void* address = FindFunction(name)) return address;
  std::string message = "dylib '" + name_ + "' has no function '" + name + "'";
  std::vector<std::string> names = FunctionNames();
  Scope::Name symbol = Intern(FunctionSymbol(name));
  std::optional<Found> elsewhere = scope_.FindInLibraries(symbol);
  if (symbols_.Has(symbol)) {
    message +=
        ": its symbol is hidden; compile without -fvisibility=hidden, or mark it "
        "TVM_FFI_DLL_EXPORT";
  } else if (elsewhere) {
    message += ", but shared library " + elsewhere->library->path() +
               " has: load the library itself, with tvm_ffi.load_module, to get its functions";
  } else if (names.empty()) {
    message += "; it exports none (export one with TVM_FFI_DLL_EXPORT_TYPED_FUNC)";
  } else {
    message += "; it exports " + Suggestions(std::move(names), name);
  }
  throw FunctionNotFoundError(message);
}

void* Dylib::FindSymbol(const std::string& symbol) const {
  auto found = symbols_.FindExported(Intern(symbol));
  return found ? found->Address() : nullptr;
}

void* Dylib::Lookup(const std::string& symbol) const {
  ThrowIfClosed();
  Scope::Name name = Intern(symbol);
  if (auto own = symbols_.FindExported(name)) {
    symbols_.NoteUse(*own);
    return own->Address();
  }
  Scope::Search search = scope_.Start();
  std::optional<Found> found = search.Find(name);
  if (!found) found = search.FindInDependencies(name);
  if (found) return found->symbol.Address();
  throw UndefinedSymbolError(
      "neither dylib '" + name_ + "' nor its link order defines symbol " + Demangled(symbol),
      {symbol});
}

Scope::Name Dylib::Intern(const std::string& symbol) const {
  ForkExclusion exclusion;
  return session_->linker().names()->intern(symbol);
}

}  // namespace object_loader
