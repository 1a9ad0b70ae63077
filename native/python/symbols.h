// SPDX-License-Identifier: Apache-2.0
//
// What addresses are, as tuples of the fields of Python's classes (symbols.py).
#ifndef OBJECT_LOADER_PYTHON_SYMBOLS_H_
#define OBJECT_LOADER_PYTHON_SYMBOLS_H_

#include <nanobind/nanobind.h>

#include <cstdint>

namespace object_loader {

class Session;
struct LoadedSymbol;

// The fields of symbols.Symbol after the names of session and dylib.
nanobind::tuple ToTuple(const LoadedSymbol& symbol);

// The names of session, dylib and object, file and line of the source, and the symbol; None where
// there is none, or not in the session `only`.
nanobind::object LocationOf(uint64_t address, const Session* only);

void BindSymbols(nanobind::module_& m);

}  // namespace object_loader

#endif  // OBJECT_LOADER_PYTHON_SYMBOLS_H_
