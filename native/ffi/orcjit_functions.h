// SPDX-License-Identifier: Apache-2.0
//
// The functions by whose names others load objects: TVM and jax-tvm-ffi ask tvm-ffi for
// tvm_ffi_orcjit.GlobalDefaultSession and tvm_ffi_orcjit.SessionLoadModule, which are those of the
// package apache-tvm-ffi-orcjit unless somebody else has registered others.
//
// Concurrency: they may be called in any thread, with the interpreter's lock or without.
#ifndef OBJECT_LOADER_FFI_ORCJIT_FUNCTIONS_H_
#define OBJECT_LOADER_FFI_ORCJIT_FUNCTIONS_H_

#include <tvm/ffi/function.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "session/session.h"

namespace object_loader {

struct OrcjitFunctions {
  tvm::ffi::Function default_session;  // () -> session
  // (session, objects, name, ...) -> module. Objects are paths and contents; what follows the name,
  // in some versions paths of C++ runtimes, is not needed here. A session of somebody else is taken
  // for the default one, and a name that is taken goes over to the new module.
  tvm::ffi::Function load_module;
};

// What is said of missing symbols: the cause, and more where somebody knows more.
using ExplainUndefined = std::function<std::string(const UndefinedSymbolError& error)>;

// Each module that they load is linked against the libraries.
OrcjitFunctions MakeOrcjitFunctions(std::shared_ptr<Session> session,
                                    std::vector<std::string> libraries, ExplainUndefined explain);

}  // namespace object_loader

#endif  // OBJECT_LOADER_FFI_ORCJIT_FUNCTIONS_H_
