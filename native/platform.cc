// SPDX-License-Identifier: Apache-2.0
#include "platform.h"

#include <dlfcn.h>
#include <llvm/ADT/StringSwitch.h>
#include <llvm/ExecutionEngine/Orc/SelfExecutorProcessControl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>

#include "error.h"

extern "C" void __cxa_finalize(void* dso_handle);
extern "C" char** environ;

extern "C" __attribute__((visibility("hidden"))) const char object_loader_support_begin[];
extern "C" __attribute__((visibility("hidden"))) const char object_loader_support_end[];

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

// A link in progress on this thread. ORC reports errors to the session, not to who asked for the
// link; as a link runs from begin to end on one thread, this says whose it is.
struct LinkRequest {
  LinkRequest(LoadGraph& load, const std::vector<Definition>& definitions)
      : load(load), definitions(definitions) {}

  LoadGraph& load;
  const std::vector<Definition>& definitions;
  Image image;
  llvm::Error error = llvm::Error::success();
};
thread_local LinkRequest* current_request = nullptr;

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

// Keeps from being pruned what is reached only by its place: arrays of functions, and sections
// whose bounds are referred to.
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

// Unwinders read .eh_frame from record to record and take four zero bytes for its end. The records
// must therefore lie without gaps, also where pruning has removed one that kept the next aligned.
llvm::Error PackEHFrame(LinkGraph& graph) {
  if (Section* section = graph.findSectionByName(".eh_frame")) {
    for (Block* block : section->blocks()) {
      block->setAlignmentOffset(0);
      block->setAlignment(1);
    }
  }
  return llvm::Error::success();
}

llvm::Error CollectImage(LinkGraph& graph, LinkRequest& request) {
  Image& image = request.image;
  for (const Definition& definition : request.definitions) {
    image.defined.push_back(definition.symbol->getAddress());
  }
  for (auto [priority, function] : CollectFunctions(graph, IsInitializers)) {
    image.initializers.push_back(reinterpret_cast<Image::Initializer>(function));
  }
  auto finalizers = CollectFunctions(graph, IsFinalizers);
  for (auto entry = finalizers.rbegin(); entry != finalizers.rend(); ++entry) {
    // GCC's own entry, which calls __cxa_finalize, comes first among those without a priority, and
    // the array is run from its end.
    auto& list = entry->first == kNoPriority ? image.finalizers : image.late_finalizers;
    list.push_back(reinterpret_cast<Image::Finalizer>(entry->second));
  }
  if (Section* section = graph.findSectionByName(".data.__dso_handle")) {
    image.dso_handle = llvm::jitlink::SectionRange(*section).getStart().toPtr<void*>();
  }
  if (Section* section = graph.findSectionByName(".eh_frame")) {
    llvm::jitlink::SectionRange range(*section);
    // Four bytes are the end mark alone, which JITLink adds.
    if (range.getSize() > 4) {
      image.eh_frame = {range.getStart().getValue(), range.getEnd().getValue()};
    }
  }
  for (Section& section : graph.sections()) {
    if ((section.getMemProt() & orc::MemProt::Exec) == orc::MemProt::None) continue;
    for (Block* block : section.blocks()) {
      uint64_t begin = block->getAddress().getValue();
      bool first = image.code.end == 0;
      image.code.begin = first ? begin : std::min(image.code.begin, begin);
      image.code.end = std::max(image.code.end, begin + block->getSize());
    }
  }
  return llvm::Error::success();
}

class ImagePlugin : public orc::ObjectLinkingLayer::Plugin {
 public:
  void modifyPassConfig(orc::MaterializationResponsibility&, LinkGraph&,
                        llvm::jitlink::PassConfiguration& config) override {
    LinkRequest* request = current_request;
    config.PostPrunePasses.push_back(PackEHFrame);
    config.PostAllocationPasses.push_back(BindSectionBounds);
    config.PostFixupPasses.push_back(
        [request](LinkGraph& graph) { return CollectImage(graph, *request); });
  }
  llvm::Error notifyFailed(orc::MaterializationResponsibility&) override {
    return llvm::Error::success();
  }
  llvm::Error notifyRemovingResources(orc::JITDylib&, orc::ResourceKey) override {
    return llvm::Error::success();
  }
  void notifyTransferringResources(orc::JITDylib&, orc::ResourceKey, orc::ResourceKey) override {}
};

class LoadMaterializationUnit : public orc::MaterializationUnit {
 public:
  LoadMaterializationUnit(orc::ObjectLinkingLayer& layer, LinkRequest& request,
                          const orc::SymbolStringPtr& anchor)
      : MaterializationUnit(Interface({{anchor, llvm::JITSymbolFlags::Exported}}, nullptr)),
        layer_(layer),
        request_(request) {}

  StringRef getName() const override { return request_.load.name(); }

  void materialize(std::unique_ptr<orc::MaterializationResponsibility> responsibility) override {
    LinkRequest* outer = std::exchange(current_request, &request_);
    layer_.emit(std::move(responsibility), request_.load.TakeGraph());
    current_request = outer;
  }

 private:
  void discard(const orc::JITDylib&, const orc::SymbolStringPtr&) override {}

  orc::ObjectLinkingLayer& layer_;
  LinkRequest& request_;
};

std::unique_ptr<orc::ExecutorProcessControl> ThisProcess(
    std::shared_ptr<orc::SymbolStringPool> names) {
  auto control = orc::SelfExecutorProcessControl::Create(
      std::move(names), std::make_unique<orc::InPlaceTaskDispatcher>());
  if (!control) {
    throw ObjectLoaderError("cannot start a session: " + Message(control.takeError()));
  }
  return std::move(*control);
}

