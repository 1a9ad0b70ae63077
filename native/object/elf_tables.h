// SPDX-License-Identifier: Apache-2.0
//
// ElfTables: the tables of an object while it is read. The section headers, and the sections that
// are tables, are each fetched once and lie inside the file. What the object is refused for names
// it.
//
// Lifetime: refers to the content, as do the headers, which may outlive it. Concurrency: for one
// thread at a time.
#ifndef OBJECT_LOADER_OBJECT_ELF_TABLES_H_
#define OBJECT_LOADER_OBJECT_ELF_TABLES_H_

#include <llvm/ADT/ArrayRef.h>
#include <llvm/Object/ELF.h>
#include <llvm/Support/Error.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "object/file_content.h"

namespace object_loader {

class ElfTables {
 public:
  // Reads the section headers, of which there is at least one. This and all below throw
  // ObjectFormatError, and FileError where they fetch.
  explicit ElfTables(FileContent& content);

  FileContent& content() const { return content_; }
  // LLVM's view of the content. It reads only what was fetched.
  const llvm::object::ELF64LEFile& file() const { return file_; }
  llvm::ArrayRef<llvm::object::ELF64LE::Shdr> headers() const { return headers_; }

  // Makes the table that a section is readable.
  void Fetch(size_t section);
  // Of all that was fetched here.
  uint64_t bytes() const { return bytes_; }

  [[noreturn]] void Fail(const std::string& what) const;
  [[noreturn]] void Malformed(const std::string& what) const;
  template <typename T>
  T Check(llvm::Expected<T> value) const {
    if (!value) Malformed(Message(value.takeError()));
    return std::move(*value);
  }

 private:
  void Fetch(uint64_t offset, uint64_t size);

  FileContent& content_;
  const llvm::object::ELF64LEFile file_;
  llvm::ArrayRef<llvm::object::ELF64LE::Shdr> headers_;
  std::vector<bool> fetched_;  // by section
  uint64_t bytes_ = 0;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_OBJECT_ELF_TABLES_H_
