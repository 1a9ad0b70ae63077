// SPDX-License-Identifier: Apache-2.0
#include "link/thread_locals.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/fork_lock.h"

namespace object_loader {

using Query = TlsModule::Query;

ThreadLocals::ThreadLocals(const Resolution& resolution, const Liveness& liveness, Layout& layout)
    : resolution_(resolution), layout_(layout) {
  variables_.size = layout.size(Layout::kThreadLocal);
  variables_.alignment = layout.alignment(Layout::kThreadLocal);
  try {
    variables_.values.resize(layout.initialized_thread_locals());
  } catch (const std::bad_alloc&) {
    throw NoMemory();
  }
  for (const auto& [form, object, symbol] : liveness.thread_local_uses()) Ask(form, object, symbol);
  uint64_t count = 0;
  for (const auto& [key, asked] : asked_) count += asked.has_slot;
  constexpr uint64_t kSlotSize = sizeof(TlsModule::Answer);
  uint64_t slot = layout.Reserve(Layout::kConstants, count * kSlotSize, kSlotSize);
  for (auto& [key, asked] : asked_) {
    if (!asked.has_slot) continue;
    asked.slot = slot;
    slot += kSlotSize;
  }
}

OutOfMemoryError ThreadLocals::NoMemory() const {
  return OutOfMemoryError(resolution_.name() + ": no memory for the " +
                          std::to_string(layout_.initialized_thread_locals()) +
                          " bytes of its thread-local variables");
}

Query::Kind ThreadLocals::KindFor(Form form) {
  switch (form) {
    case Form::kModuleAndOffsetSlot:
      return Query::kModuleAndOffset;
    case Form::kModuleSlot:
      return Query::kModule;
    case Form::kDescriptorSlot:
      return Query::kDescriptor;
    default:
      return Query::kThreadOffset;
  }
}

ThreadLocals::Key ThreadLocals::KeyFor(Form form, uint32_t global, uint64_t offset) const {
  if (form == Form::kModuleSlot) return {Query::kModule, Resolution::kLocal, 0};
  bool outside = global != Resolution::kLocal &&
                 resolution_.ThreadLocal(resolution_.globals()[global]) != nullptr;
  if (outside) return {KindFor(form), global, 0};
  return {KindFor(form), Resolution::kLocal, offset};
}

std::optional<uint64_t> ThreadLocals::OffsetOf(uint32_t object, uint32_t symbol) const {
  uint32_t global = symbol == 0 ? Resolution::kLocal : resolution_.GlobalOf(object, symbol);
  if (global != Resolution::kLocal) {
    const Global& own = resolution_.globals()[global];
    if (own.linker == LinkerSymbol::kThreadLocals) return 0;
    if (own.state != Global::State::kDefined) return std::nullopt;
    object = own.object;
    symbol = own.symbol;
  }
  const ElfView& view = resolution_.objects()[object];
  uint32_t section = symbol == 0 ? 0 : view.SectionOf(symbol);
  if (section == 0 || section >= view.sections().size()) return std::nullopt;
  Layout::Place place = layout_.PlaceOf(resolution_.Number(object, section));
  if (place.area != Layout::kThreadLocal) return std::nullopt;
  return place.offset + view.symbols()[symbol].st_value;
}

void ThreadLocals::Ask(Form form, uint32_t object, uint32_t symbol) {
  if (form == Form::kModuleOffset) return;
  uint32_t global = symbol == 0 ? Resolution::kLocal : resolution_.GlobalOf(object, symbol);
  TlsVariable variable;
  if (form != Form::kModuleSlot) {
    const TlsVariable* outside = global == Resolution::kLocal
                                     ? nullptr
                                     : resolution_.ThreadLocal(resolution_.globals()[global]);
    if (outside) {
      variable = *outside;
    } else if (auto offset = OffsetOf(object, symbol)) {
      variable.offset = *offset;
    } else {
      return;  // the Relocator says what is wrong
    }
  }
  auto [asked, is_new] = asked_.try_emplace(KeyFor(form, global, variable.offset));
  if (is_new) {
    asked->second.query = queries_.size();
    queries_.push_back({KindFor(form), std::move(variable)});
  }
  asked->second.has_slot |= form != Form::kThreadOffset;
}

void ThreadLocals::Open() {
  if (variables_.size == 0 && queries_.empty()) return;
  // The dynamic linker may wait for another thread, which may fork.
  ForkInclusion inclusion;
  try {
    library_ = TlsModule::Open(std::move(variables_), queries_);
  } catch (const std::bad_alloc&) {
    throw NoMemory();
  } catch (const LinkError& error) {
    throw LinkError(resolution_.name() + ": " + error.what());
  } catch (const OutOfMemoryError& error) {
    throw OutOfMemoryError(resolution_.name() + ": " + error.what());
  }
}

const ThreadLocals::Asked& ThreadLocals::Find(Form form, uint32_t global, uint64_t offset) const {
  auto found = asked_.find(KeyFor(form, global, offset));
  if (found != asked_.end()) return found->second;
  throw LinkError(resolution_.name() +
                  ": uses something as a thread-local variable, which it is not");
}

uint64_t ThreadLocals::SlotFor(Form form, uint32_t global, uint64_t offset) const {
  return Find(form, global, offset).slot;
}

uint64_t ThreadLocals::ThreadOffset(uint32_t global, uint64_t offset) const {
  return library_->answers()[Find(Form::kThreadOffset, global, offset).query][0];
}

void ThreadLocals::WriteSlots(char* constants) const {
  for (const auto& [key, asked] : asked_) {
    if (!asked.has_slot) continue;
    std::memcpy(constants + asked.slot, library_->answers()[asked.query].data(),
                sizeof(TlsModule::Answer));
  }
}

}  // namespace object_loader
