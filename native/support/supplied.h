// SPDX-License-Identifier: Apache-2.0
//
// What a linker adds without being asked: libgcc, and the functions of support.c. It is an archive
// that the extension carries; members are linked into loads that need what nobody else defines.
#ifndef OBJECT_LOADER_SUPPORT_SUPPLIED_H_
#define OBJECT_LOADER_SUPPORT_SUPPLIED_H_

#include <llvm/ADT/StringRef.h>

#include "object/archive.h"

namespace object_loader {

const Archive& SuppliedArchive();

// The extension's own copy of a function that a linker would put into each library; null where it
// has none. One is enough where the function only computes, and saves each load a member.
const void* SuppliedFunction(llvm::StringRef symbol);

// Whether each load has to have its own definition of the symbol, whatever the process defines:
// functions that must know which library calls them, data that is referred to as if it were near.
bool IsSuppliedToEachLoad(llvm::StringRef symbol);

}  // namespace object_loader

#endif  // OBJECT_LOADER_SUPPORT_SUPPLIED_H_
