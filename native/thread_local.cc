// SPDX-License-Identifier: Apache-2.0
#include "thread_local.h"

#include <llvm/BinaryFormat/ELF.h>
#include <llvm/ExecutionEngine/JITLink/x86_64.h>
#include <llvm/Support/MathExtras.h>

#include <algorithm>
#include <cstring>

#include "error.h"
#include "fork_lock.h"

namespace object_loader {

namespace {

namespace ELF = llvm::ELF;
using llvm::jitlink::Block;
using llvm::jitlink::Edge;
using llvm::jitlink::JITLinkError;
using llvm::jitlink::LinkGraph;
using llvm::jitlink::Symbol;
using Query = TlsModule::Query;

// Kinds of edges of our own, far from those that JITLink has; none is left when it applies them.
enum ThreadLocalEdge : Edge::Kind {
  kSlotOfModuleAndOffset = 200,
  kSlotOfModule,
  kSlotOfThreadOffset,
  kSlotOfDescriptor,
  kOffset32,
  kOffset64,
  kThreadOffset32,
  kThreadOffset64,
};

constexpr uint64_t kMaxInitialValues = 256 << 20;  // bytes

Edge::Kind KindOf(uint32_t relocation_type) {
  switch (relocation_type) {
    case ELF::R_X86_64_TLSGD:
      return kSlotOfModuleAndOffset;
    case ELF::R_X86_64_TLSLD:
      return kSlotOfModule;
    case ELF::R_X86_64_GOTTPOFF:
      return kSlotOfThreadOffset;
    case ELF::R_X86_64_GOTPC32_TLSDESC:
      return kSlotOfDescriptor;
    case ELF::R_X86_64_DTPOFF32:
      return kOffset32;
    case ELF::R_X86_64_DTPOFF64:
      return kOffset64;
    case ELF::R_X86_64_TPOFF32:
      return kThreadOffset32;
    default:  // R_X86_64_TPOFF64
      return kThreadOffset64;
  }
}

bool IsThreadLocalEdge(const Edge& edge) {
  return edge.getKind() >= kSlotOfModuleAndOffset && edge.getKind() <= kThreadOffset64;
}

}  // namespace

void ThreadLocals::Mark(LinkGraph& graph, const ObjectFile& object) {
  for (size_t section : object.facts().thread_local_sections) {
    variables_[object.address(section)] = object.address(section) + object.size(section);
  }
  if (object.facts().thread_local_relocations.empty()) return;
  referred_ = true;
  llvm::DenseMap<uint64_t, uint32_t> types;
  for (const auto& relocation : object.facts().thread_local_relocations) {
    types[object.address(relocation.section) + relocation.offset] = relocation.type;
  }
  for (Block* block : graph.blocks()) {
    for (Edge& edge : block->edges()) {
      if (!edge.isRelocation()) continue;
      auto type = types.find((block->getAddress() + edge.getOffset()).getValue());
      if (type != types.end()) edge.setKind(KindOf(type->second));
    }
  }
}

bool ThreadLocals::HoldsVariables(const Block& block) const {
  uint64_t address = block.getAddress().getValue();
  auto range = variables_.upper_bound(address);
  if (range == variables_.begin()) return false;
  --range;
  // A section without content has an address of its own, too.
  return address == range->first || address < range->second;
}

bool ThreadLocals::Defines(const Symbol& symbol) const {
  return !variables_.empty() && symbol.isDefined() && HoldsVariables(symbol.getBlock());
}

llvm::DenseSet<const Symbol*> ThreadLocals::References(LinkGraph& graph) const {
  llvm::DenseSet<const Symbol*> references;
  if (!referred_) return references;
  for (Block* block : graph.blocks()) {
    for (const Edge& edge : block->edges()) {
      if (IsThreadLocalEdge(edge)) references.insert(&edge.getTarget());
    }
  }
  return references;
}

void ThreadLocals::Bind(const Symbol& symbol, TlsVariable variable) {
  bindings_[&symbol] = std::move(variable);
}

// As GNU ld does: what has initial values first, in the order of the objects.
llvm::Error ThreadLocals::PlaceVariables(LinkGraph& graph) {
  for (auto& section : graph.sections()) {
    for (Block* block : section.blocks()) {
      if (HoldsVariables(*block)) placed_.push_back({block, 0});
    }
  }
  std::sort(placed_.begin(), placed_.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first->isZeroFill(), a.first->getAddress()) <
           std::pair(b.first->isZeroFill(), b.first->getAddress());
  });
  uint64_t end = 0;
  uint64_t values_end = 0;
  for (auto& [block, offset] : placed_) {
    offset = llvm::alignTo(end, block->getAlignment(), block->getAlignmentOffset());
    end = offset + block->getSize();
    offsets_[block] = offset;
    layout_.alignment = std::max<uint64_t>(layout_.alignment, block->getAlignment());
    if (!block->isZeroFill()) values_end = end;
  }
  layout_.size = end;
  // The limit on initial values keeps a small file with strict alignments from taking much memory.
  if (end >= uint64_t{1} << 31 || values_end >= kMaxInitialValues) {
    return llvm::make_error<JITLinkError>("has " + std::to_string(end) +
                                          " bytes of thread-local variables");
  }
  layout_.values.resize(values_end);
  return llvm::Error::success();
}

uint64_t ThreadLocals::OffsetOf(const Symbol& symbol) const {
  return offsets_.lookup(&symbol.getBlock()) + symbol.getOffset();
}

