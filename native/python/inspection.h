// SPDX-License-Identifier: Apache-2.0
//
// The bindings of what looks into objects without loading them.
#ifndef OBJECT_LOADER_PYTHON_INSPECTION_H_
#define OBJECT_LOADER_PYTHON_INSPECTION_H_

#include <nanobind/nanobind.h>

namespace object_loader {

void BindInspection(nanobind::module_& m);

}  // namespace object_loader

#endif  // OBJECT_LOADER_PYTHON_INSPECTION_H_
