# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport qsort
import math

cdef extern from "tvm/ffi/c_api.h":
    ctypedef struct TVMFFIAny:
        int32_t type_index
        int64_t v_int64
    int kTVMFFIInt
    void TVMFFIErrorSetRaisedFromCStr(const char*, const char*) noexcept

class Counter:
    def __init__(self, start): self.n = start
    def add(self, k):
        self.n += k
        return self.n

_counter = Counter(40)

cdef int64_t compute(int64_t n) except? -1:
    words = {f"w{i % 5}": i * i for i in range(n)}
    if n < 0:
        raise ValueError(f"{n} is negative")
    total = sum(words.values()) + len(", ".join(words)) + int(math.sqrt(n) * 1000)
    return total + _counter.add(2)

cdef public int __tvm_ffi_compute(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) noexcept with gil:
    try:
        result.v_int64 = compute(args[0].v_int64)
        result.type_index = kTVMFFIInt
        return 0
    except Exception as error:
        text = str(error).encode()
        TVMFFIErrorSetRaisedFromCStr(type(error).__name__.encode(), text)
        return -1
