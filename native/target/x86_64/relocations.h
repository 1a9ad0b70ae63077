// SPDX-License-Identifier: Apache-2.0
//
// x86-64: the table of relocations, and how their fields are written.
//
// Format: x86-64 psABI, "Relocation Types", and for thread-local variables "ELF Handling For
// Thread-Local Storage".
#ifndef OBJECT_LOADER_TARGET_X86_64_RELOCATIONS_H_
#define OBJECT_LOADER_TARGET_X86_64_RELOCATIONS_H_

#include <llvm/BinaryFormat/ELF.h>

#include <cstring>

#include "target/target.h"

namespace object_loader {

// Which values a field of less than eight bytes holds.
enum class Range : uint8_t { kSigned, kUnsigned, kEither };

struct RelocationKind {
  Form form;
  From from;
  Reach reach;
  uint8_t width;  // bytes
  Range range;
};

// Rows of the table. What has a slot, or is measured in one, is never too far away.
constexpr RelocationKind Address(uint8_t width, Range range) {
  return {Form::kSymbol, From::kZero, width < 8 ? Reach::kNarrow : Reach::kAll, width, range};
}
constexpr RelocationKind Distance(uint8_t width) {
  Reach reach = width < 8 ? Reach::kNear : Reach::kAll;
  return {Form::kSymbol, From::kPlace, reach, width, Range::kSigned};
}
constexpr RelocationKind Of(Form form, From from, uint8_t width, Range range = Range::kSigned) {
  return {form, from, Reach::kAll, width, range};
}

inline const RelocationKind& KindOf(uint32_t type) {
  constexpr Range kSigned = Range::kSigned;
  constexpr Range kUnsigned = Range::kUnsigned;
  constexpr Range kEither = Range::kEither;
  constexpr From kZero = From::kZero;
  constexpr From kPlace = From::kPlace;
  constexpr From kTable = From::kTable;
  constexpr RelocationKind kNone = Of(Form::kNothing, kZero, 0);
  constexpr RelocationKind kNot = Of(Form::kRefused, kZero, 0);
  static constexpr RelocationKind kKinds[] = {
      /* NONE            */ kNone,
      /* 64              */ Address(8, kSigned),
      /* PC32            */ Distance(4),
      /* GOT32           */ kNot,
      /* PLT32           */ Of(Form::kBranch, kPlace, 4),
      /* COPY            */ kNot,
      /* GLOB_DAT        */ kNot,
      /* JUMP_SLOT       */ kNot,
      /* RELATIVE        */ kNot,
      /* GOTPCREL        */ Of(Form::kSlot, kPlace, 4),
      /* 32              */ Address(4, kUnsigned),
      /* 32S             */ Address(4, kSigned),
      /* 16              */ Address(2, kEither),
      /* PC16            */ Distance(2),
      /* 8               */ Address(1, kEither),
      /* PC8             */ Distance(1),
      /* DTPMOD64        */ kNot,
      /* DTPOFF64        */ Of(Form::kModuleOffset, kZero, 8),
      /* TPOFF64         */ Of(Form::kThreadOffset, kZero, 8),
      /* TLSGD           */ Of(Form::kModuleAndOffsetSlot, kPlace, 4),
      /* TLSLD           */ Of(Form::kModuleSlot, kPlace, 4),
      /* DTPOFF32        */ Of(Form::kModuleOffset, kZero, 4),
      /* GOTTPOFF        */ Of(Form::kThreadOffsetSlot, kPlace, 4),
      /* TPOFF32         */ Of(Form::kThreadOffset, kZero, 4),
      /* PC64            */ Distance(8),
      /* GOTOFF64        */ Of(Form::kSymbol, kTable, 8),
      /* GOTPC32         */ Of(Form::kTable, kPlace, 4),
      /* GOT64           */ Of(Form::kSlot, kTable, 8),
      /* GOTPCREL64      */ Of(Form::kSlot, kPlace, 8),
      /* GOTPC64         */ Of(Form::kTable, kPlace, 8),
      /* GOTPLT64        */ Of(Form::kSlot, kTable, 8),
      // There is no table of procedures here that lies apart, and 64 bits reach the procedure.
      /* PLTOFF64        */ Of(Form::kSymbol, kTable, 8),
      /* SIZE32          */ Of(Form::kSize, kZero, 4, kUnsigned),
      /* SIZE64          */ Of(Form::kSize, kZero, 8),
      /* GOTPC32_TLSDESC */ Of(Form::kDescriptorSlot, kPlace, 4),
      // It marks an instruction that a linker may rewrite.
      /* TLSDESC_CALL    */ kNone,
      /* TLSDESC         */ kNot,
      /* IRELATIVE       */ kNot,
      /* RELATIVE64      */ kNot,
      // Bounds checks (MPX) are gone; what is left is the plain relocation.
      /* PC32_BND        */ Distance(4),
      /* PLT32_BND       */ Of(Form::kBranch, kPlace, 4),
      /* GOTPCRELX       */ Of(Form::kRelaxableSlot, kPlace, 4),
      /* REX_GOTPCRELX   */ Of(Form::kRelaxableSlot, kPlace, 4),
      /* CODE_4_GOTPCRELX        */ Of(Form::kSlot, kPlace, 4),
      /* CODE_4_GOTTPOFF         */ Of(Form::kThreadOffsetSlot, kPlace, 4),
      /* CODE_4_GOTPC32_TLSDESC  */ Of(Form::kDescriptorSlot, kPlace, 4),
      /* CODE_5_GOTPCRELX        */ Of(Form::kSlot, kPlace, 4),
      /* CODE_5_GOTTPOFF         */ Of(Form::kThreadOffsetSlot, kPlace, 4),
      /* CODE_5_GOTPC32_TLSDESC  */ Of(Form::kDescriptorSlot, kPlace, 4),
      /* CODE_6_GOTPCRELX        */ Of(Form::kSlot, kPlace, 4),
      /* CODE_6_GOTTPOFF         */ Of(Form::kThreadOffsetSlot, kPlace, 4),
      /* CODE_6_GOTPC32_TLSDESC  */ Of(Form::kDescriptorSlot, kPlace, 4),
  };
  constexpr uint32_t kCount = sizeof(kKinds) / sizeof(kKinds[0]);
  static constexpr RelocationKind kUnknown = kNot;
  return type < kCount ? kKinds[type] : kUnknown;
}

inline bool Patch(const RelocationKind& kind, char* field, uint64_t value) {
  unsigned bits = 8 * kind.width;
  if (bits < 64) {
    auto number = static_cast<int64_t>(value);
    bool fits_signed = number >= -(int64_t{1} << (bits - 1)) && number < int64_t{1} << (bits - 1);
    bool fits_unsigned = value >> bits == 0;
    bool fits = (kind.range != Range::kUnsigned && fits_signed) ||
                (kind.range != Range::kSigned && fits_unsigned);
    if (__builtin_expect(!fits, false)) return false;
  }
  std::memcpy(field, &value, kind.width);
  return true;
}

// A slot serves whatever addend: it is that of the distance to it.
inline bool IsOwnSlot(int64_t) { return true; }

// Of libraries that the dynamic linker opens: the machine that they are for, and the relocations by
// which it tells of thread-local variables what the slots of kModuleAndOffsetSlot and so on hold.
constexpr uint16_t kMachine = llvm::ELF::EM_X86_64;
constexpr uint32_t kDynamicModule = llvm::ELF::R_X86_64_DTPMOD64;
constexpr uint32_t kDynamicOffset = llvm::ELF::R_X86_64_DTPOFF64;
constexpr uint32_t kDynamicThreadOffset = llvm::ELF::R_X86_64_TPOFF64;
constexpr uint32_t kDynamicDescriptor = llvm::ELF::R_X86_64_TLSDESC;
constexpr uint64_t kLargestPage = 4096;

// The version of the symbols that the C library, the C++ library, its runtime and libgcc had first.
constexpr const char* kFirstVersions[] = {"GLIBC_2.2.5", "GLIBCXX_3.4", "CXXABI_1.3", "GCC_3.0"};

constexpr bool kPlainCodeIsNarrow = true;
constexpr uint64_t kInstructionAlignment = 1;
constexpr uint64_t kStubSize = 16;
constexpr uint64_t kFarSize = 32;
constexpr uint64_t kTrampolineSize = 16;
constexpr unsigned char kTrapByte = 0xcc;  // int3

}  // namespace object_loader

#endif  // OBJECT_LOADER_TARGET_X86_64_RELOCATIONS_H_
