// SPDX-License-Identifier: Apache-2.0
//
// ObjectModuleObj: a dylib as a tvm-ffi module, with everything that a dlopened one has: functions,
// imports rebuilt from the embedded library binary, context symbols, metadata and docstrings.
//
// Lifetime: the module owns its dylib. A function holds its module, a module those of its link
// order; so whoever holds a module or one of its functions keeps all code loaded that it needs. The
// address of the module is what `__tvm_ffi__library_ctx` of the loaded code is set to.
#ifndef OBJECT_LOADER_FFI_MODULE_H_
#define OBJECT_LOADER_FFI_MODULE_H_

#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <memory>
#include <new>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "ffi/retained_objects.h"
#include "session/dylib.h"

namespace object_loader {

class ObjectModuleObj : public tvm::ffi::ModuleObj {
 public:
  explicit ObjectModuleObj(std::shared_ptr<Dylib> dylib) : dylib_(std::move(dylib)) {}
  ~ObjectModuleObj();

  const char* kind() const final { return "library"; }
  int GetPropertyMask() const final;
  tvm::ffi::Optional<tvm::ffi::Function> GetFunction(const tvm::ffi::String& name) final;
  tvm::ffi::Optional<tvm::ffi::String> GetFunctionMetadata(const tvm::ffi::String& name) final;
  tvm::ffi::Optional<tvm::ffi::String> GetFunctionDoc(const tvm::ffi::String& name) final;

  Dylib& dylib() const { return *dylib_; }

  // Links the inputs into the dylib and binds them to this module; opens the shared libraries among
  // them for what they lack. Throws what opening these does, the dylib's exceptions, and
  // tvm::ffi::Error where an import can't be rebuilt.
  void Load(Inputs inputs);

  // The function, or the dylib's FunctionNotFoundError or SessionClosedError.
  tvm::ffi::Function RequireFunction(const std::string& name);

  // The root of the tree of imports: this module, unless the library binary says otherwise. Only
  // the caller holds such a root; it is built anew if need be.
  tvm::ffi::Module Root();

 private:
  void BindContext();
  // The variable of a symbol that tvm-ffi fills in, or null; LinkError where it can't be written.
  void** FindContext(const std::string& symbol) const;
  // The library binary, or null; LinkError where it reaches past what is loaded.
  const char* FindLibraryBinary() const;
  tvm::ffi::Optional<tvm::ffi::String> CallGetter(const std::string& symbol);
  // Throws tvm::ffi::Error with the kind SessionClosedError.
  void ThrowIfClosed() const;
  tvm::ffi::Function MakeFunction(void* address);

  std::shared_ptr<Dylib> dylib_;
  const char* library_binary_ = nullptr;  // what the imports were built from
  tvm::ffi::WeakObjectPtr<tvm::ffi::ModuleObj> root_;
};

using ModulePtr = tvm::ffi::ObjectPtr<ObjectModuleObj>;

// Loaded code whose module is gone gets an error when it looks something up among its imports.
void WatchImportLookups();
// An entry of a link order: a module, or the path of a shared library.
using LinkedTo = std::variant<ModulePtr, std::string>;

// A module over a new dylib; see Dylib::Create.
ModulePtr CreateModule(std::shared_ptr<Session> session, const std::optional<std::string>& name,
                       const std::vector<LinkedTo>& link_order);

// The modules of the session's open dylibs, in order of creation.
std::vector<ModulePtr> ModulesOf(Session& session);

// The link order of the module's dylib.
std::vector<LinkedTo> LinkOrderOf(const ObjectModuleObj& module);

// A function of a module: the address of its code behind the gate of its dylib.
class ExportedFunctionObj : public tvm::ffi::FunctionObj {
 public:
  ExportedFunctionObj(ModulePtr module, TVMFFISafeCallType code);

  static bool IsInstance(const TVMFFIObject* object) {
    return object && object->type_index == TVMFFITypeIndex::kTVMFFIFunction &&
           TVMFFIFunctionGetCellPtr(const_cast<TVMFFIObject*>(object))->safe_call == SafeCall;
  }
  static ExportedFunctionObj* From(void* object) {
    return static_cast<ExportedFunctionObj*>(static_cast<tvm::ffi::Object*>(object));
  }

  // As TVMFFISafeCallType; a call through a closed gate fails with a SessionClosedError.
  int Call(const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result) const {
    try {
      CallScope scope(gate_);  // a thread's first one needs memory
      if (!scope.entered()) return RaiseClosed();
      return KeepCodeOfOutcome(code_(nullptr, args, num_args, result), *result);
    } catch (const std::bad_alloc&) {
      return RaiseOutOfMemory();
    }
  }

 private:
  static int SafeCall(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result);
  int RaiseClosed() const;

  TVMFFISafeCallType code_;
  const CallGate& gate_;
  ModulePtr module_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_FFI_MODULE_H_
