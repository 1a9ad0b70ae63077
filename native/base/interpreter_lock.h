// SPDX-License-Identifier: Apache-2.0
//
// The lock of the caller's language, which a thread has to leave before it does what may take long.
//
// Letting go of code can unload it, which runs destructors and finalizers. They may wait for a
// thread that needs the interpreter.
//
// Concurrency: the lock is set once, before any code is loaded.
#ifndef OBJECT_LOADER_BASE_INTERPRETER_LOCK_H_
#define OBJECT_LOADER_BASE_INTERPRETER_LOCK_H_

namespace object_loader {

// `leave` does nothing where this thread is not in the interpreter; what it returns is given to
// `reenter` afterwards.
void SetInterpreterLock(void* (*leave)(), void (*reenter)(void* state));

// Leaves the interpreter for as long as it lives, if this thread is in it.
class OutsideInterpreter {
 public:
  OutsideInterpreter();
  ~OutsideInterpreter();
  OutsideInterpreter(const OutsideInterpreter&) = delete;
  OutsideInterpreter& operator=(const OutsideInterpreter&) = delete;

 private:
  void* state_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_BASE_INTERPRETER_LOCK_H_
