// SPDX-License-Identifier: Apache-2.0
//
// ElfView: a relocatable object as it is: an immutable, validated view of its sections, symbols,
// relocations and groups.
//
// A view that exists is well-formed: every offset, index, alignment and name lies where the format
// says; what is loaded overlaps neither the tables nor anything else that is loaded; every section
// is loaded, is a table that is understood, or is known to mean nothing to running code. Nothing is
// written into the content. What relocations do, and whether their fields lie inside the section,
// is up to the processor (target/).
//
// Concurrency: immutable, but for the reading of large sections: see CopyContent.
// Formats: System V ABI (gABI) chapter 4, and its extensions for CREL and for GNU.
#ifndef OBJECT_LOADER_OBJECT_ELF_VIEW_H_
#define OBJECT_LOADER_OBJECT_ELF_VIEW_H_

#include <llvm/ADT/ArrayRef.h>
#include <llvm/ADT/StringRef.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "object/elf_sections.h"
#include "object/file_content.h"

namespace object_loader {

class ElfView {
 public:
  // Sections that are kept or dropped together.
  struct Group {
    llvm::StringRef signature;
    bool comdat;  // one of each signature is kept
    llvm::ArrayRef<Elf::Word> members;
  };
  // What SectionOf gives for symbols that lie in no section.
  enum Special : uint32_t { kUndefined = 0, kAbsolute = ~0U, kCommon = ~1U, kOfProcessor = ~2U };

  // Takes an object for this process. Throws ObjectFormatError.
  explicit ElfView(std::shared_ptr<FileContent> content);
  ElfView(ElfView&&) = default;
  ElfView& operator=(ElfView&&) = default;

  // What the caller gave: the path, or "<bytes>"; "libfoo.a(bar.o)" for an archive's member.
  const std::string& name() const { return content_->name(); }

  const Elf::Ehdr& header() const {
    return *reinterpret_cast<const Elf::Ehdr*>(content_->bytes().data());
  }
  llvm::ArrayRef<Elf::Shdr> sections() const { return sections_.headers(); }
  llvm::StringRef SectionName(size_t section) const { return sections_.Name(section); }
  // Whether the section is part of what runs.
  bool IsLoaded(size_t section) const { return sections_.IsLoaded(section); }
  // The content as far as it was read already; empty for large sections and for zeros.
  llvm::StringRef Content(size_t section) const;
  // Copies the content of a section that is not SHT_NOBITS. For one thread at a time. Throws
  // FileError and ObjectFormatError.
  void CopyContent(size_t section, char* to) const;

  // Of a section that is not loaded, as debug information is, which nothing is known of: its
  // content as it was before it was compressed, and the relocations for it, in their order. False
  // where any of it is malformed. Throws FileError, ObjectFormatError and std::bad_alloc.
  bool ReadUnloaded(size_t section, std::vector<char>& content,
                    std::vector<Elf::Rela>& relocations) const;

  llvm::ArrayRef<Elf::Sym> symbols() const { return symbols_; }
  size_t first_global() const { return first_global_; }
  llvm::StringRef SymbolName(size_t symbol) const {
    return llvm::StringRef(symbol_names_.data() + symbols_[symbol].st_name);
  }
  // The index of the section that the symbol lies in, or a Special.
  uint32_t SectionOf(size_t symbol) const;

  // Of a loaded section.
  llvm::ArrayRef<Elf::Rela> Relocations(size_t section) const { return relocations_[section]; }

  const std::vector<Group>& groups() const { return groups_; }

  // Bytes of what is no content: symbols, relocations, names, section headers.
  uint64_t table_bytes() const { return table_bytes_; }
  uint64_t size() const { return content_->size(); }

 private:
  class Reader;

  std::shared_ptr<FileContent> content_;
  ElfSections sections_;
  llvm::ArrayRef<Elf::Sym> symbols_;
  llvm::StringRef symbol_names_;
  size_t first_global_ = 0;
  llvm::ArrayRef<Elf::Word> extended_indices_;
  std::vector<llvm::ArrayRef<Elf::Rela>> relocations_;  // by section
  std::deque<std::vector<Elf::Rela>> decoded_;          // those that the file has in another form
  std::vector<Group> groups_;
  uint64_t table_bytes_ = 0;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_OBJECT_ELF_VIEW_H_
