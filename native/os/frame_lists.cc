// SPDX-License-Identifier: Apache-2.0
#include "os/frame_lists.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <utility>

// From libgcc_s. The second argument is memory for it, of a `struct object`.
extern "C" void __register_frame_info(const void* eh_frame, void* object);
extern "C" void* __deregister_frame_info(const void* eh_frame);
extern "C" const void* _Unwind_Find_FDE(void* address, void* bases);

namespace object_loader {

namespace {

// The bytes of code that one object is for.
constexpr uint64_t kStretch = 1 << 20;

// As of nearly all frames: DW_EH_PE_pcrel | DW_EH_PE_sdata4.
constexpr uint64_t kUsualEncoding = 0x1b;

// libgcc's struct fde_vector.
struct FrameVector {
  const void* table;
  size_t count;
  const void* records[1];
};

// libgcc's struct object, and room for what it may have beside.
struct UnwinderObject {
  static constexpr uint64_t kIsSorted = 1;
  static constexpr uint64_t kHasManyEncodings = 4;
  static constexpr int kEncoding = 3;  // the first bit of eight
  static constexpr int kCount = 11;

  uint64_t begin;
  void* text;
  void* data;
  FrameVector* vector;
  uint64_t bits;
  uint64_t others[3];
};

// An .eh_frame with one frame, of one byte of code, whose pointers are addresses.
struct FirstTable {
  struct {
    uint32_t length = 12;
    uint32_t identifier = 0;
    uint8_t fields[8] = {1, 0, 1, 0x78, 16, 0, 0, 0};  // version, augmentation, factors, padding
  } common;
  struct {
    uint32_t length = 20;
    uint32_t common = 20;  // the distance from here
    uint32_t begin[2];
    uint32_t size[2] = {1, 0};
  } frame;
  uint32_t end = 0;
};

// The unwinder looks at all tables that it has not looked at before, everybody's.
void HaveNewTablesSeen() {
  void* bases[3];
  _Unwind_Find_FDE(reinterpret_cast<void*>(1), bases);
}

// Whoever was looking for a frame has left the unwinder's lock when this returns. A table that is
// registered takes the lock, and is the first that is found when it goes; looking for a frame would
// go through the tables of all others.
void WaitForUnwinder() {
  struct {
    uint32_t length = 4;
    uint32_t identifier = 0;
    uint32_t end = 0;
  } table_without_frames;
  UnwinderObject object = {};
  __register_frame_info(&table_without_frames, &object);
  __deregister_frame_info(&table_without_frames);
}

}  // namespace

// What one stretch has.
class FrameLists::List {
 public:
  // False where the unwinder made something else of it than expected.
  bool Register(uint64_t begin) {
    std::memcpy(first_.frame.begin, &begin, sizeof(begin));
    begin_ = begin;
    __register_frame_info(&first_, &object_);
    HaveNewTablesSeen();
    const uint64_t expected = UnwinderObject::kIsSorted | uint64_t{1} << UnwinderObject::kCount;
    made_by_unwinder_ = object_.vector;
    if (object_.begin != begin || object_.bits != expected || made_by_unwinder_->table != &first_ ||
        made_by_unwinder_->count != 1 || made_by_unwinder_->records[0] != &first_.frame) {
      __deregister_frame_info(&first_);
      return false;
    }
    // Its one frame is written in another way than those to come. Nobody reads it any more when the
    // bits say so.
    __atomic_store_n(&made_by_unwinder_->count, 0, __ATOMIC_RELEASE);
    Show(vectors_[0]);
    WaitForUnwinder();
    SetBits(0);
    return true;
  }

  ~List() {
    if (!made_by_unwinder_ || object_.vector == made_by_unwinder_) return;
    // As it was when the unwinder made it, which frees its vector.
    __atomic_store_n(&object_.vector, made_by_unwinder_, __ATOMIC_RELEASE);
    WaitForUnwinder();
    __deregister_frame_info(&first_);
  }
  List() = default;
  List(const List&) = delete;
  List& operator=(const List&) = delete;

