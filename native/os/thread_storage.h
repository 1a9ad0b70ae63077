// SPDX-License-Identifier: Apache-2.0
//
// ThreadStorage: variables of which each thread has a copy of its own, as those of a shared library
// are that was opened while the process runs.
//
// A thread's copy is made when the thread first asks for it. It goes when the thread has ended,
// after all of its destructors, or with the ThreadStorage, in all threads.
//
// Concurrency: OfThisThread may be called by any thread, also in a forked child; nobody may use the
// variables any more when the ThreadStorage is destroyed.
#ifndef OBJECT_LOADER_OS_THREAD_STORAGE_H_
#define OBJECT_LOADER_OS_THREAD_STORAGE_H_

#include <pthread.h>

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace object_loader {

class ThreadStorage {
 public:
  // The initial values; the variables after them, up to `size` bytes, start as zeros. The alignment
  // is a power of two. Throws std::bad_alloc.
  ThreadStorage(std::vector<char> values, uint64_t size, uint64_t alignment);
  ~ThreadStorage();
  ThreadStorage(const ThreadStorage&) = delete;
  ThreadStorage& operator=(const ThreadStorage&) = delete;

  const std::vector<char>& values() const { return values_; }
  uint64_t size() const { return size_; }
  uint64_t alignment() const { return alignment_; }

  // Where there is no memory for them, the process ends, as in the dynamic linker: code that uses
  // its variables can't be told.
  char* OfThisThread() {
    auto* table = static_cast<Table*>(pthread_getspecific(key_));
    if (__builtin_expect(table && number_ < table->size, true)) {
      const Entry& entry = table->entries[number_];
      if (__builtin_expect(entry.serial == serial_, true)) return entry.variables;
    }
    return Make();
  }

  // From now on the variables are those of the dynamic linker's module of this number. False where
  // a thread has a copy already.
  bool Become(uint64_t module);

 private:
  struct Entry {
    uint64_t serial;  // of the storage; 0: none
    char* variables;
  };
  // What one thread has; storages have numbers, which are used again.
  struct Table {
    size_t size;
    Entry* entries;
    int ends;  // how often the C library has said that the thread is at its end
  };
  struct Registry;

  char* Make();
  static void EndThread(void* table);

  static pthread_key_t key_;

  const std::vector<char> values_;
  const uint64_t size_;
  const uint64_t alignment_;
  size_t number_;
  uint64_t serial_;
  // The registry's mutex guards these.
  std::unordered_map<Table*, char*> copies_;
  uint64_t module_ = 0;  // the dynamic linker's; 0: it has none
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_OS_THREAD_STORAGE_H_
