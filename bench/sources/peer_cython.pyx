# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3
# The functions of calls.c as a Cython extension. The plain names give the GIL up, as TVM-FFI's
# calls do by default; those that end in _kept do not.
from libc.stdint cimport int64_t

cdef extern from *:
    """
    static int64_t c_add(int64_t a, int64_t b) { return a + b; }
    static double c_scale(double a, double b) { return a * b; }
    static int c_flip(int a) { return !a; }
    """
    int64_t c_add(int64_t a, int64_t b) nogil
    double c_scale(double a, double b) nogil
    int c_flip(int a) nogil


def add(int64_t a, int64_t b):
    cdef int64_t result
    with nogil:
        result = c_add(a, b)
    return result


def add_kept(int64_t a, int64_t b):
    return c_add(a, b)


def scale(double a, double b):
    cdef double result
    with nogil:
        result = c_scale(a, b)
    return result


def scale_kept(double a, double b):
    return c_scale(a, b)


def flip(bint a):
    cdef bint result
    with nogil:
        result = c_flip(a)
    return result


def flip_kept(bint a):
    return <bint>c_flip(a)


def nothing(a):
    with nogil:
        pass


def nothing_kept(a):
    pass


def first_char(str a):
    cdef int64_t first = a[0]
    with nogil:
        pass
    return first


def first_byte(bytes a):
    cdef const unsigned char* start = a
    cdef int64_t first
    with nogil:
        first = start[0]
    return first


def array(double[::1] a):
    with nogil:
        pass
    return a.ndim
