// SPDX-License-Identifier: Apache-2.0
//
// Check: whether inputs would load, found out by all that a load does but running something: which
// objects are linked, what they refer to and where that is found, the link itself. What was linked
// is unlinked at once.
#ifndef OBJECT_LOADER_SESSION_CHECK_H_
#define OBJECT_LOADER_SESSION_CHECK_H_

#include <string>
#include <vector>

#include "object/inputs.h"

namespace object_loader {

class Dylib;

struct Check {
  // Where a symbol that the objects refer to is found.
  enum class Source {
    kNowhere,
    kProcess,  // in the program or one of its libraries
    kPackage,  // by what this package supplies, as a linker does
    kLinker,   // by the linker itself: the ends of sections and the like
    kNothing,  // nowhere, and it may be: the reference is weak
  };
  struct Reference {
    std::string symbol;
    std::string object;  // that refers to it
    Source source;
    std::string library;  // of kProcess: the path; empty where it is not known
    bool is_weak;
  };

  std::vector<std::string> objects;  // those that are linked, in order
  std::vector<Reference> references;
};

// Fills `check` as far as it comes, and throws what the load would. Shared libraries among the
// inputs are not opened: that would run their constructors. For a dylib that nobody else knows.
void CheckLoad(const Dylib& dylib, Inputs inputs, Check& check);

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_CHECK_H_
