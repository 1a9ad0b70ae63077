// SPDX-License-Identifier: Apache-2.0
//
// The figures of sessions, dylibs and loads as dicts, whose keys are the fields of Python's classes
// (statistics.py).
#ifndef OBJECT_LOADER_PYTHON_STATISTICS_H_
#define OBJECT_LOADER_PYTHON_STATISTICS_H_

#include <nanobind/nanobind.h>

#include "ffi/module.h"
#include "session/load_record.h"

namespace object_loader {

nanobind::dict FiguresOf(Session& session);
// `module` is a handle's.
nanobind::dict FiguresOf(const ModulePtr& module);
nanobind::dict FiguresOf(const LoadRecord& record);

}  // namespace object_loader

#endif  // OBJECT_LOADER_PYTHON_STATISTICS_H_
