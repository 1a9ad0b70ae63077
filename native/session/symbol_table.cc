// SPDX-License-Identifier: Apache-2.0
#include "session/symbol_table.h"

#include <algorithm>
#include <mutex>

#include "object/symbol_names.h"

namespace object_loader {

void* SymbolTable::Symbol::Address() const {
  if (is_thread_local) return tls_module->Address(value);
  return reinterpret_cast<void*>(value);
}

void SymbolTable::Add(const std::vector<Definition>& definitions,
                      const std::vector<uint64_t>& values,
                      const std::shared_ptr<const TlsModule>& tls_module,
                      const std::vector<NameRef>& groups) {
  std::lock_guard<Mutex> lock(mutex_);
  by_address_ = {};
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
    Name name(definition.name);
    if (entry.is_wide) wide_values_[name] = values[i];
    if (definition.is_thread_local) tls_modules_[name] = tls_module;
    entries_[std::move(name)] = entry;
  }
  for (NameRef group : groups) {
    auto named = entries_.find_as(group);
    if (named == entries_.end()) {
      groups_.insert(Name(group));
    } else {
      named->second.names_group = true;
    }
  }
}

void SymbolTable::Remove(const std::vector<Definition>& definitions,
                         const std::vector<NameRef>& groups) {
  std::lock_guard<Mutex> lock(mutex_);
  for (const Definition& definition : definitions) Erase(definition.name);
  for (NameRef group : groups) {
    auto alone = groups_.find_as(group);
    if (alone != groups_.end()) groups_.erase(alone);
    auto named = entries_.find_as(group);
    if (named != entries_.end()) named->second.names_group = false;
  }
}

void SymbolTable::Erase(NameRef name) {
  auto erase = [&](auto& table) {
    auto found = table.find_as(name);
    if (found != table.end()) table.erase(found);
  };
  by_address_ = {};
  erase(entries_);
  erase(tls_modules_);
  erase(wide_values_);
}

void SymbolTable::Publish(const std::vector<Definition>& definitions) {
  std::lock_guard<Mutex> lock(mutex_);
  for (const Definition& definition : definitions) {
    entries_.find_as(definition.name)->second.initializing = false;
  }
}

// Its groups stay: what is known of them is only that they were there.
void SymbolTable::RemoveInitializing() {
  std::lock_guard<Mutex> lock(mutex_);
  std::vector<Name> names;
  for (const auto& [name, entry] : entries_) {
    if (entry.initializing) names.push_back(name);
  }
  for (NameRef name : names) Erase(name);
}

void SymbolTable::Clear() {
  std::lock_guard<Mutex> lock(mutex_);
  by_address_ = {};
  entries_.clear();
  tls_modules_.clear();
  wide_values_.clear();
  groups_.clear();
}

SymbolTable::Symbol SymbolTable::Read(NameRef name, const Entry& entry) const {
  Symbol symbol = {};
  symbol.value = entry.is_wide ? wide_values_.find_as(name)->second : uint64_t{entry.place};
  symbol.weak = entry.weak != 0;
  symbol.is_thread_local = entry.is_thread_local != 0;
  symbol.is_function = entry.is_function != 0;
  symbol.is_initializing = entry.initializing != 0;
  if (symbol.is_thread_local) symbol.tls_module = tls_modules_.find_as(name)->second;
  return symbol;
}

std::optional<SymbolTable::Symbol> SymbolTable::FindOwn(NameRef name) const {
  auto found = entries_.find_as(name);
  if (found == entries_.end()) return std::nullopt;
  return Read(name, found->second);
}

bool SymbolTable::HasOwn(NameRef name) const { return entries_.find_as(name) != entries_.end(); }

bool SymbolTable::HasGroup(NameRef signature) const {
  auto named = entries_.find_as(signature);
  return (named != entries_.end() && named->second.names_group) ||
         groups_.find_as(signature) != groups_.end();
}

std::optional<SymbolTable::Symbol> SymbolTable::FindExported(NameRef name) const {
  std::lock_guard<Mutex> lock(mutex_);
  auto found = entries_.find_as(name);
  if (found == entries_.end() || !IsSeen(found->second)) return std::nullopt;
  return Read(name, found->second);
}

bool SymbolTable::Has(NameRef name) const {
  std::lock_guard<Mutex> lock(mutex_);
  return entries_.find_as(name) != entries_.end();
}

const std::vector<SymbolTable::Named>& SymbolTable::SortedByAddress() const {
  if (!by_address_.empty()) return by_address_;
  std::vector<Named> sorted;
  for (const auto& [name, entry] : entries_) {
    if (entry.is_thread_local || entry.is_wide) continue;
    sorted.push_back(
        {name, entry.place, entry.is_function != 0, entry.exported != 0, entry.weak != 0});
  }
  std::sort(sorted.begin(), sorted.end(), [](const Named& a, const Named& b) {
    return a.address != b.address ? a.address < b.address : *a.name < *b.name;
  });
  by_address_ = std::move(sorted);
  return by_address_;
}

std::optional<SymbolTable::Named> SymbolTable::NameAt(uint64_t address) const {
  std::lock_guard<Mutex> lock(mutex_);
  const std::vector<Named>& sorted = SortedByAddress();
  auto found = std::lower_bound(sorted.begin(), sorted.end(), address,
                                [](const Named& a, uint64_t at) { return a.address < at; });
  if (found == sorted.end() || found->address != address) return std::nullopt;
  return *found;
}

std::vector<SymbolTable::Named> SymbolTable::ByAddress() const {
  std::lock_guard<Mutex> lock(mutex_);
  std::vector<Named> named = SortedByAddress();
  auto is_unseen = [&](const Named& one) {
    return entries_.find_as(NameRef(one.name))->second.initializing && !turns_.IsMine();
  };
  named.erase(std::remove_if(named.begin(), named.end(), is_unseen), named.end());
  return named;
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

uint64_t SymbolTable::CountFunctions() const {
  std::lock_guard<Mutex> lock(mutex_);
  uint64_t count = 0;
  for (const auto& [name, entry] : entries_) count += IsSeen(entry) && FunctionName(*name);
  return count;
}

uint64_t SymbolTable::Count() const {
  std::lock_guard<Mutex> lock(mutex_);
  return entries_.size();
}

void SymbolTable::ClearPointer(NameRef name) const {
  std::lock_guard<Mutex> lock(mutex_);
  auto found = entries_.find_as(name);
  if (found == entries_.end() || !found->second.exported || found->second.is_thread_local) return;
  *reinterpret_cast<void**>(uintptr_t{found->second.place}) = nullptr;
}

void SymbolTable::NoteUse(const Symbol& symbol) const {
  if (symbol.is_initializing) ++early_uses_;
}

}  // namespace object_loader
