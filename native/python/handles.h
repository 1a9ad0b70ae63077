// SPDX-License-Identifier: Apache-2.0
//
// What the Python objects of the native module hold.
#ifndef OBJECT_LOADER_PYTHON_HANDLES_H_
#define OBJECT_LOADER_PYTHON_HANDLES_H_

#include <memory>
#include <optional>
#include <utility>

#include "ffi/module.h"

namespace object_loader {

struct PySession {
  std::shared_ptr<Session> session;
};

class PyDylib {
 public:
  explicit PyDylib(ModulePtr given) : module(std::move(given)) { module->CountHandle(1); }
  PyDylib(PyDylib&&) noexcept = default;
  PyDylib& operator=(PyDylib&&) = delete;
  ~PyDylib() {
    if (module) module->CountHandle(-1);
  }

  std::shared_ptr<Dylib> dylib() const { return module->dylib(); }

  ModulePtr module;
  // Of what was loaded through this handle, where it is another module: nobody else holds it, and
  // it costs much to build. Where there is no GIL, the methods that change it lock the handle; they
  // give way whenever they leave the interpreter.
  std::optional<tvm::ffi::Module> root;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_PYTHON_HANDLES_H_
