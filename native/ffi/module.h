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

#include <atomic>
#include <cstdint>
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

  const char* kind() const final { return kKind; }
  int GetPropertyMask() const final;
  tvm::ffi::Optional<tvm::ffi::Function> GetFunction(const tvm::ffi::String& name) final;
  tvm::ffi::Optional<tvm::ffi::String> GetFunctionMetadata(const tvm::ffi::String& name) final;
  tvm::ffi::Optional<tvm::ffi::String> GetFunctionDoc(const tvm::ffi::String& name) final;

  Dylib& dylib() const { return *dylib_; }
  // The module, if the object is one of these; null otherwise. Other modules of the kind "library"
  // have that text elsewhere.
  static ObjectModuleObj* From(TVMFFIObject* object);

  // Links what `read` returns into the dylib and binds it to this module; opens the shared
  // libraries among them for what they lack. Throws what reading and opening them does, the dylib's
  // exceptions, and tvm::ffi::Error where an import can't be rebuilt. Returns what Root() would.
  tvm::ffi::Module Load(llvm::function_ref<Inputs()> read, LoadRecord& record);

  // The function, or the dylib's FunctionNotFoundError or SessionClosedError.
  tvm::ffi::Function RequireFunction(const std::string& name);

  // Those that hold this module, by kind; `others` are modules and what else tvm-ffi knows.
  struct Holders {
    uint64_t functions = 0;
    uint64_t others = 0;
  };
  // `references` are to this module.
  Holders CountHolders(uint64_t references) const;
  // One more of its functions, or handles of the layer above, or one less.
  void CountFunction(int64_t change) { functions_.fetch_add(change, std::memory_order_relaxed); }
  void CountHandle(int64_t change) { handles_.fetch_add(change, std::memory_order_relaxed); }

  // The root of the tree of imports: this module, unless the library binary says otherwise. Such a
  // root holds this module, so only the caller holds it: where nobody does any more, it is built
  // anew.
  tvm::ffi::Module Root();

 private:
  static constexpr char kKind[] = "library";

  // What was built from the library binary.
  struct Tree {
    const char* binary = nullptr;  // null: there is none
    bool is_rooted_here = false;
    tvm::ffi::WeakObjectPtr<tvm::ffi::ModuleObj> root;  // where it is another module
  };

  tvm::ffi::Module BindContext();
  tvm::ffi::Module Self();
  Tree Known() const;
  void ForgetUnlessLoaded(const Tree& before);
  void Remember(const char* binary, const tvm::ffi::Module& root);
  // The variable of a symbol that tvm-ffi fills in, or null; LinkError where it can't be written.
  void** FindContext(const std::string& symbol) const;
  // The library binary, or null; LinkError where it reaches past what is loaded.
  const char* FindLibraryBinary() const;
  tvm::ffi::Optional<tvm::ffi::String> CallGetter(const std::string& symbol);
  // Throws tvm::ffi::Error with the kind SessionClosedError.
  void ThrowIfClosed() const;
  tvm::ffi::Function MakeFunction(void* address, const std::string& name);

  std::shared_ptr<Dylib> dylib_;
  mutable Mutex tree_mutex_;
  Tree tree_;
  std::atomic<int64_t> functions_{0};
  std::atomic<int64_t> handles_{0};
};

using ModulePtr = tvm::ffi::ObjectPtr<ObjectModuleObj>;

// An entry of a link order: a module, or the path of a shared library.
using LinkedTo = std::variant<ModulePtr, std::string>;

// A module over a new dylib; see Dylib::Create.
ModulePtr CreateModule(std::shared_ptr<Session> session, const std::optional<std::string>& name,
                       const std::vector<LinkedTo>& link_order, bool replaces);

// The modules of the session's open dylibs that have their names, in order of creation.
std::vector<ModulePtr> ModulesOf(Session& session);

// The module of a dylib; null where it is gone.
ModulePtr ModuleOf(const Dylib& dylib);

// The link order of the module's dylib.
std::vector<LinkedTo> LinkOrderOf(const ObjectModuleObj& module);

// A function of a module: the address of its code behind the gate of its dylib.
class ExportedFunctionObj : public tvm::ffi::FunctionObj {
 public:
  ExportedFunctionObj(ModulePtr module, TVMFFISafeCallType code, const std::string& name);
  ~ExportedFunctionObj() { module_->CountFunction(-1); }

  const ModulePtr& module() const { return module_; }
  const std::string& name() const { return name_; }

  static bool IsInstance(const TVMFFIObject* object) {
    return object && object->type_index == TVMFFITypeIndex::kTVMFFIFunction &&
           FunctionIn(TVMFFIFunctionGetCellPtr(const_cast<TVMFFIObject*>(object))->safe_call) ==
               reinterpret_cast<void*>(SafeCall);
  }
  static ExportedFunctionObj* From(void* object) {
    return static_cast<ExportedFunctionObj*>(static_cast<tvm::ffi::Object*>(object));
  }

  // As TVMFFISafeCallType; a call through a closed gate fails with a SessionClosedError.
  int Call(const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result) const {
    try {
      CallScope scope(gate_);  // a thread's first one needs memory
      if (scope.entered()) {
        // By loaded code, or with what may hand objects over.
        if (__builtin_expect(scope.is_nested() || LeadToObjects(args, num_args), false)) {
          return CallWithObjects(scope, args, num_args, result);
        }
        int code = code_(nullptr, args, num_args, result);
        if (__builtin_expect(scope.record().given != nullptr, false)) LeaveOutermost(scope);
        return KeepCodeOfOutcome(code, *result);
      }
    } catch (const std::bad_alloc&) {
      return RaiseOutOfMemory();
    }
    return RaiseClosed();  // outside: making the error takes long, and a close waits for calls
  }

 private:
  static int SafeCall(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result);
  int CallWithObjects(const CallScope& scope, const TVMFFIAny* args, int32_t num_args,
                      TVMFFIAny* result) const;
  void LeaveOutermost(const CallScope& scope) const;
  static int NoteGiven(TVMFFIAny& result);
  int RaiseClosed() const;

  TVMFFISafeCallType code_;
  const CallGate& gate_;
  ModulePtr module_;
  const std::string name_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_FFI_MODULE_H_
