// SPDX-License-Identifier: Apache-2.0
//
// Arena: one reservation of address space for loaded code, with three areas: code (readable,
// executable), constants (readable) and data (readable, writable). All of it is within reach of
// 32-bit relocations.
//
// Code and constants are memory which is mapped a second time, writable, at an unrelated address:
// the linker writes through that alias, and no page is ever both writable and executable. Modules
// share pages, so a small module costs its own size and no system call; a larger run of freed pages
// goes back to the system.
//
// Where the system maps no memory twice there is no alias: code and constants are ordinary memory,
// which is written and then protected, and no two loads share pages of it. So are the constants of
// an arena for large loads: pages that can be mapped twice cost several times as much to get. Its
// pages are kept, up to a point, for the next load.
//
// After a fork parent and child share the memory that is mapped twice, so neither of them writes
// there any more: a piece that one has let go may be in use in the other. A process that loads then
// gets memory of its own for an arena that has little in use, copies that, and puts it in the place
// of the other: addresses stay, also those of code that runs meanwhile, and what was let go before
// or after the fork is used again. Memory of the process's own needs nothing: the system copies it.
//
// What translates code before it runs it (valgrind, QEMU's user mode) takes notice of code that was
// mapped, but not of code that was written through another address: it would run what was there
// before. Where that is so, no two loads share pages of code, and pages are mapped anew for each.
//
// Concurrency: none; its owner sees to that.
#ifndef OBJECT_LOADER_LINK_ARENA_H_
#define OBJECT_LOADER_LINK_ARENA_H_

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

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
    bool has_pages = false;
  };
  using Pieces = std::array<Piece, kAreaCount>;
  using Place = Mapping::Place;
  // For inspected loads all is ordinary memory: debuggers set their breakpoints there, and perf
  // takes notice of it.
  enum class Use { kSmallLoads, kLargeLoads, kInspectedLoads };

  // Addresses handed out are multiples of this: a cache line, so that two modules never share one.
  static constexpr uint64_t kGranularity = 64;

  // Null where the system has no room for it, or lets nothing become executable.
  static std::unique_ptr<Arena> Reserve(const Sizes& sizes, Place place, Use use,
                                        Refusals& refusals);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // False where there is no room left, or the memory is shared and too much of it is in use.
  // `fresh`: from this offset on the area still holds zeros.
  bool Take(const Sizes& sizes, const Sizes& alignments, Pieces& pieces, Sizes& fresh);
  // `finished`: whether Finish was called for them.
  void Give(const Pieces& pieces, bool finished);
  // Gets the pages of so many bytes of each area at once, in an arena for large loads: a page fault
  // for each costs more. Changes nothing else, and may be left out (Linux < 5.14). For use by the
  // owner of the pieces.
  void Populate(const Pieces& pieces, const Sizes& contents) const;

  // Where a piece is seen by loaded code, and where the linker writes it.
  char* address(Area area, uint64_t offset) const { return memory_.begin() + start(area) + offset; }
  char* writable(Area area, uint64_t offset) const {
    return has_alias(area) ? alias_.begin() + start(area) + offset : address(area, offset);
  }
  // Whether the bytes lie in the area.
  bool Holds(Area area, uint64_t begin, uint64_t size) const;
  // What was taken is written: protects it. False where the system refuses.
  bool Finish(const Pieces& pieces, Refusals& refusals);

  // Whether another process has the same memory for code and constants, since a fork.
  bool shared() const;
  bool empty() const { return live_ == 0; }
  Place place() const { return place_; }
  Use use() const { return use_; }
  uint64_t used(Area area) const { return used_[area]; }
  uint64_t reserved() const { return total_ + alias_.size(); }

 private:
  using Access = Mapping::Access;

  Arena(const Sizes& sizes, Place place, Use use);
  bool Map(Refusals& refusals);
  bool Protect(Area area, const Piece& piece, Access access, Refusals& refusals);
  // Maps the pages of a piece of code anew that was in use before.
  bool Renew(const Piece& piece, Refusals& refusals);
  // Lets a piece be written that was in use before.
  bool Unprotect(Area area, Piece piece, Refusals& refusals);
  // Gets memory of this process's own in the place of what is shared, where little is in use.
  bool Unshare();
  void UseHugePages(Area area, const Piece& piece);
  void Return(Area area, const Piece& piece);
  void Free(Area area, const Piece& piece);
  uint64_t start(Area area) const;
  bool has_alias(Area area) const { return start(area) + sizes_[area] <= alias_.size(); }
  // Written first, and read-only afterwards.
  bool is_protected(Area area) const { return area != kData && !has_alias(area); }
  // What loaded code may do there.
  static Access FinalAccess(Area area) {
    return area == kCode ? Access::kExecute : area == kConstants ? Access::kRead : Access::kWrite;
  }

  const Sizes sizes_;
  const Place place_;
  const Use use_;
  std::array<FreeRanges, kAreaCount> free_;
  // Code of inspected loads that was let go since the last one came. GDB takes its breakpoints
  // there for set until it hears of another load, which therefore has to lie elsewhere.
  std::vector<Piece> let_go_;
  Sizes used_ = {};
  std::array<bool, kAreaCount> uses_huge_pages_ = {};
  uint64_t fork_count_;
  uint64_t total_ = 0;
  uint64_t live_ = 0;
  uint64_t unfinished_ = 0;  // taken, and still being written
  uint64_t written_ = 0;
  Mapping memory_;
  Mapping alias_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_ARENA_H_
