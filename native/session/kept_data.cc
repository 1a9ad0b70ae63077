// SPDX-License-Identifier: Apache-2.0
#include "session/kept_data.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <utility>

#include "base/error.h"
#include "object/symbol_names.h"

namespace object_loader {

namespace {

// The variables of one version, by the names of their symbols.
class Variables {
 public:
  explicit Variables(Dylib& dylib) : dylib_(dylib) {
    for (LoadedSymbol& symbol : dylib.code().Symbols()) {
      bool is_variable = !symbol.is_function && symbol.area >= Image::kData;
      if (is_variable) by_name_.emplace((*symbol.name).str(), std::move(symbol));
    }
    ranges_ = dylib.code().Ranges();
  }

  const std::map<std::string, LoadedSymbol>& by_name() const { return by_name_; }
  const LoadedSymbol* Find(const std::string& name) const {
    auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : &found->second;
  }
  bool HasDestructor(const LoadedSymbol& variable) const {
    return dylib_.code().HasDestructor(variable);
  }
  // Whether a word of the variable is an address of this version.
  bool HoldsOwnAddress(const LoadedSymbol& variable) const {
    uint64_t begin = (variable.address + 7) / 8 * 8;
    for (uint64_t at = begin; at + 8 <= variable.address + variable.size; at += 8) {
      uint64_t word;
      std::memcpy(&word, reinterpret_cast<const void*>(at), sizeof(word));
      auto has_it = [&](const AddressRange& range) {
        return word >= range.begin && word < range.end;
      };
      if (std::any_of(ranges_.begin(), ranges_.end(), has_it)) return true;
    }
    return false;
  }

 private:
  Dylib& dylib_;
  std::map<std::string, LoadedSymbol> by_name_;
  std::vector<AddressRange> ranges_;
};

// The symbol of what tells whether a variable was initialized (Itanium C++ ABI, 5.1.5).
std::string GuardOf(const std::string& name) {
  return name.compare(0, 2, "_Z") == 0 ? "_ZGV" + name.substr(2) : "";
}

bool IsGuard(const std::string& name) { return name.compare(0, 4, "_ZGV") == 0; }

// Why the variable can't be kept; null where it can.
const char* ReasonAgainst(const std::string& name, const Variables& before, const Variables& next) {
  const LoadedSymbol* from = before.Find(name);
  const LoadedSymbol* to = next.Find(name);
  if (!from) return "is no variable of the version that is loaded";
  if (!to) return "is no variable of the new version";
  if (from->size != to->size) return "has another size in the new version";
  if (from->size == 0) return "has no size";
  if (before.HasDestructor(*from) || next.HasDestructor(*to)) return "has a destructor";
  if (before.HoldsOwnAddress(*from)) return "points into the code or data that is to go";
  return nullptr;
}

void Copy(const LoadedSymbol& from, const LoadedSymbol& to) {
  std::memcpy(reinterpret_cast<void*>(to.address), reinterpret_cast<const void*>(from.address),
              from.size);
}

}  // namespace

void KeepData(const KeptData& kept, Dylib& before_dylib, Dylib& next_dylib) {
  if (!kept.all && kept.names.empty()) return;
  Variables before(before_dylib);
  Variables next(next_dylib);
  std::vector<std::string> names = kept.names;
  if (kept.all) {
    for (const auto& [name, variable] : before.by_name()) names.push_back(name);
  }
  std::string refused;
  std::vector<std::pair<const LoadedSymbol*, const LoadedSymbol*>> copied;
  auto add = [&](const std::string& name) {
    copied.emplace_back(before.Find(name), next.Find(name));
  };
  for (const std::string& name : names) {
    // What tvm-ffi sets belongs to each version.
    const bool is_set_by_tvm_ffi = llvm::StringRef(name).starts_with(FunctionSymbol(""));
    const char* reason = is_set_by_tvm_ffi ? "is tvm-ffi's" : ReasonAgainst(name, before, next);
    if (!reason && IsGuard(name)) reason = "belongs to a variable, and is kept with it";
    if (reason) {
      if (!kept.all) refused += (refused.empty() ? "" : "; ") + Demangled(name) + " " + reason;
      continue;
    }
    add(name);
    std::string guard = GuardOf(name);
    if (before.Find(guard) && next.Find(guard)) add(guard);
  }
  if (!refused.empty()) {
    throw LinkError("dylib '" + before_dylib.name() + "' was not reloaded, since it can't keep " +
                    "its data: " + refused +
                    ". Name other variables, or keep_data=True, which keeps those that can be");
  }
  for (const auto& [from, to] : copied) Copy(*from, *to);
}

}  // namespace object_loader
