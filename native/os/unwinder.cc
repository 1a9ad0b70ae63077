// SPDX-License-Identifier: Apache-2.0
#include "os/unwinder.h"

#include <algorithm>
#include <utility>

#include "os/dynamic_library.h"
#include "os/frame_lists.h"

// From libgcc_s, or whatever unwinder the process uses.
extern "C" void __register_frame(void* eh_frame);
extern "C" void __deregister_frame(void* eh_frame);

namespace object_loader {

namespace {

// Since GCC 13 the unwinder has a tree of what is registered.
bool HasTree() {
  static const bool has_tree =
      DefinesVersion(reinterpret_cast<const void*>(__register_frame), "GCC_13.0.0");
  return has_tree;
}

}  // namespace

class UnwindTable::Registered {
 public:
  virtual ~Registered() = default;
};

class UnwindTable::Alone : public UnwindTable::Registered {
 public:
  explicit Alone(uint64_t table) : table_(reinterpret_cast<void*>(table)) {
    __register_frame(table_);
  }
  ~Alone() override { __deregister_frame(table_); }
  Alone(const Alone&) = delete;
  Alone& operator=(const Alone&) = delete;

 private:
  void* table_;
};

class UnwindTable::InLists : public UnwindTable::Registered {
 public:
  InLists(AddressRange table, AddressRange code, uint64_t area)
      : table_(table), code_(code), area_(area) {}
  ~InLists() override {
    if (is_added_) FrameLists::OfProcess().Remove(table_, code_, area_);
  }
  InLists(const InLists&) = delete;
  InLists& operator=(const InLists&) = delete;
  void NoteAdded() { is_added_ = true; }

 private:
  AddressRange table_;
  AddressRange code_;
  uint64_t area_;
  bool is_added_ = false;
};

UnwindTable::UnwindTable(AddressRange table, std::vector<Frame> frames, uint64_t area) {
  // One without code is never looked for.
  frames.erase(std::remove_if(frames.begin(), frames.end(),
                              [](const Frame& frame) { return frame.code.empty(); }),
               frames.end());
  if (frames.empty()) return;
  if (!HasTree()) {
    AddressRange code = frames.front().code;
    for (const Frame& frame : frames) {
      code.begin = std::min(code.begin, frame.code.begin);
      code.end = std::max(code.end, frame.code.end);
    }
    auto in_lists = std::make_shared<InLists>(table, code, area);
    if (FrameLists::OfProcess().Add(std::move(frames), area)) {
      in_lists->NoteAdded();
      registered_ = std::move(in_lists);
      return;
    }
  }
  registered_ = std::make_shared<Alone>(table.begin);
}

void UnwindTable::ForgetArea(AddressRange area) { FrameLists::OfProcess().Forget(area); }

}  // namespace object_loader
