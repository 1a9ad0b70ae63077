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

#include "base/error.h"
#include "base/interpreter_lock.h"

namespace object_loader {

namespace {

namespace ffi = tvm::ffi;

// The library binary of loaded code: a 64-bit length, then that many bytes of little-endian 64-bit
// counts and numbers, and of strings with their length before them (tvm/ffi, library modules).
class BinaryReader {
 public:
  explicit BinaryReader(const char* binary) : position_(binary + sizeof(uint64_t)) {
    std::memcpy(&left_, binary, sizeof(left_));
  }

  uint64_t Number() {
    uint64_t value;
    std::memcpy(&value, Take(sizeof(value)), sizeof(value));
    return value;
  }

  std::vector<uint64_t> Numbers() {
    std::vector<uint64_t> values(CheckCount(Number(), sizeof(uint64_t)));
    for (uint64_t& value : values) value = Number();
    return values;
  }

  std::string_view String() {
    uint64_t size = CheckCount(Number(), 1);
    return {Take(size), size};
  }

 private:
  uint64_t CheckCount(uint64_t count, uint64_t size) {
    if (count > left_ / size) Fail();
    return count;
  }

  const char* Take(uint64_t size) {
    if (size > left_) Fail();
    left_ -= size;
    return std::exchange(position_, position_ + size);
  }

  [[noreturn]] static void Fail() {
    TVM_FFI_THROW(RuntimeError) << ffi::symbol::tvm_ffi_library_bin << " is malformed";
    TVM_FFI_UNREACHABLE();
  }

  const char* position_;
  uint64_t left_;
};

// Bytes where they were loaded to: parts can be as large as the weights of a network. They keep the
// code loaded, since they lie in its memory.
class LoadedBytesObj : public ffi::detail::BytesObj {
 public:
  LoadedBytesObj(std::string_view bytes, std::shared_ptr<void> code) : code_(std::move(code)) {
    data = bytes.data();
    size = bytes.size();
  }

