// SPDX-License-Identifier: Apache-2.0
//
// DynamicLibrary: a library that the dynamic linker has opened, privately (RTLD_LOCAL), and the
// symbols in it.
//
// Opening and closing run the library's own constructors and destructors: neither may happen while
// a lock of the loader, or the interpreter's, is held. Concurrency: every method may be called from
// any thread.
#ifndef OBJECT_LOADER_OS_DYNAMIC_LIBRARY_H_
#define OBJECT_LOADER_OS_DYNAMIC_LIBRARY_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>

namespace object_loader {

class DynamicLibrary {
 public:
  // Null, with the dynamic linker's message in `reason`, where it refuses.
  static DynamicLibrary Open(const std::string& path, std::string& reason);
  // One that is in the process already, or null; nothing is opened.
  static DynamicLibrary Opened(const char* name);
  DynamicLibrary() = default;
  DynamicLibrary(DynamicLibrary&& other) noexcept { *this = std::move(other); }
  DynamicLibrary& operator=(DynamicLibrary&& other) noexcept;
  ~DynamicLibrary();

  explicit operator bool() const { return handle_ != nullptr; }
  // What tells it from every other library that is open at the same time.
  const void* identity() const { return handle_; }
  // Where the library's addresses begin; 0 where the dynamic linker does not tell.
  uint64_t base() const;

  // The address of a symbol that the library defines itself, "foo" or "foo@VERSION". Without a
  // version it is the default one that is found, as for a static linker; never one that is hidden.
  // The address may be null (an absolute symbol).
  std::optional<void*> Find(const std::string& symbol) const;
  // The version of such a thread-local variable, "" where it has none; nothing where the library
  // has no such variable. (Asking dlsym for it would make the dynamic linker give the library
  // memory that is not at a fixed place of each thread's.)
  std::optional<std::string> FindThreadLocal(const std::string& symbol) const;
  // Lets those stay for ever that start threads or have the C library call them when a thread ends,
  // of this library and those that it needs: neither is over when a library is closed. Returns
  // whether this library itself stays.
  bool KeepThreaded() const;
  // As dlsym and dlvsym: the library's own symbols, then those of the libraries that it depends on.
  std::optional<void*> FindWithDependencies(const std::string& symbol) const;

 private:
  void ReadVersions();
  void FindRange();
  bool Owns(const void* address) const;

  void* handle_ = nullptr;
  uint64_t begin_ = 0, end_ = 0;  // its addresses
  // The default version of symbols that have several, or none but hidden ones ("").
  std::map<std::string, std::string> default_versions_;
};

// Whether the library that this address lies in has symbols of the version; true where it lies in
// none. The dynamic linker takes any version for one of a library that has none at all.
bool DefinesVersion(const void* address, const std::string& version);

}  // namespace object_loader

#endif  // OBJECT_LOADER_OS_DYNAMIC_LIBRARY_H_
