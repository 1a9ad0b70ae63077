// SPDX-License-Identifier: Apache-2.0
#include "relocation.h"

#include <llvm/ADT/StringSwitch.h>
#include <llvm/BinaryFormat/ELF.h>
#include <llvm/Object/ELF.h>
#include <llvm/Support/MathExtras.h>

#include <cstring>

namespace object_loader {

namespace {

using llvm::StringRef;
using Elf = llvm::object::ELF64LE;
namespace ELF = llvm::ELF;

// Types that LLVM 22 has no name for.
constexpr uint32_t kPC32BND = 39;
constexpr uint32_t kPLT32BND = 40;
constexpr uint32_t kCode5GOTPCRELX = 46;
constexpr uint32_t kCode6GOTPCRELX = 49;

constexpr char kGlobalOffsetTable[] = "_GLOBAL_OFFSET_TABLE_";

void SetType(Elf::Rela& relocation, uint32_t type) {
  relocation.setType(type, /*IsMips64EL=*/false);
}

// Whether the GOT load at `offset` is `mov symbol@GOTPCREL(%rip), %register`. JITLink turns that
// one into a lea where the symbol is near. It also rewrites calls and jumps through the table, but
// to a displacement that is the symbol's address; and it takes the addend for -4.
// Remove with LLVM's x86_64::optimizeGOTAndStubAccesses mended.
bool IsRelaxableMove(const Elf::Rela& relocation, llvm::ArrayRef<char> section) {
  auto opcode = static_cast<uint8_t>(section[relocation.r_offset - 2]);
  auto operands = static_cast<uint8_t>(section[relocation.r_offset - 1]);
  return opcode == 0x8b && (operands & 0xc7) == 0x05 && relocation.r_addend == -4;
}

// Writes a value that is known now, and leaves nothing to relocate.
std::string Resolve(Elf::Rela& relocation, uint64_t symbol_value, unsigned size, bool fits,
                    llvm::MutableArrayRef<char> section) {
  uint64_t value = symbol_value + static_cast<uint64_t>(int64_t{relocation.r_addend});
  if (!fits) return "its value " + std::to_string(value) + " does not fit";
  std::memcpy(section.data() + relocation.r_offset, &value, size);
  SetType(relocation, ELF::R_X86_64_NONE);
  return "";
}

// A symbol that is a number, or none at all.
std::string ResolveAbsolute(Elf::Rela& relocation, uint64_t symbol_value,
                            llvm::MutableArrayRef<char> section) {
  uint64_t value = symbol_value + static_cast<uint64_t>(int64_t{relocation.r_addend});
  auto fits = [&](unsigned bits) {
    return llvm::isUIntN(bits, value) || llvm::isIntN(bits, static_cast<int64_t>(value));
  };
  switch (relocation.getType(false)) {
    case ELF::R_X86_64_64:
      return Resolve(relocation, symbol_value, 8, true, section);
    case ELF::R_X86_64_32:
      return Resolve(relocation, symbol_value, 4, llvm::isUInt<32>(value), section);
    case ELF::R_X86_64_32S:
      return Resolve(relocation, symbol_value, 4, llvm::isInt<32>(static_cast<int64_t>(value)),
                     section);
    case ELF::R_X86_64_16:
      return Resolve(relocation, symbol_value, 2, fits(16), section);
    case ELF::R_X86_64_8:
      return Resolve(relocation, symbol_value, 1, fits(8), section);
    default:
      return "the symbol is a number, not a place";
  }
}

}  // namespace

std::string AdaptRelocation(Elf::Rela& relocation, const Elf::Sym& symbol, StringRef symbol_names,
                            llvm::MutableArrayRef<char> section) {
  bool local = symbol.getBinding() == ELF::STB_LOCAL;
  uint32_t type = relocation.getType(false);
  if (local && (symbol.st_shndx == ELF::SHN_ABS || relocation.getSymbol(false) == 0)) {
    return ResolveAbsolute(relocation, symbol.st_value, section);
  }
  switch (type) {
    case ELF::R_X86_64_64:
    case ELF::R_X86_64_PC64:
    case ELF::R_X86_64_32:
    case ELF::R_X86_64_32S:
    case ELF::R_X86_64_PC32:
    case ELF::R_X86_64_PLT32:
    case ELF::R_X86_64_16:
    case ELF::R_X86_64_PC16:
    case ELF::R_X86_64_8:
    case ELF::R_X86_64_PC8:
    case ELF::R_X86_64_GOTPCREL:
    case ELF::R_X86_64_GOTPCREL64:
    case ELF::R_X86_64_GOT64:
    case ELF::R_X86_64_GOTOFF64:
      return "";

    case ELF::R_X86_64_GOTPCRELX:
    case ELF::R_X86_64_REX_GOTPCRELX:
      if (!IsRelaxableMove(relocation, section)) SetType(relocation, ELF::R_X86_64_GOTPCREL);
      return "";
    case ELF::R_X86_64_CODE_4_GOTPCRELX:
    case kCode5GOTPCRELX:
    case kCode6GOTPCRELX:
      SetType(relocation, ELF::R_X86_64_GOTPCREL);
      return "";

    // There is no table of procedures here that lies apart from the table of addresses, and a
    // 64-bit offset reaches the procedure itself.
    case ELF::R_X86_64_PLTOFF64:
      SetType(relocation, ELF::R_X86_64_GOTOFF64);
      return "";
    case ELF::R_X86_64_GOTPLT64:
      SetType(relocation, ELF::R_X86_64_GOT64);
      return "";

    case ELF::R_X86_64_GOTPC32:
    case ELF::R_X86_64_GOTPC64:
      if (llvm::cantFail(symbol.getName(symbol_names)) != kGlobalOffsetTable) {
        return std::string("only ") + kGlobalOffsetTable + " is supported as its symbol";
      }
      SetType(relocation, type == ELF::R_X86_64_GOTPC32 ? ELF::R_X86_64_PC32 : ELF::R_X86_64_PC64);
      return "";

    // Bounds checks (MPX) are gone; what is left is the plain relocation.
    case kPC32BND:
      SetType(relocation, ELF::R_X86_64_PC32);
      return "";
    case kPLT32BND:
      SetType(relocation, ELF::R_X86_64_PLT32);
      return "";

    case ELF::R_X86_64_SIZE32:
    case ELF::R_X86_64_SIZE64: {
      if (symbol.isUndefined()) {
        return "the size of a symbol is known only in the object that defines it; define both in "
               "one (ld -r)";
      }
      bool wide = type == ELF::R_X86_64_SIZE64;
      uint64_t value = symbol.st_size + static_cast<uint64_t>(int64_t{relocation.r_addend});
      return Resolve(relocation, symbol.st_size, wide ? 8 : 4, wide || llvm::isUInt<32>(value),
                     section);
    }

    // Thread-local storage: what of it can be linked is known further down.
    case ELF::R_X86_64_DTPMOD64:
    case ELF::R_X86_64_DTPOFF64:
    case ELF::R_X86_64_TPOFF64:
    case ELF::R_X86_64_TLSGD:
    case ELF::R_X86_64_TLSLD:
    case ELF::R_X86_64_DTPOFF32:
    case ELF::R_X86_64_GOTTPOFF:
    case ELF::R_X86_64_TPOFF32:
    case ELF::R_X86_64_GOTPC32_TLSDESC:
    case ELF::R_X86_64_TLSDESC_CALL:
    case ELF::R_X86_64_TLSDESC:
    case ELF::R_X86_64_CODE_4_GOTTPOFF:
    case ELF::R_X86_64_CODE_4_GOTPC32_TLSDESC:
    case ELF::R_X86_64_CODE_6_GOTTPOFF:
      return "";

    case ELF::R_X86_64_GOT32:
      return "offsets into the global offset table are supported in 64 bits only "
             "(R_X86_64_GOT64); compile with -fPIC, which uses R_X86_64_GOTPCREL";
    case ELF::R_X86_64_COPY:
    case ELF::R_X86_64_GLOB_DAT:
    case ELF::R_X86_64_JUMP_SLOT:
    case ELF::R_X86_64_RELATIVE:
    case ELF::R_X86_64_IRELATIVE:
      return "it belongs into linked files, not into objects";
    default:
      return "it is not supported";
  }
}

bool NeedsGlobalOffsetTable(uint32_t type) {
  switch (type) {
    case ELF::R_X86_64_GOTOFF64:
    case ELF::R_X86_64_PLTOFF64:
    case ELF::R_X86_64_GOT64:
    case ELF::R_X86_64_GOTPLT64:
    case ELF::R_X86_64_GOTPC32:
    case ELF::R_X86_64_GOTPC64:
      return true;
    default:
      return false;
  }
}

std::string RelocationName(uint32_t type) {
  StringRef name = llvm::object::getELFRelocationTypeName(ELF::EM_X86_64, type);
  return name == "Unknown" ? "of type " + std::to_string(type) : name.str();
}

StringRef RelocationOfEdge(StringRef edge) {
  return llvm::StringSwitch<StringRef>(edge)
      .Case("Pointer32", "R_X86_64_32")
      .Case("Pointer32Signed", "R_X86_64_32S")
      .Case("Pointer16", "R_X86_64_16")
      .Case("Pointer8", "R_X86_64_8")
      .Case("Delta32", "R_X86_64_PC32")
      .Case("Delta16", "R_X86_64_PC16")
      .Case("Delta8", "R_X86_64_PC8")
      .Cases(
          {"BranchPCRel32", "BranchPCRel32ToPtrJumpStub", "BranchPCRel32ToPtrJumpStubBypassable"},
          "R_X86_64_PLT32")
      .Cases({"PCRel32GOTLoadRelaxable", "PCRel32GOTLoadREXRelaxable"}, "R_X86_64_GOTPCRELX")
      .Default("");
}

}  // namespace object_loader
