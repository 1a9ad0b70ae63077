// SPDX-License-Identifier: Apache-2.0
//
// LoadGraph: the objects of one load as a single JITLink LinkGraph.
//
// Objects that are given together are linked together, as `cc -shared a.o b.o` would: one
// definition of each symbol, strong before weak, sections of one name side by side. The graph's
// symbols are then bound by the caller (see dylib.cc) before JITLink ever sees them: what is
// defined elsewhere becomes absolute, what is defined here becomes local to the graph. So JITLink
// and ORC do no symbol resolution of their own, and a missing symbol is known before any memory is
// allocated.
#ifndef OBJECT_LOADER_LINK_GRAPH_H_
#define OBJECT_LOADER_LINK_GRAPH_H_

#include <llvm/ExecutionEngine/JITLink/JITLink.h>

#include <memory>
#include <string>
#include <vector>

#include "object_file.h"
#include "thread_local.h"

namespace object_loader {

// A global symbol that the load defines.
struct Definition {
  llvm::jitlink::Symbol* symbol;
  bool weak;
  bool exported;  // visible outside the dylib; hidden otherwise
  bool is_thread_local;
};

// A global symbol that the load needs from elsewhere.
struct Reference {
  llvm::jitlink::Symbol* symbol;
  bool weak;       // may stay undefined; its address is then 0
  size_t used_by;  // index of the first object that refers to it
  bool is_thread_local;
};

class LoadGraph {
 public:
  // Throws ObjectFormatError, LinkError (a relocation that JITLink does not know) and
  // DuplicateSymbolError (two of the objects define the same symbol). `objects` must outlive the
  // graph, which refers to their content. The first `own` of them are what the load was given; what
  // the others define is for these alone, and no definition of the load.
  LoadGraph(std::vector<ObjectFile>& objects, size_t own,
            std::shared_ptr<llvm::orc::SymbolStringPool> names);

  llvm::jitlink::LinkGraph& graph() { return *graph_; }
  std::unique_ptr<llvm::jitlink::LinkGraph> TakeGraph() { return std::move(graph_); }
  ThreadLocals& thread_locals() { return thread_locals_; }
  const std::string& name() const { return name_; }
  const std::string& object_name(size_t index) const { return object_names_[index]; }

  // Whether code refers to the global offset table itself, see AddGlobalOffsetTable.
  bool needs_got() const { return needs_got_; }
  // Whether code names its own parts by 32-bit addresses.
  bool needs_low_memory() const { return needs_low_memory_; }

  // Whether a definition was dropped in favour of another one, so that some code has no user.
  bool has_dropped() const { return has_dropped_; }

  std::vector<Definition> Definitions();
  // Without the symbols that a linker itself defines.
  std::vector<Reference> References();

  // Turns the reference to `__dso_handle` into a variable of this load's own, within reach of its
  // code. Its address is what __cxa_atexit and __cxa_finalize know the load by.
  void DefineDsoHandle(const Reference& reference);

  // Drops the definition in favour of another one at `address`.
  void Override(const Definition& definition, llvm::orc::ExecutorAddr address);
  // Binds the reference to `address`.
  void Bind(const Reference& reference, llvm::orc::ExecutorAddr address);
  // The same for thread-local variables.
  void Override(const Definition& definition, TlsVariable variable);
  void Bind(const Reference& reference, TlsVariable variable);

 private:
  void DefineLinkerSymbols();
  void DefineAbsolute(const AbsoluteSymbol& symbol, size_t object_index);

  std::string name_;
  std::vector<std::string> object_names_;
  std::unique_ptr<llvm::jitlink::LinkGraph> graph_;
  ThreadLocals thread_locals_;
  bool has_dropped_ = false;
  bool needs_got_ = false;
  bool needs_low_memory_ = false;
  llvm::DenseMap<llvm::jitlink::Symbol*, size_t> used_by_;  // only where there are several objects
};

// The section with a pointer for each function that chooses an implementation when it is loaded: at
// first to the function that chooses.
constexpr char kIndirectFunctions[] = "$ifunc";
// The section with the load's DsoHandle, where something refers to it.
constexpr char kDsoHandle[] = "$dso_handle";

// Makes a global offset table where JITLink made none, since no entry of it is used: code may still
// be relative to it. For use when JITLink has made its tables.
llvm::Error AddGlobalOffsetTable(llvm::jitlink::LinkGraph& graph);

// Binds the references to `__start_NAME` and `__stop_NAME` to the ends of section NAME. For use
// when addresses are known.
llvm::Error BindSectionBounds(llvm::jitlink::LinkGraph& graph);

// Whether `name` is `__start_NAME` or `__stop_NAME` of a section that the graph has.
llvm::jitlink::Section* SectionOfBound(llvm::jitlink::LinkGraph& graph, llvm::StringRef name);

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_GRAPH_H_
