// SPDX-License-Identifier: Apache-2.0
//
// Turns: the right to change what is loaded in a dylib, for one thread at a time; and Waiting,
// which tells whether waiting for a turn, or for the end of the calls through a gate, could ever
// end.
//
// Loaded code runs during a turn and in calls, and may itself load into other dylibs, or close
// them. So threads can come to wait for each other in a circle. Every thread that is about to wait
// enters what for into one table, and looks whether the circle would be complete with it: the last
// one of a circle does not wait, and gets an error instead.
//
// After a fork the turns of threads that were left behind in the parent are over.
#ifndef OBJECT_LOADER_SESSION_TURNS_H_
#define OBJECT_LOADER_SESSION_TURNS_H_

#include <cstdint>

#include "base/fork_lock.h"
#include "session/call_gate.h"

namespace object_loader {

class Turns {
 public:
  enum Outcome {
    kTaken,
    kInherited,  // from a thread that was left behind in the middle of its turn
    kCircle      // not taken: a thread that has to finish first waits for this one
  };
  // Waits until no other thread has a turn. A thread may take turns within its own.
  Outcome Take();
  void End();
  bool IsMine() const;

 private:
  friend class Waiting;
  ThreadName holder() const;

  mutable Mutex mutex_;
  ThreadName holder_;
  uint32_t depth_ = 0;
  uint32_t ends_ = 0;      // changes with each turn that ends
  uint32_t sleepers_ = 0;  // threads that wait for that; after a fork, too many
};

// What this thread waits for, from the constructor to the destructor.
class Waiting {
 public:
  explicit Waiting(const Turns& turns);
  explicit Waiting(const CallGate& gate);
  ~Waiting();
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

  // False where the wait would never end.
  bool can_end() const { return can_end_; }

 private:
  void Enter(const Turns* turns, const CallGate* gate);

  bool can_end_ = false;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_TURNS_H_