  // Room for so many frames more. Throws std::bad_alloc.
  void Reserve(size_t count) {
    size_t needed = begins_.size() + count;
    if (needed <= capacity_) return;
    size_t capacity = std::max(needed, 2 * capacity_);
    begins_.reserve(capacity);
    Vector spare(capacity);
    // One that is in use may not move: it is exchanged for a larger one.
    Vector larger(capacity);
    std::memcpy(larger.get()->records, current().get()->records, begins_.size() * sizeof(void*));
    larger.get()->count = begins_.size();
    vectors_[1 - current_] = std::move(larger);
    Exchange();
    vectors_[1 - current_] = std::move(spare);
    capacity_ = capacity;
  }

  // For sorted frames, for which there is room.
  void Add(const Frame* begin, const Frame* end) {
    bool all_usual = std::all_of(
        begin, end, [](const Frame& frame) { return frame.encoding == kUsualEncoding; });
    if (!all_usual && !(object_.bits & UnwinderObject::kHasManyEncodings)) {
      SetBits(UnwinderObject::kHasManyEncodings);
      // Whoever takes the lock from now on reads this before it reads of the frames.
      WaitForUnwinder();
    }
    size_t count = static_cast<size_t>(end - begin);
    size_t size = begins_.size();
    bool are_last = size == 0 || begins_.back() <= OffsetOf(*begin);
    FrameVector* vector = are_last ? current().get() : spare().get();
    size_t old = size;
    // From the end, as they are merged.
    begins_.resize(size + count);
    for (size_t to = size + count; to-- > 0;) {
      if (count > 0 && (old == 0 || begins_[old - 1] <= OffsetOf(begin[count - 1]))) {
        --count;
        begins_[to] = OffsetOf(begin[count]);
        vector->records[to] = reinterpret_cast<const void*>(begin[count].record);
      } else {
        if (are_last) break;  // the rest is there
        --old;
        begins_[to] = begins_[old];
        vector->records[to] = current().get()->records[old];
      }
    }
    __atomic_store_n(&vector->count, begins_.size(), __ATOMIC_RELEASE);
    if (!are_last) Exchange();
  }

  // The table's memory may be given back when this returns.
  void Remove(AddressRange table, AddressRange code) {
    const void** records = current().get()->records;
    auto goes = [&](size_t place) {
      return reinterpret_cast<uint64_t>(records[place]) - table.begin < table.end - table.begin;
    };
    // They lie beside each other, as their code does.
    auto from = static_cast<int32_t>(code.begin - begin_);
    size_t size = begins_.size();
    auto first = static_cast<size_t>(std::lower_bound(begins_.begin(), begins_.end(), from) -
                                     begins_.begin());
    size_t behind = first;
    while (behind < size && goes(behind)) ++behind;
    if (behind == size) {  // they are the last ones
      begins_.resize(first);
      __atomic_store_n(&current().get()->count, first, __ATOMIC_RELEASE);
      WaitForUnwinder();
      return;
    }
    FrameVector* vector = spare().get();
    std::copy_n(records, first, vector->records);
    std::copy(records + behind, records + size, vector->records + first);
    begins_.erase(begins_.begin() + static_cast<ptrdiff_t>(first),
                  begins_.begin() + static_cast<ptrdiff_t>(behind));
    vector->count = begins_.size();
    Exchange();
  }

 private:
  class Vector {
   public:
    explicit Vector(size_t capacity) {
      size_t size = offsetof(FrameVector, records) + std::max<size_t>(capacity, 1) * sizeof(void*);
      vector_.reset(static_cast<FrameVector*>(std::malloc(size)));
      if (!vector_) throw std::bad_alloc();
      vector_->count = 0;
    }
    FrameVector* get() const { return vector_.get(); }

