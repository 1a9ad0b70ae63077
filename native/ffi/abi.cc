// SPDX-License-Identifier: Apache-2.0
#include "ffi/abi.h"

#include <tvm/ffi/cast.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/memory.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "ffi/children.h"

namespace object_loader {

AbiMismatch::AbiMismatch(const std::string& what)
    : std::runtime_error("libtvm_ffi differs: " + what) {}

namespace {

namespace ffi = tvm::ffi;

void Expect(bool is_so, const char* what) {
  if (!is_so) throw AbiMismatch(what);
}

std::string_view View(const TVMFFIByteArray& bytes) { return {bytes.data, bytes.size}; }

TVMFFIByteArray Bytes(std::string_view text) { return {text.data(), text.size()}; }

TVMFFIObject* ObjectIn(const ffi::Any& value) {
  return ffi::AnyView(value).CopyToTVMFFIAny().v_obj;
}

// An object that a function of the C interface made.
ffi::ObjectPtr<ffi::Object> Own(TVMFFIObjectHandle handle) {
  return ffi::detail::ObjectUnsafe::ObjectPtrFromOwned<ffi::Object>(
      static_cast<TVMFFIObject*>(handle));
}

template <typename... Arguments>
ffi::Any Call(const char* name, Arguments&&... arguments) {
  std::optional<ffi::Function> function = ffi::Function::GetGlobal(name);
  if (!function) throw AbiMismatch(std::string("there is no function ") + name);
  return (*function)(std::forward<Arguments>(arguments)...);
}

void CheckTypes() {
  const std::pair<const char*, int32_t> kinds[] = {
      {ffi::StaticTypeKey::kTVMFFIStr, kTVMFFIStr},
      {ffi::StaticTypeKey::kTVMFFIBytes, kTVMFFIBytes},
      {ffi::StaticTypeKey::kTVMFFIError, kTVMFFIError},
      {ffi::StaticTypeKey::kTVMFFIFunction, kTVMFFIFunction},
      {ffi::StaticTypeKey::kTVMFFIShape, kTVMFFIShape},
      {ffi::StaticTypeKey::kTVMFFITensor, kTVMFFITensor},
      {ffi::StaticTypeKey::kTVMFFIArray, kTVMFFIArray},
      {ffi::StaticTypeKey::kTVMFFIMap, kTVMFFIMap},
      {ffi::StaticTypeKey::kTVMFFIModule, kTVMFFIModule},
      {ffi::StaticTypeKey::kTVMFFIOpaquePyObject, kTVMFFIOpaquePyObject},
      {ffi::StaticTypeKey::kTVMFFIList, kTVMFFIList},
      {ffi::StaticTypeKey::kTVMFFIDict, kTVMFFIDict},
  };
  for (auto [name, expected] : kinds) {
    TVMFFIByteArray key = Bytes(name);
    int32_t index = -1;
    if (TVMFFITypeKeyToIndex(&key, &index) != 0 || index != expected) {
      throw AbiMismatch(std::string(name) + " is another type's number");
    }
  }
}

int AddOne(void*, const TVMFFIAny* args, int32_t, TVMFFIAny* result) {
  result->type_index = kTVMFFIInt;
  result->v_int64 = args[0].v_int64 + 1;
  return 0;
}

// Returns AddOne as a function of tvm-ffi's.
ffi::Function CheckFunction() {
  TVMFFIObjectHandle handle = nullptr;
  Expect(TVMFFIFunctionCreate(nullptr, AddOne, nullptr, &handle) == 0, "functions can't be made");
  auto* object = static_cast<TVMFFIObject*>(handle);
  auto function = ffi::detail::ObjectUnsafe::ObjectRefFromObjectPtr<ffi::Function>(Own(handle));
  constexpr uint64_t kOneOfEach = 1ULL << 32 | 1;  // a reference and what all of them are for weak
  Expect(object->type_index == kTVMFFIFunction && object->combined_ref_count == kOneOfEach &&
             object->deleter,
         "an object's header is another one");
  TVMFFIAny argument = {};
  argument.type_index = kTVMFFIInt;
  argument.v_int64 = 41;
  TVMFFIAny result = {};
  auto* cell = CellOf<TVMFFIFunctionCell>(object);
  Expect(cell->safe_call && cell->safe_call(handle, &argument, 1, &result) == 0 &&
             result.type_index == kTVMFFIInt && result.v_int64 == 42,
         "a function's code lies elsewhere in it");
  return function;
}

void CheckArray() {
  ffi::Any array = Call("ffi.Array", 2, 3, 5);
  Expect(array.type_index() == kTVMFFIArray, "ffi.Array makes no array");
  auto* cell = CellOf<TVMFFISeqCell>(ObjectIn(array));
  Expect(cell->size == 3 && cell->data, "an array's elements lie elsewhere");
  const auto* elements = static_cast<const TVMFFIAny*>(cell->data);
  for (int64_t i : {0, 1, 2}) {
    Expect(elements[i].type_index == kTVMFFIInt && elements[i].v_int64 == (1 << i) + 1,
           "an array's elements are stored in another form");
  }
}

void CheckString() {
  std::string_view text = "a text that is too long to be a value itself";
  TVMFFIByteArray bytes = Bytes(text);
  TVMFFIAny made = {};
  Expect(TVMFFIStringFromByteArray(&bytes, &made) == 0 && made.type_index == kTVMFFIStr,
         "long strings are no objects");
  auto owner = Own(made.v_obj);
  Expect(View(*CellOf<TVMFFIByteArray>(made.v_obj)) == text, "a string's text lies elsewhere");
}

void CheckError() {
  TVMFFIByteArray kind = Bytes("Kind"), message = Bytes("message"), backtrace = Bytes("first\n");
  TVMFFIObjectHandle handle = nullptr;
  Expect(TVMFFIErrorCreate(&kind, &message, &backtrace, &handle) == 0, "errors can't be made");
  auto owner = Own(handle);
  auto* cell = CellOf<TVMFFIErrorCell>(static_cast<TVMFFIObject*>(handle));
  Expect(View(cell->kind) == "Kind" && View(cell->message) == "message" &&
             View(cell->backtrace) == "first\n" && !cell->cause_chain && !cell->extra_context,
         "an error's parts lie elsewhere in it");
  TVMFFIByteArray other = Bytes("other\n");
  cell->update_backtrace(handle, &other, kTVMFFIBacktraceUpdateModeReplace);
  Expect(View(cell->backtrace) == "other\n", "an error's backtrace is changed in another way");
}

// A module whose functions tell which of them was called.
class ProbeModuleObj : public ffi::ModuleObj {
 public:
  const char* kind() const final { return "object_loader.probe"; }
  int GetPropertyMask() const final { return 0b101; }
  ffi::Optional<ffi::Function> GetFunction(const ffi::String&) final { return function; }
  ffi::Optional<ffi::String> GetFunctionDoc(const ffi::String& name) final {
    return "doc of " + name;
  }
  ffi::Optional<ffi::String> GetFunctionMetadata(const ffi::String& name) final {
    return "metadata of " + name;
  }

