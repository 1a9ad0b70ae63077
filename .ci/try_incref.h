// SPDX-License-Identifier: Apache-2.0
//
// What tvm-ffi 0.1.15 needs of Python 3.14's C API, for a free-threaded Python 3.13: with
// CXXFLAGS="-I<folder of Python.h> -include .ci/try_incref.h" its source package builds there.
#include <Python.h>

// Increments the object's reference count, unless that has come to 0.
static inline int PyUnstable_TryIncRef(PyObject* object) {
  if (_Py_IsImmortal(object)) return 1;
  if (_Py_IsOwnedByCurrentThread(object)) {
    Py_INCREF(object);
    return 1;
  }
  Py_ssize_t shared = __atomic_load_n(&object->ob_ref_shared, __ATOMIC_RELAXED);
  do {
    if (shared == 0 || shared == 3) return 0;  // 3: all of them were merged, and none is left
  } while (!__atomic_compare_exchange_n(&object->ob_ref_shared, &shared,
                                        shared + (1 << _Py_REF_SHARED_SHIFT), 1, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED));
  return 1;
}

// Makes other threads' references show in the word that the above looks at.
static inline void PyUnstable_EnableTryIncRef(PyObject* object) {
  Py_ssize_t shared = __atomic_load_n(&object->ob_ref_shared, __ATOMIC_RELAXED);
  while ((shared & _Py_REF_SHARED_FLAG_MASK) == 0 &&
         !__atomic_compare_exchange_n(&object->ob_ref_shared, &shared, shared | 1, 1,
                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}
