// SPDX-License-Identifier: Apache-2.0
//
// The bindings of sessions.
#ifndef OBJECT_LOADER_PYTHON_SESSIONS_H_
#define OBJECT_LOADER_PYTHON_SESSIONS_H_

#include <nanobind/nanobind.h>

namespace object_loader {

void BindSession(nanobind::module_& m);

}  // namespace object_loader

#endif  // OBJECT_LOADER_PYTHON_SESSIONS_H_
