// SPDX-License-Identifier: Apache-2.0
//
// AArch64: the code that is written and rewritten, and the names of relocations.
//
// What is called by its address begins with a landing pad (bti c), as it has to where the system
// enforces them; what is only jumped to by branches that name it needs none.
#include <llvm/BinaryFormat/ELF.h>
#include <llvm/ExecutionEngine/JITLink/ELF_aarch64.h>
#include <llvm/ExecutionEngine/JITLink/aarch64.h>
#include <llvm/Object/ELF.h>
#include <llvm/Support/MathExtras.h>

#include <cstring>

#include "target/target.h"

namespace object_loader {

namespace {

namespace ELF = llvm::ELF;

constexpr uint32_t kLandingPad = 0xd503245f;  // bti c
constexpr uint32_t kNop = 0xd503201f;
// What a linker's code between a call and the callee may change (AAPCS64: IP0), and the register by
// which landing pads for calls may be jumped to.
constexpr unsigned kScratch = 16;
constexpr unsigned kStackPointer = 31;
constexpr unsigned kZeroRegister = 31;

// adr and adrp, to be completed by Encode.
constexpr uint32_t AddressTo(unsigned to) { return 0x10000000 | to; }
constexpr uint32_t PageTo(unsigned to) { return 0x90000000 | to; }
// br from
constexpr uint32_t JumpTo(unsigned from) { return 0xd61f0000 | from << 5; }
// ldr to, [from, #offset], of 8 bytes
constexpr uint32_t LoadFrom(unsigned to, unsigned from, uint64_t offset = 0) {
  return 0xf9400000 | static_cast<uint32_t>(offset / 8) << 10 | from << 5 | to;
}
// ldr to, .+distance
constexpr uint32_t LoadNear(unsigned to, uint64_t distance) {
  return 0x58000000 | static_cast<uint32_t>(distance / 4) << 5 | to;
}

uint32_t Read(const char* place) {
  uint32_t instruction;
  std::memcpy(&instruction, place, sizeof(instruction));
  return instruction;
}

void Write(char* place, uint32_t instruction) {
  std::memcpy(place, &instruction, sizeof(instruction));
}

// b target; false where that is too far away.
bool WriteBranch(char* field, uint64_t place, uint64_t target) {
  uint64_t distance = target - place;
  if (!llvm::isInt<28>(static_cast<int64_t>(distance))) return false;
  Write(field, 0x14000000 | static_cast<uint32_t>(distance >> 2 & 0x3ffffff));
  return true;
}

}  // namespace

std::string RelocationName(uint32_t type) {
  llvm::StringRef name = llvm::object::getELFRelocationTypeName(ELF::EM_AARCH64, type);
  return name == "Unknown" ? "of type " + std::to_string(type) : name.str();
}

const char* WhyRefused(uint32_t type) {
  llvm::StringRef name = llvm::object::getELFRelocationTypeName(ELF::EM_AARCH64, type);
  if (name.starts_with("R_AARCH64_AUTH_")) {
    return "signed pointers are not supported; compile for aarch64-linux-gnu without "
           "-fptrauth-... and without -mabi=pauthtest";
  }
  if (name.starts_with("R_AARCH64_P32_")) {
    return "it belongs to the ABI with pointers of 32 bits (-mabi=ilp32)";
  }
  if (type >= ELF::R_AARCH64_COPY && type <= ELF::R_AARCH64_IRELATIVE) {
    return "it belongs into linked files, not into objects";
  }
  return "it is not supported";
}

const char* WhyOutOfRange(uint32_t type) {
  const RelocationKind& kind = KindOf(type);
  switch (kind.part) {
    case Part::kBranch:
      return "a branch reaches 128 MiB, and a load's code has to be smaller than that";
    case Part::kTestBranch:
    case Part::kLiteral:
      if (kind.form != Form::kBranch) break;
      return "a conditional branch reaches no further than 1 MiB, or 32 KiB: branch to a label "
             "near by, and from there to what is far away";
    case Part::kOffset:
      if (kind.range == Range::kAny) {
        return "what is accessed does not lie at a multiple of its size, as the instruction "
               "demands";
      }
      if (kind.form == Form::kSlot) {
        return "the global offset table is larger than -fpic allows: compile with -fPIC";
      }
      break;
    default:
      break;
  }
  return IsThreadLocal(kind.form)
             ? "the thread-local variables are larger than -mtls-size allows; compile with -fPIC "
               "and without -ftls-model"
             : "the code refers to something far away in a way that only works nearby: compile "
               "with -fPIC";
}

// There is one kind of common symbols.
bool IsCommonOfProcessor(uint16_t) { return false; }

// No slot shares its instruction with anything else that there is to gain.
bool CanRelaxSlot(const char*, uint64_t, int64_t) { return false; }
bool RelaxSlot(char*, uint64_t, uint64_t, uint64_t, int64_t) { return false; }

namespace {

// What takes the place of an instruction: instructions, one after the other, then a jump to the one
// behind it, then an address. The instruction itself becomes a jump there.
class Thunk {
 public:
  explicit Thunk(const FarAccess& access) : access_(access) {
    std::memset(access.thunk, kTrapByte, kFarSize);
  }

  void Add(uint32_t instruction) {
    Write(access_.thunk + size_, instruction);
    size_ += 4;
  }
  // ldr to, =address
  void LoadAddress(unsigned to) { Add(LoadNear(to, kLiteral - size_)); }
  // False where the thunk is too far away; the instruction is as it was then.
  bool Finish(uint64_t address) {
    bool is_near =
        WriteBranch(access_.thunk + size_, access_.thunk_place + size_, access_.place + 4) &&
        WriteBranch(access_.field, access_.place, access_.thunk_place);
    std::memcpy(access_.thunk + kLiteral, &address, sizeof(address));
    return is_near;
  }

