// SPDX-License-Identifier: Apache-2.0
//
// A record for each thread, which that thread writes with plain stores and anybody may read:
// whoever asks about all threads looks through the records, so that the threads need no common
// counter.
//
// Lifetime: a record lives as long as the process; a later thread takes over that of one that
// ended. Concurrency: every function may be called from any thread; none waits. A record is
// complete before the list has it (release), and its next one never changes.
#ifndef OBJECT_LOADER_BASE_THREAD_RECORDS_H_
#define OBJECT_LOADER_BASE_THREAD_RECORDS_H_

#include <pthread.h>

#include <atomic>
#include <new>

namespace object_loader {

// What ThreadRecords need to know of a record.
template <typename Record>
struct ThreadRecordLinks {
  std::atomic<bool> in_use{true};
  Record* next = nullptr;
};

// `Record` is derived from ThreadRecordLinks, and has Reset(): as if no thread had written it.
template <typename Record>
class ThreadRecords {
 public:
  // `end_of_thread` gets the record of a thread that ends. A function that ends other things of the
  // thread may come later and take a record again.
  explicit ThreadRecords(void (*end_of_thread)(void* record)) {
    has_key_ = pthread_key_create(&key_, end_of_thread) == 0;
  }
  ThreadRecords(const ThreadRecords&) = delete;
  ThreadRecords& operator=(const ThreadRecords&) = delete;

  // A record for this thread, which has none; null where there is no memory for one.
  Record* Take() {
    Record* record = first();
    for (; record; record = record->next) {
      bool expected = false;
      if (record->in_use.compare_exchange_strong(expected, true)) break;
    }
    if (!record) {
      record = new (std::nothrow) Record;
      if (!record) return nullptr;
      record->next = first_.load(std::memory_order_relaxed);
      while (!first_.compare_exchange_weak(record->next, record, std::memory_order_seq_cst)) {
      }
    }
    if (has_key_ && pthread_setspecific(key_, record) != 0) {
      record->in_use.store(false);
      return nullptr;
    }
    // Whoever looks for records from now on finds it, or has done before what this thread reads
    // next.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return record;
  }

  Record* first() const { return first_.load(std::memory_order_seq_cst); }

  // In a forked child, where only `survivor`'s thread lives on.
  void ForgetOtherThreads(const Record* survivor) {
    for (Record* record = first(); record; record = record->next) {
      if (record == survivor) continue;
      record->Reset();
      record->in_use.store(false);
    }
  }

 private:
  std::atomic<Record*> first_{nullptr};
  pthread_key_t key_{};
  bool has_key_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_BASE_THREAD_RECORDS_H_
