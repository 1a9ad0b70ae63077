// SPDX-License-Identifier: Apache-2.0
//
// Layout: where everything that a load brings into memory goes. Each kind of memory is one area,
// in which sections lie side by side; the areas get their addresses later.
//
// Lifetime: refers to the Resolution and the Liveness. Concurrency: for one thread at a time.
#ifndef OBJECT_LOADER_LINK_LAYOUT_H_
#define OBJECT_LOADER_LINK_LAYOUT_H_

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "link/initializers.h"
#include "link/liveness.h"
#include "link/resolution.h"

namespace object_loader {

class Layout {
 public:
  enum Area : uint8_t {
    kCode,
    kConstants,
    kData,         // with initial values
    kZeros,        // the same, without
    kThreadLocal,  // the initial values of a thread's variables, and zeros after them
    kAreaCount,
    kNowhere = kAreaCount,
  };
  struct Place {
    uint64_t offset = 0;
    Area area = kNowhere;
  };
  // What an area holds, by its offsets; what lies between two pieces is filled.
  struct Piece {
    enum Kind : uint8_t {
      kSection,  // the object's
      kFrames,   // the load's table of frames
      kText,     // `text`
      kMade,     // what is written by somebody else
    } kind;
    uint64_t offset;
    uint64_t size;
    uint32_t object = 0;
    uint32_t section = 0;
    const char* text = nullptr;
  };
  // Functions that run when the load comes or goes.
  struct Array {
    FunctionArray array;
    Place place;
    uint64_t size;
  };
  struct Bounds {
    Area area;
    uint64_t begin;
    uint64_t end;
  };

  // Places everything but what is made for it. Throws LinkError where it is too much.
  Layout(Resolution& resolution, Liveness& liveness);

  // Makes room for what is written by somebody else, and returns its offset.
  uint64_t Reserve(Area area, uint64_t size, uint64_t alignment);

  Place PlaceOf(uint32_t section) const { return places_[section]; }
  uint64_t size(Area area) const { return sizes_[area]; }
  uint64_t alignment(Area area) const { return alignments_[area]; }
  // Of the thread-local variables, those with initial values.
  uint64_t initialized_thread_locals() const { return initialized_thread_locals_; }
  const std::vector<Piece>& pieces(Area area) const { return pieces_[area]; }
  const std::vector<Array>& arrays() const { return arrays_; }
  // Of the sections of a name that code can ask for the bounds of, or null.
  const Bounds* BoundsOf(llvm::StringRef section_name) const;
  // The table of frames, with its end mark; its size is 0 where there is none.
  Bounds frames() const { return frames_; }
  // The functions that the pieces of .init and .fini make; kNowhere where there are none.
  Place init() const { return init_; }
  Place fini() const { return fini_; }

 private:
  struct Named {
    bool writable = false;
    bool executable = false;
    std::vector<std::pair<uint32_t, uint32_t>> sections;  // object, section
  };

  uint64_t Append(Area area, uint64_t size, uint64_t alignment);
  void Put(Area area, uint32_t object, uint32_t section);
  void PlaceSections();
  void PlaceNamed();
  void PlaceZeros();
  void PlaceFrames();
  Place PlaceFragments(llvm::StringRef name);
  void CheckSizes() const;

  Resolution& resolution_;
  Liveness& liveness_;
  std::vector<Place> places_;
  std::array<uint64_t, kAreaCount> sizes_ = {};
  std::array<uint64_t, kAreaCount> alignments_;
  std::array<std::vector<Piece>, kAreaCount> pieces_;
  std::vector<Array> arrays_;
  std::map<llvm::StringRef, Named> named_;
  std::vector<std::pair<uint32_t, uint32_t>> zeros_;  // object, section
  std::map<llvm::StringRef, Bounds> bounds_;
  uint64_t initialized_thread_locals_ = 0;
  Bounds frames_ = {kConstants, 0, 0};
  Place init_;
  Place fini_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_LAYOUT_H_
