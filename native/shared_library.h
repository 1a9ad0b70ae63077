// SPDX-License-Identifier: Apache-2.0
//
// SharedLibrary: a shared library that loaded code links to, opened by the dynamic linker.
//
// It is opened privately (RTLD_LOCAL), so that nothing but the dylibs which name it see its
// symbols, and closed with this object. Opening and closing run the library's own constructors and
// destructors: neither may happen while a lock of the loader, or the interpreter's, is held.
// What the header promises of the file is checked against its size before the dynamic linker maps
// it; beyond that the file is trusted, as every library that is dlopened is.
//
// Concurrency: every method may be called from any thread.
#ifndef OBJECT_LOADER_SHARED_LIBRARY_H_
#define OBJECT_LOADER_SHARED_LIBRARY_H_

#include <memory>
#include <optional>
#include <string>

namespace object_loader {

class SharedLibrary {
 public:
  // The file at `path`, which is always one in the file system: the folders that the dynamic linker
  // searches for bare names are not. Throws FileError for a file that can't be read,
  // ObjectFormatError for one that is no shared library, LinkError with what the dynamic linker
  // says.
  static std::shared_ptr<SharedLibrary> Open(const std::string& path);
  ~SharedLibrary();
  SharedLibrary(const SharedLibrary&) = delete;
  SharedLibrary& operator=(const SharedLibrary&) = delete;

  // As the caller gave it.
  const std::string& path() const { return path_; }

  // The address of a symbol that the library defines itself. It may be null (an absolute symbol).
  std::optional<void*> Find(const std::string& symbol) const;
  // As dlsym: the library's own symbols, then those of the libraries that it depends on.
  std::optional<void*> FindWithDependencies(const std::string& symbol) const;

 private:
  SharedLibrary(std::string path, void* handle) : path_(std::move(path)), handle_(handle) {}

  const std::string path_;
  void* const handle_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_SHARED_LIBRARY_H_
