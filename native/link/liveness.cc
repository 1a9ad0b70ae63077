// SPDX-License-Identifier: Apache-2.0
#include "link/liveness.h"

#include <llvm/BinaryFormat/ELF.h>

#include <algorithm>

#include "base/error.h"
#include "link/initializers.h"

namespace object_loader {

namespace {

namespace ELF = llvm::ELF;
using llvm::StringRef;

constexpr uint32_t kNoFrame = ~0U;

uint8_t NeedOf(const RelocationKind& kind) {
  switch (kind.form) {
    case Form::kSymbol:
      return kind.reach == Reach::kAll      ? 0
             : kind.reach == Reach::kNarrow ? kNeedsNarrow
                                            : kNeedsNear;
    case Form::kBranch:
      return kNeedsBranch;
    case Form::kSlot:
      return kNeedsSlot;
    case Form::kThreadOffsetSlot:
    case Form::kThreadOffset:
      return kNeedsThreadLocal | kNeedsThreadOffset;
    case Form::kModuleAndOffsetSlot:
    case Form::kModuleSlot:
    case Form::kDescriptorSlot:
    case Form::kModuleOffset:
      return kNeedsThreadLocal;
    default:
      return 0;
  }
}

bool IsSlot(Form form) {
  return form == Form::kSlot || form == Form::kModuleAndOffsetSlot || form == Form::kModuleSlot ||
         form == Form::kThreadOffsetSlot || form == Form::kDescriptorSlot;
}

// Tables of what to do about exceptions may still name what was dropped; nothing gets there then.
bool MayNameDropped(StringRef section) {
  return section.starts_with(".gcc_except_table") || section.starts_with(".stab");
}

}  // namespace

std::string DescribeRelocation(const ElfView& object, size_t section, const Elf::Rela& relocation) {
  uint32_t symbol = relocation.getSymbol(false);
  std::string name;
  if (symbol != 0) {
    name = object.SymbolName(symbol).str();
    uint32_t place = object.SectionOf(symbol);
    if (name.empty() && place < object.sections().size()) name = object.SectionName(place).str();
  }
  return "relocation " + RelocationName(relocation.getType(false)) +
         (name.empty() ? "" : " against symbol " + Demangled(name)) + " in section " +
         object.SectionName(section).str() + " at offset " + std::to_string(relocation.r_offset) +
         ": ";
}

Liveness::Liveness(Resolution& resolution) : resolution_(resolution) {
  live_.resize(resolution.section_count());
  CheckDropped();
  ReadEHFrames();
  MarkRoots();
  while (!unvisited_.empty()) {
    Item item = unvisited_.back();
    unvisited_.pop_back();
    Visit(item);
  }
}

void Liveness::FailFor(Item item, const Elf::Rela& relocation, const std::string& why) const {
  const ElfView& object = resolution_.objects()[item.object];
  throw LinkError(object.name() + ": " + DescribeRelocation(object, item.section, relocation) +
                  why);
}

// As a linker, also where nothing would get there.
void Liveness::CheckDropped() const {
  for (uint32_t object = 0; object < resolution_.objects().size(); ++object) {
    if (!resolution_.HasDropped(object)) continue;
    const ElfView& view = resolution_.objects()[object];
    for (uint32_t section = 0; section < view.sections().size(); ++section) {
      StringRef name = view.SectionName(section);
      bool matters = resolution_.IsKept(resolution_.Number(object, section)) &&
                     name != ".eh_frame" && !MayNameDropped(name);
      if (!matters) continue;
      for (const Elf::Rela& relocation : view.Relocations(section)) {
        uint32_t symbol = relocation.getSymbol(false);
        if (symbol == 0 || symbol >= view.first_global()) continue;
        uint32_t place = view.SectionOf(symbol);
        bool dropped = place < view.sections().size() && view.IsLoaded(place) &&
                       !resolution_.IsKept(resolution_.Number(object, place));
        if (dropped) FailForDropped({object, section}, relocation, place);
      }
    }
  }
}

void Liveness::FailForDropped(Item item, const Elf::Rela& relocation, uint32_t place) const {
  const ElfView& view = resolution_.objects()[item.object];
  FailFor(item, relocation,
          "it lies in section " + view.SectionName(place).str() +
              ", which was discarded for the one that another object has in a group of the same "
              "name; compile both from the same source, with the same flags");
}

void Liveness::ReadEHFrames() {
  first_frame_.assign(resolution_.section_count(), kNoFrame);
  for (uint32_t object = 0; object < resolution_.objects().size(); ++object) {
    const ElfView& view = resolution_.objects()[object];
    for (uint32_t section = 0; section < view.sections().size(); ++section) {
      if (!resolution_.IsKept(resolution_.Number(object, section))) continue;
      const Elf::Shdr& header = view.sections()[section];
      if ((header.sh_flags & ELF::SHF_LINK_ORDER) && header.sh_link != 0) {
        followers_.insert({resolution_.Number(object, header.sh_link), {object, section}});
      }
      if (view.SectionName(section) != ".eh_frame" || header.sh_type == ELF::SHT_NOBITS) continue;
      auto number = static_cast<uint32_t>(eh_frames_.size());
      EHFrame& frame = eh_frames_.emplace_back(view, object, section);
      // From the last one on, so that each function's come in their order.
      for (auto i = static_cast<uint32_t>(frame.records().size()); i-- > 0;) {
        const EHFrame::Record& record = frame.records()[i];
        if (record.common == EHFrame::kNone || frame.IsOfDropped(record)) continue;
        const Elf::Rela* relocation = frame.FunctionOf(record);
        uint32_t symbol = relocation ? relocation->getSymbol(false) : 0;
        uint32_t place = symbol == 0 ? 0 : view.SectionOf(symbol);
        if (place == 0 || place >= view.sections().size()) {
          throw ObjectFormatError(view.name() +
                                  ": malformed .eh_frame: a frame for code that is not the "
                                  "object's");
        }
        uint32_t function = resolution_.Number(object, place);
        frames_.push_back({number, i, first_frame_[function]});
        first_frame_[function] = static_cast<uint32_t>(frames_.size() - 1);
      }
    }
  }
}

void Liveness::MarkRoots() {
  for (uint32_t object = 0; object < resolution_.objects().size(); ++object) {
    const ElfView& view = resolution_.objects()[object];
    for (uint32_t section = 0; section < view.sections().size(); ++section) {
      bool runs = IsRunAtLoadOrUnload(view.SectionName(section));
      if (runs || (view.sections()[section].sh_flags & ELF::SHF_GNU_RETAIN)) {
        Mark(object, section);
      }
    }
  }
  for (const Global& global : resolution_.globals()) {
    if (global.state != Global::State::kDefined || !global.is_own) continue;
    const ElfView& view = resolution_.objects()[global.object];
    Mark(global.object, view.SectionOf(global.symbol));
    if (view.symbols()[global.symbol].getType() == ELF::STT_GNU_IFUNC) {
      indirect_functions_.push_back({global.object, global.symbol});
    }
  }
}

void Liveness::Mark(uint32_t object, uint32_t section) {
  uint32_t number = resolution_.Number(object, section);
  if (live_[number] || !resolution_.IsKept(number)) return;
  const ElfView& view = resolution_.objects()[object];
  if (view.SectionName(section) == ".eh_frame") return;
  uint64_t flags = view.sections()[section].sh_flags;
  if ((flags & ELF::SHF_WRITE) && (flags & ELF::SHF_EXECINSTR)) {
    throw LinkError(view.name() + ": section " + view.SectionName(section).str() +
                    " is both writable and executable, which is refused");
  }
  live_[number] = true;
  unvisited_.push_back({object, section});
}

void Liveness::Visit(Item item) {
  uint32_t number = resolution_.Number(item.object, item.section);
  const ElfView& view = resolution_.objects()[item.object];
  for (const Elf::Rela& relocation : view.Relocations(item.section)) {
    VisitRelocation(item, relocation);
  }
  MarkFrames(number);
  auto [follower, last] = followers_.equal_range(number);
  for (; follower != last; ++follower) Mark(follower->second.object, follower->second.section);
}

void Liveness::MarkFrames(uint32_t section) {
  for (uint32_t i = first_frame_[section]; i != kNoFrame; i = frames_[i].next) {
    EHFrame& frame = eh_frames_[frames_[i].eh_frame];
    EHFrame::Record& record = frame.records()[frames_[i].record];
    MarkRecord(frame, frame.records()[record.common]);
    MarkRecord(frame, record);
  }
}

void Liveness::MarkRecord(EHFrame& frame, EHFrame::Record& record) {
  if (record.is_live) return;
  record.is_live = true;
  Item item = {static_cast<uint32_t>(frame.object()), static_cast<uint32_t>(frame.section())};
  for (const Elf::Rela& relocation : frame.RelocationsOf(record)) {
    VisitRelocation(item, relocation);
  }
}

void Liveness::VisitRelocation(Item item, const Elf::Rela& relocation) {
  const ElfView& view = resolution_.objects()[item.object];
  const Elf::Shdr& header = view.sections()[item.section];
  uint32_t type = relocation.getType(false);
  const RelocationKind& kind = KindOf(type);
  if (kind.form == Form::kNothing) return;
  if (kind.form == Form::kRefused) FailFor(item, relocation, WhyRefused(type));
  if (header.sh_type == ELF::SHT_NOBITS || kind.width > header.sh_size - relocation.r_offset) {
    throw ObjectFormatError(view.name() + ": is truncated or malformed: a relocation at offset " +
                            std::to_string(relocation.r_offset) + " lies outside its section of " +
                            std::to_string(header.sh_size) + " bytes");
  }
  uint32_t symbol = relocation.getSymbol(false);
  if (kind.form == Form::kSize && symbol != 0 && view.SectionOf(symbol) == ElfView::kUndefined) {
    FailFor(item, relocation,
            "the size of a symbol is known only in the object that defines it; define both in one "
            "(ld -r)");
  }
  if (IsSlot(kind.form) && !IsOwnSlot(relocation.r_addend)) {
    FailFor(item, relocation,
            "a slot for what lies " + std::to_string(int64_t{relocation.r_addend}) +
                " bytes behind a symbol is not supported");
  }
  short_uses_ += kind.reach == Reach::kShort;
  if (IsThreadLocal(kind.form)) thread_local_uses_.insert({kind.form, item.object, symbol});
  if (kind.form == Form::kTable) return;
  uint32_t global = symbol == 0 ? Resolution::kLocal : resolution_.GlobalOf(item.object, symbol);
  if (global == Resolution::kLocal) {
    VisitLocal(item, relocation, kind);
  } else {
    if (resolution_.globals()[global].is_unloaded) {
      throw ObjectFormatError(view.name() + ": is truncated or malformed: section " +
                              view.SectionName(item.section).str() + " refers to symbol " +
                              view.SymbolName(symbol).str() + ", which is not loaded");
    }
    VisitGlobal(resolution_.globals()[global], kind);
    if (kind.form == Form::kRelaxableSlot) {
      StringRef content = view.Content(item.section);
      bool relaxes = !content.empty() && CanRelaxSlot(content.data() + relocation.r_offset,
                                                      relocation.r_offset, relocation.r_addend);
      resolution_.globals()[global].needs |= relaxes ? kNeedsFarSlot : kNeedsSlot;
    }
  }
}

void Liveness::VisitLocal(Item item, const Elf::Rela& relocation, const RelocationKind& kind) {
  const ElfView& view = resolution_.objects()[item.object];
  uint32_t symbol = relocation.getSymbol(false);
  uint32_t section = symbol == 0 ? uint32_t{ElfView::kAbsolute} : view.SectionOf(symbol);
  uint8_t need = kind.form == Form::kRelaxableSlot ? uint8_t{kNeedsSlot} : NeedOf(kind);
  if (need == kNeedsSlot) {
    uses_offset_table_ = true;
    local_slots_.insert({item.object, symbol});
  }
  if (section == ElfView::kAbsolute) return;
  if (section == ElfView::kUndefined || section >= view.sections().size()) {
    throw ObjectFormatError(view.name() + ": is truncated or malformed: a relocation's symbol " +
                            std::to_string(symbol) + " is in no section");
  }
  if (!resolution_.IsKept(resolution_.Number(item.object, section))) {
    if (!view.IsLoaded(section)) {
      throw ObjectFormatError(view.name() + ": is truncated or malformed: section " +
                              view.SectionName(item.section).str() + " refers to section " +
                              view.SectionName(section).str() + ", which is not loaded");
    }
    if (MayNameDropped(view.SectionName(item.section))) return;
    FailForDropped(item, relocation, section);
  }
  if (need == kNeedsNarrow) has_narrow_addresses_ = true;
  if (view.symbols()[symbol].getType() == ELF::STT_GNU_IFUNC) {
    std::pair<uint32_t, uint32_t> function = {item.object, symbol};
    if (!llvm::is_contained(indirect_functions_, function)) indirect_functions_.push_back(function);
  }
  Mark(item.object, section);
}

void Liveness::VisitGlobal(Global& global, const RelocationKind& kind) {
  using State = Global::State;
  uint8_t need = NeedOf(kind);
  global.is_referenced = true;
  global.needs |= need;
  uses_offset_table_ |= need == kNeedsSlot || kind.form == Form::kRelaxableSlot;
  bool is_short = kind.reach == Reach::kShort;  // which is counted for all symbols
  if ((need == kNeedsNear || need == kNeedsNarrow) && !is_short) ++global.near_uses;
  switch (global.state) {
    case State::kDefined: {
      const ElfView& view = resolution_.objects()[global.object];
      if (need == kNeedsNarrow) has_narrow_addresses_ = true;
      if (!global.is_own && view.symbols()[global.symbol].getType() == ELF::STT_GNU_IFUNC) {
        std::pair<uint32_t, uint32_t> function = {global.object, global.symbol};
        if (!llvm::is_contained(indirect_functions_, function)) {
          indirect_functions_.push_back(function);
        }
      }
      Mark(global.object, view.SectionOf(global.symbol));
      break;
    }
    case State::kCommon:
      if (need == kNeedsNarrow) has_narrow_addresses_ = true;
      break;
    case State::kUndefined: {
      StringRef name = *global.name;
      if (name.consume_front("__start_") || name.consume_front("__stop_")) MarkSectionsNamed(name);
      break;
    }
    default:
      break;
  }
}

// What is reached by the bounds of its section alone. Sections that follow another one are loaded
// where that is.
void Liveness::MarkSectionsNamed(StringRef name) {
  for (uint32_t object = 0; object < resolution_.objects().size(); ++object) {
    const ElfView& view = resolution_.objects()[object];
    for (uint32_t section = 0; section < view.sections().size(); ++section) {
      const Elf::Shdr& header = view.sections()[section];
      bool follows = (header.sh_flags & ELF::SHF_LINK_ORDER) && header.sh_link != 0;
      if (!follows && view.SectionName(section) == name) Mark(object, section);
    }
  }
}

}  // namespace object_loader
