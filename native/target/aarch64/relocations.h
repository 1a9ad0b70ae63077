// SPDX-License-Identifier: Apache-2.0
//
// AArch64: the table of relocations, and how their fields are written.
//
// An address is mostly made by two instructions, one for its page and one for the place within it:
// each has a relocation of its own, and takes its part of the value.
//
// Format: ELF for the Arm 64-bit Architecture (AAELF64), "Relocation"; for thread-local variables
// also "ELF Handling For Thread-Local Storage".
#ifndef OBJECT_LOADER_TARGET_AARCH64_RELOCATIONS_H_
#define OBJECT_LOADER_TARGET_AARCH64_RELOCATIONS_H_

#include <llvm/BinaryFormat/ELF.h>

#include <array>
#include <cstring>

#include "target/target.h"

namespace object_loader {

// What part of the value goes where.
enum class Part : uint8_t {
  kData,         // all bytes
  kAddress,      // adr
  kPageAddress,  // adrp: without the 12 bits of the place in a page
  kLiteral,      // ldr of what lies near by, and conditional branches: 19 bits
  kTestBranch,   // tbz, tbnz: 14 bits
  kBranch,       // b, bl: 26 bits
  kAdd,          // add: 12 bits
  kAddHigh,      // add: the 12 bits above them
  kOffset,       // ldr, str: 12 bits, in units of what is accessed
  kMove,         // movz, movk: 16 bits
  kMoveSigned,   // movz, or movn where the value is negative
};

// Which values fit.
enum class Range : uint8_t { kAny, kSigned, kUnsigned, kEither };

struct RelocationKind {
  Form form;
  From from;
  Reach reach;
  uint8_t width;  // bytes
  Part part;
  uint8_t shift;  // the lowest bit of the part, or the logarithm of the unit
  Range range;
  uint8_t bits;  // of the value; what is not kAny has as many
};

namespace aarch64 {

struct Row {
  uint32_t type;
  RelocationKind kind;
};

constexpr RelocationKind kRefused = {Form::kRefused, From::kZero, Reach::kAll, 0,
                                     Part::kData,    0,           Range::kAny, 0};
constexpr RelocationKind kNothing = {Form::kNothing, From::kZero, Reach::kAll, 0,
                                     Part::kData,    0,           Range::kAny, 0};

constexpr RelocationKind Data(Form form, From from, uint8_t width, Range range = Range::kSigned) {
  Reach reach = width == 8 || form != Form::kSymbol ? Reach::kAll
                : from == From::kZero               ? Reach::kNarrow
                                                    : Reach::kNear;
  if (from == From::kTable) reach = Reach::kAll;
  auto bits = static_cast<uint8_t>(8 * width);
  return {form, from, reach, width, Part::kData, 0, width == 8 ? Range::kAny : range, bits};
}

// adr, and ldr of a literal.
constexpr RelocationKind Short(Form form, Part part) {
  return {form, From::kPlace, Reach::kShort, 4, part, 0, Range::kSigned, 21};
}
constexpr RelocationKind Page(Form form, Range range = Range::kSigned) {
  Reach reach = form == Form::kSymbol ? Reach::kNear : Reach::kAll;
  return {form, From::kPage, reach, 4, Part::kPageAddress, 0, range, 33};
}
constexpr RelocationKind Branch(Part part, uint8_t bits) {
  return {Form::kBranch, From::kPlace, Reach::kAll, 4, part, 0, Range::kSigned, bits};
}

// The lower 12 bits; those that are checked have no more.
constexpr RelocationKind Add(Form form, Range range = Range::kAny) {
  return {form, From::kZero, Reach::kAll, 4, Part::kAdd, 0, range, 12};
}
constexpr RelocationKind AddHigh(Form form) {
  return {form, From::kZero, Reach::kAll, 4, Part::kAddHigh, 12, Range::kUnsigned, 24};
}
constexpr RelocationKind Offset(Form form, uint8_t unit, Range range = Range::kAny,
                                From from = From::kZero, uint8_t bits = 12) {
  return {form, from, Reach::kAll, 4, Part::kOffset, unit, range, bits};
}

// Bits 16 * group and up.
constexpr RelocationKind Move(Form form, From from, uint8_t group, Range range = Range::kUnsigned) {
  auto shift = static_cast<uint8_t>(16 * group);
  auto bits = static_cast<uint8_t>(16 * (group + 1));
  if (group == 3) range = Range::kAny;
  Reach reach = form != Form::kSymbol || range == Range::kAny || group > 1 ? Reach::kAll
                : from == From::kZero                                      ? Reach::kNarrow
                                                                           : Reach::kNear;
  if (from == From::kTable) reach = Reach::kAll;
  // One bit of a signed value tells movn from movz.
  Part part = Part::kMove;
  if (range == Range::kSigned) {
    part = Part::kMoveSigned;
    ++bits;
  }
  return {form, from, reach, 4, part, shift, range, bits};
}

constexpr Form kSymbol = Form::kSymbol;
constexpr Form kSlot = Form::kSlot;
constexpr Form kGeneral = Form::kModuleAndOffsetSlot;
constexpr Form kModule = Form::kModuleSlot;
constexpr Form kInitial = Form::kThreadOffsetSlot;
constexpr Form kDescriptor = Form::kDescriptorSlot;
constexpr Form kModuleOffset = Form::kModuleOffset;
constexpr Form kLocal = Form::kThreadOffset;
constexpr From kZero = From::kZero;
constexpr From kPlace = From::kPlace;
constexpr From kTable = From::kTable;
constexpr Range kAny = Range::kAny;
constexpr Range kSigned = Range::kSigned;
constexpr Range kUnsigned = Range::kUnsigned;
constexpr Range kEither = Range::kEither;

// By the last part of their names, with the types' numbers: as the ABI groups them.
constexpr Row kRows[] = {
    {0x100, kNothing},  // NONE, as it was first
    /* ABS64               */ {0x101, Data(kSymbol, kZero, 8)},
    /* ABS32               */ {0x102, Data(kSymbol, kZero, 4, kEither)},
    /* ABS16               */ {0x103, Data(kSymbol, kZero, 2, kEither)},
    /* PREL64              */ {0x104, Data(kSymbol, kPlace, 8)},
    /* PREL32              */ {0x105, Data(kSymbol, kPlace, 4, kEither)},
    /* PREL16              */ {0x106, Data(kSymbol, kPlace, 2, kEither)},
    /* MOVW_UABS_G0        */ {0x107, Move(kSymbol, kZero, 0)},
    /* MOVW_UABS_G0_NC     */ {0x108, Move(kSymbol, kZero, 0, kAny)},
    /* MOVW_UABS_G1        */ {0x109, Move(kSymbol, kZero, 1)},
    /* MOVW_UABS_G1_NC     */ {0x10a, Move(kSymbol, kZero, 1, kAny)},
    /* MOVW_UABS_G2        */ {0x10b, Move(kSymbol, kZero, 2)},
    /* MOVW_UABS_G2_NC     */ {0x10c, Move(kSymbol, kZero, 2, kAny)},
    /* MOVW_UABS_G3        */ {0x10d, Move(kSymbol, kZero, 3)},
    /* MOVW_SABS_G0        */ {0x10e, Move(kSymbol, kZero, 0, kSigned)},
    /* MOVW_SABS_G1        */ {0x10f, Move(kSymbol, kZero, 1, kSigned)},
    /* MOVW_SABS_G2        */ {0x110, Move(kSymbol, kZero, 2, kSigned)},
    /* LD_PREL_LO19        */ {0x111, Short(kSymbol, Part::kLiteral)},
    /* ADR_PREL_LO21       */ {0x112, Short(kSymbol, Part::kAddress)},
    /* ADR_PREL_PG_HI21    */ {0x113, Page(kSymbol)},
    /* ADR_PREL_PG_HI21_NC */ {0x114, Page(kSymbol, kAny)},
    /* ADD_ABS_LO12_NC     */ {0x115, Add(kSymbol)},
    /* LDST8_ABS_LO12_NC   */ {0x116, Offset(kSymbol, 0)},
    /* TSTBR14             */ {0x117, Branch(Part::kTestBranch, 16)},
    /* CONDBR19            */ {0x118, Branch(Part::kLiteral, 21)},
    /* JUMP26              */ {0x11a, Branch(Part::kBranch, 28)},
    /* CALL26              */ {0x11b, Branch(Part::kBranch, 28)},
    /* LDST16_ABS_LO12_NC  */ {0x11c, Offset(kSymbol, 1)},
    /* LDST32_ABS_LO12_NC  */ {0x11d, Offset(kSymbol, 2)},
    /* LDST64_ABS_LO12_NC  */ {0x11e, Offset(kSymbol, 3)},
    /* MOVW_PREL_G0        */ {0x11f, Move(kSymbol, kPlace, 0, kSigned)},
    /* MOVW_PREL_G0_NC     */ {0x120, Move(kSymbol, kPlace, 0, kAny)},
    /* MOVW_PREL_G1        */ {0x121, Move(kSymbol, kPlace, 1, kSigned)},
    /* MOVW_PREL_G1_NC     */ {0x122, Move(kSymbol, kPlace, 1, kAny)},
    /* MOVW_PREL_G2        */ {0x123, Move(kSymbol, kPlace, 2, kSigned)},
    /* MOVW_PREL_G2_NC     */ {0x124, Move(kSymbol, kPlace, 2, kAny)},
    /* MOVW_PREL_G3        */ {0x125, Move(kSymbol, kPlace, 3)},
    /* LDST128_ABS_LO12_NC */ {0x12b, Offset(kSymbol, 4)},

    /* MOVW_GOTOFF_G0      */ {0x12c, Move(kSlot, kTable, 0, kSigned)},
    /* MOVW_GOTOFF_G0_NC   */ {0x12d, Move(kSlot, kTable, 0, kAny)},
    /* MOVW_GOTOFF_G1      */ {0x12e, Move(kSlot, kTable, 1, kSigned)},
    /* MOVW_GOTOFF_G1_NC   */ {0x12f, Move(kSlot, kTable, 1, kAny)},
    /* MOVW_GOTOFF_G2      */ {0x130, Move(kSlot, kTable, 2, kSigned)},
    /* MOVW_GOTOFF_G2_NC   */ {0x131, Move(kSlot, kTable, 2, kAny)},
    /* MOVW_GOTOFF_G3      */ {0x132, Move(kSlot, kTable, 3)},
    /* GOTREL64            */ {0x133, Data(kSymbol, kTable, 8)},
    /* GOTREL32            */ {0x134, Data(kSymbol, kTable, 4)},
    /* GOT_LD_PREL19       */ {0x135, Short(kSlot, Part::kLiteral)},
    /* LD64_GOTOFF_LO15    */ {0x136, Offset(kSlot, 3, kUnsigned, kTable, 15)},
    /* ADR_GOT_PAGE        */ {0x137, Page(kSlot)},
    /* LD64_GOT_LO12_NC    */ {0x138, Offset(kSlot, 3)},
    /* LD64_GOTPAGE_LO15   */ {0x139, Offset(kSlot, 3, kUnsigned, From::kTablePage, 15)},
    /* PLT32               */ {0x13a, Data(Form::kBranch, kPlace, 4)},
    /* GOTPCREL32          */ {0x13b, Data(kSlot, kPlace, 4)},

    /* TLSGD_ADR_PREL21    */ {0x200, Short(kGeneral, Part::kAddress)},
    /* TLSGD_ADR_PAGE21    */ {0x201, Page(kGeneral)},
    /* TLSGD_ADD_LO12_NC   */ {0x202, Add(kGeneral)},
    /* TLSGD_MOVW_G1       */ {0x203, Move(kGeneral, kTable, 1, kSigned)},
    /* TLSGD_MOVW_G0_NC    */ {0x204, Move(kGeneral, kTable, 0, kAny)},
    /* TLSLD_ADR_PREL21    */ {0x205, Short(kModule, Part::kAddress)},
    /* TLSLD_ADR_PAGE21    */ {0x206, Page(kModule)},
    /* TLSLD_ADD_LO12_NC   */ {0x207, Add(kModule)},
    /* TLSLD_MOVW_G1       */ {0x208, Move(kModule, kTable, 1, kSigned)},
    /* TLSLD_MOVW_G0_NC    */ {0x209, Move(kModule, kTable, 0, kAny)},
    /* TLSLD_LD_PREL19     */ {0x20a, Short(kModule, Part::kLiteral)},
    /* TLSLD_MOVW_DTPREL_G2         */ {0x20b, Move(kModuleOffset, kZero, 2, kSigned)},
    /* TLSLD_MOVW_DTPREL_G1         */ {0x20c, Move(kModuleOffset, kZero, 1, kSigned)},
    /* TLSLD_MOVW_DTPREL_G1_NC      */ {0x20d, Move(kModuleOffset, kZero, 1, kAny)},
    /* TLSLD_MOVW_DTPREL_G0         */ {0x20e, Move(kModuleOffset, kZero, 0, kSigned)},
    /* TLSLD_MOVW_DTPREL_G0_NC      */ {0x20f, Move(kModuleOffset, kZero, 0, kAny)},
    /* TLSLD_ADD_DTPREL_HI12        */ {0x210, AddHigh(kModuleOffset)},
    /* TLSLD_ADD_DTPREL_LO12        */ {0x211, Add(kModuleOffset, kUnsigned)},
    /* TLSLD_ADD_DTPREL_LO12_NC     */ {0x212, Add(kModuleOffset)},
    /* TLSLD_LDST8_DTPREL_LO12      */ {0x213, Offset(kModuleOffset, 0, kUnsigned)},
    /* TLSLD_LDST8_DTPREL_LO12_NC   */ {0x214, Offset(kModuleOffset, 0)},
    /* TLSLD_LDST16_DTPREL_LO12     */ {0x215, Offset(kModuleOffset, 1, kUnsigned)},
    /* TLSLD_LDST16_DTPREL_LO12_NC  */ {0x216, Offset(kModuleOffset, 1)},
    /* TLSLD_LDST32_DTPREL_LO12     */ {0x217, Offset(kModuleOffset, 2, kUnsigned)},
    /* TLSLD_LDST32_DTPREL_LO12_NC  */ {0x218, Offset(kModuleOffset, 2)},
    /* TLSLD_LDST64_DTPREL_LO12     */ {0x219, Offset(kModuleOffset, 3, kUnsigned)},
    /* TLSLD_LDST64_DTPREL_LO12_NC  */ {0x21a, Offset(kModuleOffset, 3)},
    /* TLSLD_LDST128_DTPREL_LO12    */ {0x23c, Offset(kModuleOffset, 4, kUnsigned)},
    /* TLSLD_LDST128_DTPREL_LO12_NC */ {0x23d, Offset(kModuleOffset, 4)},
    /* TLSIE_MOVW_GOTTPREL_G1       */ {0x21b, Move(kInitial, kTable, 1, kSigned)},
    /* TLSIE_MOVW_GOTTPREL_G0_NC    */ {0x21c, Move(kInitial, kTable, 0, kAny)},
    /* TLSIE_ADR_GOTTPREL_PAGE21    */ {0x21d, Page(kInitial)},
    /* TLSIE_LD64_GOTTPREL_LO12_NC  */ {0x21e, Offset(kInitial, 3)},
    /* TLSIE_LD_GOTTPREL_PREL19     */ {0x21f, Short(kInitial, Part::kLiteral)},
    /* TLSLE_MOVW_TPREL_G2          */ {0x220, Move(kLocal, kZero, 2, kSigned)},
    /* TLSLE_MOVW_TPREL_G1          */ {0x221, Move(kLocal, kZero, 1, kSigned)},
    /* TLSLE_MOVW_TPREL_G1_NC       */ {0x222, Move(kLocal, kZero, 1, kAny)},
    /* TLSLE_MOVW_TPREL_G0          */ {0x223, Move(kLocal, kZero, 0, kSigned)},
    /* TLSLE_MOVW_TPREL_G0_NC       */ {0x224, Move(kLocal, kZero, 0, kAny)},
    /* TLSLE_ADD_TPREL_HI12         */ {0x225, AddHigh(kLocal)},
    /* TLSLE_ADD_TPREL_LO12         */ {0x226, Add(kLocal, kUnsigned)},
    /* TLSLE_ADD_TPREL_LO12_NC      */ {0x227, Add(kLocal)},
    /* TLSLE_LDST8_TPREL_LO12       */ {0x228, Offset(kLocal, 0, kUnsigned)},
    /* TLSLE_LDST8_TPREL_LO12_NC    */ {0x229, Offset(kLocal, 0)},
    /* TLSLE_LDST16_TPREL_LO12      */ {0x22a, Offset(kLocal, 1, kUnsigned)},
    /* TLSLE_LDST16_TPREL_LO12_NC   */ {0x22b, Offset(kLocal, 1)},
    /* TLSLE_LDST32_TPREL_LO12      */ {0x22c, Offset(kLocal, 2, kUnsigned)},
    /* TLSLE_LDST32_TPREL_LO12_NC   */ {0x22d, Offset(kLocal, 2)},
    /* TLSLE_LDST64_TPREL_LO12      */ {0x22e, Offset(kLocal, 3, kUnsigned)},
    /* TLSLE_LDST64_TPREL_LO12_NC   */ {0x22f, Offset(kLocal, 3)},
    /* TLSLE_LDST128_TPREL_LO12     */ {0x23a, Offset(kLocal, 4, kUnsigned)},
    /* TLSLE_LDST128_TPREL_LO12_NC  */ {0x23b, Offset(kLocal, 4)},
    /* TLSDESC_LD_PREL19   */ {0x230, Short(kDescriptor, Part::kLiteral)},
    /* TLSDESC_ADR_PREL21  */ {0x231, Short(kDescriptor, Part::kAddress)},
    /* TLSDESC_ADR_PAGE21  */ {0x232, Page(kDescriptor)},
    /* TLSDESC_LD64_LO12   */ {0x233, Offset(kDescriptor, 3)},
    /* TLSDESC_ADD_LO12    */ {0x234, Add(kDescriptor)},
    /* TLSDESC_OFF_G1      */ {0x235, Move(kDescriptor, kTable, 1, kSigned)},
    /* TLSDESC_OFF_G0_NC   */ {0x236, Move(kDescriptor, kTable, 0, kAny)},
    // These mark instructions that a linker may rewrite.
    /* TLSDESC_LDR         */ {0x237, kNothing},
    /* TLSDESC_ADD         */ {0x238, kNothing},
    /* TLSDESC_CALL        */ {0x239, kNothing},
};

constexpr uint32_t kFirst = 0x100;
constexpr uint32_t kLast = 0x23d;

constexpr std::array<RelocationKind, kLast - kFirst + 1> MakeTable() {
  std::array<RelocationKind, kLast - kFirst + 1> table = {};
  for (RelocationKind& kind : table) kind = kRefused;
  for (const Row& row : kRows) table[row.type - kFirst] = row.kind;
  return table;
}
inline constexpr std::array<RelocationKind, kLast - kFirst + 1> kTableOfKinds = MakeTable();

constexpr bool Fits(const RelocationKind& kind, uint64_t value) {
  if (kind.range == Range::kAny) return true;
  auto number = static_cast<int64_t>(value);
  int64_t half = int64_t{1} << (kind.bits - 1);
  bool fits_signed = number >= -half && number < half;
  bool fits_unsigned = value >> kind.bits == 0;
  return (kind.range != Range::kUnsigned && fits_signed) ||
         (kind.range != Range::kSigned && fits_unsigned);
}

}  // namespace aarch64

inline const RelocationKind& KindOf(uint32_t type) {
  if (type - aarch64::kFirst <= aarch64::kLast - aarch64::kFirst) {
    return aarch64::kTableOfKinds[type - aarch64::kFirst];
  }
  return type == 0 ? aarch64::kNothing : aarch64::kRefused;
}

// An instruction with the part of the value in its place; false where that has no room for it.
inline bool Encode(const RelocationKind& kind, uint64_t value, uint32_t& instruction) {
  // Replaces so many bits from that one on.
  auto put = [&](uint64_t bits, unsigned count, unsigned at) {
    uint32_t mask = ((1U << count) - 1) << at;
    instruction = (instruction & ~mask) | ((static_cast<uint32_t>(bits) << at) & mask);
  };
  auto put_address = [&](uint64_t bits) {
    put(bits, 2, 29);
    put(bits >> 2, 19, 5);
  };
  switch (kind.part) {
    case Part::kAddress:
      put_address(value);
      return true;
    case Part::kPageAddress:
      put_address(value >> 12);
      return true;
    case Part::kLiteral:
      put(value >> 2, 19, 5);
      return (value & 3) == 0;
    case Part::kTestBranch:
      put(value >> 2, 14, 5);
      return (value & 3) == 0;
    case Part::kBranch:
      put(value >> 2, 26, 0);
      return (value & 3) == 0;
    case Part::kAdd:
    case Part::kAddHigh:
      put(value >> kind.shift, 12, 10);
      return true;
    case Part::kOffset: {
      uint64_t bits = value & ((uint64_t{1} << kind.bits) - 1);
      put(bits >> kind.shift, 12, 10);
      return (bits & ((uint64_t{1} << kind.shift) - 1)) == 0;
    }
    case Part::kMoveSigned: {
      bool is_negative = static_cast<int64_t>(value) < 0;
      put(is_negative ? 0 : 2, 2, 29);  // movn, movz
      put((is_negative ? ~value : value) >> kind.shift, 16, 5);
      return true;
    }
    default:  // kMove
      put(value >> kind.shift, 16, 5);
      return true;
  }
}

inline bool Patch(const RelocationKind& kind, char* field, uint64_t value) {
  if (__builtin_expect(!aarch64::Fits(kind, value), false)) return false;
  if (kind.part == Part::kData) {
    std::memcpy(field, &value, kind.width);
    return true;
  }
  uint32_t instruction;
  std::memcpy(&instruction, field, sizeof(instruction));
  if (__builtin_expect(!Encode(kind, value, instruction), false)) return false;
  std::memcpy(field, &instruction, sizeof(instruction));
  return true;
}

// The addend is what the slot holds more than the symbol's address.
inline bool IsOwnSlot(int64_t addend) { return addend == 0; }

// Of libraries that the dynamic linker opens: the machine that they are for, and the relocations by
// which it tells of thread-local variables what the slots of kModuleAndOffsetSlot and so on hold.
constexpr uint16_t kMachine = llvm::ELF::EM_AARCH64;
constexpr uint32_t kDynamicModule = llvm::ELF::R_AARCH64_TLS_DTPMOD64;
constexpr uint32_t kDynamicOffset = llvm::ELF::R_AARCH64_TLS_DTPREL64;
constexpr uint32_t kDynamicThreadOffset = llvm::ELF::R_AARCH64_TLS_TPREL64;
constexpr uint32_t kDynamicDescriptor = llvm::ELF::R_AARCH64_TLSDESC;
// A system's pages have 4, 16 or 64 KiB.
constexpr uint64_t kLargestPage = 65536;

// The version of the symbols that the C library, the C++ library, its runtime and libgcc had first.
constexpr const char* kFirstVersions[] = {"GLIBC_2.17", "GLIBCXX_3.4", "CXXABI_1.3", "GCC_3.0"};

constexpr bool kPlainCodeIsNarrow = false;
constexpr uint64_t kInstructionAlignment = 4;
constexpr uint64_t kStubSize = 16;
constexpr uint64_t kFarSize = 32;
constexpr uint64_t kTrampolineSize = 32;
constexpr unsigned char kTrapByte = 0;  // udf #0

}  // namespace object_loader

#endif  // OBJECT_LOADER_TARGET_AARCH64_RELOCATIONS_H_
