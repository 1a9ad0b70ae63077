// SPDX-License-Identifier: Apache-2.0
#include "python/recipes.h"

#include <nanobind/stl/optional.h>
#include <tvm/ffi/cast.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "base/interpreter_lock.h"
#include "ffi/link_order.h"
#include "python/conversions.h"
#include "session/recipe.h"

namespace object_loader {

namespace nb = nanobind;
using namespace nb::literals;

namespace {

// A dylib that it does not hold.
struct WeakDylib {
  tvm::ffi::WeakObjectPtr<ObjectModuleObj> module;
};

}  // namespace

nb::list RecipeOf(const PyDylib& dylib) {
  nb::list parts;
  std::shared_ptr<Dylib> current = dylib.dylib();
  for (const RecipePart& part : RecipeOf(*current)) {
    nb::list link_order;
    for (const auto& entry : part.link_order) {
      if (const auto* path = std::get_if<std::string>(&entry)) {
        link_order.append(ToStr(*path));
      } else {
        link_order.append(std::get<size_t>(entry));
      }
    }
    nb::list loads;
    for (const auto& load : part.sources.loads) {
      nb::list sources;
      for (const Source& source : load->sources) sources.append(nb::cast(source));
      loads.append(nb::make_tuple(load->whole_archive, sources));
    }
    parts.append(nb::make_tuple(ToStr(part.name), part.sources.version, link_order, loads));
  }
  return parts;
}

void BindRecipes(nb::module_& m) {
  nb::class_<Source>(m, "Source")
      .def_prop_ro("name", [](const Source& self) { return nb::cast<nb::str>(ToStr(self.name)); })
      .def_prop_ro("is_library", [](const Source& self) { return self.kind == Source::kLibrary; })
      .def("read", [](const Source& self) {
        std::shared_ptr<FileContent> content;
        {
          OutsideInterpreter outside;
          content = ReadWhole(self);
        }
        return nb::bytes(content->bytes().data(), content->bytes().size());
      });
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
      "find_dylib",
      [](uint64_t id) -> std::optional<PyDylib> {
        for (const auto& session : Session::All()) {
          for (const auto& member : session->Members()) {
            auto& dylib = static_cast<Dylib&>(*member);
            ModulePtr module = dylib.id() == id ? ModuleOf(dylib) : nullptr;
            if (module) return PyDylib(std::move(module));
          }
        }
        return std::nullopt;
      },
      "id"_a);
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
