// SPDX-License-Identifier: Apache-2.0
#include "python/recipes.h"

#include <nanobind/stl/optional.h>
#include <tvm/ffi/cast.h>

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "python/conversions.h"
#include "session/recipe.h"

namespace object_loader {

namespace nb = nanobind;
using namespace nb::literals;

namespace {

const char* NameOf(Source::Kind kind) {
  constexpr const char* kNames[] = {"file", "thin archive", "bytes", "library"};
  return kNames[kind];
}

nb::tuple ToTuple(const Source& source) {
  nb::object content = nb::none();
  if (source.content) {
    llvm::StringRef bytes = source.content->bytes();
    content = nb::bytes(bytes.data(), bytes.size());
  }
  const FileIdentity& file = source.identity;
  return nb::make_tuple(NameOf(source.kind), ToStr(source.name),
                        nb::make_tuple(file.device, file.inode, file.size, file.modified), content);
}

// A dylib that it does not hold.
struct WeakDylib {
  tvm::ffi::WeakObjectPtr<ObjectModuleObj> module;
};

}  // namespace

nb::list RecipeOf(const PyDylib& dylib) {
  nb::list parts;
  for (const RecipePart& part : RecipeOf(dylib.dylib())) {
    nb::list link_order;
    for (const auto& entry : part.link_order) {
      if (const auto* path = std::get_if<std::string>(&entry)) {
        link_order.append(ToStr(*path));
      } else {
        link_order.append(std::get<size_t>(entry));
      }
    }
    nb::list loads;
    for (const LoadedFrom& load : part.sources.loads) {
      nb::list sources;
      for (const Source& source : load.sources) sources.append(ToTuple(source));
      loads.append(nb::make_tuple(load.whole_archive, sources));
    }
    parts.append(nb::make_tuple(ToStr(part.name), part.sources.version, link_order, loads));
  }
  return parts;
}

void BindRecipes(nb::module_& m) {
  nb::class_<WeakDylib>(m, "WeakDylib")
      .def(
          "__init__",
          [](WeakDylib* self, const PyDylib& dylib) {
            new (self) WeakDylib{tvm::ffi::WeakObjectPtr<ObjectModuleObj>(dylib.module)};
          },
          "dylib"_a)
      .def("is_gone", [](const WeakDylib& self) { return self.module.expired(); })
      .def("get", [](const WeakDylib& self) -> std::optional<PyDylib> {
        ModulePtr module = self.module.lock();
        if (!module) return std::nullopt;
        return PyDylib(std::move(module));
      });
  m.def(
      "dylib_of",
      [](uintptr_t handle) -> std::optional<PyDylib> {
        auto* module = ObjectModuleObj::From(reinterpret_cast<TVMFFIObject*>(handle));
        if (!module) return std::nullopt;
        return PyDylib(tvm::ffi::GetObjectPtr<ObjectModuleObj>(module));
      },
      "handle"_a);
}

}  // namespace object_loader
