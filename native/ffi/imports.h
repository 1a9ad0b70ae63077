// SPDX-License-Identifier: Apache-2.0
//
// The tree of modules that an object embeds: its library binary, as tvm-ffi's writer for library
// modules makes it.
#ifndef OBJECT_LOADER_FFI_IMPORTS_H_
#define OBJECT_LOADER_FFI_IMPORTS_H_

#include <tvm/ffi/extra/module.h>

#include <memory>

namespace object_loader {

// The root of the tree that `binary` describes, with `library` in the place of "_lib". The tree:
// for module i the children are child_indices[indptr[i]] to child_indices[indptr[i + 1] - 1].
// `code` is what keeps the binary in memory. The library's children are imported into it, unless
// `library_has_its_own`. Throws tvm::ffi::Error.
tvm::ffi::Module BuildImports(const char* binary, const tvm::ffi::Module& library,
                              bool library_has_its_own, const std::shared_ptr<void>& code);

}  // namespace object_loader

#endif  // OBJECT_LOADER_FFI_IMPORTS_H_
