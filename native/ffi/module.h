// SPDX-License-Identifier: Apache-2.0
//
// ObjectModuleObj: a dylib as a tvm-ffi module, with everything that a dlopened one has: functions,
// imports rebuilt from the embedded library binary, context symbols, metadata and docstrings.
//
// Lifetime: the module owns its dylib. A function holds its module, a module those of its link
// order; so whoever holds a module or one of its functions keeps all code loaded that it needs. The
// address of the module is what `__tvm_ffi__library_ctx` of the loaded code is set to.
//
// A reload (ffi/reload.h) gives the module another dylib, the next version of the one that it had.
// Whoever asks the module for its dylib has the version of that moment, which may be closed when it
// is looked at: see WithCurrent.
#ifndef OBJECT_LOADER_FFI_MODULE_H_
#define OBJECT_LOADER_FFI_MODULE_H_

#include <llvm/ADT/STLFunctionalExtras.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "session/dylib.h"

namespace object_loader {

class ObjectModuleObj : public tvm::ffi::ModuleObj {
 public:
  explicit ObjectModuleObj(std::shared_ptr<Dylib> dylib)
      : dylib_(std::move(dylib)), current_(dylib_.get()) {}
  ~ObjectModuleObj();

  const char* kind() const final { return kKind; }
  int GetPropertyMask() const final;
  tvm::ffi::Optional<tvm::ffi::Function> GetFunction(const tvm::ffi::String& name) final;
  tvm::ffi::Optional<tvm::ffi::String> GetFunctionMetadata(const tvm::ffi::String& name) final;
  tvm::ffi::Optional<tvm::ffi::String> GetFunctionDoc(const tvm::ffi::String& name) final;

  // The version that is loaded now.
  std::shared_ptr<Dylib> dylib() const;
  bool IsCurrent(const Dylib& dylib) const {
    return current_.load(std::memory_order_acquire) == &dylib;
  }
  // Calls `use` with the version that is loaded now; once more where it was replaced meanwhile,
  // also if that made it throw. Returns what the last call of it does.
  template <typename Use>
  auto WithCurrent(const Use& use) const {
    for (;;) {
      std::shared_ptr<Dylib> current = dylib();
      try {
        auto result = use(*current);
        if (IsCurrent(*current)) return result;
      } catch (const ObjectLoaderError&) {
        if (IsCurrent(*current)) throw;
      }
    }
  }
  bool closed() const;
  // How often it was reloaded.
  uint64_t reloads() const { return reloads_.load(std::memory_order_acquire); }
  // The module, if the object is one of these; null otherwise. Other modules of the kind "library"
  // have that text elsewhere.
  static ObjectModuleObj* From(TVMFFIObject* object);

  // Links what `read` returns into the dylib and binds it to this module; opens the shared
  // libraries among them for what they lack. Throws what reading and opening them does, the dylib's
  // exceptions, and tvm::ffi::Error where an import can't be rebuilt. Returns what Root() would.
  tvm::ffi::Module Load(llvm::function_ref<Inputs()> read, LoadRecord& record);

  // The function, or the dylib's FunctionNotFoundError or SessionClosedError.
  tvm::ffi::Function RequireFunction(const std::string& name);

  // As of its dylib; also waits for calls of former versions.
  void Close(const KeepWaiting& keep_waiting);

  // Binds a function, which holds `bound`, to `current`: calls `bind`, unless another thread has
  // done so, or there is a later version by now.
  void Bind(std::shared_ptr<Dylib>& bound, const std::shared_ptr<Dylib>& current,
            llvm::function_ref<void()> bind);

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

  friend class Reload;

  // What was built from the library binary.
  struct Tree {
    const char* binary = nullptr;  // null: there is none
    bool is_rooted_here = false;
    tvm::ffi::WeakObjectPtr<tvm::ffi::ModuleObj> root;  // where it is another module
    std::vector<tvm::ffi::WeakObjectPtr<tvm::ffi::ModuleObj>> imports;  // that this module got

    void SetRoot(const tvm::ffi::Module& module, const ObjectModuleObj* library);
  };

  // Sets what tvm-ffi wants to have set in the dylib's code, and builds the tree that it embeds,
  // where there is one and it is not `tree` already. Returns its root.
  std::optional<tvm::ffi::Module> BindContext(Dylib& dylib, Tree& tree);
  tvm::ffi::Module Self();
  Tree Known() const;
  void ForgetUnlessLoaded(const Dylib& dylib, const Tree& before);
  void Remember(Tree tree);
  void SetImports(const tvm::ffi::Array<tvm::ffi::Any>& imports);
  // So that SwitchTo needs no memory.
  void ReserveFormer();
  // The next version takes the place of the one that is loaded now.
  void SwitchTo(const std::shared_ptr<Dylib>& next, Tree tree);
  // The former ones, and at last the one that is loaded now.
  std::vector<std::shared_ptr<Dylib>> Versions() const;
  // Lets go of former versions that nobody needs any more.
  void ReleaseFormer();
  tvm::ffi::Optional<tvm::ffi::String> CallGetter(const std::string& symbol);
  // Throws tvm::ffi::Error with the kind SessionClosedError.
  void ThrowIfClosed() const;
  tvm::ffi::Function MakeFunction(std::shared_ptr<Dylib> dylib, void* address,
                                  const std::string& name);

  mutable Mutex mutex_;
  std::shared_ptr<Dylib> dylib_;
  std::atomic<const Dylib*> current_;  // the same, for comparisons
  Tree tree_;
  // Versions before it that may be in memory, or have functions that are bound to them.
  std::vector<std::shared_ptr<Dylib>> former_;
  std::atomic<uint64_t> reloads_{0};
  std::atomic<int64_t> functions_{0};
  std::atomic<int64_t> handles_{0};
};

using ModulePtr = tvm::ffi::ObjectPtr<ObjectModuleObj>;

// Opens the shared libraries among the inputs. Throws LinkError.
Scope::Libraries OpenLibraries(const Inputs& inputs, LoadRecord& record);

}  // namespace object_loader

#endif  // OBJECT_LOADER_FFI_MODULE_H_