 private:
  static constexpr uint64_t kLiteral = kFarSize - sizeof(uint64_t);

  const FarAccess& access_;
  uint64_t size_ = 0;
};

// ldr register, variable. Of the registers of vectors none holds an address: another one is kept on
// the stack, below which nothing is anybody's.
bool LoadByThunk(const FarAccess& access, uint32_t instruction, uint64_t address) {
  constexpr uint32_t kPlain[] = {0xb9400000, 0xf9400000, 0xb9800000};   // w, x, w to x
  constexpr uint32_t kVector[] = {0xbd400000, 0xfd400000, 0x3dc00000};  // s, d, q
  unsigned to = instruction & 31;
  unsigned size = instruction >> 30;
  Thunk thunk(access);
  if (size == 3) {  // a hint, of which nothing depends
    Write(access.field, kNop);
    return true;
  }
  if (instruction & 1U << 26) {
    thunk.Add(0xf81f0c00 | kStackPointer << 5 | kScratch);  // str x16, [sp, #-16]!
    thunk.LoadAddress(kScratch);
    thunk.Add(kVector[size] | kScratch << 5 | to);
    thunk.Add(0xf8410400 | kStackPointer << 5 | kScratch);  // ldr x16, [sp], #16
  } else if (to == kZeroRegister) {
    Write(access.field, kNop);
    return true;
  } else {
    thunk.LoadAddress(to);
    thunk.Add(kPlain[size] | to << 5 | to);
  }
  return thunk.Finish(address);
}

}  // namespace

bool ReachFar(const FarAccess& access) {
  if (access.kind.width != 4 || access.kind.part == Part::kData) return false;
  uint32_t instruction = Read(access.field);
  uint64_t address = access.symbol + static_cast<uint64_t>(access.addend);
  bool is_page = access.kind.part == Part::kPageAddress;
  if (is_page || access.kind.part == Part::kAddress) {
    if ((instruction & 0x9f000000) != (is_page ? PageTo(0) : AddressTo(0))) return false;
    Thunk thunk(access);
    thunk.LoadAddress(instruction & 31);
    return thunk.Finish(is_page ? PageOf(address) : address);
  }
  if (access.kind.part != Part::kLiteral || (instruction & 0x3b000000) != 0x18000000) return false;
  return LoadByThunk(access, instruction, address);
}

void WriteStub(char* stub, uint64_t address) {
  Write(stub, LoadNear(kScratch, 8));
  Write(stub + 4, JumpTo(kScratch));
  std::memcpy(stub + 8, &address, sizeof(address));
}

void WriteIndirectStub(char* stub, uint64_t place, uint64_t slot) {
  Write(stub, kLandingPad);
  Write(stub + 4, PageTo(kScratch));
  Patch(KindOf(ELF::R_AARCH64_ADR_PREL_PG_HI21), stub + 4, PageOf(slot) - PageOf(place + 4));
  Write(stub + 8, LoadFrom(kScratch, kScratch, slot & 0xfff));
  Write(stub + 12, JumpTo(kScratch));
}

// A load may be done before the one that the jump to it depends on, where the jump was foreseen; so
// a barrier for loads comes first.
void WriteTrampoline(char* trampoline, uint64_t place, uint64_t data) {
  constexpr unsigned kFifth = 4;
  constexpr uint32_t kLoadBarrier = 0xd50339bf;  // dmb ishld
  std::memset(trampoline, kTrapByte, kTrampolineSize);
  Write(trampoline, kLandingPad);
  Write(trampoline + 4, kLoadBarrier);
  Write(trampoline + 8, AddressTo(kFifth));
  Patch(KindOf(ELF::R_AARCH64_ADR_PREL_LO21), trampoline + 8, data - (place + 8));
  Write(trampoline + 12, LoadFrom(kScratch, kFifth));
  Write(trampoline + 16, JumpTo(kScratch));
}

void FlushCode(const char* begin, uint64_t size) {
  char* address = const_cast<char*>(begin);
  __builtin___clear_cache(address, address + size);
}

// bti c; stp x29, x30, [sp, #-16]!; mov x29, sp ... ldp x29, x30, [sp], #16; ret
const llvm::StringRef kFragmentsProlog(
    "\x5f\x24\x03\xd5"
    "\xfd\x7b\xbf\xa9"
    "\xfd\x03\x00\x91",
    12);
const llvm::StringRef kFragmentsEpilog(
    "\xfd\x7b\xc1\xa8"
    "\xc0\x03\x5f\xd6",
    8);

// mov w0, #1; ret
const llvm::StringRef kReturnOne(
    "\x20\x00\x80\x52"
    "\xc0\x03\x5f\xd6",
    8);
const llvm::StringRef kReturnTwo(
    "\x40\x00\x80\x52"
    "\xc0\x03\x5f\xd6",
    8);

std::unique_ptr<llvm::jitlink::LinkGraph> MakeLinkGraph(
    const std::string& name, std::shared_ptr<llvm::orc::SymbolStringPool> names) {
  return std::make_unique<llvm::jitlink::LinkGraph>(
      name, std::move(names), llvm::Triple("aarch64-unknown-linux-gnu"), llvm::SubtargetFeatures(),
      llvm::jitlink::aarch64::getEdgeKindName);
}

void RunJITLink(std::unique_ptr<llvm::jitlink::LinkGraph> graph,
                std::unique_ptr<llvm::jitlink::JITLinkContext> context) {
  llvm::jitlink::link_ELF_aarch64(std::move(graph), std::move(context));
}

}  // namespace object_loader
