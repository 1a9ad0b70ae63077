// SPDX-License-Identifier: Apache-2.0
#include "python/conversions.h"

#include <new>
#include <utility>

namespace object_loader {

namespace nb = nanobind;

nb::object ToStr(const std::string& text) {
  return nb::steal(
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "surrogateescape"));
}

std::string FromStr(nb::str text) {
  nb::object encoded = nb::steal(PyUnicode_AsEncodedString(text.ptr(), "utf-8", "surrogateescape"));
  if (!encoded.is_valid()) throw nb::python_error();
  return std::string(PyBytes_AS_STRING(encoded.ptr()),
                     static_cast<size_t>(PyBytes_GET_SIZE(encoded.ptr())));
}

nb::tuple ToTuple(const std::vector<std::string>& texts) {
  nb::list list;
  for (const std::string& text : texts) list.append(ToStr(text));
  return nb::tuple(list);
}

std::string FilePath(nb::handle path) {
  nb::object encoded = nb::steal(PyUnicode_EncodeFSDefault(path.ptr()));
  if (!encoded.is_valid()) throw nb::python_error();
  return std::string(PyBytes_AS_STRING(encoded.ptr()),
                     static_cast<size_t>(PyBytes_GET_SIZE(encoded.ptr())));
}

Given::Given(nb::sequence objects) {
  for (nb::handle object : objects) {
    if (PyUnicode_Check(object.ptr())) {
      entries_.push_back({FilePath(object), {}, false});
      continue;
    }
    std::string name = "<bytes>";
    if (nb::isinstance<nb::tuple>(object)) {
      name = FilePath(object[0]);
      object = object[1].ptr();  // which the tuple holds
    }
    Py_buffer view;
    if (PyObject_GetBuffer(object.ptr(), &view, PyBUF_SIMPLE) != 0) throw nb::python_error();
    std::unique_ptr<Py_buffer, Release> owner(new (std::nothrow) Py_buffer(view));
    if (!owner) {
      PyBuffer_Release(&view);
      throw std::bad_alloc();
    }
    // Nobody writes into bytes; into other buffers, other threads may.
    entries_.push_back({std::move(name), std::move(owner), PyBytes_CheckExact(object.ptr()) != 0});
  }
}

Inputs Given::Read(bool whole_archive, bool keep_contents) const {
  Inputs inputs(whole_archive, keep_contents);
  for (const Entry& entry : entries_) {
    if (entry.buffer) {
      llvm::StringRef bytes(static_cast<const char*>(entry.buffer->buf),
                            static_cast<size_t>(entry.buffer->len));
      inputs.AddBytes(bytes, entry.immutable, entry.name);
    } else {
      inputs.AddFile(entry.name);
    }
  }
  return inputs;
}

void Given::Release::operator()(Py_buffer* view) const {
  PyBuffer_Release(view);
  delete view;
}

}  // namespace object_loader
