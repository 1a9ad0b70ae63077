// SPDX-License-Identifier: Apache-2.0
#include "python/interpreter.h"

#include <cxxabi.h>
#include <unistd.h>

#include "base/interpreter_lock.h"

namespace object_loader {

namespace {

// Whether this thread may use Python now: what is dropped last may be dropped anywhere.
// PyGILState_Check does not tell: it says yes everywhere once a second interpreter was made.
bool IsInInterpreter() {
#if PY_VERSION_HEX >= 0x030D0000
  return PyThreadState_GetUnchecked() != nullptr;
#elif PY_VERSION_HEX >= 0x030C0000
  return _PyThreadState_UncheckedGet() != nullptr;
#else
  // This is the state of whichever thread holds the GIL, so it may be another's. The other one is
  // this thread's in the main interpreter, and no other has the functions and objects of this one.
  PyThreadState* holder = _PyThreadState_UncheckedGet();
  return holder && holder == PyGILState_GetThisThreadState();
#endif
}

void* Leave() { return Py_IsInitialized() && IsInInterpreter() ? PyEval_SaveThread() : nullptr; }

void Reenter(void* state) {
  if (state) ReenterInterpreter(static_cast<PyThreadState*>(state));
}

}  // namespace

// Python before 3.14 ends a thread that takes the GIL after the interpreter's end, which C++ code
// in the middle of something does not survive.
void ReenterInterpreter(PyThreadState* state) {
  try {
    PyEval_RestoreThread(state);
  } catch (const abi::__forced_unwind&) {
    for (;;) pause();
  }
}

void SetInterpreter() { SetInterpreterLock(Leave, Reenter); }

bool IsMainInterpreter() {
  if (PyInterpreterState_Get() == PyInterpreterState_Main()) return true;
  PyErr_SetString(PyExc_ImportError,
                  "tvm_ffi_object_loader cannot be imported in a second interpreter of a process: "
                  "import it in the main interpreter");
  return false;
}

}  // namespace object_loader
