// SPDX-License-Identifier: Apache-2.0
#include "link/layout.h"

#include <llvm/ADT/StringExtras.h>
#include <llvm/BinaryFormat/ELF.h>
#include <llvm/Support/MathExtras.h>

#include <algorithm>

#include "base/error.h"
#include "target/target.h"

namespace object_loader {

namespace {

namespace ELF = llvm::ELF;
using llvm::StringRef;

// The limit keeps a small file with strict alignments from taking much memory.
constexpr uint64_t kMaxInitialThreadLocals = 256 << 20;  // bytes
constexpr uint64_t kMaxArea = uint64_t{1} << 31;         // bytes

constexpr uint64_t kEndMark = 4;  // bytes

// Whether code can ask for the bounds of sections of this name.
bool CanBeAskedFor(StringRef section) {
  if (section.empty() || section[0] == '.' || llvm::isDigit(section[0])) return false;
  return llvm::all_of(section, [](char c) { return llvm::isAlnum(c) || c == '_'; });
}

uint64_t AlignmentOf(const Elf::Shdr& section) {
  return std::max<uint64_t>(section.sh_addralign, 1);
}

}  // namespace

Layout::Layout(Resolution& resolution, Liveness& liveness)
    : resolution_(resolution), liveness_(liveness), places_(resolution.section_count()) {
  alignments_.fill(1);
  PlaceSections();
  PlaceNamed();
  init_ = PlaceFragments(kInitFragments);
  fini_ = PlaceFragments(kFiniFragments);
  initialized_thread_locals_ = sizes_[kThreadLocal];
  PlaceZeros();
  PlaceFrames();
  CheckSizes();
}

uint64_t Layout::Append(Area area, uint64_t size, uint64_t alignment) {
  uint64_t offset = llvm::alignTo(sizes_[area], alignment);
  sizes_[area] = offset + size;
  alignments_[area] = std::max(alignments_[area], alignment);
  return offset;
}

uint64_t Layout::Reserve(Area area, uint64_t size, uint64_t alignment) {
  if (size == 0) return sizes_[area];
  uint64_t offset = Append(area, size, alignment);
  pieces_[area].push_back({Piece::kMade, offset, size});
  return offset;
}

void Layout::Put(Area area, uint32_t object, uint32_t section) {
  const ElfView& view = resolution_.objects()[object];
  const Elf::Shdr& header = view.sections()[section];
  uint64_t offset = Append(area, header.sh_size, AlignmentOf(header));
  places_[resolution_.Number(object, section)] = {offset, area};
  // What is not content is filled with zeros, like a gap.
  if (header.sh_type != ELF::SHT_NOBITS && header.sh_size != 0) {
    pieces_[area].push_back({Piece::kSection, offset, header.sh_size, object, section});
  }
  FunctionArray array = FunctionArrayOf(view.SectionName(section));
  bool has_functions = header.sh_type != ELF::SHT_NOBITS && area != kThreadLocal;
  if (array.kind != FunctionArray::kNone && has_functions) {
    arrays_.push_back({array, {offset, area}, header.sh_size});
  }
}

void Layout::PlaceSections() {
  for (uint32_t object = 0; object < resolution_.objects().size(); ++object) {
    const ElfView& view = resolution_.objects()[object];
    for (uint32_t section = 0; section < view.sections().size(); ++section) {
      if (!liveness_.IsLive(resolution_.Number(object, section))) continue;
      const Elf::Shdr& header = view.sections()[section];
      StringRef name = view.SectionName(section);
      if (name == kInitFragments || name == kFiniFragments) continue;
      bool writable = (header.sh_flags & ELF::SHF_WRITE) != 0;
      bool executable = (header.sh_flags & ELF::SHF_EXECINSTR) != 0;
      bool thread_local_ = (header.sh_flags & ELF::SHF_TLS) != 0;
      // Thread-local variables have no bounds: they are each thread's own.
      if (CanBeAskedFor(name) && !thread_local_) {
        Named& named = named_[name];
        named.writable |= writable;
        named.executable |= executable;
        named.sections.push_back({object, section});
      } else if (header.sh_type == ELF::SHT_NOBITS && (writable || thread_local_)) {
        zeros_.push_back({object, section});
      } else {
        Put(thread_local_ ? kThreadLocal
            : executable  ? kCode
            : writable    ? kData
                          : kConstants,
            object, section);
      }
    }
  }
}

// Sections of one name side by side. As for a linker, which makes one of them, all can be written
// where one can; but code stays apart then, since no memory is both.
void Layout::PlaceNamed() {
  for (auto& [name, named] : named_) {
    // Those that follow other sections are in the order of these.
    auto order_of = [&](const std::pair<uint32_t, uint32_t>& one) {
      const Elf::Shdr& header = resolution_.objects()[one.first].sections()[one.second];
      bool follows = (header.sh_flags & ELF::SHF_LINK_ORDER) && header.sh_link != 0;
      return std::pair<uint32_t, uint32_t>(one.first, follows ? uint32_t{header.sh_link} : 0);
    };
    std::stable_sort(named.sections.begin(), named.sections.end(),
                     [&](const auto& a, const auto& b) { return order_of(a) < order_of(b); });
    uint64_t alignment = 1;
    bool all_zeros = true;
    for (auto [object, section] : named.sections) {
      const Elf::Shdr& header = resolution_.objects()[object].sections()[section];
      alignment = std::max(alignment, AlignmentOf(header));
      all_zeros = all_zeros && header.sh_type == ELF::SHT_NOBITS;
    }
    Area area = named.writable     ? (all_zeros ? kZeros : kData)
                : named.executable ? kCode
                                   : kConstants;
    uint64_t begin = Append(area, 0, alignment);
    for (auto [object, section] : named.sections) {
      const Elf::Shdr& header = resolution_.objects()[object].sections()[section];
      bool apart = (header.sh_flags & ELF::SHF_EXECINSTR) && area != kCode;
      Put(apart ? kCode : area, object, section);
    }
    bounds_[name] = {area, begin, sizes_[area]};
  }
}

void Layout::PlaceZeros() {
  for (auto [object, section] : zeros_) {
    const Elf::Shdr& header = resolution_.objects()[object].sections()[section];
    Put((header.sh_flags & ELF::SHF_TLS) ? kThreadLocal : kZeros, object, section);
  }
  for (Global& global : resolution_.globals()) {
    if (global.state != Global::State::kCommon) continue;
    global.offset = Append(kZeros, global.value, global.alignment);
  }
}

void Layout::PlaceFrames() {
  uint64_t size = 0;
  for (EHFrame& frame : liveness_.eh_frames()) {
    for (EHFrame::Record& record : frame.records()) {
      if (!record.is_live) continue;
      record.place = size;
      size += record.size;
    }
  }
  if (size == 0) return;
  uint64_t begin = Append(kConstants, size + kEndMark, 8);
  frames_ = {kConstants, begin, begin + size + kEndMark};
  pieces_[kConstants].push_back({Piece::kFrames, begin, size + kEndMark});
}

Layout::Place Layout::PlaceFragments(StringRef name) {
  std::vector<std::pair<uint32_t, uint32_t>> sections;
  for (uint32_t object = 0; object < resolution_.objects().size(); ++object) {
    const ElfView& view = resolution_.objects()[object];
    for (uint32_t section = 0; section < view.sections().size(); ++section) {
      if (view.SectionName(section) != name ||
          !liveness_.IsLive(resolution_.Number(object, section))) {
        continue;
      }
      const Elf::Shdr& header = view.sections()[section];
      if (header.sh_type == ELF::SHT_NOBITS || !(header.sh_flags & ELF::SHF_EXECINSTR)) {
        throw LinkError(view.name() + ": section " + name.str() +
                        " is no code, as it should be: it is run when the object is loaded");
      }
      sections.push_back({object, section});
    }
  }
  if (sections.empty()) return {};
  // One function, so nothing may lie between the pieces that is not code.
  auto put_text = [&](StringRef text, uint64_t alignment) {
    uint64_t offset = Append(kCode, text.size(), alignment);
    pieces_[kCode].push_back({Piece::kText, offset, text.size(), 0, 0, text.data()});
    return offset;
  };
  uint64_t begin = put_text(kFragmentsProlog, 16);
  for (auto [object, section] : sections) {
    uint64_t size = resolution_.objects()[object].sections()[section].sh_size;
    uint64_t offset = Append(kCode, size, kInstructionAlignment);
    places_[resolution_.Number(object, section)] = {offset, kCode};
    if (size != 0) pieces_[kCode].push_back({Piece::kSection, offset, size, object, section});
  }
  put_text(kFragmentsEpilog, kInstructionAlignment);
  return {begin, kCode};
}

void Layout::CheckSizes() const {
  if (sizes_[kThreadLocal] >= kMaxArea || initialized_thread_locals_ >= kMaxInitialThreadLocals) {
    throw LinkError(resolution_.name() + ": has " + std::to_string(sizes_[kThreadLocal]) +
                    " bytes of thread-local variables");
  }
  uint64_t total = 0;
  for (Area area : {kCode, kConstants, kData, kZeros}) total += sizes_[area];
  if (total < kMaxArea) return;
  throw LinkError(resolution_.name() + ": needs " + std::to_string(total) +
                  " bytes of memory, more than the 2 GiB that 32-bit relocations reach");
}

const Layout::Bounds* Layout::BoundsOf(StringRef section_name) const {
  auto found = bounds_.find(section_name);
  return found == bounds_.end() ? nullptr : &found->second;
}

}  // namespace object_loader
