// SPDX-License-Identifier: Apache-2.0
//
// ObjectFile: one relocatable object, read once into memory of our own, identified and validated.
//
// An ObjectFile that exists is a well-formed ELF64 x86-64 relocatable object, and the private copy
// is in the form that JITLink handles best (see object_validation.h): every section that reaches
// memory has an address of its own (see AssignAddresses).
#ifndef OBJECT_LOADER_OBJECT_FILE_H_
#define OBJECT_LOADER_OBJECT_FILE_H_

#include <llvm/Support/MemoryBuffer.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "file_content.h"
#include "object_validation.h"

namespace object_loader {

class ObjectFile {
 public:
  // Takes the content, and its name as the object's. Throws ObjectFormatError.
  explicit ObjectFile(std::unique_ptr<llvm::WritableMemoryBuffer> content);
  // Copies `bytes`; throws ObjectFormatError.
  static ObjectFile FromBytes(std::string_view bytes) { return ObjectFile(CopyBytes(bytes)); }

  // What the caller gave: the path, or "<bytes>"; "libfoo.a(bar.o)" for an archive's member.
  const std::string& name() const { return name_; }
  llvm::MemoryBufferRef buffer() const { return buffer_->getMemBufferRef(); }

  const ObjectFacts& facts() const { return facts_; }

  // Of a section, after AssignAddresses.
  uint64_t address(size_t section) const;
  uint64_t size(size_t section) const;

  // Gives the sections distinct addresses from `base` upwards, in file order, and returns the end.
  // In a relocatable object all of them are 0, but JITLink orders blocks by address and tells the
  // records of .eh_frame apart by it, also when several objects are linked as one.
  uint64_t AssignAddresses(uint64_t base);

 private:
  void Identify() const;
  [[noreturn]] void Fail(const std::string& what) const;

  std::string name_;
  std::unique_ptr<llvm::WritableMemoryBuffer> buffer_;
  ObjectFacts facts_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_OBJECT_FILE_H_
