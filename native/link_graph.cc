// SPDX-License-Identifier: Apache-2.0
#include "link_graph.h"

#include <llvm/ADT/StringMap.h>
#include <llvm/ExecutionEngine/JITLink/ELF_x86_64.h>
#include <llvm/ExecutionEngine/JITLink/x86_64.h>

#include <map>
#include <utility>

#include "error.h"
#include "thread_exit.h"

namespace object_loader {

namespace {

using llvm::StringRef;
using llvm::jitlink::Block;
using llvm::jitlink::Linkage;
using llvm::jitlink::LinkGraph;
using llvm::jitlink::Scope;
using llvm::jitlink::Section;
using llvm::jitlink::Symbol;
using llvm::orc::ExecutorAddr;
using llvm::operator|;
using llvm::operator&;

constexpr char kStartPrefix[] = "__start_";
constexpr char kStopPrefix[] = "__stop_";

std::unique_ptr<LinkGraph> Parse(const ObjectFile& object,
                                 std::shared_ptr<llvm::orc::SymbolStringPool> names) {
  auto graph =
      llvm::jitlink::createLinkGraphFromELFObject_x86_64(object.buffer(), std::move(names));
  if (graph) return std::move(*graph);
  std::string message = Message(graph.takeError());
  // The file is well-formed (see ObjectFile), so what is left is mostly what JITLink can't do.
  if (StringRef(message).contains("nsupported")) {
    throw LinkError(object.name() + ": " + message);
  }
  throw ObjectFormatError(object.name() + ": " + message);
}

// Puts a jump through a pointer in the place of each function that chooses an implementation when
// it is loaded (IFUNC). So the function has one address for whoever refers to it, in whatever way.
void AddIndirection(LinkGraph& graph, const ObjectFile& object) {
  if (object.facts().indirect_functions.empty()) return;
  std::map<std::pair<uint64_t, StringRef>, bool> indirect;
  for (const auto& function : object.facts().indirect_functions) {
    indirect[{object.address(function.section) + function.offset, function.name}] = true;
  }
  std::vector<Symbol*> functions;
  for (Symbol* symbol : graph.defined_symbols()) {
    if (symbol->hasName() && indirect.count({symbol->getAddress().getValue(), *symbol->getName()}))
      functions.push_back(symbol);
  }
  using llvm::orc::MemProt;
  Section& stubs = graph.createSection("$ifunc.stubs", MemProt::Read | MemProt::Exec);
  Section& pointers = graph.createSection(kIndirectFunctions, MemProt::Read | MemProt::Write);
  // Content of both kinds outlives the graph, as the objects' own does.
  static const char kNoAddress[8] = {};
  static const char kJump[] = "\xff\x25\0\0\0\0\xcc\xcc";  // jmp *pointer(%rip)
  for (Symbol* function : functions) {
    Symbol& resolver = graph.addAnonymousSymbol(function->getBlock(), function->getOffset(),
                                                function->getSize(), true, false);
    Block& pointer = graph.createContentBlock(pointers, {kNoAddress, 8}, ExecutorAddr(), 8, 0);
    pointer.addEdge(llvm::jitlink::x86_64::Pointer64, 0, resolver, 0);
    Block& stub = graph.createContentBlock(stubs, {kJump, 8}, ExecutorAddr(), 8, 0);
    stub.addEdge(llvm::jitlink::x86_64::Delta32, 2,
                 graph.addAnonymousSymbol(pointer, 0, 8, false, false), -4);
    function->setSize(0);
    graph.transferDefinedSymbol(*function, stub, 0, 8);
  }
}

bool IsGlobal(const Symbol& symbol) {
  return symbol.hasName() && symbol.getScope() != Scope::Local;
}

bool IsWritableCode(llvm::orc::MemProt protection) {
  auto writable_code = llvm::orc::MemProt::Write | llvm::orc::MemProt::Exec;
  return (protection & writable_code) == writable_code;
}

// Copies graphs into one, resolving between them.
class Merger {
 public:
  Merger(LinkGraph& target, llvm::DenseMap<Symbol*, size_t>& used_by)
      : target_(target), used_by_(used_by) {}

