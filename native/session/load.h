// SPDX-License-Identifier: Apache-2.0
//
// A load: objects become part of a dylib, as a transaction. The order: which objects, which of
// their definitions count, what is reached, what that refers to, the link, initializers, and then
// everybody may see it.
#ifndef OBJECT_LOADER_SESSION_LOAD_H_
#define OBJECT_LOADER_SESSION_LOAD_H_

#include <llvm/ADT/STLFunctionalExtras.h>

#include <cstdint>
#include <vector>

#include "link/linker.h"
#include "object/inputs.h"

namespace object_loader {

class Dylib;
class LoadRecord;

// Links the inputs' objects into the dylib and runs their initializers, then `on_initialized`. If
// any of it throws, the dylib is as it was. For use by the thread that has the dylib's turn.
void LoadObjects(Dylib& dylib, Inputs inputs, llvm::function_ref<void()> on_initialized,
                 LoadRecord& record);

// The link itself, of what has been bound; `definitions` are the globals that the image tells of.
// Throws LinkError and OutOfMemoryError.
Image LinkAnywhere(Linker& linker, Resolution& resolution, Liveness& liveness,
                   const std::vector<uint32_t>& definitions);

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_LOAD_H_
