// SPDX-License-Identifier: Apache-2.0
//
// SourceLines: the lines of a source that code was made from, as far as debug information says.
//
// Lifetime: owns the file with others. Concurrency: every method may be called from any thread.
#ifndef OBJECT_LOADER_LINK_SOURCE_LINES_H_
#define OBJECT_LOADER_LINK_SOURCE_LINES_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fork_lock.h"
#include "link/debug_image.h"
#include "os/profiler.h"

namespace object_loader {

struct SourceLine {
  std::string file;
  uint32_t line = 0;
};

class SourceLines {
 public:
  // It is read when somebody asks.
  explicit SourceLines(std::shared_ptr<const DebugImage> file);
  ~SourceLines();

  // The line that the instruction at the address was made from: of the function that is there, not
  // of those that were inlined into it. Throws std::bad_alloc.
  std::optional<SourceLine> At(uint64_t address);
  // Gives functions, sorted by address, the lines of their code, also those of what was inlined
  // into it. Throws std::bad_alloc.
  void AddTo(std::vector<ProfiledFunction>& functions);

 private:
  struct Reader;

  // False where there is no debug information. With the mutex held.
  bool Read();

  const std::shared_ptr<const DebugImage> file_;
  Mutex mutex_;
  bool is_read_ = false;
  std::unique_ptr<Reader> reader_;  // null where there is no debug information
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_SOURCE_LINES_H_
