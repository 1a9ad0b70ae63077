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

const char* WhyOutOfRange(uint32_t) {
  return "the code refers to something more than 2 GiB away in a way that only works nearby: "
         "compile with -fPIC";
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

namespace {

// Writes instructions, one after the other.
class Thunk {
 public:
  explicit Thunk(const FarAccess& access) : start_(access.thunk), place_(access.thunk_place) {
    std::memset(start_, kTrapByte, kFarSize);
  }

  void Byte(unsigned byte) { start_[size_++] = static_cast<char>(byte); }
  void DistanceTo(uint64_t address) {
    WriteDistance(start_ + size_, place_ + size_ + 4, address);
    size_ += 4;
  }
  void Word(uint64_t value) {
    std::memcpy(start_ + size_, &value, sizeof(value));
    size_ += sizeof(value);
  }
  void JumpTo(uint64_t address) {
    Byte(0xe9);
    DistanceTo(address);
  }

 private:
  char* start_;
  uint64_t place_;
  size_t size_ = 0;
};

// Puts a jump to the thunk in the place of the `size` bytes that end `after` the field.
void JumpToThunk(const FarAccess& access, size_t size, size_t after = 0) {
  char* start = access.field + 4 + after - size;
  uint64_t place = access.place + 4 + after - size;
  std::memset(start, 0x90, size);
  start[0] = static_cast<char>(0xe9);
  WriteDistance(start + 1, place + 5, access.thunk_place);
}

// mov variable, %reg: a pointer is loaded (REX.W; that byte could otherwise be the end of another
// instruction). The thunk: mov slot(%rip), %reg; mov (%reg), %reg.
void LoadByThunk(const FarAccess& access, unsigned number, bool high, size_t size) {
  Thunk thunk(access);
  thunk.Byte(high ? 0x4c : 0x48);
  thunk.Byte(0x8b);
  thunk.Byte(0x05 | number << 3);
  thunk.DistanceTo(access.slot);
  thunk.Byte(high ? 0x4d : 0x48);
  thunk.Byte(0x8b);
  unsigned operands = number << 3 | number;
  // As base registers, number 4 needs another byte, and number 5 a displacement.
  thunk.Byte(number == 5 ? operands | 0x40 : operands);
  if (number == 4) thunk.Byte(0x24);
  if (number == 5) thunk.Byte(0);
  thunk.JumpTo(access.place + 4);
  JumpToThunk(access, size);
}

// cmpb $immediate, variable(%rip). The thunk leaves alone what lies below the stack pointer.
void CompareByThunk(const FarAccess& access) {
  Thunk thunk(access);
  for (unsigned byte : {0x48, 0x8d, 0x64, 0x24, 0x80}) thunk.Byte(byte);  // lea -128(%rsp), %rsp
  thunk.Byte(0x50);                                                       // push %rax
  for (unsigned byte : {0x48, 0x8b, 0x05}) thunk.Byte(byte);              // mov slot(%rip), %rax
  thunk.DistanceTo(access.slot);
  thunk.Byte(0x80);  // cmpb $immediate, (%rax)
  thunk.Byte(0x38);
  thunk.Byte(static_cast<unsigned char>(access.field[4]));
  thunk.Byte(0x58);  // pop %rax
  // lea 128(%rsp), %rsp
  for (unsigned byte : {0x48, 0x8d, 0xa4, 0x24, 0x80, 0, 0, 0}) thunk.Byte(byte);
  thunk.JumpTo(access.place + 5);
  JumpToThunk(access, 7, 1);
}

// movzbl variable(%rip), %reg: mov slot(%rip), %reg; movzbl (%reg), %reg.
void LoadByteByThunk(const FarAccess& access, unsigned number) {
  Thunk thunk(access);
  thunk.Byte(0x48);
  thunk.Byte(0x8b);
  thunk.Byte(0x05 | number << 3);
  thunk.DistanceTo(access.slot);
  thunk.Byte(0x0f);
  thunk.Byte(0xb6);
  unsigned operands = number << 3 | number;
  thunk.Byte(number == 5 ? operands | 0x40 : operands);
  if (number == 4) thunk.Byte(0x24);
  if (number == 5) thunk.Byte(0);
  thunk.JumpTo(access.place + 4);
  JumpToThunk(access, 7);
}

bool IsRexW(unsigned char byte) { return byte == 0x48 || byte == 0x4c; }

}  // namespace

bool ReachFar(const FarAccess& access) {
  auto byte = [&](int at) { return static_cast<unsigned char>(access.field[at]); };
  if (access.kind.width != 4) return false;
  if (access.kind.from == From::kPlace) {
    bool has_immediate = access.addend == -5 && access.after >= 1;
    if (has_immediate && access.before >= 2 && byte(-2) == 0x80 && byte(-1) == 0x3d) {
      CompareByThunk(access);
      return true;
    }
    // A prefix would make another register of it.
    bool has_prefix = access.before >= 4 && (byte(-4) & 0xf0) == 0x40;
    if (access.addend == -4 && access.before >= 3 && byte(-3) == 0x0f && byte(-2) == 0xb6 &&
        (byte(-1) & 0xc7) == 0x05 && !has_prefix) {
      LoadByteByThunk(access, (byte(-1) >> 3) & 7);
      return true;
    }
    if (access.addend != -4 || access.before < 3 || !IsRexW(byte(-3))) return false;
    if ((byte(-1) & 0xc7) != 0x05) return false;
    if (byte(-2) == 0x8d) {  // lea: mov of what the slot holds
      access.field[-2] = static_cast<char>(0x8b);
      WriteDistance(access.field, access.place + 4, access.slot);
      return true;
    }
    if (byte(-2) != 0x8b) return false;
    LoadByThunk(access, (byte(-1) >> 3) & 7, byte(-3) == 0x4c, 7);
    return true;
  }
  if (access.addend == 0 && access.before >= 4 && IsRexW(byte(-4)) && byte(-3) == 0x8b &&
      (byte(-2) & 0xc7) == 0x04 && byte(-1) == 0x25) {  // mov variable, %reg
    LoadByThunk(access, (byte(-2) >> 3) & 7, byte(-4) == 0x4c, 8);
    return true;
  }
  // mov $address, %reg of 32 bits, where no byte before it can mean another register.
  bool is_plain = access.before >= 1 && (byte(-1) & 0xf8) == 0xb8 &&
                  (access.before == 1 || (byte(-2) & 0xf0) != 0x40);
  // The same, sign-extended to 64 bits.
  bool is_wide =
      access.before >= 3 && byte(-3) == 0x48 && byte(-2) == 0xc7 && (byte(-1) & 0xf8) == 0xc0;
  if (!is_plain && !is_wide) return false;
  Thunk thunk(access);
  thunk.Byte(0x48);  // movabs $address, %reg
  thunk.Byte(0xb8 | (byte(-1) & 7));
  thunk.Word(access.symbol + static_cast<uint64_t>(access.addend));
  thunk.JumpTo(access.place + 4);
  JumpToThunk(access, is_plain ? 5 : 7);
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

void WriteTrampoline(char* trampoline, uint64_t place, uint64_t data) {
  // Loads are done in their order here. endbr64; lea data(%rip), %r8; jmp *(%r8); int3; int3
  static constexpr char kCode[kTrampolineSize] = {'\xf3', '\x0f', '\x1e', '\xfa', '\x4c', '\x8d',
                                                  '\x05', 0,      0,      0,      0,      '\x41',
                                                  '\xff', '\x20', '\xcc', '\xcc'};
  std::memcpy(trampoline, kCode, sizeof(kCode));
  WriteDistance(trampoline + 7, place + 11, data);
}

// Caches of instructions follow what is written.
void FlushCode(const char*, uint64_t) {}

// As glibc's crti.o and crtn.o: sub $8, %rsp ... add $8, %rsp; ret
const llvm::StringRef kFragmentsProlog("\x48\x83\xec\x08", 4);
const llvm::StringRef kFragmentsEpilog("\x48\x83\xc4\x08\xc3", 5);

// mov $1, %eax; ret
const llvm::StringRef kReturnOne("\xb8\x01\x00\x00\x00\xc3", 6);
const llvm::StringRef kReturnTwo("\xb8\x02\x00\x00\x00\xc3", 6);

std::unique_ptr<llvm::jitlink::LinkGraph> MakeLinkGraph(
    const std::string& name, std::shared_ptr<llvm::orc::SymbolStringPool> names) {
  // To read it from its text each time takes long. Never destroyed: a thread may load at exit.
  static const auto* triple = new llvm::Triple("x86_64-unknown-linux-gnu");
  return std::make_unique<llvm::jitlink::LinkGraph>(name, std::move(names), *triple,
                                                    llvm::SubtargetFeatures(),
                                                    llvm::jitlink::x86_64::getEdgeKindName);
}

void RunJITLink(std::unique_ptr<llvm::jitlink::LinkGraph> graph,
                std::unique_ptr<llvm::jitlink::JITLinkContext> context) {
  llvm::jitlink::link_ELF_x86_64(std::move(graph), std::move(context));
}

}  // namespace object_loader
