// SPDX-License-Identifier: Apache-2.0
//
// Whether the tvm-ffi library that runs is laid out as the headers that this was built with.
//
// One build of the extension runs with every release of tvm-ffi from the oldest supported one on.
// Most of what it needs is tvm-ffi's C interface, which only grows. But objects are also read where
// they lie, and modules are instances of a C++ class whose functions the library calls; where a
// release has these otherwise, nothing of it shows until something wrong is read or called.
#ifndef OBJECT_LOADER_FFI_ABI_H_
#define OBJECT_LOADER_FFI_ABI_H_

#include <stdexcept>
#include <string>

namespace object_loader {

// Says what the library does otherwise.
class AbiMismatch : public std::runtime_error {
 public:
  explicit AbiMismatch(const std::string& what);
};

// Tries out what the C interface does not promise. Throws AbiMismatch. It is done once, before
// anything else is asked of the library, and takes microseconds.
void CheckAbi();

}  // namespace object_loader

#endif  // OBJECT_LOADER_FFI_ABI_H_
