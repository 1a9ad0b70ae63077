// SPDX-License-Identifier: Apache-2.0
//
// Patience: how long a close waits for calls: until they end, so many seconds have passed, or a
// signal's handler raises, as that of Ctrl-C does.
#ifndef OBJECT_LOADER_PYTHON_PATIENCE_H_
#define OBJECT_LOADER_PYTHON_PATIENCE_H_

#include <Python.h>
#include <unistd.h>

#include <chrono>
#include <exception>
#include <optional>

#include "base/error.h"
#include "base/interpreter_lock.h"

namespace object_loader {

class Patience {
 public:
  explicit Patience(std::optional<double> seconds) : seconds_(seconds) {}

  bool has_end() const { return seconds_.has_value(); }

  // Calls `close`, which waits, outside of the interpreter.
  template <typename Close>
  void Wait(const Close& close) {
    try {
      OutsideInterpreter outside;
      close([this] { return GoesOn(); });
    } catch (const GaveUpWaiting& waiting) {
      Throw(waiting);
    }
  }

 private:
  using Clock = std::chrono::steady_clock;

  bool GoesOn();
  [[noreturn]] void Throw(const GaveUpWaiting& waiting) const;

  const std::optional<double> seconds_;
  const bool is_main_ = PyThread_get_thread_native_id() == static_cast<unsigned long>(getpid());
  const Clock::time_point start_ = Clock::now();
  Clock::time_point asked_ = start_;
  std::exception_ptr raised_;  // by the handler
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_PYTHON_PATIENCE_H_
