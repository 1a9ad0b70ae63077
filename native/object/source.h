// SPDX-License-Identifier: Apache-2.0
//
// Source: one input as a load was given it, remembered so that it can be read again; LoadedFrom:
// all those of a load.
//
// Of a file its path is remembered, which a change of the current folder leaves right, and what
// tells whether it is still what was read. Contents are kept where that is asked for.
//
// Lifetime: owns what is kept. Concurrency: nothing of it changes any more, so that any thread may
// look at it.
#ifndef OBJECT_LOADER_OBJECT_SOURCE_H_
#define OBJECT_LOADER_OBJECT_SOURCE_H_

#include <llvm/ADT/SmallVector.h>

#include <cstdint>
#include <memory>
#include <string>

#include "object/file_content.h"

namespace object_loader {

struct Source {
  enum Kind : uint8_t {
    kFile,
    kThinArchive,  // a file, too; its members lie in others
    kBytes,
    kLibrary,  // a shared library
  };

  Kind kind;
  std::string name;                      // of bytes, what messages call them; otherwise a path
  FileIdentity identity;                 // of what was read there
  std::shared_ptr<FileContent> content;  // where it is kept: all of it
};

struct LoadedFrom {
  bool whole_archive = false;
  llvm::SmallVector<Source, 1> sources;
};

// What a source that is no shared library was read from. Throws FileError, OutOfMemoryError,
// ObjectFormatError, and ObjectLoaderError where it is not to be had as it was: the file has
// changed, say.
std::shared_ptr<FileContent> OpenAgain(const Source& source);
// The same, all of it.
std::shared_ptr<FileContent> ReadWhole(const Source& source);

}  // namespace object_loader

#endif  // OBJECT_LOADER_OBJECT_SOURCE_H_
