// SPDX-License-Identifier: Apache-2.0
//
// ElfSections: the sections of an object, and which of them are part of what runs.
//
// Which types and flags of sections are understood is listed here, and an object that has others is
// refused: every section is loaded, is a table that is understood, or is known to mean nothing to
// running code. What is loaded overlaps neither the tables nor anything else that is loaded.
//
// Lifetime: refers to the content, which outlives it. Concurrency: immutable.
#ifndef OBJECT_LOADER_OBJECT_ELF_SECTIONS_H_
#define OBJECT_LOADER_OBJECT_ELF_SECTIONS_H_

#include <llvm/ADT/ArrayRef.h>
#include <llvm/ADT/StringRef.h>
#include <llvm/Object/ELFTypes.h>

#include <cstdint>
#include <string>
#include <vector>

namespace object_loader {

class ElfTables;

using Elf = llvm::object::ELF64LE;

class ElfSections {
 public:
  // A load's memory is one reservation within reach of 32-bit relocations, so nothing in it can be
  // larger, or aligned so strictly that it would take a large part of it.
  static constexpr uint64_t kMaxAlignment = uint64_t{1} << 29;
  static constexpr uint64_t kMaxSize = (uint64_t{1} << 31) - 1;

  ElfSections() = default;
  // Fetches also the content of those for which IsReadAtOnce says so. Throws ObjectFormatError and
  // FileError.
  explicit ElfSections(ElfTables& tables);

  llvm::ArrayRef<Elf::Shdr> headers() const { return headers_; }
  size_t size() const { return headers_.size(); }
  const Elf::Shdr& operator[](size_t section) const { return headers_[section]; }
  llvm::StringRef Name(size_t section) const {
    return llvm::StringRef(names_.data() + headers_[section].sh_name);
  }
  // What messages call it.
  std::string Label(size_t section) const { return "section " + Name(section).str(); }

  bool IsLoaded(size_t section) const { return loaded_[section]; }
  // Whether it is there to understand the object: symbols, names, relocations, groups.
  bool IsTable(size_t section) const;
  // Whether the content, if it is loaded, is read together with the tables.
  bool IsReadAtOnce(size_t section) const;
  // Whether GCC left LTO bytecode in the object, beside its code or in place of it.
  bool has_lto() const { return has_lto_; }

 private:
  class Reader;

  llvm::ArrayRef<Elf::Shdr> headers_;
  llvm::StringRef names_;
  std::vector<bool> loaded_;
  bool has_lto_ = false;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_OBJECT_ELF_SECTIONS_H_