   private:
    struct Free {
      void operator()(FrameVector* vector) const { std::free(vector); }
    };
    std::unique_ptr<FrameVector, Free> vector_;
  };

  Vector& current() { return vectors_[current_]; }
  Vector& spare() { return vectors_[1 - current_]; }

  void Show(Vector& vector) {
    vector.get()->table = &first_;
    __atomic_store_n(&object_.vector, vector.get(), __ATOMIC_RELEASE);
  }
  // From now on the unwinder reads the spare vector, and nobody the other one.
  void Exchange() {
    Show(spare());
    current_ = 1 - current_;
    WaitForUnwinder();
  }

  void SetBits(uint64_t more) {
    uint64_t bits = UnwinderObject::kIsSorted | kUsualEncoding << UnwinderObject::kEncoding |
                    (object_.bits & UnwinderObject::kHasManyEncodings) | more;
    __atomic_store_n(&object_.bits, bits, __ATOMIC_RELEASE);
  }

  // A frame that reaches into the stretch begins before it.
  int32_t OffsetOf(const Frame& frame) const {
    return static_cast<int32_t>(frame.code.begin - begin_);
  }

  FirstTable first_;
  UnwinderObject object_ = {};
  FrameVector* made_by_unwinder_ = nullptr;
  uint64_t begin_ = 0;
  std::vector<int32_t> begins_;  // of the frames' code, in the stretch
  size_t capacity_ = 0;
  // Two, so that taking frames out needs no memory.
  std::array<Vector, 2> vectors_{Vector(0), Vector(0)};
  int current_ = 0;
};

FrameLists& FrameLists::OfProcess() {
  static auto* lists = new FrameLists;
  return *lists;
}

uint64_t FrameLists::StretchOf(uint64_t address, uint64_t area) {
  return area + (address - area) / kStretch * kStretch;
}

bool FrameLists::Add(std::vector<Frame> frames, uint64_t area) {
  auto begins_earlier = [](const Frame& a, const Frame& b) { return a.code.begin < b.code.begin; };
  if (!std::is_sorted(frames.begin(), frames.end(), begins_earlier)) {
    std::sort(frames.begin(), frames.end(), begins_earlier);
  }
  // Those of each stretch that they reach into. Large functions are in several.
  std::map<uint64_t, std::vector<Frame>> parts;
  for (const Frame& frame : frames) {
    uint64_t last = StretchOf(frame.code.end - 1, area);
    for (uint64_t at = StretchOf(frame.code.begin, area); at <= last; at += kStretch) {
      parts[at].push_back(frame);
    }
  }
  std::lock_guard<Mutex> lock(mutex_);
  if (unwinder_ == kOther) return false;
  for (const auto& [at, part] : parts) {
    auto list = lists_.find(at);
    if (list == lists_.end()) {
      auto made = std::make_unique<List>();
      list = lists_.emplace(at, nullptr).first;
      list->second = std::move(made);
      if (!list->second->Register(at)) {
        lists_.erase(list);
        if (unwinder_ == kExpected) throw std::bad_alloc();  // it had no memory to sort
        unwinder_ = kOther;
        return false;
      }
      unwinder_ = kExpected;
    }
    list->second->Reserve(part.size());
  }
  for (const auto& [at, part] : parts) {
    lists_.find(at)->second->Add(part.data(), part.data() + part.size());
  }
  return true;
}

void FrameLists::Remove(AddressRange table, AddressRange code, uint64_t area) {
  std::lock_guard<Mutex> lock(mutex_);
  auto list = lists_.find(StretchOf(code.begin, area));
  for (; list != lists_.end() && list->first < code.end; ++list) list->second->Remove(table, code);
}

void FrameLists::Forget(AddressRange area) {
  std::lock_guard<Mutex> lock(mutex_);
  lists_.erase(lists_.lower_bound(area.begin), lists_.lower_bound(area.end));
}

}  // namespace object_loader
