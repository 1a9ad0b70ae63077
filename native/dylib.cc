// SPDX-License-Identifier: Apache-2.0
#include "dylib.h"

#include <cxxabi.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <set>
#include <shared_mutex>
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
    std::unique_lock<std::shared_mutex> lock(mutex_);
    ranges_[range.begin] = {range.end, dylib};
  }
  void Remove(AddressRange range) {
    std::unique_lock<std::shared_mutex> lock(mutex_);
    ranges_.erase(range.begin);
  }
  // Null where the address is in no code. The dylib lives for as long as its code is there.
  Dylib* Find(uint64_t address) {
    std::shared_lock<std::shared_mutex> lock(mutex_);
    auto range = ranges_.upper_bound(address);
    if (range == ranges_.begin()) return nullptr;
    --range;
    return address < range->second.first ? range->second.second : nullptr;
  }

 private:
  std::shared_mutex mutex_;
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
    std::unique_lock<std::mutex> lock(dylib_.mutex_);
    dylib_.turn_over_.wait(lock, [&] {
      return dylib_.turn_depth_ == 0 || dylib_.turn_of_ == std::this_thread::get_id();
    });
    dylib_.turn_of_ = std::this_thread::get_id();
    ++dylib_.turn_depth_;
  }
  ~Turn() {
    {
      std::lock_guard<std::mutex> lock(dylib_.mutex_);
      if (--dylib_.turn_depth_ > 0) return;
      dylib_.turn_of_ = {};
    }
    dylib_.turn_over_.notify_all();
  }
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
    if (link.dylib->session_ == session) continue;
    throw ObjectLoaderError("dylib '" + link.dylib->name() + "' belongs to session '" +
                            link.dylib->session_->name() + "', not to '" + session->name() +
                            "': a link order stays within one session");
  }
  std::string reserved = session->ReserveName(name);
  std::shared_ptr<Dylib> dylib(new Dylib(session, reserved));
  for (Link& link : link_order) {
    link.dylib->AddUser(User::kOther);
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
  if (!std::exchange(unloaded_, true)) Unload();
}

void Dylib::Publish(std::shared_ptr<void> representation) {
  representation_ = std::move(representation);
  session_->Add(weak_from_this(), name_);
}

std::vector<std::shared_ptr<void>> Dylib::link_order_owners() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<std::shared_ptr<void>> owners;
  for (const Link& link : link_order_) owners.push_back(link.owner);
  return owners;
}

