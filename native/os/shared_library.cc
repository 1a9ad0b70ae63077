// SPDX-License-Identifier: Apache-2.0
#include "os/shared_library.h"

#include "base/error.h"

namespace object_loader {

std::shared_ptr<SharedLibrary> SharedLibrary::Open(const std::string& path) {
  // Without a slash the dynamic linker would search its own folders instead.
  std::string file = path.find('/') == std::string::npos ? "./" + path : path;
  std::string reason;
  DynamicLibrary library = DynamicLibrary::Open(file, reason);
  if (!library) throw LinkError(path + ": cannot be opened as a shared library: " + reason);
  return std::shared_ptr<SharedLibrary>(new SharedLibrary(path, std::move(library)));
}

}  // namespace object_loader
