// SPDX-License-Identifier: Apache-2.0
//
// Advice about memory, of which nothing depends on whether the system follows it. os/mapping.cc has
// what the operating system does for it.
#ifndef OBJECT_LOADER_BASE_PAGES_H_
#define OBJECT_LOADER_BASE_PAGES_H_

#include <cstdint>

namespace object_loader {

// All of the range will be written soon: large pages serve it best.
void AdviseHugePages(char* begin, uint64_t size);

}  // namespace object_loader

#endif  // OBJECT_LOADER_BASE_PAGES_H_
