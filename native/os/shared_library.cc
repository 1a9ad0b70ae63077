// SPDX-License-Identifier: Apache-2.0
#include "os/shared_library.h"

#include <iterator>
#include <map>
#include <mutex>

#include "base/error.h"
#include "base/fork_lock.h"

namespace object_loader {

namespace {

using LibraryPtr = std::shared_ptr<const DynamicLibrary>;

// The libraries that are open through SharedLibrary, by what tells them apart.
struct OpenLibraries {
  Mutex mutex;
  std::map<const void*, std::weak_ptr<const DynamicLibrary>> all;
  std::map<const void*, LibraryPtr> kept;  // those that are never unmapped
};

OpenLibraries& Libraries() {
  static auto* libraries = new OpenLibraries;  // in use until the process ends
  return *libraries;
}

// Without a slash the dynamic linker would search its own folders instead.
std::string FileOf(const std::string& path) {
  return path.find('/') == std::string::npos ? "./" + path : path;
}

void Note(const LibraryPtr& library, bool stays) {
  std::lock_guard<Mutex> lock(Libraries().mutex);
  auto& all = Libraries().all;
  for (auto entry = all.begin(); entry != all.end();) {
    entry = entry->second.expired() ? all.erase(entry) : std::next(entry);
  }
  all[library->identity()] = library;
  if (stays) Libraries().kept.try_emplace(library->identity(), library);
}

}  // namespace

std::shared_ptr<SharedLibrary> SharedLibrary::FindOpen(const std::string& path) {
  // Whether a file is that of an open library is the dynamic linker's to say.
  DynamicLibrary same = DynamicLibrary::Opened(FileOf(path).c_str());
  if (!same) return nullptr;
  LibraryPtr library;
  {
    std::lock_guard<Mutex> lock(Libraries().mutex);
    auto found = Libraries().all.find(same.identity());
    if (found != Libraries().all.end()) library = found->second.lock();
  }
  if (!library) return nullptr;
  return std::shared_ptr<SharedLibrary>(new SharedLibrary(path, std::move(library)));
}

std::shared_ptr<SharedLibrary> SharedLibrary::Open(const std::string& path) {
  if (auto open = FindOpen(path)) return open;
  std::string reason;
  DynamicLibrary opened = DynamicLibrary::Open(FileOf(path), reason);
  if (!opened) throw LinkError(path + ": cannot be opened as a shared library: " + reason);
  bool stays = opened.KeepThreaded();
  auto library = std::make_shared<const DynamicLibrary>(std::move(opened));
  Note(library, stays);
  return std::shared_ptr<SharedLibrary>(new SharedLibrary(path, std::move(library)));
}

}  // namespace object_loader
