// SPDX-License-Identifier: Apache-2.0
#include "dylib.h"

#include <cxxabi.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "error.h"
#include "headroom.h"
#include "symbol_names.h"

namespace object_loader {

namespace {

using llvm::orc::ExecutorAddr;
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

// Destructors and handlers of code that is about to go. There is nobody to tell what they throw:
// the last reference may be dropped anywhere.
void Finalize(const Image& image) {
  try {
    image.RunFinalizers();
  } catch (const abi::__forced_unwind&) {
    throw;  // the thread is being cancelled
  } catch (...) {
  }
}

// Adds the support archive's member that defines the symbol, if there is one.
bool AddSupport(llvm::StringRef symbol, std::vector<uint32_t>& members) {
  llvm::ArrayRef<uint32_t> definers = SupportArchive().Definers(symbol);
  if (definers.empty()) return false;
  if (!llvm::is_contained(members, definers.front())) members.push_back(definers.front());
  return true;
}

std::atomic<uint64_t> last_id{0};

// Whose code is where, in all sessions.
class CodeMap {
 public:
  void Add(AddressRange range, Dylib* dylib) {
    if (range.begin == range.end) return;
    std::lock_guard<Mutex> lock(mutex_);
    ranges_[range.begin] = {range.end, dylib};
  }
  void Remove(AddressRange range) {
    std::lock_guard<Mutex> lock(mutex_);
    ranges_.erase(range.begin);
  }
  // Null where the address is in no code. The dylib lives for as long as its code is there.
  Dylib* Find(uint64_t address) {
    std::lock_guard<Mutex> lock(mutex_);
    auto range = ranges_.upper_bound(address);
    if (range == ranges_.begin()) return nullptr;
    --range;
    return address < range->second.first ? range->second.second : nullptr;
  }

