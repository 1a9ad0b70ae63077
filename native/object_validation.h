// SPDX-License-Identifier: Apache-2.0
//
// Validates the content of a relocatable object, and adapts it to JITLink.
//
// Whatever passes is well-formed: every offset, size, index and alignment that the linker is going
// to follow lies inside the file. The content is changed into the form that JITLink handles best:
// sections that never reach memory are dropped, and what it does not know becomes something that it
// does; what this takes away from the file is in the facts.
//
// Format: System V ABI (gABI) chapter 4 and its x86-64 supplement.
#ifndef OBJECT_LOADER_OBJECT_VALIDATION_H_
#define OBJECT_LOADER_OBJECT_VALIDATION_H_

#include <llvm/ADT/ArrayRef.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace object_loader {

// A global symbol with a value of its own, in no section (SHN_ABS). JITLink has no place for them
// in an object, so in the content they are undefined.
struct AbsoluteSymbol {
  std::string name;
  uint64_t value;
  bool weak;
  bool hidden;
};

// A relocation that asks for the place of a thread-local variable (ELF Handling For Thread-Local
// Storage). In the content it is one of the same width that JITLink knows.
struct ThreadLocalRelocation {
  size_t section;
  uint64_t offset;
  uint32_t type;  // as it was in the file
};

// A function that chooses an implementation when it is loaded (STT_GNU_IFUNC); the symbol's place
// is that of the resolver. In the content it is an ordinary function.
struct IndirectFunction {
  size_t section;
  uint64_t offset;
  std::string name;
};

struct ObjectFacts {
  uint64_t table_bytes = 0;  // what is not content: symbols, relocations, names, section headers
  std::vector<AbsoluteSymbol> absolute_symbols;
  std::vector<ThreadLocalRelocation> thread_local_relocations;
  std::vector<IndirectFunction> indirect_functions;
  // Those that hold initial values of thread-local variables, or only give their size.
  std::vector<size_t> thread_local_sections;
  bool needs_got = false;         // refers to the global offset table itself, not only its entries
  bool needs_low_memory = false;  // has 32-bit addresses of its own sections, as without -fPIC
};

// `content` begins with the header of an ELF64 x86-64 relocatable object, called `name` in
// messages. Throws ObjectFormatError, and LinkError for what can't be linked.
ObjectFacts ValidateObject(const std::string& name, llvm::MutableArrayRef<char> content);

}  // namespace object_loader

#endif  // OBJECT_LOADER_OBJECT_VALIDATION_H_
