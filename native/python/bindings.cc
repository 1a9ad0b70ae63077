// SPDX-License-Identifier: Apache-2.0
//
// The Python module `_native`: names, argument conversion, exceptions. No logic.
//
// The GIL is released while objects are read and linked, and while anything is closed or dropped.
#include <llvm/Config/llvm-config.h>
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"
#include "base/interpreter_lock.h"
#include "os/exit_handlers.h"
#include "python/fast_function.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace object_loader {

namespace {

struct PySession {
  std::shared_ptr<Session> session;
};

struct PyDylib {
  ModulePtr module;
  Dylib& dylib() const { return module->dylib(); }
};

// Paths and symbols are bytes to the system; what is not UTF-8 travels as Python's own paths do.
nb::object ToStr(const std::string& text) {
  return nb::steal(
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "surrogateescape"));
}

// The other way round.
std::string FromStr(nb::str text) {
  nb::object encoded = nb::steal(PyUnicode_AsEncodedString(text.ptr(), "utf-8", "surrogateescape"));
  if (!encoded.is_valid()) throw nb::python_error();
  return std::string(PyBytes_AS_STRING(encoded.ptr()),
                     static_cast<size_t>(PyBytes_GET_SIZE(encoded.ptr())));
}

nb::tuple ToTuple(const std::vector<std::string>& names) {
  nb::list list;
  for (const std::string& name : names) list.append(ToStr(name));
  return nb::tuple(list);
}

void SetError(const char* name, const std::exception& error, nb::object symbols = {}) {
  nb::object type = nb::module_::import_("tvm_ffi_object_loader.errors").attr(name);
  nb::object message = ToStr(error.what());
  nb::object instance = symbols.is_valid() ? type(message, symbols) : type(message);
  PyErr_SetObject(type.ptr(), instance.ptr());
}

void Translate(const std::exception_ptr& pointer, void*) {
  try {
    std::rethrow_exception(pointer);
  } catch (const UndefinedSymbolError& error) {
    SetError("UndefinedSymbolError", error, ToTuple(error.symbols));
  } catch (const DuplicateSymbolError& error) {
    SetError("DuplicateSymbolError", error, ToTuple(error.symbols));
  } catch (const LinkError& error) {
    SetError("LinkError", error);
  } catch (const ObjectFormatError& error) {
    SetError("ObjectFormatError", error);
  } catch (const FunctionNotFoundError& error) {
    SetError("FunctionNotFoundError", error);
  } catch (const SessionClosedError& error) {
    SetError("SessionClosedError", error);
  } catch (const ObjectLoaderError& error) {
    SetError("ObjectLoaderError", error);
  } catch (const FileError& error) {
    // OSError picks the subclass that belongs to the number.
    nb::object instance =
        nb::borrow(PyExc_OSError)(error.code, std::strerror(error.code), ToStr(error.path));
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(instance.ptr())), instance.ptr());
  } catch (const OutOfMemoryError& error) {
    PyErr_SetString(PyExc_MemoryError, error.what());
  } catch (const tvm::ffi::Error& error) {
    SetPythonError(error);
  }
}

// A path as the system knows it.
std::string FilePath(nb::handle path) {
  nb::object encoded = nb::steal(PyUnicode_EncodeFSDefault(path.ptr()));
  if (!encoded.is_valid()) throw nb::python_error();
  return std::string(PyBytes_AS_STRING(encoded.ptr()),
                     static_cast<size_t>(PyBytes_GET_SIZE(encoded.ptr())));
}

// What `objects` holds: a path (str) or a buffer each. Buffers are read when the GIL is not held,
// and released when it is again.
class Given {
 public:
  explicit Given(nb::sequence objects) {
    for (nb::handle object : objects) {
      if (PyUnicode_Check(object.ptr())) {
        entries_.push_back({FilePath(object), {}, false});
        continue;
      }
      Py_buffer view;
      if (PyObject_GetBuffer(object.ptr(), &view, PyBUF_SIMPLE) != 0) throw nb::python_error();
      std::unique_ptr<Py_buffer, Release> owner(new (std::nothrow) Py_buffer(view));
      if (!owner) {
        PyBuffer_Release(&view);
        throw std::bad_alloc();
      }
      // Nobody writes into bytes; into other buffers, other threads may.
      entries_.push_back({"", std::move(owner), PyBytes_CheckExact(object.ptr()) != 0});
    }
  }

  Inputs Read(bool whole_archive) const {
    Inputs inputs(whole_archive);
    for (const Entry& entry : entries_) {
      if (entry.buffer) {
        llvm::StringRef bytes(static_cast<const char*>(entry.buffer->buf),
                              static_cast<size_t>(entry.buffer->len));
        inputs.AddBytes(FileContent::OfBytes(bytes, entry.immutable));
      } else {
        inputs.AddFile(entry.path);
      }
    }
    return inputs;
  }

 private:
  struct Release {
    void operator()(Py_buffer* view) const {
      PyBuffer_Release(view);
      delete view;
    }
  };
  struct Entry {
    std::string path;
    std::unique_ptr<Py_buffer, Release> buffer;
    bool immutable;
  };
  std::vector<Entry> entries_;
};

nb::object Steal(PyObject* object) {
  if (!object) throw nb::python_error();
  return nb::steal(object);
}

std::vector<PyDylib> Wrap(std::vector<ModulePtr> modules) {
  std::vector<PyDylib> dylibs;
  for (ModulePtr& module : modules) dylibs.push_back({std::move(module)});
  return dylibs;
}

