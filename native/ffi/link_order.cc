// SPDX-License-Identifier: Apache-2.0
#include "ffi/link_order.h"

#include <tvm/ffi/memory.h>

#include <algorithm>
#include <utility>

namespace object_loader {

namespace ffi = tvm::ffi;

ModulePtr ModuleOf(const Dylib& dylib) {
  return static_cast<ffi::WeakObjectPtr<ObjectModuleObj>*>(dylib.representation().get())->lock();
}

namespace {

std::vector<Link> LinksTo(const std::vector<LinkedTo>& link_order) {
  std::vector<Link> links;
  for (const LinkedTo& entry : link_order) {
    if (const auto* path = std::get_if<std::string>(&entry)) {
      auto library = SharedLibrary::FindOpen(*path);
      if (!library) {
        CheckSharedLibrary(*path);
        library = SharedLibrary::Open(*path);
      }
      links.push_back({nullptr, nullptr, std::move(library)});
    } else {
      const ModulePtr& module = std::get<ModulePtr>(entry);
      links.push_back({module->dylib(), std::make_shared<ModulePtr>(module), nullptr});
    }
  }
  return links;
}

bool IsUpToDate(const std::vector<Link>& links) {
  return std::all_of(links.begin(), links.end(), [](const Link& link) {
    return !link.dylib || link.dylib == (*static_cast<ModulePtr*>(link.owner.get()))->dylib();
  });
}

}  // namespace

ModulePtr CreateModule(const std::shared_ptr<Session>& session,
                       const std::optional<std::string>& name,
                       const std::vector<LinkedTo>& link_order, bool replaces) {
  std::shared_ptr<Dylib> dylib;
  while (!dylib) {
    std::vector<Link> links = LinksTo(link_order);
    try {
      dylib = Dylib::Create(session, name, links, replaces);
    } catch (const SessionClosedError&) {
      if (IsUpToDate(links)) throw;
    }
  }
  auto module = ffi::make_object<ObjectModuleObj>(dylib);
  dylib->Publish(std::make_shared<ffi::WeakObjectPtr<ObjectModuleObj>>(module));
  return module;
}

std::vector<ModulePtr> ModulesOf(Session& session) {
  std::vector<ModulePtr> modules;
  for (const auto& member : session.NamedMembers()) {
    if (ModulePtr module = ModuleOf(static_cast<Dylib&>(*member))) modules.push_back(module);
  }
  return modules;
}

std::vector<ModulePtr> DependentsOf(const ModulePtr& module) {
  // Whatever is linked to another dylib was made after that.
  std::vector<ModulePtr> members;
  for (const auto& member : module->dylib()->session()->Members()) {
    ModulePtr other = ModuleOf(static_cast<Dylib&>(*member));
    if (other && other != module) members.push_back(std::move(other));
  }
  auto was_made_before = [](const ModulePtr& a, const ModulePtr& b) {
    return a->dylib()->id() < b->dylib()->id();
  };
  std::sort(members.begin(), members.end(), was_made_before);
  members.erase(std::unique(members.begin(), members.end()), members.end());
  std::vector<ModulePtr> found = {module};
  for (const ModulePtr& member : members) {
    std::vector<Link> links = member->dylib()->link_order();
    bool is_linked = std::any_of(links.begin(), links.end(), [&](const Link& link) {
      if (!link.dylib) return false;
      const ModulePtr& to = *static_cast<ModulePtr*>(link.owner.get());
      return std::find(found.begin(), found.end(), to) != found.end();
    });
    if (is_linked) found.push_back(member);
  }
  found.erase(found.begin());
  return found;
}

std::vector<LinkedTo> LinkOrderOf(const ObjectModuleObj& module) {
  std::vector<LinkedTo> entries;
  for (const Link& link : module.dylib()->link_order()) {
    if (link.library) {
      entries.push_back(link.library->path());
    } else {
      entries.push_back(*static_cast<ModulePtr*>(link.owner.get()));
    }
  }
  return entries;
}

}  // namespace object_loader
