// SPDX-License-Identifier: Apache-2.0
//
// ThreadLocals: the thread-local variables of one load, and what its code asks about them.
//
// JITLink knows one of the ways in which code reaches a thread-local variable, and expects ORC's
// runtime to hold them. Here all of them are met, as a static linker meets them: the variables get
// their places in one block, the relocations lead to slots or are patches of the code, and what
// goes there comes from the dynamic linker (see TlsModule) when everything else has its final
// value, since the variables' initial values may hold addresses.
//
// The steps, in order: Mark for each graph parsed, Bind for each symbol from elsewhere, Lower
// before memory is allocated, Resolve when the content is final.
#ifndef OBJECT_LOADER_THREAD_LOCAL_H_
#define OBJECT_LOADER_THREAD_LOCAL_H_

#include <llvm/ADT/DenseMap.h>
#include <llvm/ADT/DenseSet.h>
#include <llvm/ExecutionEngine/JITLink/JITLink.h>

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "object_file.h"
#include "tls_module.h"

namespace object_loader {

class ThreadLocals {
 public:
  // Notes the variables of `object`, and which edges of its graph are about such variables.
  void Mark(llvm::jitlink::LinkGraph& graph, const ObjectFile& object);

  // Whether the load has no thread-local variables and refers to none.
  bool empty() const { return variables_.empty() && !referred_; }

  // Whether the symbol is a variable of this load.
  bool Defines(const llvm::jitlink::Symbol& symbol) const;
  // The symbols that the graph refers to as thread-local variables.
  llvm::DenseSet<const llvm::jitlink::Symbol*> References(llvm::jitlink::LinkGraph& graph) const;
  // Says which variable a symbol stands for that the load does not define.
  void Bind(const llvm::jitlink::Symbol& symbol, TlsVariable variable);

  llvm::Error Lower(llvm::jitlink::LinkGraph& graph);
  llvm::Error Resolve(llvm::jitlink::LinkGraph& graph);

  // After Lower: where among the load's variables the symbol is.
  uint64_t OffsetOf(const llvm::jitlink::Symbol& symbol) const;
  // After Resolve; null where there is nothing to hold.
  std::shared_ptr<const TlsModule> module() const { return module_; }

 private:
  struct Patch {
    llvm::jitlink::Block* block;
    uint64_t offset;
    unsigned width;  // in bytes
    size_t query;    // whose answer is added; kNoQuery: none
    uint64_t value;
  };
  static constexpr size_t kNoQuery = ~size_t{0};

  bool HoldsVariables(const llvm::jitlink::Block& block) const;
  llvm::Error LowerEdge(llvm::jitlink::LinkGraph& graph, llvm::jitlink::Block& block,
                        llvm::jitlink::Edge& edge);
  llvm::Error PlaceVariables(llvm::jitlink::LinkGraph& graph);
  size_t Ask(TlsModule::Query::Kind kind, const llvm::jitlink::Symbol& symbol,
             const TlsVariable& variable);
  llvm::jitlink::Symbol& SlotOf(llvm::jitlink::LinkGraph& graph, size_t query);

  // Address ranges of the sections that hold variables, as the parsed graphs have them.
  std::map<uint64_t, uint64_t> variables_;
  bool referred_ = false;
  llvm::DenseMap<const llvm::jitlink::Symbol*, TlsVariable> bindings_;

  TlsModule::Variables layout_;
  std::vector<std::pair<llvm::jitlink::Block*, uint64_t>> placed_;
  llvm::DenseMap<const llvm::jitlink::Block*, uint64_t> offsets_;
  std::vector<TlsModule::Query> queries_;
  std::map<std::pair<const llvm::jitlink::Symbol*, int>, size_t> asked_;
  std::vector<llvm::jitlink::Symbol*> slots_;  // of each query, or null
  std::vector<Patch> patches_;
  std::shared_ptr<const TlsModule> module_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_THREAD_LOCAL_H_
