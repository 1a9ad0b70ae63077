// SPDX-License-Identifier: Apache-2.0
#include "ffi/reload.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.h"

namespace object_loader {

namespace ffi = tvm::ffi;

Reload::Reload(const std::vector<ModulePtr>& modules) {
  for (const ModulePtr& module : modules) {
    Version& version = versions_.emplace_back();
    version.module = module;
    version.root = module->Self();
    do {
      version.turn = nullptr;
      version.before = module->dylib();
      if (version.before->IsLoadingOnThisThread()) {
        throw ObjectLoaderError("dylib '" + version.before->name() +
                                "' cannot be reloaded from within its own initializers: reload it "
                                "when the load has returned");
      }
      version.turn = std::make_unique<Dylib::Turn>(*version.before);
    } while (version.before != module->dylib());
    version.imports_before = module->imports();
  }
}

Reload::~Reload() {
  for (auto version = versions_.rbegin(); version != versions_.rend(); ++version) {
    if (!version->next || version->is_switched) continue;
    ObjectModuleObj& module = *version->module;
    if (module.imports().size() != version->imports_before.size()) {
      module.SetImports(version->imports_before);
    }
    version->next->Drop();
  }
}

void Reload::Create(Version& version) {
  Dylib& before = *version.before;
  before.ThrowIfClosed();
  while (!version.next) {
    std::vector<Link> links = LinksOf(before);
    try {
      version.next = Dylib::CreateNext(before, links);
    } catch (const SessionClosedError&) {
      // One of them may have been reloaded meanwhile.
      auto now = LinksOf(before);
      auto is_same = [](const auto& a, const auto& b) { return a.dylib == b.dylib; };
      if (std::equal(links.begin(), links.end(), now.begin(), now.end(), is_same)) throw;
    }
  }
  version.next->Publish(before.representation());
}

std::vector<Link> Reload::LinksOf(const Dylib& dylib) const {
  std::vector<Link> links = dylib.link_order();
  for (Link& link : links) {
    if (!link.dylib) continue;
    const ModulePtr& module = *static_cast<ModulePtr*>(link.owner.get());
    auto found = std::find_if(versions_.begin(), versions_.end(), [&](const Version& version) {
      return version.module == module && version.next;
    });
    link.dylib = found == versions_.end() ? module->dylib() : found->next;
  }
  return links;
}

namespace {

Inputs ReadFor(const Dylib& dylib, const LoadedFrom& from) {
  try {
    return ReadAgain(from);
  } catch (const ObjectFormatError&) {
    throw;
  } catch (const ObjectLoaderError& error) {
    throw ObjectLoaderError("dylib '" + dylib.name() + "' cannot be linked anew: " + error.what());
  }
}

}  // namespace

void Reload::Load(Inputs inputs, LoadRecord& record) {
  // All are read before any is linked: initializers that ran can't be taken back.
  std::vector<std::pair<Version*, Inputs>> loads;
  loads.emplace_back(&versions_.front(), std::move(inputs));
  for (auto version = std::next(versions_.begin()); version != versions_.end(); ++version) {
    for (const auto& from : version->before->sources().loads) {
      loads.emplace_back(&*version, ReadFor(*version->before, *from));
    }
  }
  auto load = loads.begin();
  for (Version& version : versions_) {
    Create(version);
    for (; load != loads.end() && load->first == &version; ++load) {
      LoadInto(version, std::move(load->second), record);
    }
  }
}

void Reload::LoadInto(Version& version, Inputs inputs, LoadRecord& record) {
  Scope::Libraries libraries = OpenLibraries(inputs, record);
  version.next->Load(
      std::move(inputs), libraries,
      [&] {
        auto built = version.module->BindContext(*version.next, version.tree);
        if (built) version.root = *built;
      },
      record);
}

void Reload::Keep(const KeptData& kept) {
  for (Version& version : versions_) {
    if (kept.all || &version == &versions_.front()) KeepData(kept, *version.before, *version.next);
  }
}

void Reload::Switch() {
  for (Version& version : versions_) version.module->ReserveFormer();
  for (Version& version : versions_) {
    ObjectModuleObj& module = *version.module;
    Dylib& before = *version.before;
    ObjectModuleObj::Tree tree_before = module.Known();
    try {
      before.GiveWayTo(*version.next, [&] { module.SwitchTo(version.next, version.tree); });
    } catch (const SessionClosedError&) {
      if (&version == &versions_.front()) throw;
      continue;  // it needs no next version any more
    }
    version.is_switched = true;
    SwitchImports(version, tree_before);
    before.Leave(*version.next);
    module.ReleaseFormer();
  }
}

// What the tree of the version before has brought goes with it, and the user's own stays.
void Reload::SwitchImports(Version& version, const ObjectModuleObj::Tree& before) {
  if (before.imports.empty()) return;
  ObjectModuleObj& module = *version.module;
  ffi::Array<ffi::Any> imports;
  for (const ffi::Any& import : module.imports()) {
    const auto* object = import.cast<ffi::Module>().get();
    bool is_of_before =
        std::any_of(before.imports.begin(), before.imports.end(),
                    [&](const auto& entry) { return entry.lock().get() == object; });
    if (!is_of_before) imports.push_back(import);
  }
  module.SetImports(imports);
}

}  // namespace object_loader
