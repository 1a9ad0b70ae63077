// SPDX-License-Identifier: Apache-2.0
#include "link/resolution.h"

#include <llvm/BinaryFormat/ELF.h>

#include <algorithm>
#include <map>
#include <utility>

#include "base/error.h"
#include "target/target.h"

namespace object_loader {

namespace {

namespace ELF = llvm::ELF;
using llvm::StringRef;

// GCC's way to say the same as a group of one section, before there were groups.
constexpr char kLinkOnce[] = ".gnu.linkonce.";

}  // namespace

std::string ListObjects(const std::vector<ElfView>& objects, size_t count) {
  constexpr size_t kMost = 3;
  std::string text;
  for (size_t i = 0; i < std::min(count, count > kMost + 1 ? kMost : count); ++i) {
    text += (i ? " + " : "") + objects[i].name();
  }
  if (count > kMost + 1) text += " + " + std::to_string(count - kMost) + " more";
  return text;
}

Resolution::Resolution(const std::vector<ElfView>& objects, size_t own,
                       llvm::function_ref<bool(NameRef)> has_group)
    : objects_(objects), own_(own), name_(ListObjects(objects, own)) {
  uint32_t sections = 0;
  size_t symbols = 0;
  for (const ElfView& object : objects) {
    first_section_.push_back(sections);
    first_global_.push_back(static_cast<uint32_t>(object.first_global()));
    sections += static_cast<uint32_t>(object.sections().size());
    symbols += object.symbols().size() - object.first_global();
  }
  first_section_.push_back(sections);
  kept_.resize(sections);
  grouped_.resize(sections);
  globals_.reserve(symbols);
  by_name_.reserve(static_cast<unsigned>(symbols));
  global_of_.resize(objects.size());
  dropped_.resize(objects.size());
  for (size_t i = 0; i < objects.size(); ++i) {
    for (size_t section = 0; section < objects[i].sections().size(); ++section) {
      kept_[Number(i, section)] = objects[i].IsLoaded(section);
    }
    ResolveGroups(i, has_group);
  }
  for (size_t i = 0; i < objects.size(); ++i) ResolveSymbols(i);
  if (duplicates_.empty()) return;
  std::map<std::string, std::string> messages;  // symbol -> message
  for (auto [global, second] : duplicates_) {
    std::string symbol = globals_[global].name.str();
    messages[symbol] = "duplicate symbol " + Demangled(symbol) + ": defined in " +
                       objects_[globals_[global].object].name() + " and in " +
                       objects_[second].name();
  }
  ThrowDuplicates(messages);
}

bool Resolution::KeepGroup(StringRef signature, size_t object,
                           llvm::function_ref<bool(NameRef)> has_group) {
  NameRef name(signature);
  auto [known, is_new] = group_of_.try_emplace(name, object);
  if (!is_new && known->second != object) return false;
  // What only serves this load is not the dylib's, nor has it anything of it.
  if (object >= own_) return true;
  if (has_group(name)) return false;
  groups_.push_back(name);
  return true;
}

void Resolution::DropSection(size_t object, uint32_t section) {
  kept_[Number(object, section)] = false;
  dropped_[object] = true;
}

void Resolution::ResolveGroups(size_t object, llvm::function_ref<bool(NameRef)> has_group) {
  const ElfView& view = objects_[object];
  for (const ElfView::Group& group : view.groups()) {
    if (!group.comdat) continue;
    // A group of one section and a section of the other kind are the same where the names are.
    bool is_single =
        llvm::count_if(group.members, [&](uint32_t member) { return view.IsLoaded(member); }) == 1;
    auto once = link_once_.find(NameRef(group.signature));
    bool has_once = is_single && once != link_once_.end() && once->second != object;
    bool keep = !has_once && KeepGroup(group.signature, object, has_group);
    if (is_single) single_.insert(NameRef(group.signature));
    for (uint32_t member : group.members) {
      grouped_[Number(object, member)] = true;
      if (!keep) DropSection(object, member);
    }
  }
  bool any_ordered = false;
  for (uint32_t section = 0; section < view.sections().size(); ++section) {
    if (!kept_[Number(object, section)]) continue;
    any_ordered |= (view.sections()[section].sh_flags & ELF::SHF_LINK_ORDER) != 0;
    StringRef name = view.SectionName(section);
    if (!name.starts_with(kLinkOnce)) continue;
    grouped_[Number(object, section)] = true;
    // In a name that no group has.
    bool keep = KeepGroup(name, object, has_group);
    NameRef stem(name.drop_front(sizeof(kLinkOnce) - 1).split('.').second);
    auto group = group_of_.find(stem);
    bool is_here = group != group_of_.end();
    if (is_here ? single_.contains(stem) && group->second != object : has_group(stem)) keep = false;
    if (keep) link_once_.try_emplace(stem, object);
    if (!keep) DropSection(object, section);
  }
  if (!any_ordered) return;
  for (uint32_t section = 0; section < view.sections().size(); ++section) {
    const Elf::Shdr& header = view.sections()[section];
    if (!(header.sh_flags & ELF::SHF_LINK_ORDER) || header.sh_link == 0) continue;
    bool follows_dropped = view.IsLoaded(header.sh_link) && !kept_[Number(object, header.sh_link)];
    if (kept_[Number(object, section)] && follows_dropped) DropSection(object, section);
  }
}

uint32_t Resolution::Intern(NameRef name, size_t object, uint32_t symbol) {
  auto number = static_cast<uint32_t>(globals_.size());
  auto [known, is_new] = by_name_.try_emplace(name, number);
  if (is_new) {
    Global& global = globals_.emplace_back();
    global.name = name;
    global.object = static_cast<uint32_t>(object);
    global.symbol = symbol;
  }
  return known->second;
}

Global* Resolution::Find(StringRef name) {
  auto known = by_name_.find(NameRef(name));
  return known == by_name_.end() ? nullptr : &globals_[known->second];
}

void Resolution::ResolveSymbols(size_t object) {
  const ElfView& view = objects_[object];
  std::vector<uint32_t>& global_of = global_of_[object];
  global_of.reserve(view.symbols().size() - view.first_global());
  for (auto i = static_cast<uint32_t>(view.first_global()); i < view.symbols().size(); ++i) {
    const Elf::Sym& symbol = view.symbols()[i];
    StringRef name = view.SymbolName(i);
    uint32_t section = view.SectionOf(i);
    Global definition;
    definition.weak = symbol.getBinding() != ELF::STB_GLOBAL;
    definition.is_unique = symbol.getBinding() == ELF::STB_GNU_UNIQUE;
    definition.is_thread_local = symbol.getType() == ELF::STT_TLS;
    definition.is_function =
        symbol.getType() == ELF::STT_FUNC || symbol.getType() == ELF::STT_GNU_IFUNC;
    definition.is_data = symbol.getType() == ELF::STT_OBJECT;
    if (section == ElfView::kUndefined) {
      definition.state = State::kUndefined;
    } else if (section == ElfView::kAbsolute) {
      definition.state = State::kAbsolute;
      definition.value = symbol.st_value;
    } else if (section == ElfView::kCommon || section == ElfView::kOfProcessor) {
      if (section == ElfView::kOfProcessor && !IsCommonOfProcessor(symbol.st_shndx)) {
        throw ObjectFormatError(view.name() + ": symbol " + name.str() + " is in section " +
                                std::to_string(symbol.st_shndx) +
                                ", whose meaning is not known here");
      }
      definition.state = State::kCommon;
      definition.weak = true;  // gives way to whatever else there is
      definition.is_data = true;
      definition.value = symbol.st_size;
      definition.alignment = std::max<uint64_t>(symbol.st_value, 1);
    } else if (kept_[Number(object, section)]) {
      definition.state = State::kDefined;
      definition.is_grouped = grouped_[Number(object, section)];
    } else if (!view.IsLoaded(section)) {
      // Nothing that is loaded may refer to it: see Liveness.
      global_of.push_back(Intern(NameRef(name), object, i));
      globals_[global_of.back()].is_unloaded = true;
      continue;
    }  // else it is in a dropped group: a reference to the one that is kept
    // "name@@VERSION" is the default version: what the name alone stands for.
    size_t at = name.find('@');
    bool is_default = at != StringRef::npos && name.substr(at).starts_with("@@");
    bool is_definition = definition.state != State::kUndefined;
    StringRef versioned;
    if (is_default) {
      versioned = made_names_.emplace_back((name.take_front(at) + name.drop_front(at + 1)).str());
      name = is_definition ? made_names_.emplace_back(name.take_front(at)) : versioned;
    }
    size_t before = globals_.size();
    uint32_t number = Intern(NameRef(name), object, i);
    bool is_new = globals_.size() != before;
    global_of.push_back(number);
    if (is_definition) {
      Define(globals_[number], object, i, definition);
      if (is_default) {
        number = Intern(NameRef(versioned), object, i);
        Define(globals_[number], object, i, definition);
      }
    } else {
      Refer(globals_[number], object, symbol, is_new);
      globals_[number].was_dropped |= section != ElfView::kUndefined;
    }
    // The most constraining visibility counts, whichever definition was chosen.
    unsigned visibility = symbol.getVisibility();
    if (visibility == ELF::STV_HIDDEN || visibility == ELF::STV_INTERNAL) {
      globals_[number].is_hidden = true;
    }
  }
}

void Resolution::Refer(Global& global, size_t object, const Elf::Sym& symbol, bool is_new) {
  if (global.last_object == object && symbol.st_shndx == ELF::SHN_UNDEF) {
    throw ObjectFormatError(objects_[object].name() + ": is truncated or malformed: undefined " +
                            "symbol '" + global.name.str() + "' has no name of its own");
  }
  global.last_object = static_cast<uint32_t>(object);
  if (global.state != State::kUndefined) return;
  bool weak = symbol.getBinding() == ELF::STB_WEAK;
  global.weak = is_new ? weak : global.weak && weak;
}

void Resolution::Define(Global& global, size_t object, uint32_t symbol, Global definition) {
  auto rank = [](const Global& one) {
    if (one.state == State::kUndefined) return 0;
    if (one.state == State::kCommon) return 2;
    return one.weak ? 1 : 3;
  };
  int known = rank(global);
  int added = rank(definition);
  // What is supplied for the load serves it and does not stand in its way.
  if (known != 0 && object >= own_) return;
  if (known == 3 && added == 3) {
    duplicates_.push_back({static_cast<uint32_t>(&global - globals_.data()), object});
    return;
  }
  if (known == 2 && added == 2) {
    global.alignment = std::max(global.alignment, definition.alignment);
    if (definition.value <= global.value) return;
    definition.alignment = global.alignment;
  } else if (added <= known) {
    return;
  }
  definition.name = global.name;
  definition.is_hidden = global.is_hidden;
  definition.object = static_cast<uint32_t>(object);
  definition.symbol = symbol;
  definition.is_own = object < own_;
  global = std::move(definition);
}

bool Resolution::HasSection(StringRef name) const {
  for (size_t object = 0; object < objects_.size(); ++object) {
    for (uint32_t section = 0; section < objects_[object].sections().size(); ++section) {
      if (kept_[Number(object, section)] && objects_[object].SectionName(section) == name) {
        return true;
      }
    }
  }
  return false;
}

bool Resolution::IsExpectedNear(uint32_t global) {
  if (!expected_near_.empty()) return expected_near_[global];
  expected_near_.resize(globals_.size());
  for (size_t object = 0; object < objects_.size(); ++object) {
    for (uint32_t section = 0; section < objects_[object].sections().size(); ++section) {
      if (!kept_[Number(object, section)]) continue;
      for (const Elf::Rela& relocation : objects_[object].Relocations(section)) {
        const RelocationKind& kind = KindOf(relocation.getType(false));
        bool near = kind.form == Form::kSymbol && kind.reach != Reach::kAll;
        uint32_t symbol = relocation.getSymbol(false);
        if (!near || symbol == 0) continue;
        uint32_t number = GlobalOf(object, symbol);
        if (number != kLocal) expected_near_[number] = true;
      }
    }
  }
  return expected_near_[global];
}

void Resolution::Bind(Global& global, uint64_t address) {
  global.state = State::kBound;
  global.value = address;
}

void Resolution::Bind(Global& global, TlsVariable variable) {
  Bind(global, 0);
  thread_locals_[&global] = std::move(variable);
}

const TlsVariable* Resolution::ThreadLocal(const Global& global) const {
  auto found = thread_locals_.find(&global);
  return found == thread_locals_.end() ? nullptr : &found->second;
}

}  // namespace object_loader
