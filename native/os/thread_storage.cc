// SPDX-License-Identifier: Apache-2.0
#include "os/thread_storage.h"

#include <limits.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <utility>

#include "base/fork_lock.h"

extern "C" void* __tls_get_addr(void* module_and_offset);

namespace object_loader {

namespace {

// How often the C library calls at the end of a thread. ThreadSanitizer is gone in the last round.
#ifdef __SANITIZE_THREAD__
constexpr int kRounds = PTHREAD_DESTRUCTOR_ITERATIONS - 1;
#else
constexpr int kRounds = PTHREAD_DESTRUCTOR_ITERATIONS;
#endif

}  // namespace

struct ThreadStorage::Registry {
  Mutex mutex;
  std::vector<ThreadStorage*> storages;  // by number; null: it is free
  std::vector<size_t> free_numbers;      // with room for all
  uint64_t last_serial = 0;

  // Never destroyed: threads may end after everything else.
  static Registry& OfProcess() {
    static auto* registry = new Registry;
    return *registry;
  }
  Registry() {
    if (pthread_key_create(&key_, EndThread) != 0) throw std::bad_alloc();
  }
};

pthread_key_t ThreadStorage::key_;

ThreadStorage::ThreadStorage(std::vector<char> values, uint64_t size, uint64_t alignment)
    : values_(std::move(values)),
      size_(std::max<uint64_t>(size, 1)),
      alignment_(std::max<uint64_t>(alignment, alignof(std::max_align_t))) {
  Registry& registry = Registry::OfProcess();
  std::lock_guard<Mutex> lock(registry.mutex);
  if (registry.free_numbers.empty()) {
    registry.free_numbers.reserve(2 * registry.storages.size() + 1);
    registry.free_numbers.push_back(registry.storages.size());
    try {
      registry.storages.push_back(nullptr);
    } catch (...) {
      registry.free_numbers.pop_back();
      throw;
    }
  }
  number_ = registry.free_numbers.back();
  registry.free_numbers.pop_back();
  registry.storages[number_] = this;
  serial_ = ++registry.last_serial;
}

ThreadStorage::~ThreadStorage() {
  Registry& registry = Registry::OfProcess();
  std::lock_guard<Mutex> lock(registry.mutex);
  for (auto [table, variables] : copies_) {
    table->entries[number_] = {};
    std::free(variables);
  }
  registry.storages[number_] = nullptr;
  registry.free_numbers.push_back(number_);
}

char* ThreadStorage::Make() {
  std::unique_lock<Mutex> lock(Registry::OfProcess().mutex);
  if (module_ != 0) {
    uint64_t module_and_offset[2] = {module_, 0};
    lock.unlock();
    return static_cast<char*>(__tls_get_addr(module_and_offset));
  }
  auto end = [] {
    std::fputs("no memory for the thread-local variables of loaded code\n", stderr);
    std::abort();
  };
  auto* table = static_cast<Table*>(pthread_getspecific(key_));
  if (!table) {
    table = static_cast<Table*>(std::calloc(1, sizeof(Table)));
    if (!table || pthread_setspecific(key_, table) != 0) end();
  }
  if (number_ >= table->size) {
    size_t size = std::max(2 * table->size, number_ + 1);
    auto* entries = static_cast<Entry*>(std::realloc(table->entries, size * sizeof(Entry)));
    if (!entries) end();
    std::memset(entries + table->size, 0, (size - table->size) * sizeof(Entry));
    table->entries = entries;
    table->size = size;
  }
  uint64_t room = (size_ + alignment_ - 1) / alignment_ * alignment_;
  auto* variables = static_cast<char*>(std::aligned_alloc(alignment_, room));
  if (!variables) end();
  std::copy(values_.begin(), values_.end(), variables);
  std::memset(variables + values_.size(), 0, size_ - values_.size());
  try {
    copies_[table] = variables;
  } catch (const std::bad_alloc&) {
    end();
  }
  table->entries[number_] = {serial_, variables};
  return variables;
}

bool ThreadStorage::Become(uint64_t module) {
  std::lock_guard<Mutex> lock(Registry::OfProcess().mutex);
  if (!copies_.empty()) return false;
  module_ = module;
  return true;
}

// Other libraries' destructors for the thread may still use the variables: this one has itself
// called as often as the C library does.
void ThreadStorage::EndThread(void* given) {
  auto* table = static_cast<Table*>(given);
  if (++table->ends < kRounds && pthread_setspecific(key_, table) == 0) return;
  Registry& registry = Registry::OfProcess();
  std::lock_guard<Mutex> lock(registry.mutex);
  for (size_t number = 0; number < table->size; ++number) {
    const Entry& entry = table->entries[number];
    if (entry.serial == 0) continue;
    registry.storages[number]->copies_.erase(table);
    std::free(entry.variables);
  }
  std::free(table->entries);
  std::free(table);
}

}  // namespace object_loader
