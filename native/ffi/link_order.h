// SPDX-License-Identifier: Apache-2.0
//
// Modules of a session, and what they are linked to.
#ifndef OBJECT_LOADER_FFI_LINK_ORDER_H_
#define OBJECT_LOADER_FFI_LINK_ORDER_H_

#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "ffi/module.h"

namespace object_loader {

// An entry of a link order: a module, or the path of a shared library.
using LinkedTo = std::variant<ModulePtr, std::string>;

// A module over a new dylib; see Dylib::Create.
ModulePtr CreateModule(const std::shared_ptr<Session>& session,
                       const std::optional<std::string>& name,
                       const std::vector<LinkedTo>& link_order, bool replaces);

// The modules of the session's open dylibs that have their names, in order of creation.
std::vector<ModulePtr> ModulesOf(Session& session);

// The modules of the session that are linked to this one, or to one of those, in order of creation.
std::vector<ModulePtr> DependentsOf(const ModulePtr& module);

// The module of a dylib; null where it is gone.
ModulePtr ModuleOf(const Dylib& dylib);

// The link order of the module's dylib.
std::vector<LinkedTo> LinkOrderOf(const ObjectModuleObj& module);

}  // namespace object_loader

#endif  // OBJECT_LOADER_FFI_LINK_ORDER_H_
