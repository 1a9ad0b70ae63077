// SPDX-License-Identifier: Apache-2.0
#include "base/path.h"

#include <unistd.h>

#include <climits>

namespace object_loader {

std::string AbsolutePath(const std::string& path) {
  if (!path.empty() && path[0] == '/') return path;
  char folder[PATH_MAX];
  // Where the current folder is gone, so is the file.
  if (!getcwd(folder, sizeof(folder)) || folder[0] != '/') return path;
  std::string absolute = folder;
  if (absolute.size() > 1) absolute += '/';
  size_t begin = 0;
  while (path.compare(begin, 2, "./") == 0) begin += 2;
  return absolute + path.substr(begin);
}

}  // namespace object_loader
