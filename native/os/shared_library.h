// SPDX-License-Identifier: Apache-2.0
//
// SharedLibrary: a shared library that loaded code links to, opened by the dynamic linker.
//
// It is opened privately, so that nothing but the dylibs which name it see its symbols, and closed
// with the last of the objects that stand for it; but one that starts threads, or keeps something
// for each thread, is never unmapped. Its tables are read once for as long as it is open. The file
// is trusted, as every library that is dlopened is.
//
// Concurrency: every method may be called from any thread. See DynamicLibrary for what must not be
// held meanwhile.
#ifndef OBJECT_LOADER_OS_SHARED_LIBRARY_H_
#define OBJECT_LOADER_OS_SHARED_LIBRARY_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/path.h"
#include "os/dynamic_library.h"

namespace object_loader {

class SharedLibrary {
 public:
  // The file at `path`, which is always one in the file system: the folders that the dynamic linker
  // searches for bare names are not. Throws LinkError with what the dynamic linker says.
  static std::shared_ptr<SharedLibrary> Open(const std::string& path);
  // The same if it is open already, or null; nothing is opened.
  static std::shared_ptr<SharedLibrary> FindOpen(const std::string& path);

  // As the caller gave it.
  const std::string& path() const { return path_; }
  // Where it is, whatever the current folder.
  const std::string& location() const { return location_; }

  // See DynamicLibrary.
  std::optional<void*> Find(const std::string& symbol) const { return library_->Find(symbol); }
  std::optional<std::string> FindThreadLocal(const std::string& symbol) const {
    return library_->FindThreadLocal(symbol);
  }
  std::optional<void*> FindWithDependencies(const std::string& symbol) const {
    return library_->FindWithDependencies(symbol);
  }

 private:
  SharedLibrary(std::string path, std::shared_ptr<const DynamicLibrary> library)
      : path_(std::move(path)), location_(AbsolutePath(path_)), library_(std::move(library)) {}

  const std::string path_;
  const std::string location_;
  const std::shared_ptr<const DynamicLibrary> library_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_OS_SHARED_LIBRARY_H_