size_t ThreadLocals::Ask(Query::Kind kind, const Symbol& symbol, const TlsVariable& variable) {
  auto [entry, is_new] = asked_.try_emplace({&symbol, kind}, queries_.size());
  if (is_new) {
    queries_.push_back({kind, variable});
    slots_.push_back(nullptr);
  }
  return entry->second;
}

Symbol& ThreadLocals::SlotOf(LinkGraph& graph, size_t query) {
  if (!slots_[query]) {
    auto* section = graph.findSectionByName("$tls");
    if (!section) section = &graph.createSection("$tls", llvm::orc::MemProt::Read);
    constexpr size_t kSize = sizeof(TlsModule::Answer);
    Block& slot = graph.createMutableContentBlock(*section, kSize, {}, kSize, 0);
    slots_[query] = &graph.addAnonymousSymbol(slot, 0, kSize, false, true);
  }
  return *slots_[query];
}

llvm::Error ThreadLocals::LowerEdge(LinkGraph& graph, Block& block, Edge& edge) {
  const Symbol& symbol = edge.getTarget();
  TlsVariable variable;
  if (Defines(symbol)) {
    variable.offset = OffsetOf(symbol);
  } else {
    auto binding = bindings_.find(&symbol);
    if (binding == bindings_.end()) {
      return llvm::make_error<JITLinkError>(
          Demangled(symbol.hasName() ? std::string(*symbol.getName()) : "a variable") +
          " is used as a thread-local variable, which it is not");
    }
    variable = binding->second;
  }
  auto use_slot = [&](Query::Kind kind) {
    edge.setTarget(SlotOf(graph, Ask(kind, symbol, variable)));
    edge.setKind(llvm::jitlink::x86_64::Delta32);
  };
  auto patch = [&](unsigned width, size_t query, uint64_t value) {
    patches_.push_back(
        {&block, edge.getOffset(), width, query, value + static_cast<uint64_t>(edge.getAddend())});
    edge.setKind(Edge::KeepAlive);
  };
  bool is_own = !variable.module && variable.symbol.empty();
  switch (edge.getKind()) {
    case kSlotOfModuleAndOffset:
      use_slot(Query::kModuleAndOffset);
      break;
    case kSlotOfModule:
      use_slot(Query::kModule);
      break;
    case kSlotOfThreadOffset:
      use_slot(Query::kThreadOffset);
      break;
    case kSlotOfDescriptor:
      use_slot(Query::kDescriptor);
      break;
    case kThreadOffset32:
      patch(4, Ask(Query::kThreadOffset, symbol, variable), 0);
      break;
    case kThreadOffset64:
      patch(8, Ask(Query::kThreadOffset, symbol, variable), 0);
      break;
    default:
      if (!is_own) {
        return llvm::make_error<JITLinkError>(
            "thread-local variable " + Demangled(std::string(*symbol.getName())) +
            " is expected in the load itself, but is defined elsewhere; compile with -fPIC and "
            "without -ftls-model=local-dynamic");
      }
      patch(edge.getKind() == kOffset32 ? 4 : 8, kNoQuery, variable.offset);
      break;
  }
  return llvm::Error::success();
}

llvm::Error ThreadLocals::Lower(LinkGraph& graph) {
  if (empty()) return llvm::Error::success();
  if (llvm::Error error = PlaceVariables(graph)) return error;
  if (!referred_) return llvm::Error::success();
  std::vector<Block*> blocks(graph.blocks().begin(), graph.blocks().end());
  for (Block* block : blocks) {
    for (Edge& edge : block->edges()) {
      if (!IsThreadLocalEdge(edge)) continue;
      if (llvm::Error error = LowerEdge(graph, *block, edge)) return error;
    }
  }
  return llvm::Error::success();
}

llvm::Error ThreadLocals::Resolve(LinkGraph& graph) {
  if (placed_.empty() && queries_.empty()) return llvm::Error::success();
  for (auto& [block, offset] : placed_) {
    if (block->isZeroFill()) continue;
    std::memcpy(layout_.values.data() + offset, block->getContent().data(), block->getSize());
  }
  try {
    // The dynamic linker may wait for another thread, which may fork.
    ForkInclusion inclusion;
    module_ = TlsModule::Open(layout_, queries_);
  } catch (const OutOfMemoryError& error) {
    return llvm::make_error<llvm::StringError>(error.what(),
                                               std::make_error_code(std::errc::not_enough_memory));
  } catch (const LinkError& error) {
    return llvm::make_error<JITLinkError>(error.what());
  }
  const auto& answers = module_->answers();
  for (size_t query = 0; query < slots_.size(); ++query) {
    if (!slots_[query]) continue;
    std::memcpy(slots_[query]->getBlock().getMutableContent(graph).data(), answers[query].data(),
                sizeof(TlsModule::Answer));
  }
  for (const Patch& patch : patches_) {
    uint64_t value = patch.value + (patch.query == kNoQuery ? 0 : answers[patch.query][0]);
    if (patch.width == 4 && !llvm::isInt<32>(static_cast<int64_t>(value))) {
      return llvm::make_error<JITLinkError>("a thread-local variable is out of range");
    }
    std::memcpy(patch.block->getMutableContent(graph).data() + patch.offset, &value, patch.width);
  }
  return llvm::Error::success();
}

}  // namespace object_loader
