// SPDX-License-Identifier: Apache-2.0
//
// ObjectFile: one relocatable object, read once into memory of our own, identified and validated.
//
// An ObjectFile that exists is a well-formed ELF64 x86-64 relocatable object: every offset, size,
// index and alignment that the linker is going to follow lies inside the file. The private copy is
// also brought into the form that JITLink handles best: sections that never reach memory are
// dropped, and every other section has an address of its own (see AssignAddresses).
//
// Format: System V ABI (gABI) chapter 4 and its x86-64 supplement.
#ifndef OBJECT_LOADER_OBJECT_FILE_H_
#define OBJECT_LOADER_OBJECT_FILE_H_

#include <llvm/Object/ELFTypes.h>
#include <llvm/Support/MemoryBuffer.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace object_loader {

// A private copy of a file's content, named `path`. Throws FileError, and ObjectFormatError for
// what is no file on a disk.
std::unique_ptr<llvm::WritableMemoryBuffer> ReadFile(const std::string& path);
// A private copy of `bytes`, called `name`.
std::unique_ptr<llvm::WritableMemoryBuffer> CopyBytes(std::string_view bytes,
                                                      const std::string& name = "<bytes>");

class ObjectFile {
 public:
  // Takes the content, and its name as the object's. Throws ObjectFormatError.
  explicit ObjectFile(std::unique_ptr<llvm::WritableMemoryBuffer> content);
  // Copies `bytes`; throws ObjectFormatError.
  static ObjectFile FromBytes(std::string_view bytes) { return ObjectFile(CopyBytes(bytes)); }

  // What the caller gave: the path, or "<bytes>"; "libfoo.a(bar.o)" for an archive's member.
  const std::string& name() const { return name_; }
  llvm::MemoryBufferRef buffer() const { return buffer_->getMemBufferRef(); }

  // The size of what is not content: symbols, relocations, names, section headers.
  uint64_t table_bytes() const { return table_bytes_; }

  // The global symbols with a value of their own, in no section (SHN_ABS). JITLink has no place for
  // them in an object, so in the private copy they are undefined.
  struct AbsoluteSymbol {
    std::string name;
    uint64_t value;
    bool weak;
    bool hidden;
  };
  const std::vector<AbsoluteSymbol>& absolute_symbols() const { return absolute_symbols_; }

  // A relocation that asks for the place of a thread-local variable (ELF Handling For Thread-Local
  // Storage). In the private copy it is one of the same width that JITLink knows.
  struct ThreadLocalRelocation {
    size_t section;
    uint64_t offset;
    uint32_t type;  // as it was in the file
  };
  const std::vector<ThreadLocalRelocation>& thread_local_relocations() const {
    return thread_local_relocations_;
  }

  // A function that chooses an implementation when it is loaded (STT_GNU_IFUNC); the symbol's place
  // is that of the resolver. In the private copy it is an ordinary function.
  struct IndirectFunction {
    size_t section;
    uint64_t offset;
    std::string name;
  };
  const std::vector<IndirectFunction>& indirect_functions() const { return indirect_functions_; }

  // The sections that hold initial values of thread-local variables, or only give their size.
  const std::vector<size_t>& thread_local_sections() const { return thread_local_sections_; }

  // Of a section, after AssignAddresses.
  uint64_t address(size_t section) const;
  uint64_t size(size_t section) const;
  // Whether code refers to the global offset table itself, not only to entries of it.
  bool needs_got() const { return needs_got_; }
  // Whether it has 32-bit addresses of its own sections in it, as code without -fPIC does.
  bool needs_low_memory() const { return needs_low_memory_; }

  // Gives the sections distinct addresses from `base` upwards, in file order, and returns the end.
  // In a relocatable object all of them are 0, but JITLink orders blocks by address and tells the
  // records of .eh_frame apart by it, also when several objects are linked as one.
  uint64_t AssignAddresses(uint64_t base);

 private:
  void Identify() const;
  void Validate();
  // Throws LinkError for a relocation that can't be applied.
  void Adapt(llvm::object::ELF64LE::Rela& relocation, const llvm::object::ELF64LE::Sym& symbol,
             llvm::StringRef symbol_names, llvm::ArrayRef<llvm::object::ELF64LE::Shdr> sections,
             const llvm::object::ELF64LE::Shdr& table);
  [[noreturn]] void Fail(const std::string& what) const;

  std::string name_;
  std::unique_ptr<llvm::WritableMemoryBuffer> buffer_;
  uint64_t table_bytes_ = 0;
  std::vector<AbsoluteSymbol> absolute_symbols_;
  std::vector<ThreadLocalRelocation> thread_local_relocations_;
  std::vector<IndirectFunction> indirect_functions_;
  std::vector<size_t> thread_local_sections_;
  bool needs_got_ = false;
  bool needs_low_memory_ = false;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_OBJECT_FILE_H_