 private:
  Mutex mutex_;
  std::map<uint64_t, std::pair<uint64_t, Dylib*>> ranges_;
};

// Never destroyed: loaded code may outlive everything else.
CodeMap& Code() {
  static auto* map = new CodeMap;
  return *map;
}

}  // namespace

// The right to change what is loaded in a dylib, for one thread at a time.
class Dylib::Turn {
 public:
  explicit Turn(Dylib& dylib) : dylib_(dylib) {
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
  ~Turn() { dylib_.turns_.End(); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  Dylib& dylib_;
};

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
    if (link.dylib) link.dylib->AddUser(User::kOther);
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
    table_bytes += object.table_bytes();
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
  std::list<Loaded> loaded(1);
  loaded.front().objects = object_count;
  loaded.front().symbols = names.size();
  Image& image = loaded.front().image;
  image = session_->platform().Link(*load, definitions);
  try {
    {
      std::lock_guard<Mutex> lock(mutex_);
      for (size_t i = 0; i < names.size(); ++i) {
        symbols_[names[i]] = {image.defined[i], definitions[i].weak, definitions[i].exported, true,
                              definitions[i].is_thread_local};
        if (definitions[i].is_thread_local) thread_local_modules_[names[i]] = image.tls_module;
      }
    }
    image.defined = {};
    headroom.reset();
    if (image.dso_handle) image.dso_handle->owner = this;
    Code().Add(image.code, this);
    Initialize(*load, image);
    on_initialized();
  } catch (...) {
    {
      std::lock_guard<Mutex> lock(mutex_);
      for (const SymbolStringPtr& name : names) {
        symbols_.erase(name);
        thread_local_modules_.erase(name);
      }
    }
    // Destructors of what was constructed, and handlers that would dangle.
    RunPendingOnThisThread({image.dso_handle});
    image.finalizers.clear();
    image.late_finalizers.clear();
    Finalize(image);
    Code().Remove(image.code);
    session_->platform().Unlink(image);
    throw;
  }
  image.KeepForExit();
  session_->objects += object_count;
  session_->symbols += names.size();
  std::lock_guard<Mutex> lock(mutex_);
  for (const SymbolStringPtr& name : names) symbols_[name].initializing = false;
  loads_.splice(loads_.end(), loaded);
}

std::unique_ptr<LoadGraph> Dylib::MakeGraph(std::vector<ObjectFile>& objects, size_t own) const {
  ForkExclusion exclusion;
  return std::make_unique<LoadGraph>(objects, own, session_->platform().names());
}

SymbolStringPtr Dylib::Intern(const std::string& symbol) const {
  ForkExclusion exclusion;
  return session_->platform().names()->intern(symbol);
}

std::vector<Definition> Dylib::Bind(LoadGraph& load, std::vector<uint32_t>& support) const {
  std::vector<Definition> definitions = BindDefinitions(load);
  BindReferences(load, support);
  for (const Definition& definition : definitions) {
    // From here on nothing looks the symbol up by name: ORC and JITLink need not know of it.
    definition.symbol->setScope(llvm::jitlink::Scope::Local);
    definition.symbol->setLive(true);
  }
  return definitions;
}

// The first definition of a symbol in a dylib is the one that counts, as code may already be bound
// to it. This thread has the turn, so the table does not change meanwhile.
std::vector<Definition> Dylib::BindDefinitions(LoadGraph& load) const {
  std::vector<Definition> definitions;
  std::map<std::string, std::string> duplicates;  // symbol -> message
  for (const Definition& definition : load.Definitions()) {
    const SymbolStringPtr& name = definition.symbol->getName();
    auto known = symbols_.find(name);
    if (known == symbols_.end()) {
      definitions.push_back(definition);
    } else if (definition.weak && definition.is_thread_local != known->second.is_thread_local) {
      throw LinkError(load.name() + ": " + Demangled(std::string(*name)) +
                      " is thread-local in one object of dylib '" + name_ +
                      "' and not in another: compile both from the same declaration");
    } else if (definition.weak && definition.is_thread_local) {
      load.Override(definition, ThreadLocal(name, known->second));
    } else if (definition.weak) {
      load.Override(definition, known->second.address);
    } else {
      std::string symbol(*name);
      duplicates[symbol] =
          load.name() + ": duplicate symbol " + Demangled(symbol) + ": dylib '" + name_ +
          "' already " +
          (known->second.weak ? "uses a weak definition of it; load the two objects together, "
                                "where the strong one is chosen"
                              : "defines it; load this object into another dylib, or make the "
                                "symbol static or weak");
    }
  }
  if (!duplicates.empty()) ThrowDuplicates(duplicates);
  return definitions;
}

void Dylib::Bind(LoadGraph& load, const Reference& reference, const Found& found) const {
  const SymbolStringPtr& name = reference.symbol->getName();
  if (found.library) {
    if (reference.is_thread_local) {
      // The address is that of this thread's variable; the dynamic linker knows the others.
      load.Bind(reference, TlsVariable{nullptr, std::string(*name), 0, found.library->path()});
    } else {
      load.Bind(reference, found.symbol.address);
    }
    return;
  }
  if (found.symbol.is_thread_local != reference.is_thread_local) {
    throw LinkError(load.object_name(reference.used_by) + ": uses " +
                    Demangled(std::string(*name)) + " as a variable that is " +
                    (reference.is_thread_local ? "" : "not ") + "thread-local, but in dylib '" +
                    found.dylib->name_ + "' it is" + (reference.is_thread_local ? " not" : "") +
                    ": compile both from the same declaration");
  }
  if (found.symbol.is_thread_local) {
    load.Bind(reference, found.dylib->ThreadLocal(name, found.symbol));
  } else {
    load.Bind(reference, found.symbol.address);
  }
}

void Dylib::BindReferences(LoadGraph& load, std::vector<uint32_t>& support) const {
  SearchOrder search = Search();
  std::vector<Reference> outside;
  std::vector<SymbolStringPtr> names;
  for (const Reference& reference : load.References()) {
    SymbolStringPtr name = reference.symbol->getName();
    if (*name == "__dso_handle") {
      load.DefineDsoHandle(reference);
      continue;
    }
    std::optional<Found> found;
    auto own = symbols_.find(name);
    if (own != symbols_.end()) found = Found{own->second, this, nullptr};
    if (!found && IsSupportSymbol(*name) && !reference.weak && AddSupport(*name, support)) {
      continue;
    }
    if (!found) found = search.Find(name);
    if (!found) {
      outside.push_back(reference);
      names.push_back(std::move(name));
    } else {
      Bind(load, reference, *found);
    }
  }

  std::vector<std::string> missing;
  std::set<size_t> users;
  std::string message;
  std::vector<ExecutorAddr> addresses = session_->platform().process_symbols().Find(names);
  for (size_t i = 0; i < outside.size(); ++i) {
    const Reference& reference = outside[i];
    std::optional<Found> found;
    if (!addresses[i]) found = search.FindInDependencies(names[i]);
    if (found) {
      Bind(load, reference, *found);
      continue;
    }
    if (addresses[i] || reference.weak) {
      if (reference.is_thread_local) {
        // As for a library.
        load.Bind(reference, TlsVariable{nullptr, std::string(*names[i]), 0, ""});
      } else {
        load.Bind(reference, addresses[i]);
      }
      continue;
    }
    if (AddSupport(*names[i], support)) continue;
    missing.push_back(std::string(*names[i]));
    users.insert(reference.used_by);
    message += "\n  " + Demangled(missing.back()) + ", used by " +
               load.object_name(reference.used_by) + OriginHint(missing.back());
  }
  if (missing.empty()) return;
  std::sort(missing.begin(), missing.end());
  std::string objects;
  for (size_t user : users) objects += (objects.empty() ? "" : ", ") + load.object_name(user);
  bool one = missing.size() == 1;
  message = objects + ": undefined symbol" + (one ? "" : "s") + ":" + message +
            "\nNeither dylib '" + name_ + "' nor its link order nor the process defines " +
            (one ? "it" : "them") +
            ": load the object or the shared library (.so) that does together with this one, or "
            "put its dylib or the library into link_order";
  throw UndefinedSymbolError(message, std::move(missing));
}

std::optional<Dylib::Symbol> Dylib::FindExported(const SymbolStringPtr& name) const {
  std::lock_guard<Mutex> lock(mutex_);
  auto found = symbols_.find(name);
  if (found == symbols_.end() || !found->second.exported) return std::nullopt;
  if (found->second.initializing && !turns_.IsMine()) return std::nullopt;
  return found->second;
}

TlsVariable Dylib::ThreadLocal(const SymbolStringPtr& name, const Symbol& symbol) const {
  std::lock_guard<Mutex> lock(mutex_);
  return {thread_local_modules_.lookup(name), "", symbol.address.getValue(), ""};
}

std::optional<Dylib::Found> Dylib::FindIn(
    const std::vector<std::shared_ptr<SharedLibrary>>& libraries, const SymbolStringPtr& name,
    std::optional<void*> (SharedLibrary::*find)(const std::string&) const) {
  if (libraries.empty()) return std::nullopt;
  std::string symbol(*name);
  for (const auto& library : libraries) {
    if (auto address = (*library.*find)(symbol)) {
      return Found{
          {ExecutorAddr::fromPtr(*address), false, true, false, false}, nullptr, library.get()};
    }
  }
  return std::nullopt;
}

std::optional<Dylib::Found> Dylib::FindOffered(const SymbolStringPtr& name) const {
  if (std::optional<Symbol> symbol = FindExported(name)) return Found{*symbol, this, nullptr};
  return FindIn(Libraries(), name, &SharedLibrary::Find);
}

std::optional<Dylib::Found> Dylib::SearchOrder::Find(const SymbolStringPtr& name) const {
  std::optional<Found> found = FindIn(libraries, name, &SharedLibrary::Find);
  for (auto link = link_order.begin(); !found && link != link_order.end(); ++link) {
    found = link->dylib ? link->dylib->FindOffered(name)
                        : FindIn({link->library}, name, &SharedLibrary::Find);
  }
  return found;
}

std::optional<Dylib::Found> Dylib::SearchOrder::FindInDependencies(
    const SymbolStringPtr& name) const {
  constexpr auto find = &SharedLibrary::FindWithDependencies;
  std::optional<Found> found = FindIn(libraries, name, find);
  for (auto link = link_order.begin(); !found && link != link_order.end(); ++link) {
    found = link->dylib ? FindIn(link->dylib->Libraries(), name, find)
                        : FindIn({link->library}, name, find);
  }
  return found;
}

// The address of the calling thread's variable where the symbol is thread-local.
void* Dylib::AddressOf(const SymbolStringPtr& name, const Found& found) {
  if (!found.symbol.is_thread_local) return found.symbol.address.toPtr<void*>();
  TlsVariable variable = found.dylib->ThreadLocal(name, found.symbol);
  return variable.module->Address(variable.offset);
}

Dylib::SearchOrder Dylib::Search() const { return {Libraries(), link_order()}; }

std::vector<std::shared_ptr<SharedLibrary>> Dylib::Libraries() const {
  std::lock_guard<Mutex> lock(mutex_);
  std::vector<std::shared_ptr<SharedLibrary>> libraries;
  for (const Library& entry : libraries_) {
    if (!entry.initializing || turns_.IsMine()) libraries.push_back(entry.library);
  }
  return libraries;
}

// The path of the library that defines the symbol, or an empty string.
std::string Dylib::LibraryOf(const std::string& symbol) const {
  for (const auto& library : Libraries()) {
    if (library->Find(symbol)) return library->path();
  }
  return "";
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

std::vector<std::string> Dylib::FunctionNames() const {
  ThrowIfClosed();
  std::vector<std::string> names;
  {
    std::lock_guard<Mutex> lock(mutex_);
    bool my_turn = turns_.IsMine();
    for (const auto& [name, symbol] : symbols_) {
      if (!symbol.exported || (symbol.initializing && !my_turn)) continue;
      if (auto function = FunctionName(*name)) names.push_back(function->str());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

void* Dylib::FindFunction(const std::string& name) const {
  return FindSymbol(FunctionSymbol(name));
}

void* Dylib::GetFunction(const std::string& name) const {
  ThrowIfClosed();
  if (void* address = FindFunction(name)) return address;
  std::string message = "dylib '" + name_ + "' has no function '" + name + "'";
  std::vector<std::string> names = FunctionNames();
  bool hidden;
  {
    std::lock_guard<Mutex> lock(mutex_);
    hidden = symbols_.count(Intern(FunctionSymbol(name)));
  }
  if (hidden) {
    message +=
        ": its symbol is hidden; compile without -fvisibility=hidden, or mark it "
        "TVM_FFI_DLL_EXPORT";
  } else if (std::string library = LibraryOf(FunctionSymbol(name)); !library.empty()) {
    message += ", but shared library " + library +
               " has: load the library itself, with tvm_ffi.load_module, to get its functions";
  } else if (names.empty()) {
    message += "; it exports none (export one with TVM_FFI_DLL_EXPORT_TYPED_FUNC)";
  } else {
    message += "; it exports " + Suggestions(std::move(names), name);
  }
  throw FunctionNotFoundError(message);
}

void* Dylib::FindSymbol(const std::string& symbol) const {
  SymbolStringPtr name = Intern(symbol);
  std::optional<Symbol> found = FindExported(name);
  return found ? AddressOf(name, {*found, this, nullptr}) : nullptr;
}

void* Dylib::Lookup(const std::string& symbol) const {
  ThrowIfClosed();
  SymbolStringPtr name = Intern(symbol);
  std::optional<Found> found;
  if (std::optional<Symbol> own = FindExported(name)) found = Found{*own, this, nullptr};
  SearchOrder search = Search();
  if (!found) found = search.Find(name);
  if (!found) found = search.FindInDependencies(name);
  if (found) return AddressOf(name, *found);
  throw UndefinedSymbolError(
      "neither dylib '" + name_ + "' nor its link order defines symbol " + Demangled(symbol),
      {symbol});
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

// In a forked child, what another thread of the parent was in the middle of loading.
void Dylib::ForgetInterruptedLoad() {
  std::lock_guard<Mutex> lock(mutex_);
  for (auto symbol = symbols_.begin(); symbol != symbols_.end(); ++symbol) {
    if (symbol->second.initializing) symbols_.erase(symbol);
  }
  // The left thread's copy keeps the library open, whose constructors may never have finished.
  libraries_.erase(std::remove_if(libraries_.begin(), libraries_.end(),
                                  [](const Library& entry) { return entry.initializing; }),
                   libraries_.end());
}

// The name is free from here on; another dylib may have it when this one is destroyed.
void Dylib::LeaveSession() {
  if (!left_session_.exchange(true)) session_->Remove(name_);
}

void Dylib::AddUser(User kind) {
  std::lock_guard<Mutex> lock(mutex_);
  // What is closed already cannot be linked to.
  if (kind == User::kOther && abandoned_) ThrowIfClosed();
  ++users_;
  if (kind == User::kThread) ++thread_users_;
}

void Dylib::RemoveUser(User kind) {
  {
    std::lock_guard<Mutex> lock(mutex_);
    --users_;
    if (kind == User::kThread) --thread_users_;
    if (!abandoned_) return;
  }
  TryUnload();
}

std::shared_ptr<void> Dylib::KeepCodeAt(const void* address) {
  Dylib* dylib = Code().Find(reinterpret_cast<uintptr_t>(address));
  return dylib ? dylib->KeepCode() : nullptr;
}

std::shared_ptr<void> Dylib::KeepCode() {
  std::lock_guard<Mutex> lock(mutex_);
  std::shared_ptr<void> kept = kept_code_.lock();
  if (!kept) {
    // Moved out, since the deleter itself lives for as long as kept_code_ refers to it.
    auto remove = [self = shared_from_this()](void*) mutable {
      auto dylib = std::move(self);
      dylib->RemoveUser(User::kOther);
    };
    kept = std::shared_ptr<void>(this, std::move(remove));
    kept_code_ = kept;
    ++users_;
  }
  return kept;
}

std::shared_ptr<void> Dylib::KeepForThread() {
  AddUser(User::kThread);
  return std::shared_ptr<void>(
      this, [self = shared_from_this()](void*) { self->RemoveUser(User::kThread); });
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
  session_->Forget(*this);
  RunPendingOnThisThread(dso_handles);
  --session_->retained;
  UnloadNow();
}

void Dylib::UnloadNow() {
  Platform& platform = session_->platform();
  for (auto load = loads_.rbegin(); load != loads_.rend(); ++load) Finalize(load->image);
  for (auto load = loads_.rbegin(); load != loads_.rend(); ++load) {
    Code().Remove(load->image.code);
    platform.Unlink(load->image);
    session_->objects -= load->objects;
    session_->symbols -= load->symbols;
  }
  std::vector<Link> link_order;
  std::vector<Library> libraries;  // closed when no lock is held
  {
    std::lock_guard<Mutex> lock(mutex_);
    loads_.clear();
    symbols_.clear();
    thread_local_modules_.clear();
    link_order.swap(link_order_);
    libraries.swap(libraries_);
  }
  for (const Link& link : link_order) {
    if (link.dylib) link.dylib->RemoveUser(User::kOther);
  }
}

}  // namespace object_loader
