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
  uint8_t width;  // bytes
  Range range;
};

inline const RelocationKind& KindOf(uint32_t type) {
  constexpr Range kSigned = Range::kSigned;
  constexpr Range kUnsigned = Range::kUnsigned;
  constexpr Range kEither = Range::kEither;
  constexpr RelocationKind kNone = {Form::kNothing, 0, kSigned};
  constexpr RelocationKind kNot = {Form::kRefused, 0, kSigned};
  static constexpr RelocationKind kKinds[] = {
      /* NONE            */ kNone,
      /* 64              */ {Form::kAddress, 8, kSigned},
      /* PC32            */ {Form::kDistance, 4, kSigned},
      /* GOT32           */ kNot,
      /* PLT32           */ {Form::kBranch, 4, kSigned},
      /* COPY            */ kNot,
      /* GLOB_DAT        */ kNot,
      /* JUMP_SLOT       */ kNot,
      /* RELATIVE        */ kNot,
      /* GOTPCREL        */ {Form::kSlotDistance, 4, kSigned},
      /* 32              */ {Form::kAddress, 4, kUnsigned},
      /* 32S             */ {Form::kAddress, 4, kSigned},
      /* 16              */ {Form::kAddress, 2, kEither},
      /* PC16            */ {Form::kDistance, 2, kSigned},
      /* 8               */ {Form::kAddress, 1, kEither},
      /* PC8             */ {Form::kDistance, 1, kSigned},
      /* DTPMOD64        */ kNot,
      /* DTPOFF64        */ {Form::kModuleOffset, 8, kSigned},
      /* TPOFF64         */ {Form::kThreadOffset, 8, kSigned},
      /* TLSGD           */ {Form::kModuleAndOffsetSlot, 4, kSigned},
      /* TLSLD           */ {Form::kModuleSlot, 4, kSigned},
      /* DTPOFF32        */ {Form::kModuleOffset, 4, kSigned},
      /* GOTTPOFF        */ {Form::kThreadOffsetSlot, 4, kSigned},
      /* TPOFF32         */ {Form::kThreadOffset, 4, kSigned},
      /* PC64            */ {Form::kDistance, 8, kSigned},
      /* GOTOFF64        */ {Form::kTableOffset, 8, kSigned},
      /* GOTPC32         */ {Form::kTableDistance, 4, kSigned},
      /* GOT64           */ {Form::kSlotOffset, 8, kSigned},
      /* GOTPCREL64      */ {Form::kSlotDistance, 8, kSigned},
      /* GOTPC64         */ {Form::kTableDistance, 8, kSigned},
      /* GOTPLT64        */ {Form::kSlotOffset, 8, kSigned},
      // There is no table of procedures here that lies apart, and 64 bits reach the procedure.
      /* PLTOFF64        */ {Form::kTableOffset, 8, kSigned},
      /* SIZE32          */ {Form::kSize, 4, kUnsigned},
      /* SIZE64          */ {Form::kSize, 8, kSigned},
      /* GOTPC32_TLSDESC */ {Form::kDescriptorSlot, 4, kSigned},
      // It marks an instruction that a linker may rewrite.
      /* TLSDESC_CALL    */ kNone,
      /* TLSDESC         */ kNot,
      /* IRELATIVE       */ kNot,
      /* RELATIVE64      */ kNot,
      // Bounds checks (MPX) are gone; what is left is the plain relocation.
      /* PC32_BND        */ {Form::kDistance, 4, kSigned},
      /* PLT32_BND       */ {Form::kBranch, 4, kSigned},
      /* GOTPCRELX       */ {Form::kRelaxableSlot, 4, kSigned},
      /* REX_GOTPCRELX   */ {Form::kRelaxableSlot, 4, kSigned},
      /* CODE_4_GOTPCRELX        */ {Form::kSlotDistance, 4, kSigned},
      /* CODE_4_GOTTPOFF         */ {Form::kThreadOffsetSlot, 4, kSigned},
      /* CODE_4_GOTPC32_TLSDESC  */ {Form::kDescriptorSlot, 4, kSigned},
      /* CODE_5_GOTPCRELX        */ {Form::kSlotDistance, 4, kSigned},
      /* CODE_5_GOTTPOFF         */ {Form::kThreadOffsetSlot, 4, kSigned},
      /* CODE_5_GOTPC32_TLSDESC  */ {Form::kDescriptorSlot, 4, kSigned},
      /* CODE_6_GOTPCRELX        */ {Form::kSlotDistance, 4, kSigned},
      /* CODE_6_GOTTPOFF         */ {Form::kThreadOffsetSlot, 4, kSigned},
      /* CODE_6_GOTPC32_TLSDESC  */ {Form::kDescriptorSlot, 4, kSigned},
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

constexpr uint64_t kInstructionAlignment = 1;
constexpr uint64_t kStubSize = 16;
constexpr uint64_t kFarSize = 32;
constexpr unsigned char kTrapByte = 0xcc;  // int3

}  // namespace object_loader

#endif  // OBJECT_LOADER_TARGET_X86_64_RELOCATIONS_H_
