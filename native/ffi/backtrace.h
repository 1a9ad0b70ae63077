// SPDX-License-Identifier: Apache-2.0
//
// The frames of loaded code in the backtraces of errors.
//
// tvm-ffi knows the functions of libraries that were open when the process's first backtrace was
// made; a frame of loaded code has no name there and is left out. So loaded code that raises an
// error has this file's functions in the place of tvm-ffi's, which add its frames where they belong
// among the others; and so do the trampolines through which loaded code calls functions of others,
// for the errors that come back. The text needs the code no more. What raises nothing costs
// nothing.
//
// Concurrency: every function may be called from any thread.
#ifndef OBJECT_LOADER_FFI_BACKTRACE_H_
#define OBJECT_LOADER_FFI_BACKTRACE_H_

#include <tvm/ffi/c_api.h>

namespace object_loader {

// As TVMFFIBacktrace, for loaded code to call.
const TVMFFIByteArray* Backtrace(const char* filename, int line, const char* function,
                                 int cross_ffi_boundary);

// Adds the loaded code that this thread is in to the backtrace of an error that comes from further
// in, but for the frames that are there already. Where there is no memory for it nothing is added.
void AddCallersTo(TVMFFIObject* error);
// The same for the error that this thread has raised.
void AddCallersToRaised();

// As tvm-ffi's functions of these names, for loaded code to call.
void ErrorSetRaisedFromCStr(const char* kind, const char* message);
void ErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count);
void ErrorMoveFromRaised(TVMFFIObjectHandle* result);

}  // namespace object_loader

#endif  // OBJECT_LOADER_FFI_BACKTRACE_H_