void BindSession(nb::module_& m) {
  nb::class_<PySession>(m, "Session")
      .def(
          "__init__",
          [](PySession* self, nb::str name) {
            new (self) PySession{std::make_shared<Session>(FromStr(name))};
          },
          "name"_a)
      .def_prop_ro(
          "name",
          [](const PySession& self) { return nb::cast<nb::str>(ToStr(self.session->name())); })
      .def_prop_ro("closed", [](const PySession& self) { return self.session->closed(); })
      .def(
          "create_dylib",
          [](const PySession& self, const std::optional<nb::str>& given_name,
             nb::sequence link_order) {
            std::optional<std::string> name;
            if (given_name) name = FromStr(*given_name);
            std::vector<LinkedTo> entries;
            bool opens_library = false;
            for (nb::handle entry : link_order) {
              if (PyUnicode_Check(entry.ptr())) {
                entries.push_back(FilePath(entry));
                opens_library = true;
              } else {
                entries.push_back(nb::cast<const PyDylib&>(entry).module);
              }
            }
            std::optional<OutsideInterpreter> left;
            if (opens_library) left.emplace();
            return PyDylib{CreateModule(self.session, name, entries)};
          },
          "name"_a.none(), "link_order"_a,
          nb::sig("def create_dylib(self, name: str | None, link_order: "
                  "collections.abc.Sequence[Dylib | str]) -> Dylib"))
      .def("dylibs", [](const PySession& self) { return Wrap(ModulesOf(*self.session)); })
      .def(
          "stats", [](const PySession& self) { return self.session->Stats(); },
          nb::call_guard<OutsideInterpreter>())
      .def(
          "close", [](const PySession& self) { self.session->Close(); },
          nb::call_guard<OutsideInterpreter>());
}

void BindDylib(nb::module_& m) {
  nb::class_<PyDylib>(m, "Dylib")
      .def_prop_ro("id", [](const PyDylib& self) { return self.dylib().id(); })
      .def_prop_ro(
          "name", [](const PyDylib& self) { return nb::cast<nb::str>(ToStr(self.dylib().name())); })
      .def_prop_ro("closed", [](const PyDylib& self) { return self.dylib().closed(); })
      .def_prop_ro("session", [](const PyDylib& self) { return PySession{self.dylib().session()}; })
      .def_prop_ro(
          "link_order",
          [](const PyDylib& self) {
            nb::list entries;
            for (LinkedTo& entry : LinkOrderOf(*self.module)) {
              if (const auto* path = std::get_if<std::string>(&entry)) {
                entries.append(ToStr(*path));
              } else {
                entries.append(PyDylib{std::get<ModulePtr>(std::move(entry))});
              }
            }
            return entries;
          },
          nb::for_getter(nb::sig("def link_order(self) -> list[Dylib | str]")))
      .def(
          "load",
          [](const PyDylib& self, nb::sequence objects, bool whole_archive) {
            Given given(objects);
            // Left once: each time, another thread may have to be waited for.
            OutsideInterpreter left;
            Inputs inputs = given.Read(whole_archive);
            bool has_objects = inputs.has_objects();
            self.module->Load(std::move(inputs));
            return has_objects;
          },
          "objects"_a, "whole_archive"_a,
          nb::sig("def load(self, objects: collections.abc.Sequence[str | "
                  "typing_extensions.Buffer], whole_archive: bool) -> bool"))
      .def(
          "functions",
          [](const PyDylib& self) {
            nb::list names;
            for (const std::string& name : self.dylib().FunctionNames()) names.append(ToStr(name));
            return names;
          },
          nb::sig("def functions(self) -> list[str]"))
      .def(
          "lookup",
          [](const PyDylib& self, nb::str symbol) {
            return reinterpret_cast<uintptr_t>(self.dylib().Lookup(FromStr(symbol)));
          },
          "symbol"_a)
      .def(
          "get_function",
          [](const PyDylib& self, nb::str name) {
            return Steal(FunctionToPython(self.module->RequireFunction(FromStr(name))));
          },
          "name"_a, nb::sig("def get_function(self, name: str) -> tvm_ffi.Function"))
      .def(
          "module",
          [](const PyDylib& self, nb::handle class_of) {
            return Steal(ModuleToPython(self.module->Root(), class_of.ptr()));
          },
          "class_of"_a,
          nb::sig("def module(self, class_of: collections.abc.Callable[[type[tvm_ffi.Module]], "
                  "type[tvm_ffi.Module]]) -> tvm_ffi.Module"))
      .def(
          "close", [](const PyDylib& self) { self.dylib().Close(); },
          nb::call_guard<OutsideInterpreter>());
}

}  // namespace

}  // namespace object_loader

NB_MODULE(_native, m) {
  using namespace object_loader;
  m.doc() = "The linker behind tvm_ffi_object_loader.";
  m.attr("llvm_version") = LLVM_VERSION_STRING;
  nb::register_exception_translator(Translate);
  // The default session lives until the process ends, and so do its Python objects.
  nb::set_leak_warnings(false);
  if (!InitFunctions()) throw nb::python_error();
  RunFinalizersAtExit();
  BindSession(m);
  BindDylib(m);
  m.def(
      "fast_function", [](nb::handle function) { return Steal(FastFunction(function.ptr())); },
      "function"_a, nb::sig("def fast_function(function: tvm_ffi.Function) -> tvm_ffi.Function"));
}
