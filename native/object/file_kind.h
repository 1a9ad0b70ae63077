// SPDX-License-Identifier: Apache-2.0
//
// What a file is, told from its first bytes. This is the one place that says which ELF files are
// for this process: those of the class, byte order and machine that its own code has.
#ifndef OBJECT_LOADER_OBJECT_FILE_KIND_H_
#define OBJECT_LOADER_OBJECT_FILE_KIND_H_

#include <llvm/ADT/StringRef.h>

#include <cstdint>
#include <string>

namespace object_loader {

enum class FileKind {
  kObject,         // relocatable, for this process
  kSharedLibrary,  // or a position-independent executable, which looks the same; for this process
  kArchive,        // also a thin one
  kOther,
};

FileKind KindOf(llvm::StringRef start);

// What a file that is no object for this process is, "is LLVM bitcode, not an object: ...".
std::string WhyNoObject(llvm::StringRef start);

// Whether it is code or data of some kind, though not for this process: not a text, say.
bool IsForeignObject(llvm::StringRef start);

// The processor of an ELF file, by the number in its header, as people call it. `narrow`: the file
// is of the 32-bit class.
std::string MachineName(uint16_t machine, bool narrow);

// The name that the processor's ABI gives a kind of relocation, or "Unknown".
std::string ElfRelocationName(uint16_t machine, uint32_t kind);

}  // namespace object_loader

#endif  // OBJECT_LOADER_OBJECT_FILE_KIND_H_
