// SPDX-License-Identifier: Apache-2.0
//
// What Python asks to send dylibs to other processes, and to find those that are here already.
#ifndef OBJECT_LOADER_PYTHON_RECIPES_H_
#define OBJECT_LOADER_PYTHON_RECIPES_H_

#include <nanobind/nanobind.h>

#include "python/handles.h"

namespace object_loader {

void BindRecipes(nanobind::module_& m);

// Of each part of the dylib's recipe: name, version, link order, loads.
nanobind::list RecipeOf(const PyDylib& dylib);

}  // namespace object_loader

#endif  // OBJECT_LOADER_PYTHON_RECIPES_H_
