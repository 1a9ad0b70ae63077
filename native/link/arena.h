// SPDX-License-Identifier: Apache-2.0
//
// Arena: one reservation of address space for loaded code, with three areas: code (readable,
// executable), constants (readable) and data (readable, writable). All of it is within reach of
// 32-bit relocations.
//
// Code and constants are pages of an anonymous file which is mapped a second time, writable, at an
// unrelated address: the linker writes through that alias, and no page is ever both writable and
// executable. Modules share pages, so a small module costs its own size and no system call; a
// larger run of freed pages goes back to the system.
//
// The constants of an arena that one large load has for itself are ordinary memory, which is
// written and then protected: pages of a file cost several times as much to get.
//
// Concurrency: none; its owner sees to that.
#ifndef OBJECT_LOADER_LINK_ARENA_H_
#define OBJECT_LOADER_LINK_ARENA_H_

#include <array>
#include <cstdint>
#include <memory>

#include "link/free_ranges.h"
#include "os/mapping.h"

namespace object_loader {

class Arena {
 public:
  enum Area { kCode, kConstants, kData, kAreaCount };
  using Sizes = std::array<uint64_t, kAreaCount>;
  struct Piece {
    uint64_t offset = 0;
    uint64_t size = 0;  // 0: nothing
  };
  using Pieces = std::array<Piece, kAreaCount>;
  using Place = Mapping::Place;
  enum class Use { kManyLoads, kOneLargeLoad };

  // Addresses handed out are multiples of this: a cache line, so that two modules never share one.
  static constexpr uint64_t kGranularity = 64;

  // Null where the system has no room for it.
  static std::unique_ptr<Arena> Reserve(const Sizes& sizes, Place place, Use use);
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // False where there is no room left. `fresh`: from this offset on the area still holds zeros.
  bool Take(const Sizes& sizes, const Sizes& alignments, Pieces& pieces, Sizes& fresh);
  void Give(const Pieces& pieces);
  // Gets the pages of so many bytes of constants and data at once, in an arena of one large load: a
  // page fault for each costs more. Changes nothing else, and may be left out (Linux < 5.14). For
  // use by the owner of the pieces.
  void Populate(const Pieces& pieces, uint64_t constants, uint64_t data) const;

  // Where a piece is seen by loaded code, and where the linker writes it.
  char* address(Area area, uint64_t offset) const { return memory_.begin() + start(area) + offset; }
  char* writable(Area area, uint64_t offset) const {
    return has_alias(area) ? alias_.begin() + start(area) + offset : address(area, offset);
  }
  // Whether the bytes lie in the area.
  bool Holds(Area area, uint64_t begin, uint64_t size) const;
  // What was taken is written: protects it. Returns an error number, or 0.
  int Finish(const Pieces& pieces);

  // Set apart at a fork: parent and child share the pages of code and constants, so a piece that
  // one of them frees may still be in use in the other.
  bool frozen() const;
  bool empty() const { return live_ == 0; }
  Place place() const { return place_; }
  Use use() const { return use_; }
  uint64_t used(Area area) const { return used_[area]; }
  uint64_t reserved() const { return total_ + file_size(); }

 private:
  Arena(const Sizes& sizes, Place place, Use use);
  bool Map();
  void Return(Area area, const Piece& piece);
  uint64_t start(Area area) const;
  bool has_alias(Area area) const {
    return area == kCode || (area == kConstants && use_ == Use::kManyLoads);
  }
  uint64_t file_size() const {
    return sizes_[kCode] + (has_alias(kConstants) ? sizes_[kConstants] : 0);
  }

  const Sizes sizes_;
  const Place place_;
  const Use use_;
  std::array<FreeRanges, kAreaCount> free_;
  Sizes used_ = {};
  uint64_t fork_count_;
  uint64_t total_ = 0;
  uint64_t live_ = 0;
  uint64_t written_ = 0;
  Mapping memory_;
  Mapping alias_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_ARENA_H_
