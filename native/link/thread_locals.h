// SPDX-License-Identifier: Apache-2.0
//
// ThreadLocals: the thread-local variables of one load, and what its code asks about them.
//
// As for a static linker, the variables have their places in one block (Layout::kThreadLocal), and
// relocations lead to slots in the constants or ask for numbers. What these are comes from the
// dynamic linker (see TlsModule) when everything else has its final value, since the variables'
// initial values may hold addresses.
//
// Lifetime: refers to what was planned. Concurrency: for one thread at a time.
#ifndef OBJECT_LOADER_LINK_THREAD_LOCALS_H_
#define OBJECT_LOADER_LINK_THREAD_LOCALS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "link/layout.h"
#include "link/liveness.h"
#include "link/resolution.h"
#include "link/tls_module.h"
#include "target/target.h"

namespace object_loader {

class ThreadLocals {
 public:
  // Reserves the slots.
  ThreadLocals(const Resolution& resolution, const Liveness& liveness, Layout& layout);

  // The initial values, to be written.
  char* values() { return variables_.values.data(); }
  // Tells the dynamic linker of the variables. Throws LinkError and OutOfMemoryError.
  void Open();

  // The offset in Layout::kConstants of the slot that a relocation of this form leads to; of the
  // load's own variables `offset` is theirs.
  uint64_t SlotFor(Form form, uint32_t global, uint64_t offset) const;
  // After Open: the distance from the thread pointer.
  uint64_t ThreadOffset(uint32_t global, uint64_t offset) const;
  void WriteSlots(char* constants) const;

  // Null where there is nothing to hold.
  std::shared_ptr<const TlsModule> library() const { return library_; }

 private:
  OutOfMemoryError NoMemory() const;
  using Key = std::tuple<TlsModule::Query::Kind, uint32_t, uint64_t>;  // global, offset
  struct Asked {
    size_t query;
    bool has_slot = false;
    uint64_t slot = 0;
  };
  static TlsModule::Query::Kind KindFor(Form form);
  Key KeyFor(Form form, uint32_t global, uint64_t offset) const;
  // Of one of the load's own variables, or nothing.
  std::optional<uint64_t> OffsetOf(uint32_t object, uint32_t symbol) const;
  const Asked& Find(Form form, uint32_t global, uint64_t offset) const;
  void Ask(Form form, uint32_t object, uint32_t symbol);

  const Resolution& resolution_;
  const Layout& layout_;
  TlsModule::Variables variables_;
  std::vector<TlsModule::Query> queries_;
  std::map<Key, Asked> asked_;
  std::shared_ptr<const TlsModule> library_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_THREAD_LOCALS_H_
