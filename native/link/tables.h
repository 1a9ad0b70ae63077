// SPDX-License-Identifier: Apache-2.0
//
// Tables: what a linker makes for a load besides what its objects hold: slots with addresses (the
// global offset table), stubs that jump to what is far away, copies of constants that code takes
// for near ones, the load's __dso_handle.
//
// Lifetime: refers to the Resolution, the Liveness and the Layout, in which it reserves room.
// Concurrency: for one thread at a time.
#ifndef OBJECT_LOADER_LINK_TABLES_H_
#define OBJECT_LOADER_LINK_TABLES_H_

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "link/layout.h"
#include "link/liveness.h"
#include "link/resolution.h"

namespace object_loader {

class Tables {
 public:
  static constexpr uint32_t kNone = ~0U;
  static constexpr uint64_t kSlotSize = 8;
  using Local = std::pair<uint32_t, uint32_t>;  // object, symbol

  // Where what was made for a symbol lies in its area.
  struct Made {
    uint32_t slot = kNone;  // number
    uint32_t stub = kNone;  // number
    uint32_t copy = kNone;  // number, in copies()
    bool is_stub = false;   // the stub's address stands for the symbol's
    bool is_far = false;    // there are thunks for whoever takes it for one near by
  };
  // Constants of the process that code expects near by.
  struct Copy {
    const void* from;
    uint64_t offset;  // in Layout::kConstants
    uint64_t size;
  };
  // A function that chooses its implementation: a jump through a pointer stands in its place, so
  // that it has one address for whoever refers to it, in whatever way.
  struct Indirect {
    Local resolver;
    uint32_t stub;     // number
    uint64_t pointer;  // offset in Layout::kData
  };

  Tables(const Resolution& resolution, const Liveness& liveness, Layout& layout);

  const Made& For(uint32_t global) const { return made_[global]; }
  // The slot of a local symbol, which has one.
  uint32_t SlotOf(Local symbol) const { return local_slots_.at(symbol); }
  // The function of this symbol, or null.
  const Indirect* IndirectOf(Local symbol) const;

  const std::vector<Indirect>& indirect_functions() const { return indirect_; }
  const std::map<Local, uint32_t>& local_slots() const { return local_slots_; }
  const std::vector<Copy>& copies() const { return copies_; }

  // Offsets in Layout::kConstants, kCode, kCode, kConstants and kData.
  uint64_t slot(uint32_t number) const { return slots_ + number * kSlotSize; }
  uint64_t stub(uint32_t number) const;
  uint64_t far_thunk(uint32_t number) const;
  uint64_t header() const { return header_; }
  bool has_header() const { return has_header_; }
  uint64_t dso_handle() const { return dso_handle_; }
  bool has_dso_handle() const { return has_dso_handle_; }

  // Whether the load has to lie below 2 GiB, and whether it might as well: code without a sign of
  // -fPIC lies there, so that what is loaded later can name it by addresses of 32 bits.
  bool must_be_low() const { return must_be_low_; }
  bool may_be_low() const { return may_be_low_; }

 private:
  void MakeFor(uint32_t number);
  void MakeForOutside(const Global& global, Made& made);
  void MakeFar(const Global& global, Made& made);

  const Resolution& resolution_;
  std::vector<Made> made_;
  std::map<Local, uint32_t> local_slots_;
  std::vector<Indirect> indirect_;
  std::vector<Copy> copies_;
  uint32_t slot_count_ = 0;
  uint32_t stub_count_ = 0;
  uint32_t far_count_ = 0;
  uint64_t slots_ = 0;
  uint64_t stubs_ = 0;
  uint64_t far_thunks_ = 0;
  uint64_t header_ = 0;
  bool has_header_ = false;
  uint64_t dso_handle_ = 0;
  bool has_dso_handle_ = false;
  bool must_be_low_;
  bool may_be_low_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_TABLES_H_
