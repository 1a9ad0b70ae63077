// SPDX-License-Identifier: Apache-2.0
//
// The content of files and buffers, read once into memory of our own: what happens to them later
// changes nothing.
#ifndef OBJECT_LOADER_FILE_CONTENT_H_
#define OBJECT_LOADER_FILE_CONTENT_H_

#include <llvm/Support/MemoryBuffer.h>

#include <memory>
#include <string>
#include <string_view>

namespace object_loader {

// A copy of a file's content, named `path`; null for a shared library, of which only the headers
// are looked at. Throws FileError, and ObjectFormatError for what is no file on a disk and for a
// library that is truncated.
std::unique_ptr<llvm::WritableMemoryBuffer> ReadFile(const std::string& path);
// A copy of `bytes`, called `name`.
std::unique_ptr<llvm::WritableMemoryBuffer> CopyBytes(std::string_view bytes,
                                                      const std::string& name = "<bytes>");

}  // namespace object_loader

#endif  // OBJECT_LOADER_FILE_CONTENT_H_
