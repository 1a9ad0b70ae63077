// SPDX-License-Identifier: Apache-2.0
#include "object/file_kind.h"

#include <llvm/ADT/StringSwitch.h>
#include <llvm/BinaryFormat/ELF.h>
#include <llvm/BinaryFormat/Magic.h>
#include <llvm/Object/ELF.h>
#include <llvm/Object/ELFTypes.h>

#include <cstring>

// The header of the library or program that this code is linked into; linkers define it.
extern "C" __attribute__((visibility("hidden"))) const llvm::ELF::Elf64_Ehdr __ehdr_start;

namespace object_loader {

namespace {

using llvm::StringRef;
using Elf = llvm::object::ELF64LE;
namespace ELF = llvm::ELF;

std::string OwnMachine() { return MachineName(__ehdr_start.e_machine, false); }

const char* Foreign(llvm::file_magic magic) {
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
      return "a Mach-O object (macOS)";
    case file_magic::coff_object:
    case file_magic::coff_import_library:
    case file_magic::pecoff_executable:
      return "a COFF object (Windows)";
    case file_magic::wasm_object:
      return "a WebAssembly object";
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

bool IsForAnotherSystem(llvm::file_magic magic) {
  using llvm::file_magic;
  switch (magic) {
    case file_magic::macho_object:
    case file_magic::macho_universal_binary:
    case file_magic::coff_object:
    case file_magic::coff_import_library:
    case file_magic::pecoff_executable:
    case file_magic::wasm_object:
      return true;
    default:
      return false;
  }
}

// What some files called libNAME.so are: text that tells ld which files to use instead.
bool IsLinkerScript(StringRef start) {
  start = start.take_front(4096);
  if (start.contains('\0')) return false;
  return start.starts_with("/* GNU ld script") || start.contains("INPUT(") ||
         start.contains("INPUT (") || start.contains("GROUP(") || start.contains("GROUP (");
}

bool HasElfHeader(StringRef start) {
  return start.size() >= sizeof(Elf::Ehdr) && start.starts_with(StringRef(ELF::ElfMagic, 4));
}

Elf::Ehdr HeaderOf(StringRef start) {
  Elf::Ehdr header;
  std::memcpy(&header, start.data(), sizeof(header));
  return header;
}

bool IsForThisProcess(const Elf::Ehdr& header) {
  return header.e_ident[ELF::EI_CLASS] == __ehdr_start.e_ident[ELF::EI_CLASS] &&
         header.e_ident[ELF::EI_DATA] == __ehdr_start.e_ident[ELF::EI_DATA] &&
         header.e_machine == __ehdr_start.e_machine;
}

}  // namespace

FileKind KindOf(StringRef start) {
  if (start.starts_with("!<arch>\n") || start.starts_with("!<thin>\n")) return FileKind::kArchive;
  if (!HasElfHeader(start)) return FileKind::kOther;
  Elf::Ehdr header = HeaderOf(start);
  if (!IsForThisProcess(header)) return FileKind::kOther;
  if (header.e_type == ELF::ET_REL) return FileKind::kObject;
  return header.e_type == ELF::ET_DYN ? FileKind::kSharedLibrary : FileKind::kOther;
}

std::string WhyNoObject(StringRef start) {
  if (start.empty()) return "is empty, not an object";
  llvm::file_magic magic = llvm::identify_magic(start);
  bool executable = magic == llvm::file_magic::elf_executable;
  // Of another processor's, that is said first: a cubin is an executable, too.
  bool elsewhere = executable && HasElfHeader(start) && !IsForThisProcess(HeaderOf(start));
  if (const char* foreign = elsewhere ? nullptr : Foreign(magic)) {
    std::string text = std::string("is ") + foreign;
    if (IsForAnotherSystem(magic)) {
      text += "; this process loads ELF objects for Linux " + OwnMachine();
    }
    return text;
  }
  if (IsLinkerScript(start)) {
    return "is a linker script (text), not a library: pass the shared libraries that it names "
           "themselves";
  }
  if (!start.starts_with(StringRef(ELF::ElfMagic, 4))) {
    return "is not an object file (it does not begin with an ELF header)";
  }
  if (!HasElfHeader(start)) {
    return "is truncated: " + std::to_string(start.size()) + " bytes, less than an ELF header";
  }
  Elf::Ehdr header = HeaderOf(start);
  bool library = magic == llvm::file_magic::elf_shared_object;
  std::string kind = library ? "shared library" : executable ? "executable" : "object";
  if (header.e_ident[ELF::EI_DATA] != ELF::ELFDATA2LSB) {
    return "is a big-endian " + kind + "; this process runs little-endian " + OwnMachine();
  }
  if (header.e_ident[ELF::EI_CLASS] != ELF::ELFCLASS64) {
    // e_machine lies at the same place in both classes.
    return "is a 32-bit " + kind + " for " + MachineName(header.e_machine, true) +
           "; this process runs " + OwnMachine();
  }
  if (!IsForThisProcess(header)) {
    return "is a" + std::string(library ? " " : "n ") + kind + " for " +
           MachineName(header.e_machine, false) + "; this process runs " + OwnMachine();
  }
  if (header.e_type == ELF::ET_DYN) {
    return "is a shared library, which is opened by its path: pass that instead of its bytes";
  }
  return "is ELF of type " + std::to_string(header.e_type) + ", not a relocatable object";
}

bool IsForeignObject(StringRef start) {
  return llvm::identify_magic(start) != llvm::file_magic::unknown;
}

std::string MachineName(uint16_t machine, bool narrow) {
  StringRef name = ELF::convertEMachineToArchName(machine);
  if (name == "x86_64") return narrow ? "x86-64 (x32, compiled with -mx32)" : "x86-64";
  StringRef known = llvm::StringSwitch<StringRef>(name)
                        .Cases({"386", "i386"}, "i386 (32-bit x86)")
                        .CaseLower("aarch64", "AArch64")
                        .Case("arm", "32-bit Arm")
                        .Case("riscv", "RISC-V")
                        .Case("ppc64", "PowerPC64")
                        .Case("s390", "s390x")
                        .Case("cuda", "an NVIDIA GPU (a cubin)")
                        .Case("amdgpu", "an AMD GPU")
                        .Default("");
  return known.empty() ? "ELF machine " + std::to_string(machine) : known.str();
}

std::string ElfRelocationName(uint16_t machine, uint32_t kind) {
  return llvm::object::getELFRelocationTypeName(machine, kind).str();
}

}  // namespace object_loader
