// SPDX-License-Identifier: Apache-2.0
#include "session/binder.h"

#include <llvm/ADT/STLExtras.h>
#include <llvm/ADT/StringSwitch.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "base/error.h"
#include "session/dylib.h"
#include "support/supplied.h"

namespace object_loader {

namespace {

using llvm::StringRef;
using State = Global::State;

// Adds the member that defines the symbol, if there is one.
bool AddSupplied(StringRef symbol, std::vector<uint32_t>& members) {
  llvm::ArrayRef<uint32_t> definers = SuppliedArchive().Definers(symbol);
  if (definers.empty()) return false;
  if (!llvm::is_contained(members, definers.front())) members.push_back(definers.front());
  return true;
}

// Those that every library has for itself, whoever else defines them.
LinkerSymbol OwnSymbol(StringRef name) {
  return llvm::StringSwitch<LinkerSymbol>(name)
      .Case("__dso_handle", LinkerSymbol::kDsoHandle)
      .Case("_GLOBAL_OFFSET_TABLE_", LinkerSymbol::kOffsetTable)
      .Case("_TLS_MODULE_BASE_", LinkerSymbol::kThreadLocals)
      .Default(LinkerSymbol::kNone);
}

// Those that objects may define themselves. (GNU ld's default script provides them.) What the
// executable has under these names is about itself.
LinkerSymbol ProvidedSymbol(StringRef name) {
  return llvm::StringSwitch<LinkerSymbol>(name)
      .Cases({"_etext", "etext", "__etext"}, LinkerSymbol::kCodeEnd)
      .Cases({"_edata", "edata"}, LinkerSymbol::kContentEnd)
      .Case("__bss_start", LinkerSymbol::kZerosStart)
      .Cases({"_end", "end"}, LinkerSymbol::kEnd)
      .Case("_init", LinkerSymbol::kInit)
      .Case("_fini", LinkerSymbol::kFini)
      .Case("__ehdr_start", LinkerSymbol::kHeader)
      .Cases({"_DYNAMIC", "__executable_start"}, LinkerSymbol::kImage)
      .Default(LinkerSymbol::kNone);
}

// Why it is missing, where no library can have it.
std::string Explanation(StringRef symbol) {
  if (ProvidedSymbol(symbol) != LinkerSymbol::kNone) {
    return " (a linker defines it for a file; what is loaded in memory has none)";
  }
  if (symbol.starts_with("__cudaRegisterLinkedBinary_")) {
    return " (device code that is not linked: load what `nvcc -dlink` makes of all objects "
           "compiled with -rdc=true together with them)";
  }
  return "";
}

// At most a few of the names: "a, b, c and 7 more".
std::string List(const std::set<std::string>& names) {
  constexpr size_t kMost = 3;
  std::string text;
  size_t listed = 0;
  for (const std::string& name : names) {
    if (listed == kMost && names.size() > kMost + 1) {
      return text + " and " + std::to_string(names.size() - listed) + " more";
    }
    text += (listed++ ? ", " : "") + name;
  }
  return text;
}

}  // namespace

Binder::Binder(const Dylib& dylib, Resolution& resolution)
    : dylib_(dylib), resolution_(resolution), search_(dylib.scope().Start()) {}

std::vector<uint32_t> Binder::BindDefinitions() {
  std::vector<uint32_t> definitions;
  std::vector<uint32_t> replaceable;
  std::map<std::string, std::string> duplicates;  // symbol -> message
  std::vector<Global>& globals = resolution_.globals();
  const SymbolTable& symbols = dylib_.symbols();
  for (uint32_t i = 0; i < globals.size(); ++i) {
    Global& global = globals[i];
    if (!global.is_own) continue;
    auto known = symbols.FindOwn(global.name);
    if (!known) {
      (IsReplaceable(global) ? replaceable : definitions).push_back(i);
      continue;
    }
    std::string symbol = global.name.str();
    if (global.weak && global.is_thread_local != known->is_thread_local) {
      throw LinkError(UserOf(global) + ": " + Demangled(symbol) +
                      " is thread-local in one object of dylib '" + dylib_.name() +
                      "' and not in another: compile both from the same declaration");
    }
    if (!global.weak) {
      duplicates[symbol] =
          UserOf(global) + ": duplicate symbol " + Demangled(symbol) + ": dylib '" + dylib_.name() +
          "' already " +
          (known->weak ? "uses a weak definition of it; load the two objects together, "
                         "where the strong one is chosen"
                       : "defines it; load this object into another dylib, or make the "
                         "symbol static or weak");
      continue;
    }
    symbols.NoteUse(*known);
    Bind(global, Found{*known, &dylib_, nullptr});
  }
  if (!duplicates.empty()) ThrowDuplicates(duplicates);
  BindReplaceable(replaceable, definitions);
  return definitions;
}

// What a header defines in every object that includes it is one for all of them: of the dylibs that
// are linked to each other, and of the process, whose global scope comes before a library's own
// symbols. Code that takes the symbol for one near by has its own, as in an executable.
bool Binder::IsReplaceable(const Global& global) const {
  if (global.state != State::kDefined || global.is_hidden || !global.weak) return false;
  return global.is_unique || global.is_grouped || global.is_data || global.is_thread_local;
}

void Binder::BindReplaceable(const std::vector<uint32_t>& replaceable,
                             std::vector<uint32_t>& definitions) {
  std::vector<uint32_t> numbers;
  std::vector<NameRef> names;
  for (uint32_t number : replaceable) {
    Global& global = resolution_.globals()[number];
    if (!global.is_thread_local) {
      numbers.push_back(number);
      names.push_back(global.name);
    } else if (!BindThreadLocal(global)) {
      definitions.push_back(number);
    }
  }
  std::vector<void*> addresses = dylib_.session()->process_symbols().FindGlobal(names);
  for (size_t i = 0; i < numbers.size(); ++i) {
    Global& global = resolution_.globals()[numbers[i]];
    std::optional<Found> found;
    if (!addresses[i]) found = search_.FindEverywhere(global.name);
    if (found && found->symbol.is_thread_local) found.reset();
    if ((!addresses[i] && !found) || resolution_.IsExpectedNear(numbers[i])) {
      definitions.push_back(numbers[i]);
    } else if (found) {
      Bind(global, *found);
    } else {
      resolution_.Bind(global, reinterpret_cast<uint64_t>(addresses[i]));
    }
  }
}

std::vector<uint32_t> Binder::BindReferences() {
  std::vector<uint32_t> supplied;
  std::vector<Global*> outside;
  std::vector<Global*> nowhere;
  for (Global& global : resolution_.globals()) {
    if (global.state != State::kUndefined || !global.is_referenced) continue;
    if (DefineByLinker(global)) continue;
    StringRef name = *global.name;
    auto own = dylib_.symbols().FindOwn(global.name);
    if (own) {
      dylib_.symbols().NoteUse(*own);
      Bind(global, Found{*own, &dylib_, nullptr});
      continue;
    }
    LinkerSymbol provided = ProvidedSymbol(name);
    if (provided != LinkerSymbol::kNone) {
      bool has_it = provided != LinkerSymbol::kImage &&
                    (provided != LinkerSymbol::kInit || resolution_.HasSection(kInitFragments)) &&
                    (provided != LinkerSymbol::kFini || resolution_.HasSection(kFiniFragments));
      if (has_it) {
        global.state = State::kLinker;
        global.linker = provided;
      } else if (global.weak) {
        resolution_.BindToNull(global);
      } else {
        nowhere.push_back(&global);
      }
      continue;
    }
    if (global.needs & kNeedsThreadLocal) {
      if (!BindThreadLocal(global)) nowhere.push_back(&global);
      continue;
    }
    if (IsSuppliedToEachLoad(name) && !global.weak && AddSupplied(name, supplied)) continue;
    if (auto found = search_.Find(global.name)) {
      Bind(global, *found);
    } else {
      outside.push_back(&global);
    }
  }
  BindOutside(outside, nowhere);
  std::vector<Global*> missing;
  for (Global* global : nowhere) {
    if (!BindMissing(*global, supplied)) missing.push_back(global);
  }
  if (!missing.empty()) ThrowUndefined(missing);
  Global* getter = resolution_.Find("__tls_get_addr");
  if (getter && !getter->is_own) {
    resolution_.Bind(*getter, reinterpret_cast<uint64_t>(TlsGetAddr));
  }
  return supplied;
}

bool Binder::DefineByLinker(Global& global) {
  StringRef name = *global.name;
  LinkerSymbol symbol = OwnSymbol(name);
  if (symbol == LinkerSymbol::kNone) {
    if (name.consume_front("__start_")) symbol = LinkerSymbol::kSectionStart;
    if (name.consume_front("__stop_")) symbol = LinkerSymbol::kSectionStop;
    if (symbol == LinkerSymbol::kNone || !resolution_.HasSection(name)) return false;
  }
  global.state = State::kLinker;
  global.linker = symbol;
  return true;
}

void Binder::Bind(Global& global, const Found& found) {
  bool wants_thread_local = global.state == State::kUndefined
                                ? (global.needs & kNeedsThreadLocal) != 0
                                : global.is_thread_local;
  if (found.library) {
    resolution_.Bind(global, found.symbol.value);
    return;
  }
  const SymbolTable::Symbol& symbol = found.symbol;
  if (symbol.is_thread_local != wants_thread_local &&
      (symbol.is_thread_local || wants_thread_local) && global.needs != 0) {
    throw LinkError(UserOf(global) + ": uses " + Demangled(global.name.str()) +
                    " as a variable that is " + (wants_thread_local ? "" : "not ") +
                    "thread-local, but in dylib '" + found.dylib->name() + "' it is" +
                    (wants_thread_local ? " not" : "") +
                    ": compile both from the same declaration");
  }
  if (symbol.is_thread_local) {
    resolution_.Bind(global, TlsVariable{symbol.tls_module, "", "", symbol.value, "", false});
  } else {
    resolution_.Bind(global, symbol.value);
    global.is_function = symbol.is_function;
  }
}

// In the process, and then in what libraries depend on.
void Binder::BindOutside(const std::vector<Global*>& outside, std::vector<Global*>& nowhere) {
  std::vector<NameRef> names;
  for (const Global* global : outside) names.push_back(global->name);
  std::vector<void*> addresses = dylib_.session()->process_symbols().Find(names);
  for (size_t i = 0; i < outside.size(); ++i) {
    Global& global = *outside[i];
    if (addresses[i]) {
      resolution_.Bind(global, reinterpret_cast<uint64_t>(addresses[i]));
      continue;
    }
    // What was dropped here, since an earlier load had it, was taken from anywhere then.
    auto found = global.was_dropped ? search_.FindEverywhere(global.name)
                                    : search_.FindInDependencies(global.name);
    if (found) {
      Bind(global, *found);
    } else {
      nowhere.push_back(&global);
    }
  }
}

// The dynamic linker is told where it finds the variable. It trusts that the symbol is one.
bool Binder::BindThreadLocal(Global& global) {
  if (auto found = search_.FindInObjects(global.name)) {
    Bind(global, *found);
    return true;
  }
  std::string name = global.name.str();
  std::optional<ThreadLocalOwner> owner;
  for (const auto& library : search_.AllLibraries()) {
    if (owner) break;
    auto version = library->FindThreadLocal(name);
    if (version) owner = ThreadLocalOwner{library->path(), *version};
  }
  if (!owner) owner = FindThreadLocal(name);
  if (!owner) return false;
  TlsVariable variable;
  variable.symbol = name.substr(0, name.find('@'));
  variable.version = owner->version;
  variable.library = owner->path;
  variable.may_be_null = global.weak;
  resolution_.Bind(global, std::move(variable));
  return true;
}

bool Binder::BindMissing(Global& global, std::vector<uint32_t>& supplied) {
  if (const void* function = SuppliedFunction(*global.name)) {
    resolution_.Bind(global, reinterpret_cast<uint64_t>(function));
    global.is_function = true;
    return true;
  }
  if (!global.weak) return AddSupplied(*global.name, supplied);
  if (!(global.needs & kNeedsThreadLocal)) {
    resolution_.BindToNull(global);
    return true;
  }
  if (global.needs & kNeedsThreadOffset) {
    throw LinkError(UserOf(global) + ": the weak thread-local variable " +
                    Demangled(global.name.str()) +
                    " is defined nowhere, and can't be null in code that takes it for one of the "
                    "executable's; compile with -fPIC and without -ftls-model");
  }
  resolution_.Bind(global, TlsVariable{nullptr, global.name.str(), "", 0, "", true});
  return true;
}

void Binder::ThrowUndefined(const std::vector<Global*>& missing) const {
  // Of one object or a few, all that is missing is said; of hundreds, what to begin with.
  constexpr size_t kManyUsers = 8;
  std::map<std::string, const Global*> by_name;
  std::set<std::string> users;
  for (const Global* global : missing) {
    by_name[global->name.str()] = global;
    users.insert(UserOf(*global));
  }
  const size_t most = users.size() < kManyUsers ? by_name.size() : kManyUsers;
  std::vector<std::string> names;
  std::string lines;
  for (const auto& [name, global] : by_name) {
    names.push_back(name);
    if (names.size() > most) continue;
    lines += "\n  " + Demangled(name) + ", used by " + UserOf(*global) + Explanation(name);
  }
  if (by_name.size() > most) {
    lines += "\n  and " + std::to_string(by_name.size() - most) + " more (see the error's symbols)";
  }
  bool one = names.size() == 1;
  throw UndefinedSymbolError(
      List(users) + ": undefined symbol" + (one ? "" : "s") + ":" + lines + "\nNeither dylib '" +
          dylib_.name() + "' nor its link order nor the process defines " + (one ? "it" : "them") +
          ": load the object or the shared library (.so) that does together with this one, or "
          "put its dylib or the library into link_order",
      std::move(names));
}

}  // namespace object_loader
