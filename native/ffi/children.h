// SPDX-License-Identifier: Apache-2.0
//
// What an object of tvm-ffi holds, of every kind that it knows.
//
// Maps lie in memory as the headers have them that this was built with. Where the library that runs
// has them otherwise, they are walked through its own functions.
#ifndef OBJECT_LOADER_FFI_CHILDREN_H_
#define OBJECT_LOADER_FFI_CHILDREN_H_

#include <llvm/ADT/STLFunctionalExtras.h>
#include <tvm/ffi/c_api.h>

namespace object_loader {

// What an object of one of tvm-ffi's own kinds consists of, as its C interface says: it follows the
// header.
template <typename Cell>
Cell* CellOf(TVMFFIObject* object) {
  return reinterpret_cast<Cell*>(reinterpret_cast<char*>(object) + sizeof(TVMFFIObject));
}

// Whether objects of this type may hold others.
inline bool CanHoldObjects(int32_t type_index) {
  constexpr uint64_t kLeaves = 1ULL << (kTVMFFIStr - kTVMFFIStaticObjectBegin) |
                               1ULL << (kTVMFFIBytes - kTVMFFIStaticObjectBegin) |
                               1ULL << (kTVMFFIFunction - kTVMFFIStaticObjectBegin) |
                               1ULL << (kTVMFFIShape - kTVMFFIStaticObjectBegin) |
                               1ULL << (kTVMFFITensor - kTVMFFIStaticObjectBegin) |
                               1ULL << (kTVMFFIOpaquePyObject - kTVMFFIStaticObjectBegin) |
                               1ULL << (kTVMFFIBigInt - kTVMFFIStaticObjectBegin);
  uint32_t number = static_cast<uint32_t>(type_index) - kTVMFFIStaticObjectBegin;
  return number >= 64 || !(kLeaves >> number & 1);
}

inline bool IsContainer(int32_t type_index) {
  return type_index == kTVMFFIArray || type_index == kTVMFFIList || type_index == kTVMFFIMap ||
         type_index == kTVMFFIDict;
}

inline bool IsMutableContainer(int32_t type_index) {
  return type_index == kTVMFFIList || type_index == kTVMFFIDict;
}

// How many children a container says that it has, as a hint; 0 for other objects.
int64_t CountOfChildren(TVMFFIObject* object);

// Calls `visit` with each object that this one holds; `is_lasting` says whether it is held by more
// than the visit. Throws std::bad_alloc.
void VisitChildren(TVMFFIObject* object,
                   llvm::function_ref<void(TVMFFIObject* child, bool is_lasting)> visit);

// Of a map that can be changed, the place of the function that frees its table; null where that is
// not known, or where the map has none.
void** DataDeleterOf(TVMFFIObject* dict);

// Whether maps lie in memory as the headers have them. Tried out once.
bool IsMapLayoutKnown();

}  // namespace object_loader

#endif  // OBJECT_LOADER_FFI_CHILDREN_H_