  // Content is not copied: `source`'s blocks refer to the object's buffer, which outlives both.
  void Add(LinkGraph& source, size_t object_index) {
    llvm::DenseMap<Block*, Block*> blocks;
    llvm::DenseMap<Symbol*, Symbol*> symbols;
    for (Section& section : source.sections()) {
      Section& destination = SectionFor(section);
      for (Block* block : section.blocks()) blocks[block] = &Copy(*block, destination);
    }
    for (Symbol* symbol : source.defined_symbols()) {
      symbols[symbol] = &Define(*symbol, *blocks[&symbol->getBlock()], object_index);
    }
    for (Symbol* symbol : source.external_symbols()) {
      symbols[symbol] = &Refer(*symbol, object_index);
    }
    for (Symbol* symbol : source.absolute_symbols()) {
      symbols[symbol] =
          &target_.addAbsoluteSymbol(target_.allocateName(*symbol->getName()), symbol->getAddress(),
                                     symbol->getSize(), symbol->getLinkage(), Scope::Local, false);
    }
    for (auto& [from, to] : blocks) {
      for (const auto& edge : from->edges()) {
        to->addEdge(edge.getKind(), edge.getOffset(), *symbols[&edge.getTarget()],
                    edge.getAddend());
      }
    }
  }

  // Makes local what the objects from the index on define.
  void HideDefinitions(size_t object_index) {
    for (auto& entry : globals_) {
      const Global& global = entry.second;
      if (global.object_index >= object_index && global.symbol->isDefined()) {
        global.symbol->setScope(Scope::Local);
      }
    }
  }

  // Whether one of several definitions was dropped.
  bool has_dropped() const { return has_dropped_; }

  // Names defined more than once, with the indices of the two objects.
  const std::vector<std::pair<std::string, std::pair<size_t, size_t>>>& duplicates() const {
    return duplicates_;
  }

 private:
  struct Global {
    Symbol* symbol;
    size_t object_index;
    bool common;
  };

  Section& SectionFor(const Section& section) {
    std::string name = section.getName().str();
    while (Section* known = target_.findSectionByName(name)) {
      // As for the sections of one object: all of a name are protected alike.
      auto both = known->getMemProt() | section.getMemProt();
      if (known->getMemLifetime() == section.getMemLifetime() && !IsWritableCode(both)) {
        known->setMemProt(both);
        return *known;
      }
      name += "+";
    }
    Section& created = target_.createSection(target_.allocateName(name), section.getMemProt());
    created.setMemLifetime(section.getMemLifetime());
    return created;
  }

  Block& Copy(const Block& block, Section& destination) {
    if (block.isZeroFill()) {
      return target_.createZeroFillBlock(destination, block.getSize(), block.getAddress(),
                                         block.getAlignment(), block.getAlignmentOffset());
    }
    return target_.createContentBlock(destination, block.getContent(), block.getAddress(),
                                      block.getAlignment(), block.getAlignmentOffset());
  }

  Symbol& Define(const Symbol& symbol, Block& block, size_t object_index) {
    if (!symbol.hasName()) {
      return target_.addAnonymousSymbol(block, symbol.getOffset(), symbol.getSize(),
                                        symbol.isCallable(), false);
    }
    if (!IsGlobal(symbol)) {
      return target_.addDefinedSymbol(block, symbol.getOffset(), symbol.getName(), symbol.getSize(),
                                      symbol.getLinkage(), Scope::Local, symbol.isCallable(),
                                      false);
    }
    // JITLink's name for the section of common symbols, which it makes weak.
    bool common = symbol.getSection().getName() == "common" && block.isZeroFill();
    auto [entry, is_new] = globals_.try_emplace(*symbol.getName());
    Global& global = entry->second;
    if (is_new) {
      global = {&target_.addDefinedSymbol(block, symbol.getOffset(), symbol.getName(),
                                          symbol.getSize(), symbol.getLinkage(), symbol.getScope(),
                                          symbol.isCallable(), false),
                object_index, common};
      return *global.symbol;
    }
    Symbol& known = *global.symbol;
    if (!known.isDefined()) {
      target_.makeDefined(known, block, symbol.getOffset(), symbol.getSize(), symbol.getLinkage(),
                          symbol.getScope(), false);
      known.setCallable(symbol.isCallable());
      global.object_index = object_index;
      global.common = common;
      return known;
    }
    has_dropped_ = true;
    bool strong = symbol.getLinkage() == Linkage::Strong;
    if (strong && known.getLinkage() == Linkage::Strong) {
      duplicates_.push_back({std::string(*symbol.getName()), {global.object_index, object_index}});
    } else if (strong || (common && global.common && symbol.getSize() > known.getSize())) {
      // The known symbol stays the one that everybody's edges point to, and moves.
      known.setSize(0);
      target_.transferDefinedSymbol(known, block, symbol.getOffset(), symbol.getSize());
      known.setLinkage(symbol.getLinkage());
      known.setCallable(symbol.isCallable());
      global.object_index = object_index;
      global.common = common;
    }
    // The most constraining visibility counts, whichever definition was chosen (gABI, symbols).
    if (symbol.getScope() == Scope::Hidden) known.setScope(Scope::Hidden);
    return known;
  }

