// SPDX-License-Identifier: Apache-2.0
//
// CREL, the compact form of relocation tables that clang and LLVM's assembler can emit.
//
// llvm::object::ELFFile reads it too, but takes what follows the last relocation for nothing, so
// that other bytes than a table are one.
//
// Format: "CREL", in the proposal for the generic ABI: relocations as differences to the one
// before, in LEB128.
#ifndef OBJECT_LOADER_OBJECT_CREL_H_
#define OBJECT_LOADER_OBJECT_CREL_H_

#include <llvm/ADT/StringRef.h>
#include <llvm/Object/ELFTypes.h>

#include <vector>

namespace object_loader {

// Appends the relocations; false where `content` is not exactly one table. Throws std::bad_alloc.
bool DecodeCrel(llvm::StringRef content, std::vector<llvm::object::ELF64LE::Rela>& relocations);

}  // namespace object_loader

#endif  // OBJECT_LOADER_OBJECT_CREL_H_
