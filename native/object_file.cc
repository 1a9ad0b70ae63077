// SPDX-License-Identifier: Apache-2.0
#include "object_file.h"

#include <llvm/BinaryFormat/ELF.h>
#include <llvm/BinaryFormat/Magic.h>
#include <llvm/Object/ELF.h>
#include <llvm/Support/MathExtras.h>

#include <utility>

#include "error.h"

namespace object_loader {

namespace {

using llvm::StringRef;
using Elf = llvm::object::ELF64LE;
using ElfFile = llvm::object::ELFFile<Elf>;
using Shdr = Elf::Shdr;
namespace ELF = llvm::ELF;

const char* KindOf(llvm::file_magic magic) {
  using llvm::file_magic;
  switch (magic) {
    case file_magic::bitcode:
      return "LLVM bitcode, not an object: compile without -flto and -emit-llvm";
    case file_magic::archive:
      return "an archive within an archive: extract its members (ar x) and load those";
    case file_magic::elf_executable:
      return "an executable, not an object: compile with -c and do not link";
    case file_magic::elf_core:
      return "a core file, not an object";
    case file_magic::macho_object:
    case file_magic::macho_universal_binary:
      return "a Mach-O object (macOS); this process loads ELF objects for Linux x86-64";
    case file_magic::coff_object:
    case file_magic::coff_import_library:
    case file_magic::pecoff_executable:
      return "a COFF object (Windows); this process loads ELF objects for Linux x86-64";
    case file_magic::wasm_object:
      return "a WebAssembly object; this process loads ELF objects for Linux x86-64";
    case file_magic::offload_bundle:
    case file_magic::offload_bundle_compressed:
    case file_magic::offload_binary:
      return "a bundle of objects for several targets: take the host's out of it "
             "(clang-offload-bundler --unbundle)";
    case file_magic::cuda_fatbinary:
      return "a CUDA fat binary, not an object: compile the host side with nvcc -c";
    default:
      return nullptr;
  }
}

std::string MachineName(unsigned machine) {
  switch (machine) {
    case ELF::EM_X86_64:  // of class ELFCLASS32
      return "x86-64 (x32, compiled with -mx32)";
    case ELF::EM_386:
      return "i386 (32-bit x86)";
    case ELF::EM_AARCH64:
      return "AArch64";
    case ELF::EM_ARM:
      return "32-bit Arm";
    case ELF::EM_RISCV:
      return "RISC-V";
    case ELF::EM_PPC64:
      return "PowerPC64";
    case ELF::EM_S390:
      return "s390x";
    case ELF::EM_CUDA:
      return "an NVIDIA GPU (a cubin)";
    case ELF::EM_AMDGPU:
      return "an AMD GPU";
    default:
      return "ELF machine " + std::to_string(machine);
  }
}

// What some files called libNAME.so are: text that tells ld which files to use instead.
bool IsLinkerScript(StringRef content) {
  StringRef start = content.take_front(4096);
  if (start.contains('\0')) return false;
  return start.starts_with("/* GNU ld script") || start.contains("INPUT(") ||
         start.contains("INPUT (") || start.contains("GROUP(") || start.contains("GROUP (");
}

}  // namespace

ObjectFile::ObjectFile(std::unique_ptr<llvm::WritableMemoryBuffer> content)
    : name_(content->getBufferIdentifier()), buffer_(std::move(content)) {
  Identify();
  facts_ = ValidateObject(name_, {buffer_->getBufferStart(), buffer_->getBufferSize()});
}

void ObjectFile::Fail(const std::string& what) const {
  throw ObjectFormatError(name_ + ": " + what);
}

void ObjectFile::Identify() const {
  StringRef content = buffer().getBuffer();
  if (content.empty()) Fail("is empty, not an object");
  llvm::file_magic magic = llvm::identify_magic(content);
  if (const char* kind = KindOf(magic)) Fail(std::string("is ") + kind);
  if (IsLinkerScript(content)) {
    Fail(
        "is a linker script (text), not a library: pass the shared libraries that it names "
        "themselves");
  }
  if (!content.starts_with(StringRef("\x7f"
                                     "ELF",
                                     4))) {
    Fail("is not an object file (it does not begin with an ELF header)");
  }
  if (content.size() < sizeof(Elf::Ehdr)) {
    Fail("is truncated: " + std::to_string(content.size()) + " bytes, less than an ELF header");
  }
  const auto* header = reinterpret_cast<const Elf::Ehdr*>(content.data());
  bool library = magic == llvm::file_magic::elf_shared_object;
  std::string kind = library ? "shared library" : "object";
  if (header->e_ident[ELF::EI_DATA] != ELF::ELFDATA2LSB) {
    Fail("is a big-endian " + kind + "; this process runs little-endian x86-64");
  }
  if (header->e_ident[ELF::EI_CLASS] != ELF::ELFCLASS64) {
    // e_machine lies at the same place in both classes.
    Fail("is a 32-bit " + kind + " for " + MachineName(header->e_machine) +
         "; this process runs x86-64");
  }
  if (header->e_machine != ELF::EM_X86_64) {
    Fail("is a" + std::string(library ? " " : "n ") + kind + " for " +
         MachineName(header->e_machine) + "; this process runs x86-64");
  }
  if (header->e_type == ELF::ET_DYN) {
    Fail("is a shared library, which is opened by its path: pass that instead of its bytes");
  }
  if (header->e_type != ELF::ET_REL) {
    Fail("is ELF of type " + std::to_string(header->e_type) + ", not a relocatable object");
  }
}

uint64_t ObjectFile::address(size_t section) const {
  return llvm::cantFail(llvm::cantFail(ElfFile::create(buffer().getBuffer())).sections())[section]
      .sh_addr;
}

uint64_t ObjectFile::size(size_t section) const {
  return llvm::cantFail(llvm::cantFail(ElfFile::create(buffer().getBuffer())).sections())[section]
      .sh_size;
}

uint64_t ObjectFile::AssignAddresses(uint64_t base) {
  auto* header = reinterpret_cast<Elf::Ehdr*>(buffer_->getBufferStart());
  auto sections = llvm::cantFail(llvm::cantFail(ElfFile::create(buffer().getBuffer())).sections());
  auto* table =
      reinterpret_cast<Shdr*>(buffer_->getBufferStart() + static_cast<uint64_t>(header->e_shoff));
  for (size_t i = 0; i < sections.size(); ++i) {
    Shdr& section = table[i];
    if (!(section.sh_flags & ELF::SHF_ALLOC)) continue;
    base = llvm::alignTo(base, section.sh_addralign ? uint64_t{section.sh_addralign} : 1);
    section.sh_addr = base;
    base += section.sh_size ? uint64_t{section.sh_size} : 1;
  }
  return base;
}

}  // namespace object_loader
