// SPDX-License-Identifier: Apache-2.0
#include "ffi/module.h"

#include <tvm/ffi/cast.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/memory.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/interpreter_lock.h"

namespace object_loader {

namespace {

namespace ffi = tvm::ffi;

// Reads the library binary: a 64-bit length, then that many bytes of little-endian 64-bit counts
// and numbers, and of strings with their length before them (tvm/ffi, library modules).
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

  std::string String() {
    uint64_t size = CheckCount(Number(), 1);
    return std::string(Take(size), size);
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

ffi::Module LoadFromBytes(const std::string& kind, const std::string& bytes) {
  std::string loader = "ffi.Module.load_from_bytes." + kind;
  auto load = ffi::Function::GetGlobal(loader);
  if (!load.has_value()) {
    TVM_FFI_THROW(RuntimeError) << "the object embeds a module of kind `" << kind
                                << "`, but no loader for it is registered: import the package "
                                << "that registers the global function " << loader;
  }
  return (*load)(ffi::Bytes(bytes)).cast<ffi::Module>();
}

// The root of the tree that `binary` describes, with `library` in the place of "_lib". The tree:
// for module i the children are child_indices[indptr[i]] to child_indices[indptr[i + 1] - 1].
ffi::Module BuildImports(const char* binary, const ffi::Module& library, bool library_has_its_own) {
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
    std::string kind = reader.String();
    modules.push_back(kind == "_lib" ? library : LoadFromBytes(kind, reader.String()));
  }
  for (size_t i = 0; i < modules.size(); ++i) {
    if (library_has_its_own && modules[i].same_as(library)) continue;
    for (uint64_t child = indptr[i]; child < indptr[i + 1]; ++child) {
      modules[i]->ImportModule(modules[child_indices[child]]);
    }
  }
  return modules.front();
}

// For loaded code, which looks functions up among the imports of its module. What it made can
// outlive that module.
int LookUpInImports(void* library_ctx, const char* name, TVMFFIObjectHandle* out) {
  if (library_ctx) return TVMFFIEnvModLookupFromImports(library_ctx, name, out);
  std::string message = std::string("cannot look up `") + name +
                        "` among the imports of a module that was dropped: hold the module";
  TVMFFIErrorSetRaisedFromCStr("SessionClosedError", message.c_str());
  return -1;
}

ModulePtr FromRepresentation(const std::shared_ptr<void>& representation) {
  return static_cast<ffi::WeakObjectPtr<ObjectModuleObj>*>(representation.get())->lock();
}

}  // namespace

void WatchImportLookups() {
  ReplaceProcessSymbol("TVMFFIEnvModLookupFromImports", reinterpret_cast<void*>(LookUpInImports));
}

ModulePtr CreateModule(std::shared_ptr<Session> session, const std::optional<std::string>& name,
                       const std::vector<LinkedTo>& link_order) {
  std::vector<Link> links;
  for (const LinkedTo& entry : link_order) {
    if (const auto* path = std::get_if<std::string>(&entry)) {
      CheckSharedLibrary(*path);
      links.push_back({nullptr, nullptr, SharedLibrary::Open(*path)});
    } else {
      const ModulePtr& module = std::get<ModulePtr>(entry);
      links.push_back(
          {module->dylib().shared_from_this(), std::make_shared<ModulePtr>(module), nullptr});
    }
  }
  auto dylib = Dylib::Create(std::move(session), name, std::move(links));
  auto module = ffi::make_object<ObjectModuleObj>(dylib);
  dylib->Publish(std::make_shared<ffi::WeakObjectPtr<ObjectModuleObj>>(module));
  return module;
}

std::vector<ModulePtr> ModulesOf(Session& session) {
  std::vector<ModulePtr> modules;
  for (const auto& member : session.Members()) {
    const auto& representation = static_cast<Dylib&>(*member).representation();
    if (ModulePtr module = FromRepresentation(representation)) modules.push_back(module);
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

int ObjectModuleObj::GetPropertyMask() const {
  return ffi::Module::kBinarySerializable | ffi::Module::kRunnable;
}

void ObjectModuleObj::ThrowIfClosed() const {
  if (dylib_->closed()) {
    throw ffi::Error("SessionClosedError", dylib_->ClosedMessage(), "");
  }
}

ffi::Function ObjectModuleObj::MakeFunction(void* address) {
  auto function = ffi::make_object<ExportedFunctionObj>(
      ffi::GetObjectPtr<ObjectModuleObj>(this), reinterpret_cast<TVMFFISafeCallType>(address));
  return ffi::GetRef<ffi::Function>(static_cast<ffi::FunctionObj*>(function.get()));
}

ffi::Optional<ffi::Function> ObjectModuleObj::GetFunction(const ffi::String& name) {
  ThrowIfClosed();
  void* address = dylib_->FindFunction(name);
  if (!address) return std::nullopt;
  return MakeFunction(address);
}

ffi::Function ObjectModuleObj::RequireFunction(const std::string& name) {
  return MakeFunction(dylib_->GetFunction(name));
}

ffi::Optional<ffi::String> ObjectModuleObj::CallGetter(const std::string& symbol) {
  ThrowIfClosed();
  void* address = dylib_->FindSymbol(symbol);
  if (!address) return std::nullopt;
  CallScope scope(dylib_->gate());
  if (!scope.entered()) ThrowIfClosed();
  ffi::Any result =
      ffi::Function::InvokeExternC(nullptr, reinterpret_cast<TVMFFISafeCallType>(address));
  KeepCodeOf(ffi::AnyView(result).CopyToTVMFFIAny());
  return std::move(result).cast<ffi::String>();
}

ffi::Optional<ffi::String> ObjectModuleObj::GetFunctionMetadata(const ffi::String& name) {
  return CallGetter(std::string(ffi::symbol::tvm_ffi_metadata_prefix) + std::string(name));
}

ffi::Optional<ffi::String> ObjectModuleObj::GetFunctionDoc(const ffi::String& name) {
  return CallGetter(std::string(ffi::symbol::tvm_ffi_doc_prefix) + std::string(name));
}

void ObjectModuleObj::Load(Inputs inputs) {
  if (dylib_->closed()) throw SessionClosedError(dylib_->ClosedMessage());
  Scope::Libraries opened;
  for (const std::string& path : inputs.libraries()) opened.push_back(SharedLibrary::Open(path));
  dylib_->Load(std::move(inputs), opened, [this] { BindContext(); });
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

void ObjectModuleObj::BindContext() {
  ffi::Module::VisitContextSymbols(
      ffi::TypedFunction<void(ffi::String, void*)>([this](ffi::String name, void* value) {
        if (void** variable = FindContext(name)) *variable = value;
      }));
  auto** context = FindContext(ffi::symbol::tvm_ffi_library_ctx);
  const char* binary = FindLibraryBinary();
  void* context_before = context ? std::exchange(*context, this) : nullptr;
  if (!binary || binary == library_binary_) return;
  // tvm-ffi takes a module's address in its registries for the address of a ModuleObj.
  ffi::Module self(ffi::GetObjectPtr<ffi::ModuleObj>(this));
  try {
    BuildImports(binary, self, false);
  } catch (...) {
    // The code may outlive the failed load, and this module.
    if (context) *context = context_before;
    throw;
  }
  library_binary_ = binary;
}

ffi::Module ObjectModuleObj::Root() {
  ThrowIfClosed();
  ffi::Module self(ffi::GetObjectPtr<ffi::ModuleObj>(this));
  if (!library_binary_) return self;
  if (auto known = root_.lock()) return ffi::Module(known);
  ffi::Module root = BuildImports(library_binary_, self, true);
  root_ = ffi::WeakObjectPtr<ffi::ModuleObj>(
      ffi::GetObjectPtr<ffi::ModuleObj>(const_cast<ffi::ModuleObj*>(root.operator->())));
  return root;
}

ExportedFunctionObj::ExportedFunctionObj(ModulePtr module, TVMFFISafeCallType code)
    : code_(code), gate_(module->dylib().gate()), module_(std::move(module)) {
  safe_call = SafeCall;
  cpp_call = nullptr;
}

int ExportedFunctionObj::RaiseClosed() const {
  TVMFFIErrorSetRaisedFromCStr("SessionClosedError", module_->dylib().ClosedMessage().c_str());
  return -1;
}

int ExportedFunctionObj::SafeCall(void* self, const TVMFFIAny* args, int32_t num_args,
                                  TVMFFIAny* result) {
  return From(self)->Call(args, num_args, result);
}

}  // namespace object_loader
