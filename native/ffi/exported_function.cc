// SPDX-License-Identifier: Apache-2.0
#include "ffi/exported_function.h"

#include <tvm/ffi/c_api.h>

#include <utility>

#include "base/error.h"

namespace object_loader {

ExportedFunctionObj::ExportedFunctionObj(ModulePtr module, std::shared_ptr<Dylib> dylib, void* code,
                                         const std::string& name)
    : gate_(&dylib->gate()),
      code_(reinterpret_cast<TVMFFISafeCallType>(code)),
      dylib_(std::move(dylib)),
      module_(std::move(module)),
      name_(name) {
  safe_call = SafeCall;
  cpp_call = nullptr;
  module_->CountFunction(1);
}

int ExportedFunctionObj::CallAnew(const TVMFFIAny* args, int32_t num_args,
                                  TVMFFIAny* result) const {
  int outcome;
  do {
    if (!BindAnew()) return -1;
  } while (!TryCall(args, num_args, result, outcome));
  return outcome;
}

bool ExportedFunctionObj::BindAnew() const {
  try {
    std::shared_ptr<Dylib> current;
    void* code = module_->WithCurrent([&](Dylib& dylib) {
      current = dylib.shared_from_this();
      return dylib.GetFunction(name_);
    });
    module_->Bind(dylib_, current, [&] {
      gate_.store(&CallGate::NeverOpen(), std::memory_order_relaxed);
      code_.store(reinterpret_cast<TVMFFISafeCallType>(code), std::memory_order_release);
      gate_.store(&current->gate(), std::memory_order_release);
    });
    return true;
  } catch (const SessionClosedError& error) {
    TVMFFIErrorSetRaisedFromCStr("SessionClosedError", error.what());
  } catch (const FunctionNotFoundError& error) {
    TVMFFIErrorSetRaisedFromCStr("FunctionNotFoundError", error.what());
  } catch (const std::bad_alloc&) {
    RaiseOutOfMemory();
  }
  return false;
}

int ExportedFunctionObj::CallWithObjects(const CallGate& gate, bool is_nested,
                                         TVMFFISafeCallType code, const TVMFFIAny* args,
                                         int32_t num_args, TVMFFIAny* result) {
  Crossing crossing(args, num_args, /*gates=*/1);
  int outcome = code(nullptr, args, num_args, result);
  crossing.Leave(outcome, *result, [&] { gate.dylib().code().KeepForEver(); });
  outcome = KeepCodeOfOutcome(outcome, *result);
  return outcome == 0 && is_nested ? NoteGiven(*result) : outcome;
}

void ExportedFunctionObj::LeaveOutermost(const CallGate& gate, ThreadRecord& record) {
  auto keep_for_ever = [&] { gate.dylib().code().KeepForEver(); };
  try {
    Crossing::LeaveOutermost(record, keep_for_ever);
  } catch (const std::bad_alloc&) {
    keep_for_ever();
  }
}

int ExportedFunctionObj::NoteGiven(TVMFFIAny& result) {
  try {
    Crossing::NoteGiven(result);
    return 0;
  } catch (const std::bad_alloc&) {
    TVMFFIObjectDecRef(std::exchange(result, {}).v_obj);
    return RaiseOutOfMemory();
  }
}

int ExportedFunctionObj::SafeCall(void* self, const TVMFFIAny* args, int32_t num_args,
                                  TVMFFIAny* result) {
  return From(self)->Call(args, num_args, result);
}

}  // namespace object_loader
