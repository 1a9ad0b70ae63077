// SPDX-License-Identifier: Apache-2.0
#include "shared_library.h"

#include <dlfcn.h>

#include "error.h"
#include "object_file.h"

namespace object_loader {

std::shared_ptr<SharedLibrary> SharedLibrary::Open(const std::string& path) {
  if (auto content = ReadFile(path)) {
    ObjectFile object(std::move(content));  // or what else it is
    throw ObjectFormatError(path +
                            ": is an object, not a shared library: load it into a dylib of its "
                            "own, and put that into the link order");
  }
  // Without a slash the dynamic linker would search its own folders instead.
  std::string file = path.find('/') == std::string::npos ? "./" + path : path;
  void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char* reason = dlerror();
    throw LinkError(path + ": cannot be opened as a shared library: " +
                    (reason ? reason : "the dynamic linker does not say why"));
  }
  return std::shared_ptr<SharedLibrary>(new SharedLibrary(path, handle));
}

SharedLibrary::~SharedLibrary() { dlclose(handle_); }

std::optional<void*> SharedLibrary::FindWithDependencies(const std::string& symbol) const {
  dlerror();
  void* address = dlsym(handle_, symbol.c_str());
  if (!address && dlerror()) return std::nullopt;
  return address;
}

std::optional<void*> SharedLibrary::Find(const std::string& symbol) const {
  std::optional<void*> address = FindWithDependencies(symbol);
  if (!address) return std::nullopt;
  Dl_info info;
  void* owner = nullptr;
  void* own = nullptr;  // its link_map
  bool elsewhere = dladdr1(*address, &info, &owner, RTLD_DL_LINKMAP) && owner &&
                   dlinfo(handle_, RTLD_DI_LINKMAP, &own) == 0 && owner != own;
  // An address in no library at all is the value of an absolute symbol.
  return elsewhere ? std::nullopt : address;
}

}  // namespace object_loader
