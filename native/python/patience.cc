// SPDX-License-Identifier: Apache-2.0
#include "python/patience.h"

#include <nanobind/nanobind.h>

#include <sstream>

namespace object_loader {

namespace nb = nanobind;

void Patience::Throw(const GaveUpWaiting& waiting) const {
  if (raised_) std::rethrow_exception(raised_);
  std::ostringstream message;
  message << waiting.what() << " after " << *seconds_
          << " s: nothing was closed. Close again when it has returned, or without a timeout, "
             "which waits for it";
  PyErr_SetString(PyExc_TimeoutError, message.str().c_str());
  throw nb::python_error();
}

bool Patience::GoesOn() {
  Clock::time_point now = Clock::now();
  if (seconds_ && std::chrono::duration<double>(now - start_).count() >= *seconds_) return false;
  // Handlers run on the main thread alone. Others may be ended where they take the GIL, if the
  // interpreter has come to its end. And taking it may mean waiting, so that is not done each
  // time.
  if (!is_main_ || now - asked_ < std::chrono::milliseconds(20)) return true;
  asked_ = now;
  nb::gil_scoped_acquire inside;
  if (PyErr_CheckSignals() != 0) raised_ = std::make_exception_ptr(nb::python_error());
  return !raised_;
}

}  // namespace object_loader
