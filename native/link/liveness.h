// SPDX-License-Identifier: Apache-2.0
//
// Liveness: which sections of a load's objects are loaded: those that its definitions lie in, the
// functions that run when it comes and goes, and all that these refer to. And how each symbol is
// referred to, which decides what has to be made for it.
//
// To be made when it is known which definitions count in the dylib, and before references are
// bound: only what is loaded needs what it refers to.
//
// Lifetime: refers to the Resolution. Concurrency: for one thread at a time.
#ifndef OBJECT_LOADER_LINK_LIVENESS_H_
#define OBJECT_LOADER_LINK_LIVENESS_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "link/eh_frame.h"
#include "link/resolution.h"
#include "target/target.h"

namespace object_loader {

class Liveness {
 public:
  // Notes in the resolution's globals how they are needed. Throws ObjectFormatError, and LinkError
  // for relocations that can't be applied.
  explicit Liveness(Resolution& resolution);
  Liveness(const Liveness&) = delete;
  Liveness& operator=(const Liveness&) = delete;

  bool IsLive(uint32_t section) const { return live_[section]; }
  // Sections .eh_frame themselves are not live: their records are.
  std::vector<EHFrame>& eh_frames() { return eh_frames_; }

  // Symbols that are local to an object, by object and symbol, which need a slot.
  const std::set<std::pair<uint32_t, uint32_t>>& local_slots() const { return local_slots_; }
  // Functions that choose their implementation (STT_GNU_IFUNC), by object and symbol.
  const std::vector<std::pair<uint32_t, uint32_t>>& indirect_functions() const {
    return indirect_functions_;
  }

  // Whether the load's own places are named by addresses of 32 bits, as without -fPIC.
  bool has_narrow_addresses() const { return has_narrow_addresses_; }
  // Whether anything goes by way of the global offset table, as with -fPIC.
  bool uses_offset_table() const { return uses_offset_table_; }
  // How many relocations have fields that may be too short even within the load (Reach::kShort).
  uint32_t short_uses() const { return short_uses_; }
  // How thread-local variables are referred to: form, object and symbol.
  using ThreadLocalUse = std::tuple<Form, uint32_t, uint32_t>;
  const std::set<ThreadLocalUse>& thread_local_uses() const { return thread_local_uses_; }

 private:
  struct Item {
    uint32_t object;
    uint32_t section;
  };

  void CheckDropped() const;
  [[noreturn]] void FailForDropped(Item item, const Elf::Rela& relocation, uint32_t place) const;
  void ReadEHFrames();
  void MarkRoots();
  void Mark(uint32_t object, uint32_t section);
  void Visit(Item item);
  void VisitRelocation(Item item, const Elf::Rela& relocation);
  void VisitLocal(Item item, const Elf::Rela& relocation, const RelocationKind& kind);
  void VisitGlobal(Global& global, const RelocationKind& kind);
  void MarkFrames(uint32_t section);
  void MarkRecord(EHFrame& frame, EHFrame::Record& record);
  void MarkSectionsNamed(llvm::StringRef name);
  [[noreturn]] void FailFor(Item item, const Elf::Rela& relocation, const std::string& why) const;

  Resolution& resolution_;
  std::vector<bool> live_;
  std::vector<Item> unvisited_;
  std::vector<EHFrame> eh_frames_;
  // The frames of a section's functions, as a list: (eh_frame, record) and the next one.
  struct Frame {
    uint32_t eh_frame;
    uint32_t record;
    uint32_t next;
  };
  std::vector<uint32_t> first_frame_;
  std::vector<Frame> frames_;
  // Sections that are loaded where another one is (SHF_LINK_ORDER).
  std::multimap<uint32_t, Item> followers_;
  std::set<std::pair<uint32_t, uint32_t>> local_slots_;
  std::vector<std::pair<uint32_t, uint32_t>> indirect_functions_;
  std::set<ThreadLocalUse> thread_local_uses_;
  bool has_narrow_addresses_ = false;
  bool uses_offset_table_ = false;
  uint32_t short_uses_ = 0;
};

// What an error says of a relocation after the object's name: "relocation TYPE against
// symbol foo in section .text at offset 12: ".
std::string DescribeRelocation(const ElfView& object, size_t section, const Elf::Rela& relocation);

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_LIVENESS_H_
