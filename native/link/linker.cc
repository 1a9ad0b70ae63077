// SPDX-License-Identifier: Apache-2.0
#include "link/linker.h"

#include <llvm/ExecutionEngine/Orc/SelfExecutorProcessControl.h>
#include <malloc.h>

#include <algorithm>
#include <exception>
#include <mutex>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "link/eh_frame.h"
#include "target/target.h"

namespace object_loader {

namespace {

using llvm::jitlink::LinkGraph;
namespace jitlink = llvm::jitlink;
namespace orc = llvm::orc;

// A link, from the plan to the image or the reason why there is none.
struct LinkRequest {
  LinkRequest(GraphBuilder& builder, orc::SymbolStringPtr anchor)
      : builder(builder), anchor(std::move(anchor)) {}

  GraphBuilder& builder;
  orc::SymbolStringPtr anchor;
  std::exception_ptr exception;  // what the reason is, where it is one of ours
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
    if (request_.builder.is_low()) return memory_.pool().low();
    return memory_.pool();
  }

  // Relocations, tables and frames are not left to JITLink.
  bool shouldAddDefaultTargetPasses(const llvm::Triple&) const override { return false; }

  llvm::Error modifyPassConfig(LinkGraph&, jitlink::PassConfiguration& config) override {
    config.PostAllocationPasses.push_back([this](LinkGraph&) -> llvm::Error {
      // LLVM's frames are not made for exceptions.
      try {
        request_.builder.Write();
        return llvm::Error::success();
      } catch (...) {
        request_.exception = std::current_exception();
        return llvm::make_error<jitlink::JITLinkError>("the load can't be written");
      }
    });
    return llvm::Error::success();
  }

  llvm::Error notifyResolved(LinkGraph&) override {
    return responsibility_->notifyResolved(
        {{request_.anchor, {orc::ExecutorAddr(), llvm::JITSymbolFlags::Exported}}});
  }

  // Nothing in the graph is external.
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

  llvm::StringRef getName() const override { return request_.builder.name(); }

  void materialize(std::unique_ptr<orc::MaterializationResponsibility> responsibility) override {
    auto graph =
        request_.builder.Build(responsibility->getExecutionSession().getSymbolStringPool());
    RunJITLink(std::move(graph),
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

[[noreturn]] void ThrowLinkError(const std::string& name, llvm::Error error) {
  bool out_of_memory = false;
  bool is_forbidden = false;
  error = llvm::handleErrors(
      std::move(error), [&](std::unique_ptr<llvm::StringError> info) -> llvm::Error {
        out_of_memory |= info->convertToErrorCode() == std::errc::not_enough_memory;
        is_forbidden |= info->convertToErrorCode() == std::errc::permission_denied;
        return llvm::Error(std::move(info));
      });
  std::string message = name + ": " + Message(std::move(error));
  if (out_of_memory) throw OutOfMemoryError(message);
  if (is_forbidden) throw ObjectLoaderError(message);
  throw LinkError(message);
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

Linker::Linker(bool is_inspected)
    : is_inspected_(is_inspected),
      names_(std::make_shared<orc::SymbolStringPool>()),
      memory_(is_inspected),
      session_(ThisProcess(names_)) {
  session_.registerResourceManager(memory_);
  // Links report to whoever asked for them; what is left concerns nobody.
  session_.setErrorReporter([](llvm::Error error) { llvm::consumeError(std::move(error)); });
}

Linker::~Linker() {
  ForkExclusion exclusion;
  llvm::consumeError(session_.endSession());
  session_.deregisterResourceManager(memory_);
}

Image Linker::Link(GraphBuilder& builder, const std::vector<uint32_t>& definitions) {
  ForkExclusion exclusion;
  LinkRequest request(builder, names_->intern("load " + std::to_string(++loads_)));
  orc::JITDylib& dylib = JoinGroup();
  Image image;
  image.tracker = dylib.createResourceTracker();
  llvm::Error error =
      dylib.define(std::make_unique<LoadMaterializationUnit>(memory_, request), image.tracker);
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
    llvm::consumeError(image.tracker->remove());
    LeaveGroup(dylib);
    if (!request.exception) ThrowLinkError(builder.name(), std::move(error));
    llvm::consumeError(std::move(error));
    std::rethrow_exception(request.exception);
  }
  uint64_t live = ++live_loads_;
  if (live > most_live_loads_) most_live_loads_ = live;
  try {
    builder.Collect(image, definitions);
    if (is_inspected_) image.debug = std::make_shared<DebugImage>(builder.MakeDebugImage());
    if (!image.frames.empty()) {
      image.unwind_table = UnwindTable(image.frames, FramesOf(image.frames, image.code),
                                       memory().CodeAreaOf(image.code.begin));
    }
  } catch (const ObjectFormatError& malformed) {
    Unlink(image);
    throw ObjectFormatError(builder.name() + ": " + malformed.what());
  } catch (...) {  // no memory for looking through it
    Unlink(image);
    throw;
  }
  return image;
}

orc::JITDylib& Linker::JoinGroup() {
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

void Linker::LeaveGroup(const orc::JITDylib& dylib) {
  std::lock_guard<Mutex> lock(groups_mutex_);
  --std::find_if(groups_.begin(), groups_.end(), [&](const Group& group) {
      return group.dylib == &dylib;
    })->loads;
}

void Linker::Unlink(Image& image) {
  // Closed last: the dynamic linker may wait for another thread, which may fork.
  std::shared_ptr<const TlsModule> tls_module = std::move(image.tls_module);
  ForkExclusion exclusion;
  image.unwind_table = {};
  orc::JITDylib& dylib = image.tracker->getJITDylib();
  llvm::consumeError(image.tracker->remove());
  image.tracker = nullptr;
  LeaveGroup(dylib);
  // Names that nobody uses any more stay in the pool until somebody sweeps it. A sweep looks at
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

}  // namespace object_loader