  static constexpr uint64_t kUntouched = 0xA5A5A5A5A5A5A5A5;

  uint64_t after = kUntouched;  // what the library takes for its own must end before
  ffi::Optional<ffi::Function> function;
};

// ModuleObj::GetFunction returns its result in memory that the caller has for it, and nothing but
// the size of that shows what the caller takes it for. The library's own function of this name asks
// the module's and passes its result on: here into more memory than there ought to be, and without
// a function, so that it is no object to anybody.
void CheckResultOfGetFunction(ProbeModuleObj& probe) {
  using Result = ffi::Optional<ffi::Function>;
  alignas(std::max_align_t) unsigned char place[8 * sizeof(Result)];
  std::memset(place, 0xA5, sizeof(place));
  probe.function = std::nullopt;
  ffi::ModuleObj& module = probe;
  auto* result = new (place) Result(module.GetFunction("none", /*query_imports=*/false));
  bool is_only_it = std::all_of(place + sizeof(Result), std::end(place),
                                [](unsigned char byte) { return byte == 0xA5; });
  Expect(is_only_it && !result->has_value(),
         "ModuleObj::GetFunction returns its function in another form");
}

// Where the library looks for a module's imports, as it says.
void CheckFieldsOfModule(const ProbeModuleObj& module) {
  const TVMFFITypeInfo* type = TVMFFIGetTypeInfo(kTVMFFIModule);
  Expect(type && type->type_index == kTVMFFIModule && View(type->type_key) == "ffi.Module" &&
             type->type_depth == 1 && type->type_ancestors[0]->type_index == kTVMFFIObject,
         "what is known of types lies elsewhere");
  const auto* object = reinterpret_cast<const char*>(
      ffi::detail::ObjectUnsafe::GetHeader(static_cast<const ffi::Object*>(&module)));
  const auto* imports = reinterpret_cast<const char*>(&module.imports());
  Expect(type->num_fields == 1 && View(type->fields[0].name) == "imports_" &&
             type->fields[0].offset == imports - object && type->fields[0].getter,
         "a module's fields lie elsewhere in it");
}

void CheckModule(const ffi::Function& function) {
  auto probe = ffi::make_object<ProbeModuleObj>();
  ffi::Module module((ffi::ObjectPtr<ffi::ModuleObj>(probe)));
  CheckFieldsOfModule(*probe);
  Expect(Call("ffi.ModuleGetKind", module).cast<std::string>() == probe->kind() &&
             Call("ffi.ModuleGetPropertyMask", module).cast<int>() == probe->GetPropertyMask(),
         "ModuleObj has its functions in another order");
  CheckResultOfGetFunction(*probe);
  probe->function = function;
  Expect(Call("ffi.ModuleGetFunction", module, "f", false).same_as(function) &&
             Call("ffi.ModuleImplementsFunction", module, "f", false).cast<bool>(),
         "a module's function is not found");
  Expect(Call("ffi.ModuleGetFunctionDoc", module, "f", false).cast<std::string>() == "doc of f" &&
             Call("ffi.ModuleGetFunctionMetadata", module, "f", false).cast<std::string>() ==
                 "metadata of f",
         "a function's documentation is not found");

  // The imports, and what was once found there, are part of the module.
  auto root = ffi::make_object<ProbeModuleObj>();
  static_cast<ffi::ModuleObj&>(*root).ImportModule(module);
  Expect(root->imports().size() == 1 && root->imports()[0].same_as(module),
         "a module's imports lie elsewhere in it");
  TVMFFIObjectHandle found = nullptr;
  Expect(
      TVMFFIEnvModLookupFromImports(static_cast<ffi::ModuleObj*>(root.get()), "f", &found) == 0 &&
          found == ffi::detail::ObjectUnsafe::TVMFFIObjectPtrFromObjectRef(function),
      "a function of a module's imports is not found");
  Call("ffi.ModuleClearImports", ffi::Module(ffi::ObjectPtr<ffi::ModuleObj>(root)));
  Expect(root->imports().empty() && root->after == ProbeModuleObj::kUntouched,
         "a module is larger");
}

}  // namespace

void CheckAbi() {
  try {
    CheckTypes();
    ffi::Function function = CheckFunction();
    CheckArray();
    CheckString();
    CheckError();
    CheckModule(function);
  } catch (const ffi::Error& error) {
    throw AbiMismatch(error.kind() + ": " + error.message());
  }
}

}  // namespace object_loader
