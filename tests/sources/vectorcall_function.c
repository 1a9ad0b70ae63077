// SPDX-License-Identifier: Apache-2.0
// A subclass of tvm_ffi.Function with a vectorcall slot, as tvm-ffi's own class may have one day.
#include <Python.h>
#include <stddef.h>
#include <structmember.h>

static PyTypeObject* base;
static PyTypeObject* made;
static Py_ssize_t slot;
static Py_ssize_t calls;

static vectorcallfunc* slot_of(PyObject* self) { return (vectorcallfunc*)((char*)self + slot); }

static PyObject* call(PyObject* self, PyObject* const* args, size_t flags, PyObject* names) {
  ++calls;
  PyObject* positional = PyTuple_New(PyVectorcall_NARGS(flags));
  for (Py_ssize_t i = 0; i < PyVectorcall_NARGS(flags); ++i) {
    Py_INCREF(args[i]);
    PyTuple_SET_ITEM(positional, i, args[i]);
  }
  PyObject* named = names ? PyDict_New() : NULL;
  for (Py_ssize_t i = 0; names && i < PyTuple_GET_SIZE(names); ++i) {
    PyDict_SetItem(named, PyTuple_GET_ITEM(names, i), args[PyVectorcall_NARGS(flags) + i]);
  }
  PyObject* result = base->tp_call(self, positional, named);
  Py_DECREF(positional);
  Py_XDECREF(named);
  return result;
}

static PyObject* new_function(PyTypeObject* type, PyObject* args, PyObject* named) {
  PyObject* self = base->tp_new(type, args, named);
  if (self) *slot_of(self) = call;
  return self;
}

static PyObject* derive(PyObject* module, PyObject* given) {
  base = (PyTypeObject*)given;
  slot = base->tp_basicsize;
  PyMemberDef members[] = {{"__vectorcalloffset__", T_PYSSIZET, slot, READONLY, NULL}, {0}};
  PyType_Slot slots[] = {{Py_tp_call, PyVectorcall_Call},
                         {Py_tp_new, new_function},
                         {Py_tp_members, members},
                         {0, NULL}};
  PyType_Spec spec = {"vectorcall_function.Function", (int)(slot + sizeof(vectorcallfunc)), 0,
                      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_VECTORCALL, slots};
  PyObject* bases = PyTuple_Pack(1, given);
  made = (PyTypeObject*)PyType_FromSpecWithBases(&spec, bases);
  Py_DECREF(bases);
  Py_XINCREF(made);
  return (PyObject*)made;
}

static PyObject* count(PyObject* module, PyObject* ignored) { return PyLong_FromSsize_t(calls); }

static PyMethodDef methods[] = {{"derive", derive, METH_O, NULL},
                                {"count", count, METH_NOARGS, NULL},
                                {NULL, NULL, 0, NULL}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "vectorcall_function", NULL, -1, methods};

PyMODINIT_FUNC PyInit_vectorcall_function(void) { return PyModule_Create(&definition); }