  Symbol& Refer(const Symbol& symbol, size_t object_index) {
    auto [entry, is_new] = globals_.try_emplace(*symbol.getName());
    if (is_new) {
      entry->second = {&target_.addExternalSymbol(symbol.getName(), 0, symbol.isWeaklyReferenced()),
                       object_index, false};
      used_by_[entry->second.symbol] = object_index;
    } else if (entry->second.symbol->isExternal() && !symbol.isWeaklyReferenced()) {
      entry->second.symbol->setWeaklyReferenced(false);
    }
    return *entry->second.symbol;
  }

  LinkGraph& target_;
  llvm::DenseMap<Symbol*, size_t>& used_by_;
  llvm::StringMap<Global> globals_;
  bool has_dropped_ = false;
  std::vector<std::pair<std::string, std::pair<size_t, size_t>>> duplicates_;
};

}  // namespace

LoadGraph::LoadGraph(std::vector<ObjectFile>& objects, size_t own,
                     std::shared_ptr<llvm::orc::SymbolStringPool> names) {
  // What the loader adds has address 0.
  uint64_t address = 1;
  for (ObjectFile& object : objects) {
    needs_got_ = needs_got_ || object.facts().needs_got;
    needs_low_memory_ = needs_low_memory_ || object.facts().needs_low_memory;
    address = object.AssignAddresses(address);
    object_names_.push_back(object.name());
    if (object_names_.size() <= own) name_ += (name_.empty() ? "" : " + ") + object.name();
  }
  auto parse = [this](const ObjectFile& object, auto pool) {
    auto graph = Parse(object, std::move(pool));
    AddIndirection(*graph, object);
    thread_locals_.Mark(*graph, object);
    return graph;
  };
  if (objects.size() == 1) {
    graph_ = parse(objects.front(), std::move(names));
    for (const auto& symbol : objects.front().facts().absolute_symbols) DefineAbsolute(symbol, 0);
    DefineLinkerSymbols();
    return;
  }
  // Of the single graphs only the content survives, and that lies in the objects.
  std::vector<std::unique_ptr<LinkGraph>> parsed;
  for (const ObjectFile& object : objects) parsed.push_back(parse(object, names));
  graph_ = std::make_unique<LinkGraph>(name_, std::move(names), parsed.front()->getTargetTriple(),
                                       parsed.front()->getFeatures(),
                                       llvm::jitlink::x86_64::getEdgeKindName);
  Merger merger(*graph_, used_by_);
  for (size_t i = 0; i < parsed.size(); ++i) merger.Add(*parsed[i], i);
  merger.HideDefinitions(own);
  has_dropped_ = merger.has_dropped();
  std::map<std::string, std::string> duplicates;  // symbol -> message
  for (const auto& [symbol, where] : merger.duplicates()) {
    duplicates[symbol] = "duplicate symbol " + Demangled(symbol) + ": defined in " +
                         object_names_[where.first] + " and in " + object_names_[where.second];
  }
  if (!duplicates.empty()) ThrowDuplicates(duplicates);
  for (size_t i = 0; i < objects.size(); ++i) {
    for (const auto& symbol : objects[i].facts().absolute_symbols) DefineAbsolute(symbol, i);
  }
  DefineLinkerSymbols();
}

void LoadGraph::DefineLinkerSymbols() {
  if (thread_locals_.empty()) return;
  for (Symbol* symbol : graph_->external_symbols()) {
    if (*symbol->getName() != "_TLS_MODULE_BASE_") continue;
    graph_->makeAbsolute(*symbol, ExecutorAddr());
    symbol->setScope(Scope::Local);
    thread_locals_.Bind(*symbol, {});
    return;
  }
}

void LoadGraph::DefineAbsolute(const AbsoluteSymbol& symbol, size_t object_index) {
  auto name = graph_->getSymbolStringPool()->intern(symbol.name);
  for (Symbol* external : graph_->external_symbols()) {
    if (external->getName() != name) continue;
    graph_->makeAbsolute(*external, ExecutorAddr(symbol.value));
    external->setScope(symbol.hidden ? Scope::Hidden : Scope::Default);
    return;
  }
  if (symbol.weak) return;
  throw DuplicateSymbolError("duplicate symbol " + Demangled(symbol.name) + ": defined in " +
                                 object_names_[object_index] + " and in another object of the load",
                             {symbol.name});
}

std::vector<Definition> LoadGraph::Definitions() {
  std::vector<Definition> definitions;
  for (Symbol* symbol : graph_->defined_symbols()) {
    if (!IsGlobal(*symbol)) continue;
    definitions.push_back({symbol, symbol->getLinkage() == Linkage::Weak,
                           symbol->getScope() == Scope::Default, thread_locals_.Defines(*symbol)});
  }
  for (Symbol* symbol : graph_->absolute_symbols()) {
    if (IsGlobal(*symbol)) {
      definitions.push_back({symbol, false, symbol->getScope() == Scope::Default, false});
    }
  }
  return definitions;
}

std::vector<Reference> LoadGraph::References() {
  std::vector<Reference> references;
  auto thread_local_symbols = thread_locals_.References(*graph_);
  for (Symbol* symbol : graph_->external_symbols()) {
    StringRef name = *symbol->getName();
    // JITLink defines this one itself; the bounds of sections get their addresses later.
    if (name == "_GLOBAL_OFFSET_TABLE_" || SectionOfBound(*graph_, name)) continue;
    references.push_back({symbol, symbol->isWeaklyReferenced(), used_by_.lookup(symbol),
                          thread_local_symbols.count(symbol) != 0});
  }
  return references;
}

void LoadGraph::DefineDsoHandle(const Reference& reference) {
  // A DsoHandle, whose owner is not known yet.
  Section& section =
      graph_->createSection(kDsoHandle, llvm::orc::MemProt::Read | llvm::orc::MemProt::Write);
  constexpr size_t kSize = sizeof(DsoHandle);
  Block& block = graph_->createMutableContentBlock(section, kSize, ExecutorAddr(), 8, 0);
  graph_->makeDefined(*reference.symbol, block, 0, kSize, Linkage::Strong, Scope::Local, true);
  block.addEdge(llvm::jitlink::x86_64::Pointer64, 0, *reference.symbol, 0);
}

void LoadGraph::Override(const Definition& definition, ExecutorAddr address) {
  has_dropped_ = true;
  definition.symbol->setSize(0);
  graph_->makeExternal(*definition.symbol);
  graph_->makeAbsolute(*definition.symbol, address);
}

void LoadGraph::Bind(const Reference& reference, ExecutorAddr address) {
  graph_->makeAbsolute(*reference.symbol, address);
}

void LoadGraph::Override(const Definition& definition, TlsVariable variable) {
  Override(definition, ExecutorAddr());
  thread_locals_.Bind(*definition.symbol, std::move(variable));
}

void LoadGraph::Bind(const Reference& reference, TlsVariable variable) {
  Bind(reference, ExecutorAddr());
  thread_locals_.Bind(*reference.symbol, std::move(variable));
}

Section* SectionOfBound(LinkGraph& graph, StringRef name) {
  if (name.consume_front(kStartPrefix) || name.consume_front(kStopPrefix)) {
    return graph.findSectionByName(name);
  }
  return nullptr;
}

llvm::Error AddGlobalOffsetTable(LinkGraph& graph) {
  StringRef name = llvm::jitlink::x86_64::GOTTableManager::getSectionName();
  Section* section = graph.findSectionByName(name);
  if (section && !section->blocks().empty()) return llvm::Error::success();
  if (!section) section = &graph.createSection(name, llvm::orc::MemProt::Read);
  static constexpr char kNoEntry[8] = {};
  graph.createContentBlock(*section, kNoEntry, ExecutorAddr(), 8, 0);
  return llvm::Error::success();
}

llvm::Error BindSectionBounds(LinkGraph& graph) {
  std::vector<std::pair<Symbol*, ExecutorAddr>> bounds;
  for (Symbol* symbol : graph.external_symbols()) {
    StringRef name = *symbol->getName();
    if (Section* section = SectionOfBound(graph, name)) {
      llvm::jitlink::SectionRange range(*section);
      bounds.push_back(
          {symbol, name.starts_with(kStartPrefix) ? range.getStart() : range.getEnd()});
    }
  }
  for (auto& [symbol, address] : bounds) graph.makeAbsolute(*symbol, address);
  return llvm::Error::success();
}

}  // namespace object_loader
