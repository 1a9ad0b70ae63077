// SPDX-License-Identifier: Apache-2.0
//
// The ELF header of a shared library for this process.
#ifndef OBJECT_LOADER_LINK_ELF_HEADER_H_
#define OBJECT_LOADER_LINK_ELF_HEADER_H_

#include <llvm/BinaryFormat/ELF.h>

#include <cstdint>
#include <cstring>

#include "target/target.h"

namespace object_loader {

// With that many program headers after it.
inline llvm::ELF::Elf64_Ehdr ElfHeader(uint16_t segments) {
  llvm::ELF::Elf64_Ehdr header = {};
  std::memcpy(header.e_ident, llvm::ELF::ElfMagic, 4);
  header.e_ident[llvm::ELF::EI_CLASS] = llvm::ELF::ELFCLASS64;
  header.e_ident[llvm::ELF::EI_DATA] = llvm::ELF::ELFDATA2LSB;
  header.e_ident[llvm::ELF::EI_VERSION] = llvm::ELF::EV_CURRENT;
  header.e_type = llvm::ELF::ET_DYN;
  header.e_machine = kMachine;
  header.e_version = llvm::ELF::EV_CURRENT;
  header.e_phoff = segments == 0 ? 0 : sizeof(header);
  header.e_ehsize = sizeof(header);
  header.e_phentsize = sizeof(llvm::ELF::Elf64_Phdr);
  header.e_phnum = segments;
  return header;
}

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_ELF_HEADER_H_
