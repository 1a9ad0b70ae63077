// SPDX-License-Identifier: Apache-2.0
//
// Relocations of an object, brought into a form that JITLink applies as a static linker would.
//
// JITLink does not know every type that compilers emit, and applies some of them wrongly in corner
// cases. What has an equivalent that it does apply right becomes that; what is known from the
// object alone is written into the section at once; all else is refused by name.
//
// Format: x86-64 psABI, "Relocation Types".
#ifndef OBJECT_LOADER_RELOCATION_H_
#define OBJECT_LOADER_RELOCATION_H_

#include <llvm/ADT/ArrayRef.h>
#include <llvm/ADT/StringRef.h>
#include <llvm/BinaryFormat/ELF.h>
#include <llvm/Object/ELFTypes.h>

#include <cstdint>
#include <string>

namespace object_loader {

// Whether JITLink applies relocations of this type right, of a symbol that is a place: nearly all
// that an object has.
inline bool IsAppliedAsIs(uint32_t type) {
  return type == llvm::ELF::R_X86_64_PC32 || type == llvm::ELF::R_X86_64_PLT32 ||
         type == llvm::ELF::R_X86_64_64;
}

// Changes `relocation`, whose field lies inside `section` and whose symbol is `symbol`, named in
// `symbol_names`; it is of type R_X86_64_NONE afterwards where nothing is left to do. Returns why
// it can't be applied and what to do about it, or an empty string.
std::string AdaptRelocation(llvm::object::ELF64LE::Rela& relocation,
                            const llvm::object::ELF64LE::Sym& symbol, llvm::StringRef symbol_names,
                            llvm::MutableArrayRef<char> section);

// Whether the relocation is relative to the global offset table, which then has to exist even where
// no entry of it is used.
bool NeedsGlobalOffsetTable(uint32_t type);

// The type's name, "R_X86_64_PC32".
std::string RelocationName(uint32_t type);

// The type that the edges have which JITLink makes of it, or an empty string: "Delta32" is
// R_X86_64_PC32 in the object.
llvm::StringRef RelocationOfEdge(llvm::StringRef edge);

}  // namespace object_loader

#endif  // OBJECT_LOADER_RELOCATION_H_