 private:
  std::shared_ptr<void> code_;
};

ffi::Module LoadFromBytes(std::string_view kind, std::string_view bytes,
                          const std::shared_ptr<void>& code) {
  std::string loader = "ffi.Module.load_from_bytes." + std::string(kind);
  auto load = ffi::Function::GetGlobal(loader);
  if (!load.has_value()) {
    TVM_FFI_THROW(RuntimeError) << "the object embeds a module of kind `" << kind
                                << "`, but no loader for it is registered: import the package "
                                << "that registers the global function " << loader;
  }
  ffi::ObjectPtr<LoadedBytesObj> object = ffi::make_object<LoadedBytesObj>(bytes, code);
  TVMFFIAny argument = {};
  argument.type_index = kTVMFFIBytes;
  argument.v_obj = ffi::detail::ObjectUnsafe::TVMFFIObjectPtrFromObjectPtr(object);
  ffi::AnyView view = ffi::AnyView::CopyFromTVMFFIAny(argument);
  ffi::Any module;
  load->CallPacked(&view, 1, &module);
  return std::move(module).cast<ffi::Module>();
}

// The root of the tree that `binary` describes, with `library` in the place of "_lib". The tree:
// for module i the children are child_indices[indptr[i]] to child_indices[indptr[i + 1] - 1].
// `code` is what keeps the binary in memory.
ffi::Module BuildImports(const char* binary, const ffi::Module& library, bool library_has_its_own,
                         const std::shared_ptr<void>& code) {
  BinaryReader reader(binary);
  std::vector<uint64_t> indptr = reader.Numbers();
  std::vector<uint64_t> child_indices = reader.Numbers();
  // Checked beforehand: the library is not to be left with some of its imports.
  auto names_no_module = [&](uint64_t child) { return child >= indptr.size() - 1; };
  if (indptr.size() < 2 || indptr.front() != 0 || !std::is_sorted(indptr.begin(), indptr.end())) {
    TVM_FFI_THROW(RuntimeError) << ffi::symbol::tvm_ffi_library_bin << " is malformed";
  }
  if (indptr.back() != child_indices.size() ||
      std::any_of(child_indices.begin(), child_indices.end(), names_no_module)) {
    TVM_FFI_THROW(RuntimeError) << ffi::symbol::tvm_ffi_library_bin
                                << " names a module that it does not hold";
  }
  std::vector<ffi::Module> modules;
  for (size_t i = 0; i + 1 < indptr.size(); ++i) {
    std::string_view kind = reader.String();
    modules.push_back(kind == "_lib" ? library : LoadFromBytes(kind, reader.String(), code));
  }
  for (size_t i = 0; i < modules.size(); ++i) {
    if (library_has_its_own && modules[i].same_as(library)) continue;
    for (uint64_t child = indptr[i]; child < indptr[i + 1]; ++child) {
      modules[i]->ImportModule(modules[child_indices[child]]);
    }
  }
  return modules.front();
}

}  // namespace

ModulePtr ModuleOf(const Dylib& dylib) {
  return static_cast<ffi::WeakObjectPtr<ObjectModuleObj>*>(dylib.representation().get())->lock();
}

ModulePtr CreateModule(std::shared_ptr<Session> session, const std::optional<std::string>& name,
                       const std::vector<LinkedTo>& link_order, bool replaces) {
  std::vector<Link> links;
  for (const LinkedTo& entry : link_order) {
    if (const auto* path = std::get_if<std::string>(&entry)) {
      auto library = SharedLibrary::FindOpen(*path);
      if (!library) {
        CheckSharedLibrary(*path);
        library = SharedLibrary::Open(*path);
      }
      links.push_back({nullptr, nullptr, std::move(library)});
    } else {
      const ModulePtr& module = std::get<ModulePtr>(entry);
      links.push_back(
          {module->dylib().shared_from_this(), std::make_shared<ModulePtr>(module), nullptr});
    }
  }
  auto dylib = Dylib::Create(std::move(session), name, std::move(links), replaces);
  auto module = ffi::make_object<ObjectModuleObj>(dylib);
  dylib->Publish(std::make_shared<ffi::WeakObjectPtr<ObjectModuleObj>>(module));
  return module;
}

std::vector<ModulePtr> ModulesOf(Session& session) {
  std::vector<ModulePtr> modules;
  for (const auto& member : session.NamedMembers()) {
    if (ModulePtr module = ModuleOf(static_cast<Dylib&>(*member))) modules.push_back(module);
  }
  return modules;
}

std::vector<LinkedTo> LinkOrderOf(const ObjectModuleObj& module) {
  std::vector<LinkedTo> entries;
  for (const Link& link : module.dylib().link_order()) {
    if (link.library) {
      entries.push_back(link.library->path());
    } else {
      entries.push_back(*static_cast<ModulePtr*>(link.owner.get()));
    }
  }
  return entries;
}

ObjectModuleObj::~ObjectModuleObj() {
  dylib_->ClearPointer(ffi::symbol::tvm_ffi_library_ctx);
  OutsideInterpreter outside;
  dylib_->Drop();
  dylib_.reset();
}

ObjectModuleObj* ObjectModuleObj::From(TVMFFIObject* object) {
  if (!object || object->type_index != kTVMFFIModule) return nullptr;
  auto* module = static_cast<ffi::ModuleObj*>(reinterpret_cast<ffi::Object*>(object));
  return module->kind() == kKind ? static_cast<ObjectModuleObj*>(module) : nullptr;
}

int ObjectModuleObj::GetPropertyMask() const {
  return ffi::Module::kBinarySerializable | ffi::Module::kRunnable;
}

void ObjectModuleObj::ThrowIfClosed() const {
  if (dylib_->closed()) {
    throw ffi::Error("SessionClosedError", dylib_->ClosedMessage(), "");
  }
}

ffi::Function ObjectModuleObj::MakeFunction(void* address, const std::string& name) {
  auto function =
      ffi::make_object<ExportedFunctionObj>(ffi::GetObjectPtr<ObjectModuleObj>(this),
                                            reinterpret_cast<TVMFFISafeCallType>(address), name);
  return ffi::GetRef<ffi::Function>(static_cast<ffi::FunctionObj*>(function.get()));
}

ffi::Optional<ffi::Function> ObjectModuleObj::GetFunction(const ffi::String& name) {
  ThrowIfClosed();
  void* address = dylib_->FindFunction(name);
  if (!address) return std::nullopt;
  return MakeFunction(address, name);
}

ffi::Function ObjectModuleObj::RequireFunction(const std::string& name) {
  return MakeFunction(dylib_->GetFunction(name), name);
}

ffi::Optional<ffi::String> ObjectModuleObj::CallGetter(const std::string& symbol) {
  ThrowIfClosed();
  void* address = dylib_->FindSymbol(symbol);
  if (!address) return std::nullopt;
  ffi::Any result;
  bool entered;
  {
    CallScope scope(dylib_->gate());
    entered = scope.entered();
    if (entered) {
      result = ffi::Function::InvokeExternC(nullptr, reinterpret_cast<TVMFFISafeCallType>(address));
      KeepCodeOf(ffi::AnyView(result).CopyToTVMFFIAny());
    }
  }
  if (!entered) ThrowIfClosed();
  return std::move(result).cast<ffi::String>();
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
  // Each dylib that is linked to this one holds its module.
  uint64_t known = holders.functions + dylib_->code().CountNeeds().dylibs +
                   static_cast<uint64_t>(handles_.load(std::memory_order_relaxed));
  holders.others = references - std::min(references, known);
  return holders;
}

ffi::Module ObjectModuleObj::Load(llvm::function_ref<Inputs()> read, LoadRecord& record) {
  Inputs inputs = read();
  if (dylib_->closed()) throw SessionClosedError(dylib_->ClosedMessage());
  Scope::Libraries opened;
  if (!inputs.libraries().empty()) {
    record.Enter(LoadRecord::kLinking);
    record.libraries = inputs.libraries();
    for (const std::string& path : inputs.libraries()) opened.push_back(SharedLibrary::Open(path));
  }
  ffi::Module root = Self();
  Tree before = Known();
  try {
    dylib_->Load(std::move(inputs), opened, [&] { root = BindContext(); }, record);
  } catch (...) {
    ForgetUnlessLoaded(before);
    throw;
  }
  record.Succeed();
  return root;
}

void** ObjectModuleObj::FindContext(const std::string& symbol) const {
  void* variable = dylib_->FindSymbol(symbol);
  MemoryPool& memory = dylib_->session()->linker().memory();
  if (variable && !memory.Holds(variable, sizeof(void*), /*written=*/true)) {
    throw LinkError("dylib '" + dylib_->name() + "': " + symbol +
                    " is no variable that can be written: define it as `void* " + symbol + "`");
  }
  return static_cast<void**>(variable);
}

const char* ObjectModuleObj::FindLibraryBinary() const {
  const void* binary = dylib_->FindSymbol(ffi::symbol::tvm_ffi_library_bin);
  if (!binary) return nullptr;
  MemoryPool& memory = dylib_->session()->linker().memory();
  uint64_t size = 0;
  bool whole = memory.Holds(binary, sizeof(size), /*written=*/false);
  if (whole) {
    std::memcpy(&size, binary, sizeof(size));
    whole = size <= UINT64_MAX - sizeof(size) &&
            memory.Holds(binary, sizeof(size) + size, /*written=*/false);
  }
  if (!whole) {
    throw LinkError("dylib '" + dylib_->name() +
                    "': " + std::string(ffi::symbol::tvm_ffi_library_bin) +
                    " is malformed: it reaches past what is loaded");
  }
  return static_cast<const char*>(binary);
}

ffi::Module ObjectModuleObj::BindContext() {
  ffi::Module::VisitContextSymbols(
      ffi::TypedFunction<void(ffi::String, void*)>([this](ffi::String name, void* value) {
        if (void** variable = FindContext(name)) *variable = value;
      }));
  auto** context = FindContext(ffi::symbol::tvm_ffi_library_ctx);
  const char* binary = FindLibraryBinary();
  // tvm-ffi takes a module's address in its registries for the address of a ModuleObj.
  void* context_before = context ? std::exchange(*context, this) : nullptr;
  if (!binary || binary == Known().binary) return Root();
  std::shared_ptr<void> code;
  try {
    code = dylib_->code().Keep();
    ffi::Module root = BuildImports(binary, Self(), false, code);
    Remember(binary, root);
    return root;
  } catch (...) {
    // The code may outlive the failed load, and this module.
    if (context) *context = context_before;
    if (code.use_count() > 1) dylib_->NoteEarlyUse();
    throw;
  }
}

ffi::Module ObjectModuleObj::Self() { return ffi::Module(ffi::GetObjectPtr<ffi::ModuleObj>(this)); }

ObjectModuleObj::Tree ObjectModuleObj::Known() const {
  std::lock_guard<Mutex> lock(tree_mutex_);
  return tree_;
}

void ObjectModuleObj::Remember(const char* binary, const ffi::Module& root) {
  auto* object = const_cast<ffi::ModuleObj*>(root.operator->());
  Tree tree;
  tree.binary = binary;
  tree.is_rooted_here = object == this;
  if (!tree.is_rooted_here) {
    tree.root = ffi::WeakObjectPtr<ffi::ModuleObj>(ffi::GetObjectPtr<ffi::ModuleObj>(object));
  }
  std::lock_guard<Mutex> lock(tree_mutex_);
  std::swap(tree_, tree);
}

// A load that failed may have loaded others from its initializers, which saw its library binary.
void ObjectModuleObj::ForgetUnlessLoaded(const Tree& before) {
  const void* binary = dylib_->FindSymbol(ffi::symbol::tvm_ffi_library_bin);
  std::lock_guard<Mutex> lock(tree_mutex_);
  if (tree_.binary != binary) tree_ = before.binary == binary ? before : Tree();
}

ffi::Module ObjectModuleObj::Root() {
  ThrowIfClosed();
  Tree tree = Known();
  if (!tree.binary || tree.is_rooted_here) return Self();
  if (auto known = tree.root.lock()) return ffi::Module(known);
  ffi::Module root = BuildImports(tree.binary, Self(), true, dylib_->code().Keep());
  Remember(tree.binary, root);
  return root;
}

ExportedFunctionObj::ExportedFunctionObj(ModulePtr module, TVMFFISafeCallType code,
                                         const std::string& name)
    : code_(code), gate_(module->dylib().gate()), module_(std::move(module)), name_(name) {
  safe_call = SafeCall;
  cpp_call = nullptr;
  module_->CountFunction(1);
}

int ExportedFunctionObj::RaiseClosed() const {
  TVMFFIErrorSetRaisedFromCStr("SessionClosedError", module_->dylib().ClosedMessage().c_str());
  return -1;
}

int ExportedFunctionObj::CallWithObjects(const CallScope& scope, const TVMFFIAny* args,
                                         int32_t num_args, TVMFFIAny* result) const {
  const bool is_nested = scope.is_nested();
  Crossing crossing(args, num_args, /*gates=*/1);
  int code = code_(nullptr, args, num_args, result);
  crossing.Leave(code, *result, [this] { module_->dylib().code().KeepForEver(); });
  code = KeepCodeOfOutcome(code, *result);
  return code == 0 && is_nested ? NoteGiven(*result) : code;
}

void ExportedFunctionObj::LeaveOutermost(const CallScope& scope) const {
  auto keep_for_ever = [this] { module_->dylib().code().KeepForEver(); };
  try {
    Crossing::LeaveOutermost(scope.record(), keep_for_ever);
  } catch (const std::bad_alloc&) {
    keep_for_ever();
  }
}

int ExportedFunctionObj::NoteGiven(TVMFFIAny& result) {
  try {
    Crossing::NoteGiven(result);
    return 0;
  } catch (const std::bad_alloc&) {
    TVMFFIObjectDecRef(std::exchange(result, {}).v_obj);
    return RaiseOutOfMemory();
  }
}

int ExportedFunctionObj::SafeCall(void* self, const TVMFFIAny* args, int32_t num_args,
                                  TVMFFIAny* result) {
  return From(self)->Call(args, num_args, result);
}

}  // namespace object_loader
