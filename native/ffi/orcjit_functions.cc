// SPDX-License-Identifier: Apache-2.0
#include "ffi/orcjit_functions.h"

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/string.h>

#include <cstring>
#include <new>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/interpreter_lock.h"
#include "ffi/link_order.h"

namespace object_loader {

namespace {

namespace ffi = tvm::ffi;

Inputs ReadInputs(const ffi::Array<ffi::Any>& objects, const Session& session) {
  Inputs inputs(/*whole_archive=*/false, session.keeps_contents());
  for (const ffi::Any& object : objects) {
    if (auto path = object.try_cast<ffi::String>()) {
      inputs.AddFile(std::string(*path));
    } else if (auto content = object.try_cast<ffi::Bytes>()) {
      llvm::StringRef bytes(content->data(), content->size());
      inputs.AddBytes(bytes, /*immutable=*/true);
    } else {
      throw ffi::Error(
          "TypeError",
          "objects must be paths (str) and contents (bytes), not " + object.GetTypeKey(), "");
    }
  }
  return inputs;
}

// A session as tvm-ffi holds it.
class SessionObj : public ffi::Object {
 public:
  SessionObj(std::shared_ptr<Session> session, std::vector<std::string> libraries)
      : session_(std::move(session)), libraries_(std::move(libraries)) {}

  ffi::Module Load(const ffi::Array<ffi::Any>& objects, const std::string& name) const {
    std::optional<std::string> given;
    if (!name.empty()) given = name;
    std::vector<LinkedTo> link_order(libraries_.begin(), libraries_.end());
    ModulePtr module = CreateModule(session_, given, link_order, /*replaces=*/given.has_value());
    LoadRecord record(module->dylib());
    ffi::Module root = module->Load([&] { return ReadInputs(objects, *session_); }, record);
    if (given) module->dylib()->TakeName();
    return root;
  }

  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("tvm_ffi_object_loader.Session", SessionObj, ffi::Object);

 private:
  const std::shared_ptr<Session> session_;
  const std::vector<std::string> libraries_;
};

// Calls `load`; what it throws becomes an error of tvm-ffi, of the kind that its Python class has.
template <typename Load>
ffi::Module WithErrorsOfTvmFfi(const Load& load, const ExplainUndefined& explain) {
  auto fail = [](const char* kind, const std::exception& error) -> ffi::Error {
    return ffi::Error(kind, error.what(), "");
  };
  try {
    return load();
  } catch (const ffi::Error&) {
    throw;
  } catch (const UndefinedSymbolError& error) {
    throw ffi::Error("UndefinedSymbolError", explain(error), "");
  } catch (const DuplicateSymbolError& error) {
    throw fail("DuplicateSymbolError", error);
  } catch (const LinkError& error) {
    throw fail("LinkError", error);
  } catch (const ObjectFormatError& error) {
    throw fail("ObjectFormatError", error);
  } catch (const SessionClosedError& error) {
    throw fail("SessionClosedError", error);
  } catch (const ObjectLoaderError& error) {
    throw fail("ObjectLoaderError", error);
  } catch (const FileError& error) {
    throw ffi::Error("RuntimeError", error.path + ": " + std::strerror(error.code), "");
  } catch (const std::bad_alloc& error) {
    throw ffi::Error("MemoryError", "out of memory in a load", "");
  }
}

}  // namespace

OrcjitFunctions MakeOrcjitFunctions(std::shared_ptr<Session> session,
                                    std::vector<std::string> libraries, ExplainUndefined explain) {
  ffi::ObjectRef own(ffi::make_object<SessionObj>(std::move(session), std::move(libraries)));
  auto load = [own, explain = std::move(explain)](ffi::PackedArgs args, ffi::Any* result) {
    if (args.size() < 2) {
      throw ffi::Error("TypeError",
                       "tvm_ffi_orcjit.SessionLoadModule takes a session, objects and a name", "");
    }
    const auto* given = args[0].as<SessionObj>();
    const SessionObj& in = given ? *given : *own.as<SessionObj>();
    auto objects = args[1].cast<ffi::Array<ffi::Any>>();
    auto name = args.size() > 2 ? args[2].cast<ffi::Optional<ffi::String>>() : std::nullopt;
    *result = WithErrorsOfTvmFfi(
        [&] {
          OutsideInterpreter outside;
          return in.Load(objects, name ? std::string(*name) : "");
        },
        explain);
  };
  return {ffi::Function::FromTyped([own]() -> ffi::ObjectRef { return own; }),
          ffi::Function::FromPacked(load)};
}

}  // namespace object_loader
