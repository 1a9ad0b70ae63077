// SPDX-License-Identifier: Apache-2.0
#ifndef OBJECT_LOADER_BASE_PATH_H_
#define OBJECT_LOADER_BASE_PATH_H_

#include <string>

namespace object_loader {

// Where the path leads to, whatever the current folder will be.
std::string AbsolutePath(const std::string& path);

}  // namespace object_loader

#endif  // OBJECT_LOADER_BASE_PATH_H_
