// SPDX-License-Identifier: Apache-2.0
#include "object/elf_tables.h"

namespace object_loader {

using llvm::object::ELF64LEFile;
using Shdr = llvm::object::ELF64LE::Shdr;

ElfTables::ElfTables(FileContent& content)
    : content_(content), file_(Check(ELF64LEFile::create(content.bytes()))) {
  const llvm::object::ELF64LE::Ehdr& header = file_.getHeader();
  if (header.e_shoff == 0) Malformed("no section table");
  if (header.e_shentsize != sizeof(Shdr)) Malformed("entries of the section table");
  uint64_t count = header.e_shnum;
  if (count == 0) {  // the first entry holds the number, for which the header has no room
    Fetch(header.e_shoff, sizeof(Shdr));
    count = reinterpret_cast<const Shdr*>(content_.bytes().data() + header.e_shoff)->sh_size;
  }
  if (count > content_.size() / sizeof(Shdr)) Malformed("number of sections");
  Fetch(header.e_shoff, count * sizeof(Shdr));
  headers_ = Check(file_.sections());
  if (headers_.empty()) Malformed("no section table");
  fetched_.resize(headers_.size());
}

void ElfTables::Fetch(size_t section) {
  if (fetched_[section]) return;
  fetched_[section] = true;
  Fetch(headers_[section].sh_offset, headers_[section].sh_size);
}

void ElfTables::Fetch(uint64_t offset, uint64_t size) {
  if (offset > content_.size() || size > content_.size() - offset) {
    Malformed("a table of " + std::to_string(size) + " bytes at offset " + std::to_string(offset) +
              " reaches past the end of the file");
  }
  content_.Fetch(offset, size);
  bytes_ += size;
}

void ElfTables::Fail(const std::string& what) const {
  throw ObjectFormatError(content_.name() + ": " + what);
}

void ElfTables::Malformed(const std::string& what) const {
  Fail("is truncated or malformed: " + what);
}

}  // namespace object_loader
