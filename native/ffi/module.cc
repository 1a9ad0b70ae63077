// SPDX-License-Identifier: Apache-2.0
#include "ffi/module.h"

#include <tvm/ffi/cast.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/memory.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <string_view>
#include <utility>

#include "base/interpreter_lock.h"
#include "ffi/exported_function.h"
#include "ffi/imports.h"
#include "ffi/retained_objects.h"

namespace object_loader {

namespace ffi = tvm::ffi;

ObjectModuleObj::~ObjectModuleObj() {
  // Code that stays in memory is not to find the module any more.
  for (const auto& version : former_) version->ClearPointer(ffi::symbol::tvm_ffi_library_ctx);
  dylib_->ClearPointer(ffi::symbol::tvm_ffi_library_ctx);
  OutsideInterpreter outside;
  dylib_->Drop();
  dylib_.reset();
  former_.clear();
}

std::shared_ptr<Dylib> ObjectModuleObj::dylib() const {
  std::lock_guard<Mutex> lock(mutex_);
  return dylib_;
}

ObjectModuleObj* ObjectModuleObj::From(TVMFFIObject* object) {
  if (!object || object->type_index != kTVMFFIModule) return nullptr;
  auto* module = static_cast<ffi::ModuleObj*>(reinterpret_cast<ffi::Object*>(object));
  return module->kind() == kKind ? static_cast<ObjectModuleObj*>(module) : nullptr;
}

int ObjectModuleObj::GetPropertyMask() const {
  return ffi::Module::kBinarySerializable | ffi::Module::kRunnable;
}

bool ObjectModuleObj::closed() const {
  return WithCurrent([](const Dylib& dylib) { return dylib.closed(); });
}

void ObjectModuleObj::ThrowIfClosed() const {
  if (closed()) throw ffi::Error("SessionClosedError", dylib()->ClosedMessage(), "");
}

ffi::Function ObjectModuleObj::MakeFunction(std::shared_ptr<Dylib> dylib, void* address,
                                            const std::string& name) {
  auto function = ffi::make_object<ExportedFunctionObj>(ffi::GetObjectPtr<ObjectModuleObj>(this),
                                                        std::move(dylib), address, name);
  return ffi::GetRef<ffi::Function>(static_cast<ffi::FunctionObj*>(function.get()));
}

ffi::Optional<ffi::Function> ObjectModuleObj::GetFunction(const ffi::String& name) {
  ThrowIfClosed();
  std::shared_ptr<Dylib> dylib;
  void* address = WithCurrent([&](Dylib& current) {
    dylib = current.shared_from_this();
    return current.FindFunction(name);
  });
  if (!address) return std::nullopt;
  return MakeFunction(std::move(dylib), address, name);
}

ffi::Function ObjectModuleObj::RequireFunction(const std::string& name) {
  std::shared_ptr<Dylib> dylib;
  void* address = WithCurrent([&](Dylib& current) {
    dylib = current.shared_from_this();
    return current.GetFunction(name);
  });
  return MakeFunction(std::move(dylib), address, name);
}

ffi::Optional<ffi::String> ObjectModuleObj::CallGetter(const std::string& symbol) {
  std::optional<ffi::Any> result;
  bool was_called = false;
  // Called once, whatever is loaded while it is.
  WithCurrent([&](Dylib& current) {
    if (was_called) return true;
    CallScope scope(&current.gate());
    void* address = scope.entered() ? current.FindSymbol(symbol) : nullptr;
    if (!address) return false;
    was_called = true;
    result = ffi::Function::InvokeExternC(nullptr, reinterpret_cast<TVMFFISafeCallType>(address));
    KeepCodeOf(ffi::AnyView(*result).CopyToTVMFFIAny());
    return true;
  });
  if (!result) {
    ThrowIfClosed();
    return std::nullopt;
  }
  return std::move(*result).cast<ffi::String>();
}

ffi::Optional<ffi::String> ObjectModuleObj::GetFunctionMetadata(const ffi::String& name) {
  return CallGetter(std::string(ffi::symbol::tvm_ffi_metadata_prefix) + std::string(name));
}

ffi::Optional<ffi::String> ObjectModuleObj::GetFunctionDoc(const ffi::String& name) {
  return CallGetter(std::string(ffi::symbol::tvm_ffi_doc_prefix) + std::string(name));
}

ObjectModuleObj::Holders ObjectModuleObj::CountHolders(uint64_t references) const {
  Holders holders;
  holders.functions = static_cast<uint64_t>(functions_.load(std::memory_order_relaxed));
  uint64_t known =
      holders.functions + static_cast<uint64_t>(handles_.load(std::memory_order_relaxed));
  // Each dylib that is linked to a version of this one holds its module.
  for (const auto& version : Versions()) known += version->code().CountNeeds().dylibs;
  holders.others = references - std::min(references, known);
  return holders;
}

Scope::Libraries OpenLibraries(const Inputs& inputs, LoadRecord& record) {
  Scope::Libraries opened;
  if (inputs.libraries().empty()) return opened;
  record.Enter(LoadRecord::kLinking);
  record.libraries = inputs.libraries();
  for (const std::string& path : inputs.libraries()) opened.push_back(SharedLibrary::Open(path));
  return opened;
}

namespace {

// The variable of a symbol that tvm-ffi fills in, or null; LinkError where it can't be written.
void** FindContext(const Dylib& dylib, const std::string& symbol) {
  void* variable = dylib.FindSymbol(symbol);
  MemoryPool& memory = dylib.session()->linker().memory();
  if (variable && !memory.Holds(variable, sizeof(void*), /*written=*/true)) {
    throw LinkError("dylib '" + dylib.name() + "': " + symbol +
                    " is no variable that can be written: define it as `void* " + symbol + "`");
  }
  return static_cast<void**>(variable);
}

// The library binary, or null; LinkError where it reaches past what is loaded.
const char* FindLibraryBinary(const Dylib& dylib) {
  const void* binary = dylib.FindSymbol(ffi::symbol::tvm_ffi_library_bin);
  if (!binary) return nullptr;
  MemoryPool& memory = dylib.session()->linker().memory();
  uint64_t size = 0;
  bool whole = memory.Holds(binary, sizeof(size), /*written=*/false);
  if (whole) {
    std::memcpy(&size, binary, sizeof(size));
    whole = size <= UINT64_MAX - sizeof(size) &&
            memory.Holds(binary, sizeof(size) + size, /*written=*/false);
  }
  if (!whole) {
    throw LinkError("dylib '" + dylib.name() +
                    "': " + std::string(ffi::symbol::tvm_ffi_library_bin) +
                    " is malformed: it reaches past what is loaded");
  }
  return static_cast<const char*>(binary);
}

}  // namespace

ffi::Module ObjectModuleObj::Load(llvm::function_ref<Inputs()> read, LoadRecord& record) {
  Inputs inputs = read();
  if (!inputs.libraries().empty()) ThrowIfClosed();  // before they are opened
  Scope::Libraries opened = OpenLibraries(inputs, record);
  ffi::Module root = Self();
  for (;;) {
    std::shared_ptr<Dylib> current = dylib();
    Tree before = Known();
    try {
      current->Load(
          std::move(inputs), opened,
          [&] {
            Tree tree = Known();
            if (auto built = BindContext(*current, tree)) {
              root = *built;
              Remember(std::move(tree));
            } else if (tree.binary) {
              root = Root();
            }
          },
          record);
      break;
    } catch (const SessionClosedError&) {
      ForgetUnlessLoaded(*current, before);
      if (IsCurrent(*current)) throw;  // otherwise its inputs are still there
    } catch (...) {
      ForgetUnlessLoaded(*current, before);
      throw;
    }
  }
  record.Succeed();
  return root;
}

std::optional<ffi::Module> ObjectModuleObj::BindContext(Dylib& dylib, Tree& tree) {
  ffi::Module::VisitContextSymbols(
      ffi::TypedFunction<void(ffi::String, void*)>([&](ffi::String name, void* value) {
        if (void** variable = FindContext(dylib, name)) *variable = value;
      }));
  auto** context = FindContext(dylib, ffi::symbol::tvm_ffi_library_ctx);
  const char* binary = FindLibraryBinary(dylib);
  // tvm-ffi takes a module's address in its registries for the address of a ModuleObj.
  void* context_before = context ? std::exchange(*context, this) : nullptr;
  if (!binary || binary == tree.binary) return std::nullopt;
  std::shared_ptr<void> code;
  try {
    code = dylib.code().Keep();
    size_t imports_before = imports().size();
    ffi::Module root = BuildImports(binary, Self(), false, code);
    tree = {};
    tree.binary = binary;
    tree.SetRoot(root, this);
    for (size_t i = imports_before; i < imports().size(); ++i) {
      auto import = imports()[static_cast<int64_t>(i)].cast<ffi::Module>();
      auto* object = const_cast<ffi::ModuleObj*>(import.operator->());
      tree.imports.emplace_back(ffi::GetObjectPtr<ffi::ModuleObj>(object));
    }
    return root;
  } catch (...) {
    // The code may outlive the failed load, and this module.
    if (context) *context = context_before;
    if (code.use_count() > 1) dylib.NoteEarlyUse();
    throw;
  }
}

ffi::Module ObjectModuleObj::Self() { return ffi::Module(ffi::GetObjectPtr<ffi::ModuleObj>(this)); }

void ObjectModuleObj::Tree::SetRoot(const ffi::Module& module, const ObjectModuleObj* library) {
  auto* object = const_cast<ffi::ModuleObj*>(module.operator->());
  is_rooted_here = object == library;
  if (is_rooted_here) return;
  root = ffi::WeakObjectPtr<ffi::ModuleObj>(ffi::GetObjectPtr<ffi::ModuleObj>(object));
}

ObjectModuleObj::Tree ObjectModuleObj::Known() const {
  std::lock_guard<Mutex> lock(mutex_);
  return tree_;
}

void ObjectModuleObj::Remember(Tree tree) {
  std::lock_guard<Mutex> lock(mutex_);
  std::swap(tree_, tree);
}

// A load that failed may have loaded others from its initializers, which saw its library binary.
void ObjectModuleObj::ForgetUnlessLoaded(const Dylib& dylib, const Tree& before) {
  const void* binary = dylib.FindSymbol(ffi::symbol::tvm_ffi_library_bin);
  Tree forgotten;
  std::lock_guard<Mutex> lock(mutex_);
  if (dylib_.get() != &dylib || tree_.binary == binary) return;
  if (before.binary == binary) forgotten = before;
  std::swap(tree_, forgotten);
}

ffi::Module ObjectModuleObj::Root() {
  ThrowIfClosed();
  Tree tree = Known();
  if (!tree.binary || tree.is_rooted_here) return Self();
  if (auto known = tree.root.lock()) return ffi::Module(known);
  std::shared_ptr<Dylib> current = dylib();
  ffi::Module root = BuildImports(tree.binary, Self(), true, current->code().Keep());
  tree.SetRoot(root, this);
  std::lock_guard<Mutex> lock(mutex_);
  if (tree_.binary == tree.binary) std::swap(tree_, tree);
  return root;
}

std::vector<std::shared_ptr<Dylib>> ObjectModuleObj::Versions() const {
  std::lock_guard<Mutex> lock(mutex_);
  std::vector<std::shared_ptr<Dylib>> versions = former_;
  versions.push_back(dylib_);
  return versions;
}

void ObjectModuleObj::Close(const KeepWaiting& keep_waiting) {
  std::vector<std::shared_ptr<Dylib>> versions;
  do {
    versions = Versions();
    for (size_t i = 0; i + 1 < versions.size(); ++i) {
      versions[i]->StopCalls(keep_waiting);
      versions[i]->ResumeCalls();
    }
    versions.back()->Close(keep_waiting);
  } while (!IsCurrent(*versions.back()));
}

void ObjectModuleObj::Bind(std::shared_ptr<Dylib>& bound, const std::shared_ptr<Dylib>& current,
                           llvm::function_ref<void()> bind) {
  {
    std::lock_guard<Mutex> lock(mutex_);
    if (bound == current || !IsCurrent(*current)) return;
    bind();
    // It is one of the former versions, which keep it for those inside.
    bound = current;
  }
  ReleaseFormer();
}

void ObjectModuleObj::SetImports(const ffi::Array<ffi::Any>& imports) {
  ClearImports();  // and what was found in them
  imports_ = imports;
}

void ObjectModuleObj::ReserveFormer() {
  std::lock_guard<Mutex> lock(mutex_);
  former_.reserve(former_.size() + 1);
}

void ObjectModuleObj::SwitchTo(const std::shared_ptr<Dylib>& next, Tree tree) {
  std::lock_guard<Mutex> lock(mutex_);
  former_.push_back(dylib_);
  dylib_ = next;
  current_.store(next.get(), std::memory_order_release);
  std::swap(tree_, tree);
  reloads_.fetch_add(1, std::memory_order_release);
}

void ObjectModuleObj::ReleaseFormer() {
  std::vector<std::shared_ptr<Dylib>> released;
  std::lock_guard<Mutex> lock(mutex_);
  auto is_needed = [](const std::shared_ptr<Dylib>& version) {
    return version.use_count() > 1 || !version->gate().IsEmpty();
  };
  auto first = std::stable_partition(former_.begin(), former_.end(), is_needed);
  released.assign(std::make_move_iterator(first), std::make_move_iterator(former_.end()));
  former_.erase(first, former_.end());
}

}  // namespace object_loader
