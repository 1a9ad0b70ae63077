// SPDX-License-Identifier: Apache-2.0
//
// What a fork must not cut through.
//
// A forked child has a copy of the memory and only one of the threads. A lock that another thread
// held at that moment would never be released there, and what it guards would stay half changed. So
// a thread that takes a lock of the loader's, or works in ORC and JITLink, which have locks of
// their own, is in a ForkExclusion, and a fork waits until no thread is in one.
//
// No ForkExclusion is held while loaded code runs, or while a thread waits for the interpreter, for
// another thread or for a turn: a fork waits for what ends by itself only.
//
// A signal handler may fork in the middle of anything, also of what its own thread does in a
// ForkExclusion. Such a fork does not wait for threads that may be waiting for this one: for a
// Mutex that it holds, or for a fork of their own. POSIX lets the child of a signal handler's fork
// do little more than exec.
//
// Each thread notes in a record of its own whether it is in a ForkExclusion, and whoever forks
// looks through the records: the threads have no common word that would put all they do in an order
// (and hide their races from ThreadSanitizer). Order, for a thread that enters and one that forks:
// the first one writes its record and then reads whether anybody forks; the other one announces
// that, fences all threads and then reads the records. So at least one of them sees the other.
#ifndef OBJECT_LOADER_BASE_FORK_LOCK_H_
#define OBJECT_LOADER_BASE_FORK_LOCK_H_

#include <cstdint>
#include <mutex>

namespace object_loader {

// Keeps forks out for as long as it lives. Any number of threads may be in one, each also in
// several, one inside the other.
class ForkExclusion {
 public:
  ForkExclusion() {
    if (Depth()++ == 0) Enter();
  }
  ~ForkExclusion() {
    if (--Depth() == 0) Leave();
  }
  ForkExclusion(const ForkExclusion&) = delete;
  ForkExclusion& operator=(const ForkExclusion&) = delete;

 private:
  friend class ForkInclusion;
  friend class Mutex;
  friend struct ForkHandlers;
  static void Enter();
  static void Leave();
  // Between them this thread, in a ForkExclusion, waits for others.
  static void BeginWait();
  static void EndWait();

  // This thread's. Where the process has room for it, the variable has a fixed place in each
  // thread: then the dynamic linker, which a first use of others may wait for, is not asked. A
  // function, since callers' registers are not safe in the dynamic linker's (glibc bug 31372).
  static uint32_t& Depth();
};

// The other way round: lets forks in again, for as long as it lives, in the middle of this thread's
// ForkExclusions.
class ForkInclusion {
 public:
  ForkInclusion();
  ~ForkInclusion();
  ForkInclusion(const ForkInclusion&) = delete;
  ForkInclusion& operator=(const ForkInclusion&) = delete;

 private:
  const uint32_t depth_;
};

// A std::mutex that a forked child never finds locked. What it guards is done in less time than it
// takes to wake a thread, so a thread tries for some microseconds before it sleeps.
class Mutex {
 public:
  void lock() {
    if (ForkExclusion::Depth()++ == 0) ForkExclusion::Enter();
    if (!mutex_.try_lock()) LockSlowly();
  }
  void unlock() {
    mutex_.unlock();
    if (--ForkExclusion::Depth() == 0) ForkExclusion::Leave();
  }

 private:
  void LockSlowly();

  std::mutex mutex_;
};

// How often this process and those that it was forked from have forked. It changes in the parent
// and in the child.
uint64_t ForkCount();

// A thread as a forked child knows it: never the same for two threads, also where one of them ended
// or was left behind in the parent.
class ThreadName {
 public:
  ThreadName() = default;  // no thread
  static ThreadName OfThisThread();

  // Whether the thread was left behind in the process that this one was forked from.
  bool LeftBehind() const;

  friend bool operator==(const ThreadName& a, const ThreadName& b) {
    return a.number_ == b.number_;
  }
  friend bool operator!=(const ThreadName& a, const ThreadName& b) { return !(a == b); }

 private:
  uint64_t number_ = 0;
  uint64_t process_ = 0;  // how many forks it was away from the first one when the name was taken
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_BASE_FORK_LOCK_H_