void Dylib::Load(Inputs inputs, const std::function<void()>& on_initialized) {
  session_->ReleaseDeferred();
  ThrowIfClosed();
  Turn turn(*this);
  ThrowIfClosed();
  std::vector<ObjectFile> objects = inputs.TakeObjects([this](llvm::StringRef name) {
    return symbols_.count(session_->platform().names()->intern(name)) != 0;
  });
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
    load = std::make_unique<LoadGraph>(objects, object_count, session_->platform().names());
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
      std::lock_guard<std::mutex> lock(mutex_);
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
      std::lock_guard<std::mutex> lock(mutex_);
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
  session_->objects += object_count;
  session_->symbols += names.size();
  ++session_->loads;
  std::lock_guard<std::mutex> lock(mutex_);
  for (const SymbolStringPtr& name : names) symbols_[name].initializing = false;
  loads_.splice(loads_.end(), loaded);
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

void Dylib::BindReferences(LoadGraph& load, std::vector<uint32_t>& support) const {
  std::vector<Reference> outside;
  std::vector<SymbolStringPtr> names;
  for (const Reference& reference : load.References()) {
    SymbolStringPtr name = reference.symbol->getName();
    if (*name == "__dso_handle") {
      load.DefineDsoHandle(reference);
      continue;
    }
    const Dylib* definer = this;
    std::optional<Symbol> found;
    auto own = symbols_.find(name);
    if (own != symbols_.end()) found = own->second;
    if (!found && IsSupportSymbol(*name) && !reference.weak && AddSupport(*name, support)) {
      continue;
    }
    for (auto link = link_order_.begin(); !found && link != link_order_.end(); ++link) {
      definer = link->dylib.get();
      found = definer->FindExported(name);
    }
    if (!found) {
      outside.push_back(reference);
      names.push_back(std::move(name));
    } else if (found->is_thread_local != reference.is_thread_local) {
      throw LinkError(load.object_name(reference.used_by) + ": uses " +
                      Demangled(std::string(*name)) + " as a variable that is " +
                      (reference.is_thread_local ? "" : "not ") + "thread-local, but in dylib '" +
                      definer->name_ + "' it is" + (reference.is_thread_local ? " not" : "") +
                      ": compile both from the same declaration");
    } else if (found->is_thread_local) {
      load.Bind(reference, definer->ThreadLocal(name, *found));
    } else {
      load.Bind(reference, found->address);
    }
  }

  std::vector<std::string> missing;
  std::set<size_t> users;
  std::string message;
  std::vector<ExecutorAddr> addresses = session_->platform().process_symbols().Find(names);
  for (size_t i = 0; i < outside.size(); ++i) {
    const Reference& reference = outside[i];
    if (addresses[i] || reference.weak) {
      if (reference.is_thread_local) {
        // The address is that of this thread's variable; the dynamic linker knows the others.
        load.Bind(reference, TlsVariable{nullptr, std::string(*names[i]), 0});
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
            ": load the object that does together with this one, or put its dylib into link_order";
  throw UndefinedSymbolError(message, std::move(missing));
}

std::optional<Dylib::Symbol> Dylib::FindExported(const SymbolStringPtr& name) const {
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = symbols_.find(name);
  if (found == symbols_.end() || !found->second.exported) return std::nullopt;
  if (found->second.initializing && turn_of_ != std::this_thread::get_id()) return std::nullopt;
  return found->second;
}

TlsVariable Dylib::ThreadLocal(const SymbolStringPtr& name, const Symbol& symbol) const {
  std::lock_guard<std::mutex> lock(mutex_);
  return {thread_local_modules_.lookup(name), "", symbol.address.getValue()};
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
    std::lock_guard<std::mutex> lock(mutex_);
    bool my_turn = turn_of_ == std::this_thread::get_id();
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
    std::lock_guard<std::mutex> lock(mutex_);
    hidden = symbols_.count(session_->platform().names()->intern(FunctionSymbol(name)));
  }
  if (hidden) {
    message +=
        ": its symbol is hidden; compile without -fvisibility=hidden, or mark it "
        "TVM_FFI_DLL_EXPORT";
  } else if (names.empty()) {
    message += "; it exports none (export one with TVM_FFI_DLL_EXPORT_TYPED_FUNC)";
  } else {
    message += "; it exports " + Suggestions(std::move(names), name);
  }
  throw FunctionNotFoundError(message);
}

void* Dylib::FindSymbol(const std::string& symbol) const {
  SymbolStringPtr name = session_->platform().names()->intern(symbol);
  std::optional<Symbol> found = FindExported(name);
  if (!found) return nullptr;
  if (!found->is_thread_local) return found->address.toPtr<void*>();
  TlsVariable variable = ThreadLocal(name, *found);
  return variable.module->Address(variable.offset);
}

void* Dylib::Lookup(const std::string& symbol) const {
  ThrowIfClosed();
  void* address = FindSymbol(symbol);
  std::vector<Link> link_order;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    link_order = link_order_;
  }
  for (auto link = link_order.begin(); !address && link != link_order.end(); ++link) {
    address = link->dylib->FindSymbol(symbol);
  }
  if (address) return address;
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
  bool my_turn;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    my_turn = turn_depth_ > 0 && turn_of_ == std::this_thread::get_id();
  }
  if (my_turn || gate_.IsInsideOnThisThread()) {
    throw ObjectLoaderError("dylib '" + name_ +
                            "' cannot be closed from within its own code: close it when the call "
                            "has returned");
  }
}

void Dylib::Close() {
  CheckClosable();
  gate_.Close();
  LeaveSession();
  gate_.WaitUntilEmpty();
  Turn turn(*this);  // a load that has not reached its initializers yet
  Abandon();
}

void Dylib::Drop() {
  gate_.Close();
  LeaveSession();
  Abandon();
}

// The name is free from here on; another dylib may have it when this one is destroyed.
void Dylib::LeaveSession() {
  if (!left_session_.exchange(true)) session_->Remove(name_);
}

void Dylib::AddUser(User kind) {
  std::lock_guard<std::mutex> lock(mutex_);
  // What is closed already cannot be linked to.
  if (kind == User::kOther && abandoned_) ThrowIfClosed();
  ++users_;
  if (kind == User::kThread) ++thread_users_;
}

void Dylib::RemoveUser(User kind) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
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
  std::lock_guard<std::mutex> lock(mutex_);
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
    std::lock_guard<std::mutex> lock(mutex_);
    if (abandoned_) return;
    abandoned_ = true;
    ++session_->retained;
  }
  TryUnload();
}

void Dylib::TryUnload() {
  std::vector<const void*> dso_handles;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    // The last of the other users tries again.
    if (!abandoned_ || unloaded_ || users_ > thread_users_) return;
    for (const Loaded& load : loads_) {
      if (load.image.dso_handle) dso_handles.push_back(load.image.dso_handle);
    }
  }
  auto self = shared_from_this();
  session_->Defer(self);
  if (!gate_.IsEmpty()) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (unloaded_ || users_ > PendingOnThisThread(dso_handles)) return;
    unloaded_ = true;
  }
  session_->Forget(*this);
  RunPendingOnThisThread(dso_handles);
  --session_->retained;
  Unload();
}

void Dylib::Unload() {
  Platform& platform = session_->platform();
  for (auto load = loads_.rbegin(); load != loads_.rend(); ++load) Finalize(load->image);
  for (auto load = loads_.rbegin(); load != loads_.rend(); ++load) {
    Code().Remove(load->image.code);
    platform.Unlink(load->image);
    session_->objects -= load->objects;
    session_->symbols -= load->symbols;
  }
  std::vector<Link> link_order;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    loads_.clear();
    symbols_.clear();
    thread_local_modules_.clear();
    link_order.swap(link_order_);
  }
  for (const Link& link : link_order) link.dylib->RemoveUser(User::kOther);
}

}  // namespace object_loader
