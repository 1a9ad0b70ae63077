// SPDX-License-Identifier: Apache-2.0
// The functions of calls.c as a nanobind extension. The plain names give the GIL up, as TVM-FFI's
// calls do by default; those that end in _kept do not.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

namespace nb = nanobind;
using Unlocked = nb::call_guard<nb::gil_scoped_release>;

static int64_t Add(int64_t a, int64_t b) { return a + b; }
static double Scale(double a, double b) { return a * b; }
static bool Flip(bool a) { return !a; }

NB_MODULE(peer_nanobind, m) {
  m.def("add", &Add, Unlocked());
  m.def("add_kept", &Add);
  m.def("scale", &Scale, Unlocked());
  m.def("scale_kept", &Scale);
  m.def("flip", &Flip, Unlocked());
  m.def("flip_kept", &Flip);
  m.def("nothing", [](void*) {}, nb::arg().none(), Unlocked());
  m.def("nothing_kept", [](void*) {}, nb::arg().none());
  m.def("first_char", [](const std::string& a) { return static_cast<int64_t>(a[0]); }, Unlocked());
  m.def("first_byte", [](nb::bytes a) {
    const char* start = a.c_str();
    nb::gil_scoped_release unlocked;
    return static_cast<int64_t>(start[0]);
  });
  m.def("array", [](const nb::ndarray<>& a) { return a.ndim(); }, Unlocked());
}
