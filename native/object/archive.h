// SPDX-License-Identifier: Apache-2.0
//
// Archive: the members of an ar archive, by the symbols that they define.
//
// What the linkers on Linux read: archives of GNU and BSD make, and thin ones, whose members are
// files of their own. An Archive that exists is well-formed: all headers, names and members lie
// inside the file. (llvm::object::Archive reads members and name tables that reach past the end.)
// The symbols are those of the members themselves, so an archive without a symbol table is as good
// as one with it; the table only tells what a member would define that can't be loaded here.
//
// Format: ar(5), and the GNU and BSD variants of long names.
#ifndef OBJECT_LOADER_OBJECT_ARCHIVE_H_
#define OBJECT_LOADER_OBJECT_ARCHIVE_H_

#include <llvm/ADT/ArrayRef.h>
#include <llvm/ADT/DenseMap.h>
#include <llvm/ADT/SmallVector.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "object/elf_view.h"

namespace object_loader {

// The global symbols of one object. The names lie in its content.
struct ObjectSymbols {
  // `name@@VERSION` stands for the name alone and for `name@VERSION`.
  void Add(const Elf::Sym& symbol, llvm::StringRef name);

  std::vector<llvm::StringRef> defined;
  std::vector<llvm::StringRef> common;
  std::vector<llvm::StringRef> undefined;  // without the weak ones
  std::deque<std::string> made;            // names that lie in no content
};

class Archive {
 public:
  // Whether the members of the archive that begins so are files of their own.
  static bool IsThin(llvm::StringRef content);

  // The file at the path that names the content; a thin archive's members are read beside it.
  // Throws ObjectFormatError, and what FileContent throws.
  static Archive FromFile(std::shared_ptr<FileContent> content);
  // Throws ObjectFormatError, also for a thin archive, which says nothing of where it lies.
  static Archive FromBytes(std::shared_ptr<FileContent> content);

  const std::string& name() const { return content_->name(); }
  size_t size() const { return members_.size(); }
  const ObjectSymbols& symbols(size_t member) const { return members_[member].symbols; }
  // The members that define `symbol`, in order.
  llvm::ArrayRef<uint32_t> Definers(llvm::StringRef symbol) const;

  // The member, which keeps the content. Throws ObjectFormatError, and FileError for a thin
  // archive's.
  ElfView Extract(size_t member) const;

 private:
  struct Member {
    std::string name;
    std::string path;                   // of a thin archive's member; empty otherwise
    uint64_t header_offset;             // as the symbol table refers to it
    llvm::StringRef content;            // empty where the file can't be read
    std::shared_ptr<FileContent> file;  // what a thin archive's member is
    bool readable = false;              // `symbols` is what the member says itself
    ObjectSymbols symbols;
  };

  explicit Archive(std::shared_ptr<FileContent> content) : content_(std::move(content)) {}
  void ReadMembers(const std::string* path);
  void ReadMemberSymbols();
  void ReadSymbolTable(llvm::StringRef table, unsigned width);
  std::string MemberName(const Member& member) const;
  [[noreturn]] void Fail(const std::string& what) const;

  std::shared_ptr<FileContent> content_;
  std::vector<Member> members_;
  llvm::DenseMap<llvm::StringRef, llvm::SmallVector<uint32_t, 1>> definers_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_OBJECT_ARCHIVE_H_
