// SPDX-License-Identifier: Apache-2.0
#include "object/source.h"

#include <utility>

#include "base/error.h"

namespace object_loader {

namespace {

std::shared_ptr<FileContent> OpenUnchanged(const Source& source) {
  std::shared_ptr<FileContent> content = FileContent::OfFile(source.name);
  if (content->identity() == source.identity) return content;
  throw ObjectLoaderError(source.name +
                          ": has changed since it was loaded: load it again; a session with "
                          "picklable=True keeps what it has loaded");
}

}  // namespace

std::shared_ptr<FileContent> OpenAgain(const Source& source) {
  if (source.kind == Source::kThinArchive) {
    throw ObjectLoaderError(source.name +
                            ": is a thin archive, whose members lie in files that may have changed "
                            "since it was loaded: load the objects, or a whole archive, instead");
  }
  if (source.content) return source.content;
  if (source.kind == Source::kBytes) {
    throw ObjectLoaderError(source.name +
                            ": was loaded from bytes, which are not kept: load it from a file, or "
                            "into a session with picklable=True");
  }
  return OpenUnchanged(source);
}

std::shared_ptr<FileContent> ReadWhole(const Source& source) {
  std::shared_ptr<FileContent> content = OpenAgain(source);
  content->FetchAll();
  // Somebody may have written to it meanwhile.
  if (!source.content) OpenUnchanged(source);
  return content;
}

}  // namespace object_loader
