// SPDX-License-Identifier: Apache-2.0
//
// The bindings of dylibs, and of whose a function is.
#ifndef OBJECT_LOADER_PYTHON_DYLIBS_H_
#define OBJECT_LOADER_PYTHON_DYLIBS_H_

#include <nanobind/nanobind.h>

namespace object_loader {

void BindDylib(nanobind::module_& m);

}  // namespace object_loader

#endif  // OBJECT_LOADER_PYTHON_DYLIBS_H_
