// SPDX-License-Identifier: Apache-2.0
#include "os/unwinder.h"

// From libgcc_s, or whatever unwinder the process uses.
extern "C" void __register_frame(void* eh_frame);
extern "C" void __deregister_frame(void* eh_frame);

namespace object_loader {

UnwindTable::UnwindTable(uint64_t table) : begin_(reinterpret_cast<void*>(table)) {
  __register_frame(begin_);
}

UnwindTable::~UnwindTable() {
  if (begin_) __deregister_frame(begin_);
}

}  // namespace object_loader
