// SPDX-License-Identifier: Apache-2.0
#include "link/tables.h"

#include <llvm/ADT/STLExtras.h>

#include <algorithm>

#include "os/process_symbols.h"
#include "os/thread_exit.h"
#include "target/target.h"

namespace object_loader {

namespace {

constexpr uint64_t kLow = uint64_t{1} << 31;

// The C standard has these as expressions, not variables: nobody else assigns to them, so that a
// copy is as good as the variable itself.
bool IsConstantByStandard(llvm::StringRef symbol) {
  return symbol == "stdin" || symbol == "stdout" || symbol == "stderr";
}

}  // namespace

Tables::Tables(const Resolution& resolution, const Liveness& liveness, Layout& layout)
    : resolution_(resolution),
      made_(resolution.globals().size()),
      must_be_low_(liveness.has_narrow_addresses()),
      may_be_low_(kPlainCodeIsNarrow && !liveness.uses_offset_table() &&
                  liveness.thread_local_uses().empty()) {
  far_count_ = liveness.short_uses();
  for (const Local& function : liveness.indirect_functions()) {
    uint64_t pointer = layout.Reserve(Layout::kData, kSlotSize, kSlotSize);
    indirect_.push_back({function, stub_count_++, pointer});
  }
  for (uint32_t i = 0; i < made_.size(); ++i) MakeFor(i);
  for (const Local& symbol : liveness.local_slots()) local_slots_[symbol] = slot_count_++;
  slots_ = layout.Reserve(Layout::kConstants, slot_count_ * kSlotSize, kSlotSize);
  stubs_ = layout.Reserve(Layout::kCode, stub_count_ * kStubSize, kStubSize);
  far_thunks_ = layout.Reserve(Layout::kCode, far_count_ * kFarSize, kFarSize);
  for (Copy& copy : copies_) copy.offset = layout.Reserve(Layout::kConstants, copy.size, 16);
  if (has_header_) {
    header_ = layout.Reserve(Layout::kConstants, sizeof(Elf::Ehdr), alignof(Elf::Ehdr));
  }
  if (has_dso_handle_) {
    dso_handle_ = layout.Reserve(Layout::kData, sizeof(DsoHandle), alignof(DsoHandle));
  }
}

void Tables::MakeFor(uint32_t number) {
  const Global& global = resolution_.globals()[number];
  if (!global.is_referenced) return;
  Made& made = made_[number];
  bool is_near = global.state == Global::State::kDefined || global.state == Global::State::kCommon;
  if (global.state == Global::State::kLinker) {
    is_near = true;
    has_dso_handle_ |= global.linker == LinkerSymbol::kDsoHandle;
    has_header_ |= global.linker == LinkerSymbol::kHeader;
  }
  if ((global.needs & kNeedsSlot) || (!is_near && (global.needs & kNeedsFarSlot))) {
    made.slot = slot_count_++;
  }
  if (!is_near && !resolution_.ThreadLocal(global)) MakeForOutside(global, made);
}

void Tables::MakeForOutside(const Global& global, Made& made) {
  if (global.needs & kNeedsBranch) made.stub = stub_count_++;
  if (global.state == Global::State::kNull) {
    // Zig asks for its weak _DYNAMIC so.
    if (global.needs & kNeedsNear) MakeFar(global, made);
    return;
  }
  bool is_near = (global.needs & (kNeedsNear | kNeedsNarrow)) != 0;
  if (!is_near || global.value == 0 || global.state != Global::State::kBound) return;
  bool is_far = global.value >= kLow;
  if (is_far && (global.needs & kNeedsNarrow)) must_be_low_ = true;
  const void* address = reinterpret_cast<const void*>(global.value);
  std::optional<SymbolInfo> info = Describe(address);
  if (global.is_function || (info && info->is_function)) {
    if (made.stub == kNone) made.stub = stub_count_++;
    // As in an executable, the function then has one address for all of the load.
    made.is_stub = is_far && (global.needs & kNeedsNarrow);
    if (made.is_stub) return;
  } else if (info && info->size != 0 &&
             (info->is_read_only || IsConstantByStandard(*global.name))) {
    made.copy = static_cast<uint32_t>(copies_.size());
    copies_.push_back({address, 0, info->size});
    if (info->is_read_only) return;
  }
  // Better than both, and the one way to reach what may be written: the instruction is changed.
  MakeFar(global, made);
}

void Tables::MakeFar(const Global& global, Made& made) {
  made.is_far = true;
  far_count_ += global.near_uses;
  if (made.slot == kNone) made.slot = slot_count_++;
}

const Tables::Indirect* Tables::IndirectOf(Local symbol) const {
  for (const Indirect& indirect : indirect_) {
    if (indirect.resolver == symbol) return &indirect;
  }
  return nullptr;
}

uint64_t Tables::stub(uint32_t number) const { return stubs_ + number * kStubSize; }

uint64_t Tables::far_thunk(uint32_t number) const { return far_thunks_ + number * kFarSize; }

}  // namespace object_loader
