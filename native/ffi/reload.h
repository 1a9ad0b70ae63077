// SPDX-License-Identifier: Apache-2.0
//
// Reload: gives modules the next versions of their dylibs: all of them, or none.
//
// A dylib that is linked to one that is reloaded goes on with the old version, unless it is
// reloaded with it: from what it was loaded from.
//
// First all next versions are linked and initialized, while calls go on in those that are loaded.
// Then the modules switch, one after the other. What is left of a version that was replaced goes
// when the last call inside has returned.
//
// Concurrency: this thread has the turns of all the dylibs, from the constructor to the destructor.
#ifndef OBJECT_LOADER_FFI_RELOAD_H_
#define OBJECT_LOADER_FFI_RELOAD_H_

#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "ffi/module.h"
#include "session/kept_data.h"

namespace object_loader {

class Reload {
 public:
  // In an order in which each comes after those that it is linked to. Throws ObjectLoaderError
  // where this thread is in the midst of loading one of them, and as Dylib::Turn does.
  explicit Reload(const std::vector<ModulePtr>& modules);
  // What was linked and not switched to is unloaded.
  ~Reload();
  Reload(const Reload&) = delete;
  Reload& operator=(const Reload&) = delete;

  // Links `inputs` into the next version of the first module, and into those of the others what
  // each was loaded from. Throws what a load does, and ReadAgain.
  void Load(Inputs inputs, LoadRecord& record);
  // Names are of the first module's variables. Throws what KeepData does.
  void Keep(const KeptData& kept);
  // Throws SessionClosedError where the first module is being closed, and nothing has changed then.
  // Another one that is stays as it is.
  void Switch();

  // The root of the first module's new tree of imports.
  const tvm::ffi::Module& root() const { return *versions_.front().root; }

 private:
  struct Version {
    ModulePtr module;
    std::shared_ptr<Dylib> before;
    std::unique_ptr<Dylib::Turn> turn;
    tvm::ffi::Array<tvm::ffi::Any> imports_before;
    std::shared_ptr<Dylib> next;
    ObjectModuleObj::Tree tree;
    std::optional<tvm::ffi::Module> root;
    bool is_switched = false;
  };
  void Create(Version& version);
  void LoadInto(Version& version, Inputs inputs, LoadRecord& record);
  // Where all dylibs of a link order are the versions that are loaded now, or going to be.
  std::vector<Link> LinksOf(const Dylib& dylib) const;
  void SwitchImports(Version& version, const ObjectModuleObj::Tree& before);

  std::deque<Version> versions_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_FFI_RELOAD_H_
