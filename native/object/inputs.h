// SPDX-License-Identifier: Apache-2.0
//
// Inputs: what one load is given, objects, archives and shared libraries, and which objects it
// therefore links.
//
// As the linker does between --start-group and --end-group: a member of an archive is pulled in for
// a symbol that the objects, or members pulled in before, refer to and none defines; a weak
// reference pulls nothing, and a common symbol pulls a member that defines it. All archives are
// searched until nothing more is pulled in. Archives that come without any object would give
// nothing; of these the members that export a TVM-FFI function are pulled in, and what they need.
#ifndef OBJECT_LOADER_OBJECT_INPUTS_H_
#define OBJECT_LOADER_OBJECT_INPUTS_H_

#include <llvm/ADT/STLFunctionalExtras.h>

#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "object/archive.h"
#include "object/elf_view.h"
#include "object/source.h"

namespace object_loader {

class Inputs {
 public:
  // `whole_archive`: every member of every archive is linked, in the archive's place.
  // `keep_contents`: what the load was given is remembered with its content (Source).
  explicit Inputs(bool whole_archive, bool keep_contents = false)
      : whole_archive_(whole_archive), keep_contents_(keep_contents) {
    from_->whole_archive = whole_archive;
  }

  // Throws FileError, OutOfMemoryError and ObjectFormatError.
  void AddFile(const std::string& path);
  // As FileContent::OfBytes.
  void AddBytes(llvm::StringRef bytes, bool immutable, const std::string& name = "<bytes>");
  // What a load was given, as it had it. Throws ObjectLoaderError too, where that is not to be had
  // any more: the file has changed, say.
  void AddAgain(const Source& source);

  // Whether there are objects or archives.
  bool has_objects() const { return !inputs_.empty(); }
  // Throws ObjectFormatError where there are none.
  void RequireObjects() const;
  // The paths of the shared libraries.
  const std::vector<std::string>& libraries() const { return libraries_; }

  // The objects to link, in the linker's order; once only. `is_defined` tells of a symbol that is
  // there already. Throws ObjectFormatError, also where there is nothing to link, and FileError.
  std::vector<ElfView> TakeObjects(llvm::function_ref<bool(llvm::StringRef)> is_defined);
  // What was added; once only.
  std::shared_ptr<const LoadedFrom> TakeSources() { return std::move(from_); }

 private:
  void Add(std::shared_ptr<FileContent> content, Source&& source);

  const bool whole_archive_;
  const bool keep_contents_;
  bool any_archive_ = false;
  std::shared_ptr<LoadedFrom> from_ = std::make_shared<LoadedFrom>();
  std::vector<std::variant<ElfView, Archive>> inputs_;
  std::vector<std::string> libraries_;
};

// The inputs of a load as it had them; see AddAgain. Contents are kept again where they were.
Inputs ReadAgain(const LoadedFrom& from);

// Throws ObjectFormatError and FileError where the file is no shared library for this process, or
// is shorter than its headers say: the dynamic linker maps what they say, and touching pages past
// the end of a file is a SIGBUS.
void CheckSharedLibrary(const std::string& path);

}  // namespace object_loader

#endif  // OBJECT_LOADER_OBJECT_INPUTS_H_
