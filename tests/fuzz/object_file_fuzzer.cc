// SPDX-License-Identifier: Apache-2.0
//
// For libFuzzer: reads a file as `load` does, an object or an archive, and links what it holds, up
// to memory that could be run. No code of the file runs. Every end is fine but a crash, what the
// sanitizers report, and memory that is not given back.
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "base/error.h"
#include "link/graph_builder.h"
#include "link/linker.h"
#include "object/inputs.h"

using namespace object_loader;

namespace {

// What references are bound to: some of them to a place near by, as where another load defines it,
// some far away.
long near_by[64];

void LinkAll(Linker& linker, const std::vector<ElfView>& objects) {
  Resolution resolution(objects, objects.size(), [](NameRef) { return false; });
  std::vector<uint32_t> definitions;
  for (uint32_t i = 0; i < resolution.globals().size(); ++i) {
    if (resolution.globals()[i].is_own) definitions.push_back(i);
  }
  Liveness liveness(resolution);
  for (Global& global : resolution.globals()) {
    if (global.state != Global::State::kUndefined) continue;
    if (global.weak) {
      resolution.BindToNull(global);
    } else if (global.needs & kNeedsThreadLocal) {
      resolution.Bind(global, TlsVariable{nullptr, "nowhere", "", 0, "", true});
    } else {
      resolution.Bind(global, reinterpret_cast<uint64_t>(near_by));
    }
  }
  for (bool stay_high : {false, true}) {
    GraphBuilder builder(resolution, liveness, stay_high);
    Image image = linker.Link(builder, definitions);
    linker.Unlink(image);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Linker& linker = *new Linker(/*is_inspected=*/true);
  llvm::StringRef bytes(reinterpret_cast<const char*>(data), size);
  // Once as it is, then twice the same beside each other.
  for (size_t count : {1, 2}) {
    try {
      Inputs inputs(/*whole_archive=*/true);
      for (size_t i = 0; i < count; ++i) {
        inputs.AddBytes(bytes, /*immutable=*/i == 0);
      }
      std::vector<ElfView> objects = inputs.TakeObjects([](llvm::StringRef) { return false; });
      LinkAll(linker, objects);
    } catch (const ObjectLoaderError&) {
    } catch (const FileError&) {
    } catch (const OutOfMemoryError&) {
    } catch (const std::bad_alloc&) {
    }
  }
  MemoryPool::Usage usage = linker.memory().usage();
  if (usage.code != 0 || usage.constants != 0 || usage.data != 0) __builtin_trap();
  return 0;
}
