// SPDX-License-Identifier: Apache-2.0
//
// x86-64: the code that is written and rewritten, and the names of relocations.
#include <llvm/BinaryFormat/ELF.h>
#include <llvm/ExecutionEngine/JITLink/ELF_x86_64.h>
#include <llvm/ExecutionEngine/JITLink/x86_64.h>
#include <llvm/Object/ELF.h>
#include <llvm/Support/MathExtras.h>

#include <cstring>

#include "target/target.h"

namespace object_loader {

namespace {

namespace ELF = llvm::ELF;

// Large common symbols (psABI, "Symbol Table"); llvm has no name for it.
constexpr uint16_t kLargeCommon = 0xff02;
constexpr uint32_t kRelative64 = 38;  // nor for this type

void WriteDistance(char* field, uint64_t from, uint64_t to) {
  auto distance = static_cast<uint32_t>(to - from);
  std::memcpy(field, &distance, sizeof(distance));
}

bool IsNear(uint64_t from, uint64_t to) { return llvm::isInt<32>(static_cast<int64_t>(to - from)); }

// Whether the field is the displacement of a memory operand relative to the next instruction, that
// of `opcode` without an immediate.
bool IsOperandOf(unsigned char opcode, const char* field, uint64_t before, int64_t addend) {
  return before >= 2 && static_cast<unsigned char>(field[-2]) == opcode &&
         (field[-1] & 0xc7) == 0x05 && addend == -4;
}

}  // namespace

std::string RelocationName(uint32_t type) {
  llvm::StringRef name = llvm::object::getELFRelocationTypeName(ELF::EM_X86_64, type);
  return name == "Unknown" ? "of type " + std::to_string(type) : name.str();
}

const char* WhyRefused(uint32_t type) {
  switch (type) {
    case ELF::R_X86_64_GOT32:
      return "offsets into the global offset table are supported in 64 bits only "
             "(R_X86_64_GOT64); compile with -fPIC, which uses R_X86_64_GOTPCREL";
    case ELF::R_X86_64_COPY:
    case ELF::R_X86_64_GLOB_DAT:
    case ELF::R_X86_64_JUMP_SLOT:
    case ELF::R_X86_64_RELATIVE:
    case kRelative64:
    case ELF::R_X86_64_IRELATIVE:
    case ELF::R_X86_64_DTPMOD64:
    case ELF::R_X86_64_TLSDESC:
      return "it belongs into linked files, not into objects";
    default:
      return "it is not supported";
  }
}

bool IsCommonOfProcessor(uint16_t section_index) { return section_index == kLargeCommon; }

// psABI, "Optimize GOTPCRELX Relocations".
bool CanRelaxSlot(const char* field, uint64_t before, int64_t addend) {
  if (IsOperandOf(0x8b, field, before, addend)) return true;
  if (before < 2 || addend != -4 || static_cast<unsigned char>(field[-2]) != 0xff) return false;
  // Of a thread-local access (-fno-plt): a shorter call would get prefixes that mean something to
  // it.
  bool has_prefixes = before >= 4 && field[-4] == 0x66 && field[-3] == 0x48;
  return field[-1] == 0x25 || (field[-1] == 0x15 && !has_prefixes);
}

bool RelaxSlot(char* field, uint64_t before, uint64_t symbol, uint64_t place, int64_t addend) {
  if (!CanRelaxSlot(field, before, addend) || !IsNear(place + 4, symbol)) return false;
  auto opcode = static_cast<unsigned char>(field[-2]);
  auto operands = static_cast<unsigned char>(field[-1]);
  if (opcode == 0x8b) {  // mov: lea
    field[-2] = static_cast<char>(0x8d);
    WriteDistance(field, place + 4, symbol);
    return true;
  }
  if (operands == 0x15) {  // call *: call, after a prefix that means nothing
    field[-2] = 0x67;
    field[-1] = static_cast<char>(0xe8);
    WriteDistance(field, place + 4, symbol);
    return true;
  }
  if (!IsNear(place + 3, symbol)) return false;
  field[-2] = static_cast<char>(0xe9);  // jmp *: jmp; nop
  WriteDistance(field - 1, place + 3, symbol);
  field[3] = static_cast<char>(0x90);
  return true;
}

// mov variable(%rip), %reg becomes a jump to: mov slot(%rip), %reg; mov (%reg), %reg; jmp back.
// Only with REX.W, the load of a pointer: that byte could otherwise be the end of another
// instruction.
bool LoadFarVariable(char* field, uint64_t before, int64_t addend, uint64_t place, char* thunk,
                     uint64_t thunk_place, uint64_t slot) {
  if (before < 3 || !IsOperandOf(0x8b, field, before, addend)) return false;
  auto rex = static_cast<unsigned char>(field[-3]);
  if (rex != 0x48 && rex != 0x4c) return false;
  unsigned number = (static_cast<unsigned char>(field[-1]) >> 3) & 7;
  bool high = rex == 0x4c;
  std::memset(thunk, kTrapByte, kFarLoadSize);
  char* at = thunk;
  std::memcpy(at, field - 3, 3);
  WriteDistance(at + 3, thunk_place + 7, slot);
  at += 7;
  *at++ = static_cast<char>(high ? 0x4d : 0x48);
  *at++ = static_cast<char>(0x8b);
  unsigned operands = number << 3 | number;
  // As base registers, number 4 needs another byte, and number 5 a displacement.
  *at++ = static_cast<char>(number == 5 ? operands | 0x40 : operands);
  if (number == 4) *at++ = 0x24;
  if (number == 5) *at++ = 0;
  *at++ = static_cast<char>(0xe9);
  WriteDistance(at, thunk_place + static_cast<uint64_t>(at - thunk) + 4, place + 4);
  field[-3] = static_cast<char>(0xe9);
  WriteDistance(field - 2, place + 2, thunk_place);
  field[2] = field[3] = static_cast<char>(0x90);
  return true;
}

void WriteStub(char* stub, uint64_t address) {
  static constexpr char kJump[8] = {'\xff', '\x25', 2,      0,
                                    0,      0,      '\x0f', '\x0b'};  // jmp *2(%rip); ud2
  std::memcpy(stub, kJump, sizeof(kJump));
  std::memcpy(stub + sizeof(kJump), &address, sizeof(address));
}

void WriteIndirectStub(char* stub, uint64_t place, uint64_t slot) {
  std::memset(stub, kTrapByte, kStubSize);
  stub[0] = '\xff';  // jmp *slot(%rip)
  stub[1] = '\x25';
  WriteDistance(stub + 2, place + 6, slot);
}

// As glibc's crti.o and crtn.o: sub $8, %rsp ... add $8, %rsp; ret
const llvm::StringRef kFragmentsProlog("\x48\x83\xec\x08", 4);
const llvm::StringRef kFragmentsEpilog("\x48\x83\xc4\x08\xc3", 5);

std::unique_ptr<llvm::jitlink::LinkGraph> MakeLinkGraph(
    const std::string& name, std::shared_ptr<llvm::orc::SymbolStringPool> names) {
  return std::make_unique<llvm::jitlink::LinkGraph>(
      name, std::move(names), llvm::Triple("x86_64-unknown-linux-gnu"), llvm::SubtargetFeatures(),
      llvm::jitlink::x86_64::getEdgeKindName);
}

void RunJITLink(std::unique_ptr<llvm::jitlink::LinkGraph> graph,
                std::unique_ptr<llvm::jitlink::JITLinkContext> context) {
  llvm::jitlink::link_ELF_x86_64(std::move(graph), std::move(context));
}

}  // namespace object_loader
