// SPDX-License-Identifier: Apache-2.0
#include "session/dylib.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "object/symbol_names.h"
#include "session/load.h"

namespace object_loader {

namespace {

std::atomic<uint64_t> last_id{0};
std::atomic<uint64_t> last_version{0};

}  // namespace

Dylib::Turn::Turn(Dylib& dylib) : dylib_(dylib) {
  switch (dylib.line_->turns.Take()) {
    case Turns::kTaken:
      break;
    case Turns::kInherited:
      // What another thread of the forked process was in the midst of.
      dylib.loading_ = 0;
      dylib.symbols_.RemoveInitializing();
      dylib.scope_.RemoveInitializing();
      break;
    case Turns::kCircle:
      dylib.ThrowCircle("load into");
  }
}

Dylib::Turn::~Turn() { dylib_.line_->turns.End(); }

std::shared_ptr<Dylib> Dylib::Create(std::shared_ptr<Session> session,
                                     const std::optional<std::string>& name,
                                     std::vector<Link> link_order, bool replaces) {
  session->ReleaseDeferred();
  for (const Link& link : link_order) {
    if (!link.dylib || link.dylib->session_ == session) continue;
    throw ObjectLoaderError("dylib '" + link.dylib->name() + "' belongs to session '" +
                            link.dylib->session_->name() + "', not to '" + session->name() +
                            "': a link order stays within one session");
  }
  Session::Reservation reservation = session->Reserve(name, replaces);
  auto line = std::make_shared<Line>();
  line->id = ++last_id;
  std::shared_ptr<Dylib> dylib(new Dylib(session, reservation, std::move(line)));
  dylib->LinkTo(std::move(link_order));
  return dylib;
}

std::shared_ptr<Dylib> Dylib::CreateNext(const Dylib& before, std::vector<Link> link_order) {
  Session::Reservation reservation = before.session_->Reserve(before.name(), /*replaces=*/true);
  std::shared_ptr<Dylib> dylib(new Dylib(before.session_, reservation, before.line_));
  dylib->LinkTo(std::move(link_order));
  return dylib;
}

Dylib::Dylib(std::shared_ptr<Session> session, Session::Reservation reservation,
             std::shared_ptr<Line> line)
    : line_(std::move(line)), reservation_(std::move(reservation)), session_(std::move(session)) {}

void Dylib::LinkTo(std::vector<Link> link_order) {
  std::vector<Link> linked;
  for (Link& link : link_order) {
    if (link.dylib) link.dylib->code_.AddUser(CodeLifetime::kDylib);
    linked.push_back(std::move(link));
    scope_.SetLinkOrder(linked);
  }
}

Dylib::~Dylib() {
  gate_.Close();
  LeaveSession();
}

void Dylib::Publish(std::shared_ptr<void> representation) {
  representation_ = std::move(representation);
  session_->Add(weak_from_this(), reservation_);
}

std::string Dylib::ClosedMessage() const {
  return session_->closed() ? "session '" + session_->name() + "' is closed, and its dylib '" +
                                  name() + "' with it"
                            : "dylib '" + name() + "' is closed";
}

void Dylib::ThrowIfClosed() const {
  if (closed()) throw SessionClosedError(ClosedMessage());
}

void Dylib::CheckClosable() const {
  if (line_->turns.IsMine() || gate_.IsInsideOnThisThread()) {
    throw ObjectLoaderError("dylib '" + name() +
                            "' cannot be closed from within its own code: close it when the call "
                            "has returned");
  }
}

void Dylib::StopCalls(const KeepWaiting& keep_waiting) {
  CheckClosable();
  {
    std::lock_guard<Mutex> lock(mutex_);
    ++closers_;
  }
  try {
    Waiting calls(gate_);
    if (!calls.can_end()) ThrowCircle("close");
    gate_.Close();
    if (!gate_.WaitUntilEmpty(keep_waiting)) {
      throw GaveUpWaiting("a call of dylib '" + name() + "' is still running");
    }
  } catch (...) {
    ResumeCalls();
    throw;
  }
}

void Dylib::Close(const KeepWaiting& keep_waiting) {
  StopCalls(keep_waiting);
  try {
    Turn turn(*this);  // a load that has not reached its initializers yet
    LeaveSession();
    code_.Abandon();
  } catch (...) {
    ResumeCalls();
    throw;
  }
  ResumeCalls();
}

void Dylib::Drop() {
  {
    std::lock_guard<Mutex> lock(mutex_);
    dropped_ = true;
    gate_.Close();
  }
  LeaveSession();
  code_.Abandon();
}

void Dylib::GiveWayTo(const Dylib& next, llvm::function_ref<void()> switch_over) {
  std::lock_guard<Mutex> lock(mutex_);
  ThrowIfClosed();
  next.ThrowIfClosed();
  switch_over();
  dropped_ = true;
  gate_.Close();
}

void Dylib::Leave(const Dylib& next) {
  session_->PassName(reservation_, next.reservation_);
  LeaveSession();
  code_.Abandon(/*is_being_called=*/true);
}

// It stays open, unless another thread is closing it as well, or has closed it.
void Dylib::ResumeCalls() {
  std::lock_guard<Mutex> lock(mutex_);
  if (--closers_ == 0 && !left_session_ && !dropped_) gate_.Reopen();
}

void Dylib::ThrowCircle(const char* what) const {
  throw ObjectLoaderError("cannot " + std::string(what) + " dylib '" + name() +
                          "' here: a thread that has to finish with it first waits for this one, "
                          "in a load or a close of its own");
}

// The name is free from here on; another dylib may have it when this one is destroyed.
void Dylib::LeaveSession() {
  if (!left_session_.exchange(true)) session_->Remove(reservation_);
}

void Dylib::Load(Inputs&& inputs, const Scope::Libraries& libraries,
                 const std::function<void()>& on_initialized, LoadRecord& record) {
  record.Enter(LoadRecord::kWaiting);
  session_->ReleaseDeferred();
  ThrowIfClosed();
  Turn turn(*this);
  ThrowIfClosed();
  if (loading_ > 0) inputs.TakeSources();
  scope_.Add(libraries);
  ++loading_;
  try {
    if (inputs.has_objects()) {
      LoadObjects(*this, std::move(inputs), on_initialized, record);
    } else if (auto from = inputs.TakeSources()) {
      std::lock_guard<Mutex> lock(mutex_);
      library_loads_.emplace_back(TakeVersion(), std::move(from));
    }
  } catch (...) {
    --loading_;
    scope_.Remove(libraries);
    throw;
  }
  --loading_;
  scope_.Publish(libraries);
}

uint64_t Dylib::TakeVersion() {
  uint64_t version = ++last_version;
  version_.store(version, std::memory_order_release);
  return version;
}

Dylib::Sources Dylib::sources() {
  std::vector<std::pair<uint64_t, std::shared_ptr<const LoadedFrom>>> all;
  code_.VisitSources([&](uint64_t version, const auto& from) { all.emplace_back(version, from); });
  {
    std::lock_guard<Mutex> lock(mutex_);
    all.insert(all.end(), library_loads_.begin(), library_loads_.end());
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  Sources sources;
  for (auto& [version, from] : all) {
    sources.version = version;
    sources.loads.push_back(std::move(from));
  }
  return sources;
}

std::optional<Found> Dylib::FindOffered(NameRef name) const {
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
  auto symbol = symbols_.FindExported(NameRef(FunctionSymbol(name)));
  if (!symbol) return nullptr;
  symbols_.NoteUse(*symbol);
  return symbol->Address();
}

void* Dylib::GetFunction(const std::string& name) const {
  ThrowIfClosed();
  if (void* address = FindFunction(name)) return address;
  std::string message = "dylib '" + reservation_.name + "' has no function '" + name + "'";
  std::vector<std::string> names = FunctionNames();
  std::string function_symbol = FunctionSymbol(name);
  NameRef symbol(function_symbol);
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
  auto found = symbols_.FindExported(NameRef(symbol));
  return found ? found->Address() : nullptr;
}

void* Dylib::Lookup(const std::string& symbol) const {
  ThrowIfClosed();
  NameRef name(symbol);
  if (auto own = symbols_.FindExported(name)) {
    symbols_.NoteUse(*own);
    return own->Address();
  }
  Scope::Search search = scope_.Start();
  std::optional<Found> found = search.Find(name);
  if (!found) found = search.FindInDependencies(name);
  if (found) return found->symbol.Address();
  throw UndefinedSymbolError("neither dylib '" + reservation_.name +
                                 "' nor its link order defines symbol " + Demangled(symbol),
                             {symbol});
}

}  // namespace object_loader
