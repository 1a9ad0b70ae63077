// SPDX-License-Identifier: Apache-2.0
//
// What is the processor's own in linking: what relocations ask for and how it is written into the
// code, the forms of thread-local access, and the little code that a linker adds.
//
// One processor is chosen when the loader is built: its folder has the inline part, and the sources
// that define the functions below. No other folder knows processors apart.
#ifndef OBJECT_LOADER_TARGET_TARGET_H_
#define OBJECT_LOADER_TARGET_TARGET_H_

#include <llvm/ADT/StringRef.h>
#include <llvm/ExecutionEngine/JITLink/JITLink.h>

#include <cstdint>
#include <memory>
#include <string>

namespace object_loader {

// What a relocation is about. S is the symbol's address, A the addend, P the place of the field,
// GOT the address of the global offset table, and G that of the slot in it that holds S.
enum class Form : uint8_t {
  kNothing,
  kRefused,
  kSymbol,         // S + A
  kBranch,         // the same; by way of a stub where S is too far away
  kSlot,           // G + A
  kRelaxableSlot,  // the same, in an instruction that may be made one that needs no slot
  kTable,          // GOT + A
  kSize,           // the symbol's size + A
  // Of thread-local variables (ELF Handling For Thread-Local Storage). A slot, + A, that holds ...
  kModuleAndOffsetSlot,  // the argument of __tls_get_addr
  kModuleSlot,           // the same for the load's own variables, with offset 0
  kThreadOffsetSlot,     // the distance from the thread pointer
  kDescriptorSlot,       // a TLS descriptor
  kModuleOffset,         // the offset in the load's own variables, + A
  kThreadOffset,         // the distance from the thread pointer, + A
};

constexpr bool IsThreadLocal(Form form) { return form >= Form::kModuleAndOffsetSlot; }

// From where that is measured.
enum class From : uint8_t {
  kZero,       // it is meant itself
  kPlace,      // - P
  kPage,       // Page(it) - Page(P): another relocation is for the rest
  kTable,      // - GOT
  kTablePage,  // - Page(GOT)
};
// The pages that instructions count in, whatever those of the system are.
constexpr uint64_t PageOf(uint64_t address) { return address & ~uint64_t{0xfff}; }

// What the field has room for.
enum class Reach : uint8_t {
  kAll,     // whatever it is; or it takes what it has room for, and nobody minds
  kNarrow,  // an address of 32 bits, or less
  kNear,    // what lies in the same load, or near by
  kShort,   // what lies still nearer: from code to data it may be too far
};

}  // namespace object_loader

#if defined(__x86_64__)
#include "target/x86_64/relocations.h"
#elif defined(__aarch64__)
#include "target/aarch64/relocations.h"
#else
#error "There is no folder in target/ for this processor."
#endif

namespace object_loader {

// These are inline, in the processor's folder:
//
//   struct RelocationKind;
//       Has `form`, `from` and `reach`, and `width`: so many bytes are written.
//   const RelocationKind& KindOf(uint32_t type);
//   bool Patch(const RelocationKind& kind, char* field, uint64_t value);
//       Writes what was computed; false where it does not fit.
//   bool IsOwnSlot(int64_t addend);
//       Whether the slot of a symbol serves a relocation with this addend.
//
// And constants:
//
//   kMachine, kDynamic..., kLargestPage   of libraries that the dynamic linker opens
//   kFirstVersions          the first versions of the symbols of the process's basic libraries
//   kPlainCodeIsNarrow      whether code without -fPIC takes all addresses for ones of 32 bits
//   kInstructionAlignment, kStubSize, kFarSize, kTrampolineSize, kTrapByte

// "R_X86_64_PC32", or "of type 200".
std::string RelocationName(uint32_t type);
// Why relocations of this type, whose form is kRefused, can't be applied, and what to do about it.
const char* WhyRefused(uint32_t type);

// Why a value does not fit that a relocation of this type has, and what to do about it.
const char* WhyOutOfRange(uint32_t type);

// Whether `section_index` of a symbol, one that the format leaves to processors, is that of common
// symbols of some kind.
bool IsCommonOfProcessor(uint16_t section_index);

// Whether the instruction that the field of a kRelaxableSlot belongs to can be made one that takes
// the symbol's address itself; `before` bytes lie before the field in its section.
bool CanRelaxSlot(const char* field, uint64_t before, int64_t addend);
// Does so, and patches it. False where the instruction or the distance is another one: it is as it
// was then.
bool RelaxSlot(char* field, uint64_t before, uint64_t symbol, uint64_t place, int64_t addend);

// For code that takes what is far away for something near by, or below 4 GiB: makes the instruction
// that the field belongs to one that does the same by way of the slot that holds the address. Where
// there is no room for that it becomes a jump to `thunk`, kFarSize bytes which are executed at
// `thunk_place`. False where the instruction is another one; nothing was written then.
struct FarAccess {
  const RelocationKind& kind;
  char* field;
  uint64_t before;  // bytes before the field in its section
  uint64_t after;   // and after it
  uint64_t place;   // where the field is
  int64_t addend;
  uint64_t symbol;
  uint64_t slot;  // 0: there is none for what is meant by Reach::kShort
  char* thunk;
  uint64_t thunk_place;
};
bool ReachFar(const FarAccess& access);

// A jump to `address`, from anywhere.
void WriteStub(char* stub, uint64_t address);
// A jump to what the pointer at `slot` points to; it is executed at `place`.
void WriteIndirectStub(char* stub, uint64_t place, uint64_t slot);

// A jump to the function whose address is at `data`, with `data` itself as the fifth argument; it
// is executed at `place`. Whoever gets there has read the trampoline's address, with a plain load
// maybe, and what was written at `data` before that address was published is seen from there on.
void WriteTrampoline(char* trampoline, uint64_t place, uint64_t data);

// Code was written, there or where the same memory is mapped a second time: from now on processors
// see it, which don't by themselves. For the addresses at which it is executed, while they may be
// read, and before anybody may run it.
void FlushCode(const char* begin, uint64_t size);

// What stands before and after the pieces of sections .init and .fini, to make a function of them.
extern const llvm::StringRef kFragmentsProlog;
extern const llvm::StringRef kFragmentsEpilog;

// Two functions without arguments that return 1 and 2 as int, of the same size.
extern const llvm::StringRef kReturnOne;
extern const llvm::StringRef kReturnTwo;

// What fills gaps between functions: it stops whoever gets there.
constexpr char kCodeFill = static_cast<char>(kTrapByte);

// A graph for this processor, and JITLink's way of linking it.
std::unique_ptr<llvm::jitlink::LinkGraph> MakeLinkGraph(
    const std::string& name, std::shared_ptr<llvm::orc::SymbolStringPool> names);
void RunJITLink(std::unique_ptr<llvm::jitlink::LinkGraph> graph,
                std::unique_ptr<llvm::jitlink::JITLinkContext> context);

}  // namespace object_loader

#endif  // OBJECT_LOADER_TARGET_TARGET_H_