[[noreturn]] void ThrowLinkError(const std::string& name, llvm::Error error) {
  bool out_of_memory = false;
  error = llvm::handleErrors(
      std::move(error), [&](std::unique_ptr<llvm::StringError> info) -> llvm::Error {
        out_of_memory |= info->convertToErrorCode() == std::errc::not_enough_memory;
        return llvm::Error(std::move(info));
      });
  std::string message = name + ": " + Message(std::move(error));
  if (out_of_memory) throw OutOfMemoryError(message);
  if (StringRef(message).contains("out of range")) {
    message +=
        "; the code refers to something more than 2 GiB away in a way that only works nearby: "
        "compile with -fPIC";
  }
  throw LinkError(message);
}

}  // namespace

ProcessSymbols::ProcessSymbols() : tvm_ffi_(dlopen("libtvm_ffi.so", RTLD_LAZY | RTLD_NOLOAD)) {}

ProcessSymbols::~ProcessSymbols() {
  for (auto& [base, handle] : pinned_) {
    if (handle) dlclose(handle);
  }
  if (tvm_ffi_) dlclose(tvm_ffi_);
}

orc::ExecutorAddr ProcessSymbols::Find(const orc::SymbolStringPtr& name) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto known = found_.find(name);
  if (known != found_.end()) return known->second;
  std::string symbol(*name);
  void* address = dlsym(RTLD_DEFAULT, symbol.c_str());
  if (address == nullptr && tvm_ffi_) address = dlsym(tvm_ffi_, symbol.c_str());
  if (address) {
    Pin(address);
    found_[name] = orc::ExecutorAddr::fromPtr(address);
  }
  return orc::ExecutorAddr::fromPtr(address);
}

void ProcessSymbols::Pin(void* address) {
  Dl_info info;
  if (!dladdr(address, &info) || !info.dli_fname) return;
  auto [entry, is_new] = pinned_.try_emplace(info.dli_fbase, nullptr);
  if (is_new) entry->second = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
}

void Image::RunInitializers() const {
  for (Initializer initializer : initializers) initializer(program_argc, program_argv, environ);
}

void Image::RunFinalizers() const {
  for (Finalizer finalizer : finalizers) finalizer();
  if (dso_handle) __cxa_finalize(dso_handle);
  for (Finalizer finalizer : late_finalizers) finalizer();
}

Platform::Platform()
    : names_(std::make_shared<orc::SymbolStringPool>()),
      session_(ThisProcess(names_)),
      layer_(session_, memory_) {
  layer_.addPlugin(std::make_shared<ImagePlugin>());
  session_.setErrorReporter([](llvm::Error error) {
    if (LinkRequest* request = current_request) {
      request->error = llvm::joinErrors(std::move(request->error), std::move(error));
    } else {
      llvm::consumeError(std::move(error));
    }
  });
}

Platform::~Platform() { llvm::consumeError(session_.endSession()); }

orc::JITDylib& Platform::CreateJITDylib(const std::string& name) {
  ++live_dylibs_;
  return session_.createBareJITDylib(name);
}

void Platform::RemoveJITDylib(orc::JITDylib& dylib) {
  llvm::consumeError(session_.removeJITDylib(dylib));
  // Names that no symbol uses any more stay in the pool until somebody sweeps it. A sweep looks at
  // every name, so it waits until the dylibs removed outnumber the live ones.
  uint64_t live = --live_dylibs_;
  if (++removed_dylibs_ < std::max<uint64_t>(256, live)) return;
  removed_dylibs_ = 0;
  names_->clearDeadEntries();
}

Image Platform::Link(orc::JITDylib& dylib, LoadGraph& load,
                     const std::vector<Definition>& definitions) {
  LinkGraph& graph = load.graph();
  KeepAlive(graph);
  auto anchor = names_->intern("load " + std::to_string(++loads_));
  graph.addAbsoluteSymbol(anchor, orc::ExecutorAddr(), 0, llvm::jitlink::Linkage::Strong,
                          llvm::jitlink::Scope::Default, true);

  LinkRequest request(load, definitions);
  request.image.tracker = dylib.createResourceTracker();
  llvm::Error error = dylib.define(
      std::make_unique<LoadMaterializationUnit>(layer_, request, anchor), request.image.tracker);
  if (!error) {
    auto symbol = session_.lookup({{&dylib, orc::JITDylibLookupFlags::MatchAllSymbols}}, anchor);
    // What failed was reported to the request; this only says that something did.
    if (!symbol && request.error) {
      llvm::consumeError(symbol.takeError());
    } else {
      error = symbol.takeError();
    }
  }
  error = llvm::joinErrors(std::move(request.error), std::move(error));
  if (error) {
    llvm::consumeError(request.image.tracker->remove());
    ThrowLinkError(load.name(), std::move(error));
  }
  Image image = std::move(request.image);
  if (image.eh_frame.begin != image.eh_frame.end) {
    try {
      image.unwind_table = UnwindTable(image.eh_frame, image.code);
    } catch (const ObjectFormatError& malformed) {
      Unlink(image);
      throw ObjectFormatError(load.name() + ": " + malformed.what());
    }
  }
  return image;
}

void Platform::Unlink(Image& image) {
  image.unwind_table = {};
  if (image.tracker) llvm::consumeError(image.tracker->remove());
  image.tracker = nullptr;
}

StringRef SupportObject() {
  return StringRef(object_loader_support_begin,
                   static_cast<size_t>(object_loader_support_end - object_loader_support_begin));
}

bool IsSupportSymbol(StringRef name) {
  return llvm::StringSwitch<bool>(name)
      .Cases({"atexit", "at_quick_exit", "pthread_atfork"}, true)
      .Default(false);
}

}  // namespace object_loader
