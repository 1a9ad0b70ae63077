// SPDX-License-Identifier: Apache-2.0
#include "link/image.h"

#include <cxxabi.h>

#include <utility>

#include "os/exit_handlers.h"

extern "C" char** environ;

namespace object_loader {

namespace {

// What the dynamic linker passes to initializers: the program's arguments and environment.
int program_argc = 0;
char** program_argv = nullptr;

__attribute__((constructor)) void KeepProgramArguments(int argc, char** argv, char**) {
  program_argc = argc;
  program_argv = argv;
}

void RunEach(const std::vector<Image::Finalizer>& finalizers) {
  for (Image::Finalizer finalizer : finalizers) {
    try {
      finalizer();
    } catch (const abi::__forced_unwind&) {
      throw;  // the thread is being cancelled
    } catch (...) {
      // There is nobody to tell; the others are run nevertheless.
    }
  }
}

}  // namespace

Image::~Image() = default;

void Image::RunInitializers() const {
  for (void** function : indirect_functions) {
    *function = reinterpret_cast<void* (*)()>(*function)();
  }
  for (Initializer initializer : initializers) initializer(program_argc, program_argv, environ);
}

void Image::KeepForExit(CodeOwner& owner) {
  std::vector<Finalizer> functions = finalizers;
  functions.insert(functions.end(), late_finalizers.begin(), late_finalizers.end());
  if (!functions.empty()) at_exit = AddFinalizers({std::move(functions), &owner});
}

void Image::RunFinalizers(CodeOwner& owner) const {
  bool done = at_exit != 0 && !RemoveFinalizers(at_exit);
  if (!done) RunEach(finalizers);
  RunExitHandlers(owner);
  if (!done) RunEach(late_finalizers);
}

}  // namespace object_loader
