// SPDX-License-Identifier: Apache-2.0
#include "platform.h"

#include <dlfcn.h>
#include <llvm/ADT/StringSwitch.h>
#include <llvm/ExecutionEngine/JITLink/ELF_x86_64.h>
#include <llvm/ExecutionEngine/Orc/SelfExecutorProcessControl.h>
#include <malloc.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "eh_frame.h"
#include "error.h"
#include "exit_handlers.h"
#include "relocation.h"

extern "C" __attribute__((visibility("hidden"))) const char object_loader_support_begin[];
extern "C" __attribute__((visibility("hidden"))) const char object_loader_support_end[];

namespace object_loader {

namespace {

using llvm::StringRef;
using llvm::jitlink::LinkGraph;
namespace jitlink = llvm::jitlink;
namespace orc = llvm::orc;

// A link, from the graph to the image or the reason why there is none.
struct LinkRequest {
  LinkRequest(LoadGraph& load, const std::vector<Definition>& definitions,
              orc::SymbolStringPtr anchor)
      : load(load), definitions(definitions), anchor(std::move(anchor)) {}

  LoadGraph& load;
  const std::vector<Definition>& definitions;
  orc::SymbolStringPtr anchor;
  Image image;
  llvm::Error error = llvm::Error::success();
};

// What JITLink asks and tells during a link. It takes the place of ORC's LinkGraphLinkingLayer,
// which works out what every block depends on, symbol by symbol, so that code can be looked up
// while other code is still being linked: a load needs none of that, since its references are
// bound.
class LinkContext : public jitlink::JITLinkContext {
 public:
  LinkContext(LoadMemory& memory,
              std::unique_ptr<orc::MaterializationResponsibility> responsibility,
              LinkRequest& request)
      : JITLinkContext(&responsibility->getTargetJITDylib()),
        memory_(memory),
        responsibility_(std::move(responsibility)),
        request_(request) {}

  jitlink::JITLinkMemoryManager& getMemoryManager() override {
    if (request_.load.needs_low_memory()) return memory_.pool().low();
    return memory_.pool();
  }

  jitlink::LinkGraphPassFunction getMarkLivePass(const llvm::Triple&) const override {
    // What is live was marked when the graph was bound.
    return [](LinkGraph&) { return llvm::Error::success(); };
  }

  llvm::Error modifyPassConfig(LinkGraph&, jitlink::PassConfiguration& config) override {
    config.PostPrunePasses.push_back(PackEHFrame);
    config.PostPrunePasses.push_back(
        [this](LinkGraph& graph) { return request_.load.thread_locals().Lower(graph); });
    if (request_.load.needs_got()) config.PostPrunePasses.push_back(AddGlobalOffsetTable);
    config.PostAllocationPasses.push_back(BindSectionBounds);
    config.PostFixupPasses.push_back([this](LinkGraph& graph) -> llvm::Error {
      ThreadLocals& thread_locals = request_.load.thread_locals();
      if (llvm::Error error = thread_locals.Resolve(graph)) return error;
      request_.image.Collect(graph, request_.definitions);
      request_.image.tls_module = thread_locals.module();
      for (size_t i = 0; i < request_.definitions.size(); ++i) {
        const Definition& definition = request_.definitions[i];
        if (!definition.is_thread_local) continue;
        request_.image.defined[i] = orc::ExecutorAddr(thread_locals.OffsetOf(*definition.symbol));
      }
      return llvm::Error::success();
    });
    return llvm::Error::success();
  }

  llvm::Error notifyResolved(LinkGraph&) override {
    return responsibility_->notifyResolved(
        {{request_.anchor, {orc::ExecutorAddr(), llvm::JITSymbolFlags::Exported}}});
  }

  // Everything is bound by now but _GLOBAL_OFFSET_TABLE_, where there is no such table.
  void lookup(const LookupMap& symbols,
              std::unique_ptr<jitlink::JITLinkAsyncLookupContinuation> continuation) override {
    std::string names;
    for (const auto& [name, flags] : symbols)
      names += (names.empty() ? "" : ", ") + std::string(*name);
    continuation->run(llvm::make_error<jitlink::JITLinkError>("undefined: " + names));
  }

  void notifyFinalized(jitlink::JITLinkMemoryManager::FinalizedAlloc allocation) override {
    // A graph with nothing in it needs no memory.
    llvm::Error error = allocation ? memory_.Record(*responsibility_, std::move(allocation))
                                   : llvm::Error::success();
    if (!error) error = responsibility_->notifyEmitted({});
    if (error) notifyFailed(std::move(error));
  }

