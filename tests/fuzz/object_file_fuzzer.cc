// SPDX-License-Identifier: Apache-2.0
//
// For libFuzzer: reads a file as `load` does, up to the graph that is to be linked. Nothing is
// linked and no code of the file runs. Every end is fine but a crash and what the sanitizers
// report.
#include <cstdint>
#include <memory>
#include <new>
#include <string_view>
#include <vector>

#include "error.h"
#include "link_graph.h"

using namespace object_loader;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    // Twice the same: one object becomes a graph as it is, several are merged.
    for (size_t count : {1, 2}) {
      std::vector<ObjectFile> objects;
      for (size_t i = 0; i < count; ++i) {
        objects.push_back(ObjectFile::FromBytes({reinterpret_cast<const char*>(data), size}));
      }
      auto names = std::make_shared<llvm::orc::SymbolStringPool>();
      {
        LoadGraph load(objects, objects.size(), names);
        load.Definitions();
        load.References();
      }
      // A name that is still used belongs to a symbol that no list of the graph has.
      names->clearDeadEntries();
      if (!names->empty()) __builtin_trap();
    }
  } catch (const ObjectLoaderError&) {
  } catch (const OutOfMemoryError&) {
  } catch (const std::bad_alloc&) {
  }
  return 0;
}
