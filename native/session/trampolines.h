// SPDX-License-Identifier: Apache-2.0
//
// Trampolines: functions that stand for others, each with a record of its own, so that a pointer
// somewhere in the process can be replaced by one that knows more: which function was there, and
// whose code that needs.
//
// A trampoline jumps to its handler and hands it its record as the fifth argument; the functions
// that are replaced have at most four.
//
// Lifetime: the trampolines of a load go with it, those of nobody's stay. Their memory is used
// again and never given back. Concurrency: every method may be called from any thread. A record is
// complete before its trampoline's address gets anywhere, which is stored with release; whoever
// jumps there has loaded it, in whatever way, and the trampoline sees to the order from there on.
#ifndef OBJECT_LOADER_SESSION_TRAMPOLINES_H_
#define OBJECT_LOADER_SESSION_TRAMPOLINES_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <unordered_map>

#include "base/fork_lock.h"
#include "session/code_map.h"
#include "session/loaded_code.h"

namespace object_loader {

// The function that a place in the process holds, where another thread may be putting a trampoline.
template <typename Function>
void* FunctionIn(Function* const& place) {
  return reinterpret_cast<void*>(__atomic_load_n(&place, __ATOMIC_ACQUIRE));
}

struct Trampoline {
  // As the function that is replaced has it: a function of this type may be called as such.
  template <typename Function>
  Function* Original() const {
    return reinterpret_cast<Function*>(original.load(std::memory_order_relaxed));
  }

  void* handler = nullptr;  // first: the code jumps there
  std::atomic<void*> original{nullptr};
  LoadedCode* load = nullptr;  // what the original needs; null: nothing of ours
  void* code = nullptr;        // the trampoline itself
  Trampoline* next = nullptr;  // of the load, or of those that are free
};

class Trampolines {
 public:
  // Never destroyed: objects may outlive everything else.
  static Trampolines& OfProcess();

  // The one for a function of loaded code; null where it is none. It costs a few instructions for
  // functions that were asked for before. For use by whoever knows that the function is loaded.
  // Throws std::bad_alloc.
  Trampoline* OfLoadedCode(void* function, void* handler) {
    if (IsKnownForeign(function)) return nullptr;
    Trampoline* known = recent_[Slot(function)].load(std::memory_order_acquire);
    if (known && known->original.load(std::memory_order_acquire) == function &&
        known->handler == handler) {
      return known;
    }
    return FindOrMake(function, handler);
  }

  // Whether it was found out that the function is no loaded code's. Null is none.
  static bool IsKnownForeign(const void* function) {
    return !function ||
           foreign_[Slot(function)].load(std::memory_order_relaxed) == Stamped(function);
  }

  // The one that stands for `original` for those who need the load, or nobody's code. Throws
  // std::bad_alloc.
  Trampoline& Get(LoadedCode* load, void* original, void* handler);

  // Whether the function is a trampoline.
  bool Have(const void* function) const {
    auto address = reinterpret_cast<uintptr_t>(function);
    for (const Area* area = areas_.load(std::memory_order_acquire); area; area = area->next) {
      if (address - area->begin < area->size) return true;
    }
    return false;
  }

  // No object has a trampoline of the load any more.
  void Release(LoadedCode& load);

 private:
  struct Key {
    LoadedCode* load;
    void* original;
    void* handler;
    bool operator==(const Key& other) const {
      return load == other.load && original == other.original && handler == other.handler;
    }
  };
  struct Hash {
    size_t operator()(const Key& key) const;
  };
  // Where the code of some of them is.
  struct Area {
    uintptr_t begin;
    uint64_t size;
    const Area* next;
  };
  static constexpr size_t kSlots = 256;

  static size_t Slot(const void* function) {
    return (reinterpret_cast<uintptr_t>(function) * 0x9E3779B97F4A7C15) >> 56;
  }
  // Addresses have 48 bits; the others hold the code map's version, so that what is known of an
  // address is forgotten when code is loaded.
  static uint64_t Stamped(const void* function) {
    return reinterpret_cast<uintptr_t>(function) << 16 | (CodeMap::Version() & 0xffff);
  }
  Trampoline* FindOrMake(void* function, void* handler);
  Trampoline* MakeMore();

  std::array<std::atomic<Trampoline*>, kSlots> recent_ = {};
  static inline std::array<std::atomic<uint64_t>, kSlots> foreign_ = {};
  std::atomic<const Area*> areas_{nullptr};
  Mutex mutex_;
  std::unordered_map<Key, Trampoline*, Hash> all_;
  Trampoline* free_ = nullptr;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_TRAMPOLINES_H_
