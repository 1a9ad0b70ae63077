// SPDX-License-Identifier: Apache-2.0
//
// Dylib: which definition a symbol is bound to, and what is found in it by name.
#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "dylib.h"
#include "error.h"
#include "symbol_names.h"

namespace object_loader {

namespace {

using llvm::orc::ExecutorAddr;
using llvm::orc::SymbolStringPtr;

// Adds the support archive's member that defines the symbol, if there is one.
bool AddSupport(llvm::StringRef symbol, std::vector<uint32_t>& members) {
  llvm::ArrayRef<uint32_t> definers = SupportArchive().Definers(symbol);
  if (definers.empty()) return false;
  if (!llvm::is_contained(members, definers.front())) members.push_back(definers.front());
  return true;
}

}  // namespace

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
    std::optional<Found> known = FindOwn(name);
    if (!known) {
      definitions.push_back(definition);
    } else if (definition.weak && definition.is_thread_local != known->is_thread_local) {
      throw LinkError(load.name() + ": " + Demangled(std::string(*name)) +
                      " is thread-local in one object of dylib '" + name_ +
                      "' and not in another: compile both from the same declaration");
    } else if (definition.weak && definition.is_thread_local) {
      NoteUse(*known);
      load.Override(definition, ThreadLocal(*known));
    } else if (definition.weak) {
      NoteUse(*known);
      load.Override(definition, known->value);
    } else {
      std::string symbol(*name);
      duplicates[symbol] =
          load.name() + ": duplicate symbol " + Demangled(symbol) + ": dylib '" + name_ +
          "' already " +
          (known->weak ? "uses a weak definition of it; load the two objects together, "
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
      load.Bind(reference, found.value);
    }
    return;
  }
  if (found.is_thread_local != reference.is_thread_local) {
    throw LinkError(load.object_name(reference.used_by) + ": uses " +
                    Demangled(std::string(*name)) + " as a variable that is " +
                    (reference.is_thread_local ? "" : "not ") + "thread-local, but in dylib '" +
                    found.dylib->name_ + "' it is" + (reference.is_thread_local ? " not" : "") +
                    ": compile both from the same declaration");
  }
  if (found.is_thread_local) {
    load.Bind(reference, ThreadLocal(found));
  } else {
    load.Bind(reference, found.value);
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
    std::optional<Found> found = FindOwn(name);
    if (found) NoteUse(*found);
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

Dylib::Found Dylib::FoundHere(const SymbolStringPtr& name, const Symbol& symbol) const {
  uint64_t value = symbol.is_wide ? wide_values_.lookup(name) : uint64_t{symbol.place};
  bool is_thread_local = symbol.is_thread_local != 0;
  return {ExecutorAddr(value),
          symbol.weak != 0,
          is_thread_local,
          symbol.initializing != 0,
          is_thread_local ? thread_local_modules_.lookup(name) : nullptr,
          this,
          nullptr};
}

std::optional<Dylib::Found> Dylib::FindOwn(const SymbolStringPtr& name) const {
  auto found = symbols_.find(name);
  if (found == symbols_.end()) return std::nullopt;
  return FoundHere(name, found->second);
}

std::optional<Dylib::Found> Dylib::FindExported(const SymbolStringPtr& name) const {
  std::lock_guard<Mutex> lock(mutex_);
  auto found = symbols_.find(name);
  if (found == symbols_.end() || !found->second.exported) return std::nullopt;
  if (found->second.initializing && !turns_.IsMine()) return std::nullopt;
  return FoundHere(name, found->second);
}

void Dylib::NoteUse(const Found& found) const {
  if (found.initializing) ++early_uses_;
}

std::optional<Dylib::Found> Dylib::FindIn(
    const std::vector<std::shared_ptr<SharedLibrary>>& libraries, const SymbolStringPtr& name,
    std::optional<void*> (SharedLibrary::*find)(const std::string&) const) {
  if (libraries.empty()) return std::nullopt;
  std::string symbol(*name);
  for (const auto& library : libraries) {
    if (auto address = (*library.*find)(symbol)) {
      return Found{
          ExecutorAddr::fromPtr(*address), false, false, false, nullptr, nullptr, library.get()};
    }
  }
  return std::nullopt;
}

std::optional<Dylib::Found> Dylib::FindOffered(const SymbolStringPtr& name) const {
  if (std::optional<Found> found = FindExported(name)) {
    NoteUse(*found);
    return found;
  }
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
void* Dylib::AddressOf(const Found& found) {
  if (!found.is_thread_local) return found.value.toPtr<void*>();
  return found.tls_module->Address(found.value.getValue());
}

Dylib::SearchOrder Dylib::Search() const { return {Libraries(), link_order()}; }

// The path of the library that defines the symbol, or an empty string.
std::string Dylib::LibraryOf(const std::string& symbol) const {
  for (const auto& library : Libraries()) {
    if (library->Find(symbol)) return library->path();
  }
  return "";
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
  SymbolStringPtr symbol = Intern(FunctionSymbol(name));
  std::optional<Found> found = FindExported(symbol);
  if (!found) return nullptr;
  NoteUse(*found);
  return AddressOf(*found);
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
  std::optional<Found> found = FindExported(name);
  return found ? AddressOf(*found) : nullptr;
}

void Dylib::ClearPointer(const std::string& symbol) const {
  SymbolStringPtr name = Intern(symbol);
  std::lock_guard<Mutex> lock(mutex_);
  auto found = symbols_.find(name);
  if (found == symbols_.end() || !found->second.exported || found->second.is_thread_local) return;
  *reinterpret_cast<void**>(uintptr_t{found->second.place}) = nullptr;
}

void* Dylib::Lookup(const std::string& symbol) const {
  ThrowIfClosed();
  SymbolStringPtr name = Intern(symbol);
  std::optional<Found> found = FindExported(name);
  if (found) NoteUse(*found);
  SearchOrder search = Search();
  if (!found) found = search.Find(name);
  if (!found) found = search.FindInDependencies(name);
  if (found) return AddressOf(*found);
  throw UndefinedSymbolError(
      "neither dylib '" + name_ + "' nor its link order defines symbol " + Demangled(symbol),
      {symbol});
}

SymbolStringPtr Dylib::Intern(const std::string& symbol) const {
  ForkExclusion exclusion;
  return session_->platform().names()->intern(symbol);
}

}  // namespace object_loader
