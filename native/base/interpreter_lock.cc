// SPDX-License-Identifier: Apache-2.0
#include "base/interpreter_lock.h"

namespace object_loader {

namespace {

void* (*leave_interpreter)() = [] { return static_cast<void*>(nullptr); };
void (*reenter_interpreter)(void*) = [](void*) {};

}  // namespace

void SetInterpreterLock(void* (*leave)(), void (*reenter)(void* state)) {
  leave_interpreter = leave;
  reenter_interpreter = reenter;
}

OutsideInterpreter::OutsideInterpreter() : state_(leave_interpreter()) {}
OutsideInterpreter::~OutsideInterpreter() { reenter_interpreter(state_); }

}  // namespace object_loader
