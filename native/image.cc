// SPDX-License-Identifier: Apache-2.0
#include "image.h"

#include <cxxabi.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>

#include "eh_frame.h"
#include "exit_handlers.h"

extern "C" char** environ;

namespace object_loader {

namespace {

using llvm::StringRef;
using llvm::jitlink::Block;
using llvm::jitlink::LinkGraph;
using llvm::jitlink::Section;
using llvm::operator&;
namespace orc = llvm::orc;

// What the dynamic linker passes to initializers: the program's arguments and environment.
int program_argc = 0;
char** program_argv = nullptr;

__attribute__((constructor)) void KeepProgramArguments(int argc, char** argv, char**) {
  program_argc = argc;
  program_argv = argv;
}

// Initializers run by ascending priority, those without one last; GNU ld's default script puts
// `.ctors.N`, whose number counts down from 65535, among them.
constexpr int kNoPriority = 65536;

struct FunctionArray {
  int priority;
  bool reversed;  // .ctors and .dtors are run from their end
};

// Whether `section` holds initializers ("init_array", "ctors") or finalizers, and how they order.
bool IsFunctionArray(StringRef section, StringRef array, StringRef old_array, FunctionArray& out) {
  auto matches = [&](StringRef name) {
    if (!section.starts_with(name)) return false;
    StringRef rest = section.drop_front(name.size());
    if (rest.empty()) {
      out.priority = kNoPriority;
      return true;
    }
    return rest.consume_front(".") && !rest.getAsInteger(10, out.priority);
  };
  out.reversed = false;
  if (matches(array)) return true;
  out.reversed = true;
  if (!matches(old_array)) return false;
  if (out.priority != kNoPriority) out.priority = 65535 - out.priority;
  return true;
}

bool IsInitializers(StringRef section, FunctionArray& out) {
  if (section == ".preinit_array") {
    out = {-1, false};
    return true;
  }
  return IsFunctionArray(section, ".init_array", ".ctors", out);
}

bool IsFinalizers(StringRef section, FunctionArray& out) {
  return IsFunctionArray(section, ".fini_array", ".dtors", out);
}

using Predicate = bool (*)(StringRef, FunctionArray&);

// The functions named by the arrays in the order: priority, then place in the file.
std::vector<std::pair<int, void*>> CollectFunctions(LinkGraph& graph, Predicate is_array) {
  std::vector<std::tuple<int, uint64_t, Block*, bool>> arrays;
  for (Section& section : graph.sections()) {
    FunctionArray array;
    if (!is_array(section.getName(), array)) continue;
    for (Block* block : section.blocks()) {
      arrays.push_back({array.priority, block->getAddress().getValue(), block, array.reversed});
    }
  }
  std::sort(arrays.begin(), arrays.end());
  std::vector<std::pair<int, void*>> functions;
  for (auto& [priority, address, block, reversed] : arrays) {
    if (block->isZeroFill()) continue;
    std::vector<void*> entries(block->getSize() / sizeof(void*));
    std::memcpy(entries.data(), block->getContent().data(), entries.size() * sizeof(void*));
    if (reversed) std::reverse(entries.begin(), entries.end());
    for (void* function : entries) {
      // .ctors may begin with -1 and end with 0.
      if (function == nullptr || function == reinterpret_cast<void*>(-1)) continue;
      functions.push_back({priority, function});
    }
  }
  return functions;
}

}  // namespace

void KeepAlive(LinkGraph& graph) {
  std::vector<Block*> kept;
  for (Section& section : graph.sections()) {
    FunctionArray ignored;
    if (IsInitializers(section.getName(), ignored) || IsFinalizers(section.getName(), ignored)) {
      kept.insert(kept.end(), section.blocks().begin(), section.blocks().end());
    }
  }
  for (auto* symbol : graph.external_symbols()) {
    if (Section* section = SectionOfBound(graph, *symbol->getName())) {
      kept.insert(kept.end(), section->blocks().begin(), section->blocks().end());
    }
  }
  for (Block* block : kept) graph.addAnonymousSymbol(*block, 0, 0, false, true);
}

void Image::Collect(LinkGraph& graph, const std::vector<Definition>& definitions) {
  defined.reserve(definitions.size());
  for (const Definition& definition : definitions) {
    defined.push_back(definition.symbol->getAddress());
  }
  for (auto [priority, function] : CollectFunctions(graph, IsInitializers)) {
    initializers.push_back(reinterpret_cast<Initializer>(function));
  }
  auto functions = CollectFunctions(graph, IsFinalizers);
  for (auto entry = functions.rbegin(); entry != functions.rend(); ++entry) {
    // GCC's own entry, which calls __cxa_finalize, comes first among those without a priority, and
    // the array is run from its end.
    auto& list = entry->first == kNoPriority ? finalizers : late_finalizers;
    list.push_back(reinterpret_cast<Finalizer>(entry->second));
  }
  if (Section* section = graph.findSectionByName(kIndirectFunctions)) {
    for (Block* block : section->blocks()) {
      indirect_functions.push_back(block->getAddress().toPtr<void**>());
    }
  }
  if (Section* section = graph.findSectionByName(kDsoHandle)) {
    dso_handle = llvm::jitlink::SectionRange(*section).getStart().toPtr<DsoHandle*>();
  }
  eh_frame = EHFrameRange(graph);
  for (Section& section : graph.sections()) {
    if ((section.getMemProt() & orc::MemProt::Exec) == orc::MemProt::None) continue;
    for (Block* block : section.blocks()) {
      uint64_t begin = block->getAddress().getValue();
      bool first = code.end == 0;
      code.begin = first ? begin : std::min(code.begin, begin);
      code.end = std::max(code.end, begin + block->getSize());
    }
  }
}

void Image::RunInitializers() const {
  for (void** function : indirect_functions) {
    *function = reinterpret_cast<void* (*)()>(*function)();
  }
  for (Initializer initializer : initializers) initializer(program_argc, program_argv, environ);
}

void Image::KeepForExit() {
  std::vector<Finalizer> functions = finalizers;
  functions.insert(functions.end(), late_finalizers.begin(), late_finalizers.end());
  if (!functions.empty()) at_exit = AddFinalizers({std::move(functions)});
}

void Image::RunFinalizers() const {
  bool done = at_exit != 0 && !RemoveFinalizers(at_exit);
  try {
    if (!done) {
      for (Finalizer finalizer : finalizers) finalizer();
    }
    if (dso_handle) RunExitHandlers(dso_handle);
    if (done) return;
    for (Finalizer finalizer : late_finalizers) finalizer();
  } catch (const abi::__forced_unwind&) {
    throw;  // the thread is being cancelled
  } catch (...) {
  }
}

}  // namespace object_loader
