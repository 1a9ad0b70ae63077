// SPDX-License-Identifier: Apache-2.0
#include "session/symbol_table.h"

#include <algorithm>
#include <mutex>

#include "object/symbol_names.h"

namespace object_loader {

void* SymbolTable::Symbol::Address() const {
  if (is_thread_local) return tls_library->Address(value);
  return reinterpret_cast<void*>(value);
}

void SymbolTable::Add(const std::vector<Definition>& definitions,
                      const std::vector<uint64_t>& values,
                      const std::shared_ptr<const TlsLibrary>& tls_library,
                      const std::vector<Name>& groups) {
  std::lock_guard<Mutex> lock(mutex_);
  for (size_t i = 0; i < definitions.size(); ++i) {
    const Definition& definition = definitions[i];
    Entry entry = {};
    entry.place = values[i];
    entry.weak = definition.weak;
    entry.exported = definition.exported;
    entry.initializing = true;
    entry.is_thread_local = definition.is_thread_local;
    entry.is_wide = entry.place != values[i];
    entry.is_function = definition.is_function;
    if (entry.is_wide) wide_values_[definition.name] = values[i];
    if (definition.is_thread_local) tls_libraries_[definition.name] = tls_library;
    entries_[definition.name] = entry;
  }
  for (const Name& group : groups) {
    auto named = entries_.find(group);
    if (named == entries_.end()) {
      groups_.insert(group);
    } else {
      named->second.names_group = true;
    }
  }
}

void SymbolTable::Remove(const std::vector<Definition>& definitions,
                         const std::vector<Name>& groups) {
  std::lock_guard<Mutex> lock(mutex_);
  for (const Definition& definition : definitions) Erase(definition.name);
  for (const Name& group : groups) {
    groups_.erase(group);
    auto named = entries_.find(group);
    if (named != entries_.end()) named->second.names_group = false;
  }
}

void SymbolTable::Erase(const Name& name) {
  entries_.erase(name);
  tls_libraries_.erase(name);
  wide_values_.erase(name);
}

void SymbolTable::Publish(const std::vector<Definition>& definitions) {
  std::lock_guard<Mutex> lock(mutex_);
  for (const Definition& definition : definitions) entries_[definition.name].initializing = false;
}

// Its groups stay: what is known of them is only that they were there.
void SymbolTable::RemoveInitializing() {
  std::lock_guard<Mutex> lock(mutex_);
  std::vector<Name> names;
  for (const auto& [name, entry] : entries_) {
    if (entry.initializing) names.push_back(name);
  }
  for (const Name& name : names) Erase(name);
}

void SymbolTable::Clear() {
  std::lock_guard<Mutex> lock(mutex_);
  entries_.clear();
  tls_libraries_.clear();
  wide_values_.clear();
  groups_.clear();
}

SymbolTable::Symbol SymbolTable::Read(const Name& name, const Entry& entry) const {
  Symbol symbol = {};
  symbol.value = entry.is_wide ? wide_values_.lookup(name) : uint64_t{entry.place};
  symbol.weak = entry.weak != 0;
  symbol.is_thread_local = entry.is_thread_local != 0;
  symbol.is_function = entry.is_function != 0;
  symbol.is_initializing = entry.initializing != 0;
  if (symbol.is_thread_local) symbol.tls_library = tls_libraries_.lookup(name);
  return symbol;
}

std::optional<SymbolTable::Symbol> SymbolTable::FindOwn(const Name& name) const {
  auto found = entries_.find(name);
  if (found == entries_.end()) return std::nullopt;
  return Read(name, found->second);
}

bool SymbolTable::HasOwn(const Name& name) const { return entries_.count(name) != 0; }

bool SymbolTable::HasGroup(const Name& signature) const {
  auto named = entries_.find(signature);
  return (named != entries_.end() && named->second.names_group) || groups_.count(signature) != 0;
}

std::optional<SymbolTable::Symbol> SymbolTable::FindExported(const Name& name) const {
  std::lock_guard<Mutex> lock(mutex_);
  auto found = entries_.find(name);
  if (found == entries_.end() || !IsSeen(found->second)) return std::nullopt;
  return Read(name, found->second);
}

bool SymbolTable::Has(const Name& name) const {
  std::lock_guard<Mutex> lock(mutex_);
  return entries_.count(name) != 0;
}

std::vector<std::string> SymbolTable::FunctionNames() const {
  std::vector<std::string> names;
  {
    std::lock_guard<Mutex> lock(mutex_);
    for (const auto& [name, entry] : entries_) {
      if (!IsSeen(entry)) continue;
      if (auto function = FunctionName(*name)) names.push_back(function->str());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

void SymbolTable::ClearPointer(const Name& name) const {
  std::lock_guard<Mutex> lock(mutex_);
  auto found = entries_.find(name);
  if (found == entries_.end() || !found->second.exported || found->second.is_thread_local) return;
  *reinterpret_cast<void**>(uintptr_t{found->second.place}) = nullptr;
}

void SymbolTable::NoteUse(const Symbol& symbol) const {
  if (symbol.is_initializing) ++early_uses_;
}

}  // namespace object_loader