  void notifyFailed(llvm::Error error) override {
    request_.error = llvm::joinErrors(std::move(request_.error), std::move(error));
    responsibility_->failMaterialization();
  }

 private:
  LoadMemory& memory_;
  std::unique_ptr<orc::MaterializationResponsibility> responsibility_;
  LinkRequest& request_;
};

class LoadMaterializationUnit : public orc::MaterializationUnit {
 public:
  LoadMaterializationUnit(LoadMemory& memory, LinkRequest& request)
      : MaterializationUnit(Interface({{request.anchor, llvm::JITSymbolFlags::Exported}}, nullptr)),
        memory_(memory),
        request_(request) {}

  StringRef getName() const override { return request_.load.name(); }

  void materialize(std::unique_ptr<orc::MaterializationResponsibility> responsibility) override {
    jitlink::link_ELF_x86_64(
        request_.load.TakeGraph(),
        std::make_unique<LinkContext>(memory_, std::move(responsibility), request_));
  }

 private:
  void discard(const orc::JITDylib&, const orc::SymbolStringPtr&) override {}

  LoadMemory& memory_;
  LinkRequest& request_;
};

std::unique_ptr<orc::ExecutorProcessControl> ThisProcess(
    std::shared_ptr<orc::SymbolStringPool> names) {
  ForkExclusion exclusion;
  auto control = orc::SelfExecutorProcessControl::Create(
      std::move(names), std::make_unique<orc::InPlaceTaskDispatcher>());
  if (!control) {
    throw ObjectLoaderError("cannot start a session: " + Message(control.takeError()));
  }
  return std::move(*control);
}

// As dlsym; a reference that .symver made names the version that it wants, "memcpy@GLIBC_2.2.5".
void* FindInProcess(void* scope, StringRef symbol) {
  auto [name, version] = symbol.split('@');
  version.consume_front("@");
  if (version.empty()) return dlsym(scope, symbol.str().c_str());
  return dlvsym(scope, name.str().c_str(), version.str().c_str());
}

// JITLink tells relocations by names of its own.
std::string WithRelocationName(StringRef message) {
  auto [before, after] = message.split("is out of range of ");
  auto [edge, rest] = after.split(' ');
  StringRef name = RelocationOfEdge(edge);
  if (name.empty()) return message.str();
  return (before + "is out of range of " + name + " " + rest).str();
}

[[noreturn]] void ThrowLinkError(const std::string& name, llvm::Error error) {
  bool out_of_memory = false;
  error = llvm::handleErrors(
      std::move(error), [&](std::unique_ptr<llvm::StringError> info) -> llvm::Error {
        out_of_memory |= info->convertToErrorCode() == std::errc::not_enough_memory;
        return llvm::Error(std::move(info));
      });
  std::string message = name + ": " + WithRelocationName(Message(std::move(error)));
  if (out_of_memory) throw OutOfMemoryError(message);
  if (StringRef(message).contains("out of range")) {
    message +=
        "; the code refers to something more than 2 GiB away in a way that only works nearby: "
        "compile with -fPIC";
  }
  throw LinkError(message);
}

std::map<std::string, void*>& Replacements() {
  static auto* replacements = new std::map<std::string, void*>(ThreadExitFunctions());
  return *replacements;
}

// malloc keeps what was freed, some 4 kB a load, unless it lies at the end of the heap. Giving it
// back looks through the whole heap, so it is done when so many more loads have gone than come.
constexpr uint64_t kTrimLoads = 1024;

// So many loads share a JITDylib: three quarters of 2048, where its tables would double again.
constexpr uint64_t kLoadsOfGroup = 1500;

void ReturnHeapToSystem() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // namespace

void ReplaceProcessSymbol(const std::string& symbol, void* address) {
  Replacements()[symbol] = address;
}

ProcessSymbols::ProcessSymbols() : tvm_ffi_(dlopen("libtvm_ffi.so", RTLD_LAZY | RTLD_NOLOAD)) {}

ProcessSymbols::~ProcessSymbols() {
  for (auto& [base, handle] : pinned_) {
    if (handle) dlclose(handle);
  }
  if (tvm_ffi_) dlclose(tvm_ffi_);
  if (vector_math_) dlclose(vector_math_);
}

std::vector<orc::ExecutorAddr> ProcessSymbols::Find(llvm::ArrayRef<orc::SymbolStringPtr> names) {
  std::vector<orc::ExecutorAddr> addresses(names.size());
  std::vector<size_t> unknown;
  {
    std::lock_guard<Mutex> lock(mutex_);
    for (size_t i = 0; i < names.size(); ++i) {
      auto known = found_.find(names[i]);
      if (known != found_.end()) {
        addresses[i] = known->second;
      } else {
        unknown.push_back(i);
      }
    }
  }
  for (size_t i : unknown) addresses[i] = FindNew(names[i]);
  return addresses;
}

orc::ExecutorAddr ProcessSymbols::FindNew(const orc::SymbolStringPtr& name) {
  std::string symbol(*name);
  if (void* ours = ExitFunction(symbol)) return orc::ExecutorAddr::fromPtr(ours);
  auto replacement = Replacements().find(symbol);
  if (replacement != Replacements().end()) {
    return found_[name] = orc::ExecutorAddr::fromPtr(replacement->second);
  }
  void* address = FindInProcess(RTLD_DEFAULT, symbol);
  if (address == nullptr && tvm_ffi_) address = FindInProcess(tvm_ffi_, symbol);
  // A reference without a version, which is what an object has, is also bound to a symbol that only
  // the first version of a library has, and which nothing new is to be linked with.
  for (const char* version : {"GLIBC_2.2.5", "GLIBCXX_3.4", "CXXABI_1.3", "GCC_3.0"}) {
    if (address == nullptr) address = dlvsym(RTLD_DEFAULT, symbol.c_str(), version);
  }
  // The vector functions that GCC calls in place of libm's, where -lm links their library.
  if (address == nullptr && StringRef(symbol).starts_with("_ZGV")) {
    if (!vector_math_) vector_math_ = dlopen("libmvec.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (vector_math_) address = dlsym(vector_math_, symbol.c_str());
  }
  if (address) {
    Pin(address);
    std::lock_guard<Mutex> lock(mutex_);
    found_[name] = orc::ExecutorAddr::fromPtr(address);
  }
  return orc::ExecutorAddr::fromPtr(address);
}

void ProcessSymbols::Pin(void* address) {
  Dl_info info;
  if (!dladdr(address, &info) || !info.dli_fname) return;
  {
    std::lock_guard<Mutex> lock(mutex_);
    if (pinned_.count(info.dli_fbase)) return;
  }
  void* handle = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  {
    std::lock_guard<Mutex> lock(mutex_);
    if (pinned_.try_emplace(info.dli_fbase, handle).second) return;
  }
  if (handle) dlclose(handle);
}

llvm::Error LoadMemory::Record(orc::MaterializationResponsibility& responsibility,
                               jitlink::JITLinkMemoryManager::FinalizedAlloc allocation) {
  llvm::Error error = responsibility.withResourceKeyDo([&](orc::ResourceKey key) {
    std::lock_guard<Mutex> lock(mutex_);
    allocations_[&responsibility.getTargetJITDylib()].try_emplace(key, std::move(allocation));
  });
  // The tracker is gone: the dylib was removed meanwhile.
  if (error) error = llvm::joinErrors(std::move(error), pool_.deallocate(std::move(allocation)));
  return error;
}

llvm::Error LoadMemory::handleRemoveResources(orc::JITDylib& dylib, orc::ResourceKey key) {
  jitlink::JITLinkMemoryManager::FinalizedAlloc allocation;
  {
    std::lock_guard<Mutex> lock(mutex_);
    auto group = allocations_.find(&dylib);
    if (group == allocations_.end()) return llvm::Error::success();
    auto found = group->second.find(key);
    if (found == group->second.end()) return llvm::Error::success();
    allocation = std::move(found->second);
    group->second.erase(found);
    // Its table never becomes smaller by itself.
    if (group->second.empty()) allocations_.erase(group);
  }
  return pool_.deallocate(std::move(allocation));
}

Platform::Platform()
    : names_(std::make_shared<orc::SymbolStringPool>()), session_(ThisProcess(names_)) {
  session_.registerResourceManager(memory_);
  // Links report to whoever asked for them; what is left concerns nobody.
  session_.setErrorReporter([](llvm::Error error) { llvm::consumeError(std::move(error)); });
}

Platform::~Platform() {
  ForkExclusion exclusion;
  llvm::consumeError(session_.endSession());
  session_.deregisterResourceManager(memory_);
}

Image Platform::Link(LoadGraph& load, const std::vector<Definition>& definitions) {
  ForkExclusion exclusion;
  KeepAlive(load.graph());
  if (!load.has_dropped()) KeepEHFrameWhole(load.graph());
  LinkRequest request(load, definitions, names_->intern("load " + std::to_string(++loads_)));
  orc::JITDylib& dylib = JoinGroup();
  request.image.tracker = dylib.createResourceTracker();
  llvm::Error error = dylib.define(std::make_unique<LoadMaterializationUnit>(memory_, request),
                                   request.image.tracker);
  if (!error) {
    // Waits for the link: of several threads in here, one may take over another one's.
    auto symbol =
        session_.lookup({{&dylib, orc::JITDylibLookupFlags::MatchAllSymbols}}, request.anchor);
    // Why a link failed was told to the request; this only says that it did.
    if (!symbol && request.error) {
      llvm::consumeError(symbol.takeError());
    } else {
      error = symbol.takeError();
    }
  }
  error = llvm::joinErrors(std::move(request.error), std::move(error));
  if (error) {
    llvm::consumeError(request.image.tracker->remove());
    LeaveGroup(dylib);
    ThrowLinkError(load.name(), std::move(error));
  }
  uint64_t live = ++live_loads_;
  if (live > most_live_loads_) most_live_loads_ = live;
  Image image = std::move(request.image);
  if (image.eh_frame.begin != image.eh_frame.end) {
    try {
      image.unwind_table = UnwindTable(image.eh_frame, image.code);
    } catch (const ObjectFormatError& malformed) {
      Unlink(image);
      throw ObjectFormatError(load.name() + ": " + malformed.what());
    } catch (...) {  // no memory for looking through it
      Unlink(image);
      throw;
    }
  }
  return image;
}

orc::JITDylib& Platform::JoinGroup() {
  std::lock_guard<Mutex> lock(groups_mutex_);
  for (auto group = groups_.rbegin(); group != groups_.rend(); ++group) {
    if (group->loads >= kLoadsOfGroup) continue;
    ++group->loads;
    return *group->dylib;
  }
  orc::JITDylib& dylib = session_.createBareJITDylib("loads " + std::to_string(groups_.size()));
  groups_.push_back({&dylib, 1});
  return dylib;
}

void Platform::LeaveGroup(const orc::JITDylib& dylib) {
  std::lock_guard<Mutex> lock(groups_mutex_);
  --std::find_if(groups_.begin(), groups_.end(), [&](const Group& group) {
      return group.dylib == &dylib;
    })->loads;
}

void Platform::Unlink(Image& image) {
  // Closed last: the dynamic linker may wait for another thread, which may fork.
  std::shared_ptr<const TlsModule> tls_module = std::move(image.tls_module);
  ForkExclusion exclusion;
  image.unwind_table = {};
  orc::JITDylib& dylib = image.tracker->getJITDylib();
  llvm::consumeError(image.tracker->remove());
  image.tracker = nullptr;
  LeaveGroup(dylib);
  // Names that no symbol uses any more stay in the pool until somebody sweeps it. A sweep looks at
  // every name, so it waits until the loads removed outnumber the live ones.
  uint64_t live = --live_loads_;
  bool trim =
      live + kTrimLoads <= most_live_loads_ || (live == 0 && most_live_loads_ >= kTrimLoads / 4);
  if (++removed_loads_ >= std::max<uint64_t>(256, live) || trim) {
    removed_loads_ = 0;
    names_->clearDeadEntries();
  }
  if (!trim) return;
  most_live_loads_ = live;
  ReturnHeapToSystem();
}

const Archive& SupportArchive() {
  // Read when it is first needed, and there for threads that outlive the program's end.
  static const Archive& archive = *new Archive(Archive::FromBytes(llvm::MemoryBuffer::getMemBuffer(
      StringRef(object_loader_support_begin,
                static_cast<size_t>(object_loader_support_end - object_loader_support_begin)),
      "support.a", /*RequiresNullTerminator=*/false)));
  return archive;
}

bool IsSupportSymbol(StringRef name) {
  return llvm::StringSwitch<bool>(name)
      .Cases({"atexit", "at_quick_exit", "pthread_atfork", "__pthread_atfork"}, true)
      .Cases({"__stack_chk_fail_local"}, true)
      .Cases({"__cpu_model", "__cpu_features2", "__cpu_indicator_init"}, true)
      .Default(false);
}

}  // namespace object_loader
