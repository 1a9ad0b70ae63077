// SPDX-License-Identifier: Apache-2.0
//
// ExportedFunctionObj: a function of a module, bound to the code that the module's dylib has now.
//
// After a reload it goes on with the new code: the first call that finds the gate of the old one
// closed binds the function anew. Calls go on all the while, and take no lock. So what is bound is
// two words, the gate and the code behind it, and a call must not take the gate of one version and
// the code of another:
//
//   a call                                   binding anew, under the module's lock
//     gate = gate_                             gate_ = one that is closed for good
//     notes it in its thread's record          code_ = the new code
//     light fence                              gate_ = the new gate
//     goes on if gate_ is still `gate`         lets go of the old version once nobody is inside
//     code = code_
//     goes on if gate_ is still `gate`,
//     and that is open
//
// The first look: either whoever lets go of the gate's dylib sees the call in its thread's record
// (see CallGate), or the call sees that gate_ has changed. So the gate is there from then on, and
// no other dylib's gate gets its address, as it could before. The second look: if the code is a
// later version's, gate_ has changed before that was written, with release; and it does not change
// back, since a function is bound to the newest version only.
#ifndef OBJECT_LOADER_FFI_EXPORTED_FUNCTION_H_
#define OBJECT_LOADER_FFI_EXPORTED_FUNCTION_H_

#include <tvm/ffi/function.h>

#include <atomic>
#include <memory>
#include <new>
#include <string>

#include "ffi/crossing.h"
#include "ffi/module.h"
#include "ffi/retained_objects.h"

namespace object_loader {

class ExportedFunctionObj : public tvm::ffi::FunctionObj {
 public:
  // `code` is of this version of the module's dylib.
  ExportedFunctionObj(ModulePtr module, std::shared_ptr<Dylib> dylib, void* code,
                      const std::string& name);
  ~ExportedFunctionObj() { module_->CountFunction(-1); }

  const ModulePtr& module() const { return module_; }
  const std::string& name() const { return name_; }

  static bool IsInstance(const TVMFFIObject* object) {
    return object && object->type_index == TVMFFITypeIndex::kTVMFFIFunction &&
           FunctionIn(TVMFFIFunctionGetCellPtr(const_cast<TVMFFIObject*>(object))->safe_call) ==
               reinterpret_cast<void*>(SafeCall);
  }
  static ExportedFunctionObj* From(void* object) {
    return static_cast<ExportedFunctionObj*>(static_cast<tvm::ffi::Object*>(object));
  }

  // As TVMFFISafeCallType; a call through a closed gate fails with a SessionClosedError, one of a
  // function that the dylib does not have any more with a FunctionNotFoundError.
  [[gnu::always_inline]] int Call(const TVMFFIAny* args, int32_t num_args,
                                  TVMFFIAny* result) const {
    int outcome;
    if (__builtin_expect(TryCall(args, num_args, result, outcome), true)) return outcome;
    return CallAnew(args, num_args, result);
  }

 private:
  static int SafeCall(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result);
  static int CallWithObjects(const CallGate& gate, bool is_nested, TVMFFISafeCallType code,
                             const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result);
  static void LeaveOutermost(const CallGate& gate, ThreadRecord& record);
  static int NoteGiven(TVMFFIAny& result);
  // False where the gate is closed, or another thread is binding the function.
  [[gnu::always_inline]] bool TryCall(const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result,
                                      int& outcome) const {
    try {
      const CallGate* gate = gate_.load(std::memory_order_relaxed);
      CallScope scope(gate);  // a thread's first one needs memory
      if (__builtin_expect(gate_.load(std::memory_order_acquire) != gate, false)) return false;
      auto code = code_.load(std::memory_order_acquire);
      if (__builtin_expect(gate_.load(std::memory_order_acquire) != gate, false)) return false;
      if (!scope.entered()) return false;
      // By loaded code, or with what may hand objects over.
      if (__builtin_expect(scope.is_nested() || LeadToObjects(args, num_args), false)) {
        outcome = CallWithObjects(*gate, scope.is_nested(), code, args, num_args, result);
        return true;
      }
      outcome = code(nullptr, args, num_args, result);
      if (__builtin_expect(scope.record().given != nullptr, false)) {
        LeaveOutermost(*gate, scope.record());
      }
      outcome = KeepCodeOfOutcome(outcome, *result);
    } catch (const std::bad_alloc&) {
      outcome = RaiseOutOfMemory();
    }
    return true;
  }
  // Binds it anew first. No scope is left open: that takes long, and a close waits for calls.
  int CallAnew(const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result) const;
  // The gate was closed, or another thread is binding the function. False where it can't be called
  // any more, with tvm-ffi's error raised.
  bool BindAnew() const;

  mutable std::atomic<const CallGate*> gate_;
  mutable std::atomic<TVMFFISafeCallType> code_;
  // The version that they are of. Guarded by the module's lock.
  mutable std::shared_ptr<Dylib> dylib_;
  ModulePtr module_;
  const std::string name_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_FFI_EXPORTED_FUNCTION_H_
