// SPDX-License-Identifier: Apache-2.0
//
// Image: what linking one load gave, and the functions that run when it comes and goes.
#ifndef OBJECT_LOADER_LINK_IMAGE_H_
#define OBJECT_LOADER_LINK_IMAGE_H_

#include <llvm/ExecutionEngine/Orc/Core.h>

#include <memory>
#include <vector>

#include "base/name.h"
#include "link/debug_image.h"
#include "link/source_lines.h"
#include "link/tls_module.h"
#include "os/thread_exit.h"
#include "os/unwinder.h"

namespace object_loader {

struct Image {
  Image() = default;
  Image(Image&&) = default;
  Image& operator=(Image&&) = default;
  ~Image();  // not inlined, as CollectNames of GraphBuilder

  using Initializer = void (*)(int, char**, char**);
  using Finalizer = void (*)();

  llvm::orc::ResourceTrackerSP tracker;  // removing it gives the memory back
  // In the order of the definitions that were asked for; of a thread-local variable, its offset.
  std::vector<uint64_t> defined;
  std::vector<void**> indirect_functions;  // pointers to the functions that choose
  std::vector<Initializer> initializers;   // in the order in which they run
  std::vector<Finalizer> finalizers;       // before the exit handlers, in this order
  std::vector<Finalizer> late_finalizers;  // those with a priority, and .fini: after them
  uint64_t at_exit = 0;                    // what they are kept for exit under; 0: not
  DsoHandle* dso_handle = nullptr;         // null where nothing refers to it
  AddressRange frames;                     // the table of frames; empty where there is none
  AddressRange code;
  AddressRange constants;
  // What lies where, by offsets from where the code begins, in their order. The names of the
  // dylib's symbols are in its table.
  enum Area : uint8_t { kCode, kConstants, kData, kZeros };
  // What it takes in memory, beside thread-local variables.
  struct Bytes {
    uint64_t code = 0;
    uint64_t constants = 0;
    uint64_t data = 0;
  };
  Bytes bytes() const {
    return {code.end - code.begin, constants.end - constants.begin, data_bytes};
  }
  uint64_t data_bytes = 0;  // with and without initial values
  struct Extent {
    uint64_t offset : 31;
    uint64_t size : 31;
    uint64_t area : 2;
  };
  std::vector<Extent> extents;
  // Functions that are no symbols of the dylib: static ones, and the parts that a compiler has
  // split off.
  struct LocalFunction {
    uint32_t offset;
    uint32_t size;
    Name name;
  };
  std::vector<LocalFunction> local_functions;
  // The object that the load was given, or the first of them; and of several all, and where the
  // content of each begins.
  Name object;
  struct Objects {
    struct Start {
      uint32_t offset;
      uint32_t object;
    };
    std::vector<Name> names;
    std::vector<Start> starts;
  };
  std::unique_ptr<Objects> objects;
  std::shared_ptr<DebugImage> debug;  // where the load is inspected
  std::shared_ptr<SourceLines> lines;
  UnwindTable unwind_table;
  std::shared_ptr<const TlsModule> tls_module;  // null where there is nothing thread-local

  // Has the finalizers run when the process exits, if they have not been by then.
  void KeepForExit(CodeOwner& owner);

  // Lets functions with several implementations choose theirs, then runs the initializers.
  void RunInitializers() const;
  bool has_initializers() const { return !initializers.empty() || !indirect_functions.empty(); }
  // Runs finalizers, destructors and atexit handlers, as dlclose does. What they throw is
  // dropped, each for itself: the last reference may be dropped anywhere, where nobody can be told.
  // (A dlopened library's would end the process.)
  void RunFinalizers(CodeOwner& owner) const;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_IMAGE_H_
