// SPDX-License-Identifier: Apache-2.0
//
// Relocator: writes a load into its memory: content, tables, and what its relocations ask for.
//
// The content of each section is copied once, from the file to its place, and relocated there.
// There is no list of things to be fixed up in between: when the memory is allocated every symbol
// has its address, since everything outside was bound before, and the places inside follow from the
// layout. (One of JITLink's edges for each relocation would take more time than all else; see
// Linker.)
//
// Lifetime: refers to everything that was planned. Concurrency: for one thread at a time.
#ifndef OBJECT_LOADER_LINK_RELOCATOR_H_
#define OBJECT_LOADER_LINK_RELOCATOR_H_

#include <array>
#include <cstdint>

#include "base/error.h"
#include "link/layout.h"
#include "link/liveness.h"
#include "link/resolution.h"
#include "link/tables.h"
#include "link/thread_locals.h"

namespace object_loader {

// Something that a relocation names is too far away from where the load lies.
class OutOfReachError : public LinkError {
 public:
  using LinkError::LinkError;
};

class Relocator {
 public:
  // Where an area is for loaded code, and where it is written.
  struct Memory {
    uint64_t address = 0;
    char* writable = nullptr;
  };
  using Memories = std::array<Memory, Layout::kAreaCount>;

  Relocator(const Resolution& resolution, const Liveness& liveness, const Layout& layout,
            const Tables& tables, ThreadLocals& thread_locals)
      : resolution_(resolution),
        liveness_(liveness),
        layout_(layout),
        tables_(tables),
        thread_locals_(thread_locals) {}

  // Writes everything; the zeros are there. Throws LinkError where something is out of reach, and
  // what reading the objects throws, and ThreadLocals::Open.
  void Write(const Memories& memories);

  // After that, the address of a definition, or of a thread-local one its offset.
  uint64_t AddressOf(const Global& global) const;
  struct Target {
    uint64_t address;
    uint32_t global;  // or Resolution::kLocal
    bool is_thread_local;
  };
  // The same, of what an object's symbol stands for; 0 where it is not loaded.
  Target TargetOf(uint32_t object, uint32_t symbol) const;

 private:
  struct Field {
    uint32_t object;
    uint32_t section;
    const Elf::Rela& relocation;
    char* place;       // where it is written
    uint64_t address;  // where it is
    uint64_t before;   // bytes before it in its section
  };

  uint64_t At(Layout::Area area, uint64_t offset) const { return memories_[area].address + offset; }
  char* Writable(Layout::Area area, uint64_t offset) const {
    return memories_[area].writable + offset;
  }
  uint64_t LinkerAddress(const Global& global) const;
  uint64_t LocalAddress(uint32_t object, uint32_t symbol, bool& is_thread_local) const;
  uint64_t SlotAddress(const Field& field, const Target& target) const;
  uint64_t SizeOf(const Field& field) const;
  uint64_t OffsetTable() const { return At(Layout::kConstants, tables_.slot(0)); }
  // What a relocation is about, without its addend; and that as the field has it.
  uint64_t ValueOf(const Field& field, const Target& target, Form form) const;
  uint64_t Measure(From from, uint64_t value, uint64_t place) const;

  void WriteArea(Layout::Area area);
  void WriteFrames();
  void WriteTables();
  void Relocate(uint32_t object, uint32_t section, char* place, uint64_t address);
  void Apply(const Field& field);
  // Where the value itself is out of reach: by way of what was made for it.
  bool ApplyByDetour(const Field& field, const Target& target, const RelocationKind& kind,
                     uint64_t value);
  bool ReachFarOnce(const Field& field, const RelocationKind& kind, uint64_t value, uint64_t slot);
  [[noreturn]] void FailOutOfReach(const Field& field, const Target& target, uint64_t value) const;
  [[noreturn]] void Fail(const Field& field, const std::string& why) const;

  const Resolution& resolution_;
  const Liveness& liveness_;
  const Layout& layout_;
  const Tables& tables_;
  ThreadLocals& thread_locals_;
  Memories memories_;
  uint32_t far_used_ = 0;  // of the thunks that were reserved
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_RELOCATOR_H_
