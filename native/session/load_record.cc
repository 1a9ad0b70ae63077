// SPDX-License-Identifier: Apache-2.0
#include "session/load_record.h"

#include "session/dylib.h"

namespace object_loader {

void LoadTotals::Add(bool has_succeeded, const Nanoseconds& spent) {
  (has_succeeded ? loads : failures).fetch_add(1, std::memory_order_relaxed);
  for (int stage = 0; stage < kStages; ++stage) {
    spent_[stage].fetch_add(spent[stage], std::memory_order_relaxed);
  }
}

LoadTotals::Nanoseconds LoadTotals::Spent() const {
  Nanoseconds spent;
  for (int stage = 0; stage < kStages; ++stage) {
    spent[stage] = spent_[stage].load(std::memory_order_relaxed);
  }
  return spent;
}

LoadRecord::~LoadRecord() {
  if (!has_succeeded_) Enter(kWaiting);
  LoadTotals::Nanoseconds spent = {spent_[kReading], spent_[kLinking], spent_[kInitializing]};
  dylib_->totals().Add(has_succeeded_, spent);
  dylib_->session()->totals.Add(has_succeeded_, spent);
}

}  // namespace object_loader
