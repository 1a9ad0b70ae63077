// SPDX-License-Identifier: Apache-2.0
#include "session/trampolines.h"

#include <memory>
#include <mutex>
#include <new>
#include <utility>

#include "os/mapping.h"
#include "target/target.h"

namespace object_loader {

namespace {

// How many are made at a time: a few pages of code, and what belongs to them.
constexpr uint64_t kCount = 512;

}  // namespace

Trampolines& Trampolines::OfProcess() {
  static auto* trampolines = new Trampolines;
  return *trampolines;
}

size_t Trampolines::Hash::operator()(const Key& key) const {
  auto number = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); };
  return ((number(key.load) * 31 + number(key.original)) * 31 + number(key.handler)) *
         0x9E3779B97F4A7C15;
}

// Code and records, within reach of each other. The code is written before it can be executed, and
// never again, so that it may be shared with a child of the process.
Trampoline* Trampolines::MakeMore() {
  constexpr uint64_t kCode = kCount * kTrampolineSize;
  constexpr uint64_t kRecords = kCount * sizeof(Trampoline);
  uint64_t page = PageSize();
  uint64_t code_size = (kCode + page - 1) / page * page;
  uint64_t size = code_size + (kRecords + page - 1) / page * page;
  Refusals refusals;
  Mapping memory = Mapping::Reserve(size, Mapping::Place::kAnywhere, page, refusals);
  if (!memory || !memory.Commit(0, size, Mapping::Access::kWrite, refusals)) throw std::bad_alloc();
  // Where the system maps no memory twice, the code is written where it will be executed.
  Mapping alias = Mapping::Shared(code_size, refusals);
  char* code = memory.begin();
  char* written = alias ? alias.begin() : code;
  char* records = code + code_size;
  for (uint64_t i = 0; i < kCount; ++i) {
    WriteTrampoline(written + i * kTrampolineSize,
                    reinterpret_cast<uint64_t>(code + i * kTrampolineSize),
                    reinterpret_cast<uint64_t>(records + i * sizeof(Trampoline)));
  }
  constexpr auto kExecute = Mapping::Access::kExecute;
  if (!(alias ? memory.Commit(0, code_size, kExecute, alias, 0, refusals)
              : memory.Protect(0, code_size, kExecute, refusals))) {
    throw std::bad_alloc();
  }
  FlushCode(code, kCode);
  auto area = std::make_unique<Area>(Area{reinterpret_cast<uintptr_t>(code), kCode, areas_.load()});
  new Mapping(std::move(memory));  // never given back
  areas_.store(area.release(), std::memory_order_release);
  Trampoline* first = nullptr;
  for (uint64_t i = kCount; i-- > 0;) {
    auto* trampoline = new (records + i * sizeof(Trampoline)) Trampoline;
    trampoline->code = code + i * kTrampolineSize;
    trampoline->next = std::exchange(first, trampoline);
  }
  return first;
}

Trampoline& Trampolines::Get(LoadedCode* load, void* original, void* handler) {
  std::lock_guard<Mutex> lock(mutex_);
  Trampoline*& known = all_[{load, original, handler}];
  if (known) return *known;
  try {
    if (!free_) free_ = MakeMore();
  } catch (...) {
    all_.erase({load, original, handler});
    throw;
  }
  Trampoline* made = free_;
  free_ = made->next;
  made->load = load;
  made->handler = handler;
  made->next = nullptr;
  if (load) made->next = std::exchange(load->trampolines, made);
  made->original.store(original, std::memory_order_release);
  return *(known = made);
}

Trampoline* Trampolines::FindOrMake(void* function, void* handler) {
  // Before it is looked for: it may be loaded while it is.
  uint64_t stamped = Stamped(function);
  LoadedCode* load = LoadedCode::At(function);
  if (!load) {
    foreign_[Slot(function)].store(stamped, std::memory_order_relaxed);
    return nullptr;
  }
  Trampoline& made = Get(load, function, handler);
  recent_[Slot(function)].store(&made, std::memory_order_release);
  return &made;
}

void Trampolines::Release(LoadedCode& load) {
  if (!load.trampolines) return;
  std::lock_guard<Mutex> lock(mutex_);
  while (Trampoline* trampoline = load.trampolines) {
    load.trampolines = trampoline->next;
    all_.erase({&load, trampoline->original.load(), trampoline->handler});
    trampoline->original.store(nullptr, std::memory_order_release);
    trampoline->next = std::exchange(free_, trampoline);
  }
}

}  // namespace object_loader
