// SPDX-License-Identifier: Apache-2.0
//
// Loaded code that hands objects or functions of its own to tvm-ffi through its C interface, or
// gets functions of others there, calls functions of this file instead: what it hands over keeps
// its code (retained_objects.h), and the functions that it gets are watched (watched_functions.h).
#ifndef OBJECT_LOADER_FFI_REGISTRATION_H_
#define OBJECT_LOADER_FFI_REGISTRATION_H_

namespace object_loader {

void WatchRegistration();

}  // namespace object_loader

#endif  // OBJECT_LOADER_FFI_REGISTRATION_H_
