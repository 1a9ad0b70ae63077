// SPDX-License-Identifier: Apache-2.0
//
// Arguments and results of the bindings: texts, paths, and the objects that a load is given.
#ifndef OBJECT_LOADER_PYTHON_CONVERSIONS_H_
#define OBJECT_LOADER_PYTHON_CONVERSIONS_H_

#include <nanobind/nanobind.h>

#include <memory>
#include <string>
#include <vector>

#include "object/inputs.h"

namespace object_loader {

// Paths and symbols are bytes to the system; what is not UTF-8 travels as Python's own paths do.
nanobind::object ToStr(const std::string& text);

// The other way round.
std::string FromStr(nanobind::str text);

nanobind::tuple ToTuple(const std::vector<std::string>& texts);

// A path as the system knows it.
std::string FilePath(nanobind::handle path);

// The object, which the caller owns; what Python has raised where it is null.
inline nanobind::object Steal(PyObject* object) {
  if (!object) throw nanobind::python_error();
  return nanobind::steal(object);
}

// What `objects` holds: a path (str) or a buffer each, or a buffer with a name for messages.
// Buffers are read when the GIL is not held, and released when it is again.
class Given {
 public:
  explicit Given(nanobind::sequence objects);

  // See Inputs.
  Inputs Read(bool whole_archive, bool keep_contents) const;

 private:
  struct Release {
    void operator()(Py_buffer* view) const;
  };
  struct Entry {
    std::string name;  // of a file, its path
    std::unique_ptr<Py_buffer, Release> buffer;
    bool immutable;
  };
  std::vector<Entry> entries_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_PYTHON_CONVERSIONS_H_
