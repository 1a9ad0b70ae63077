// SPDX-License-Identifier: Apache-2.0
//
// LoadRecord: one load, from the reading of its inputs to its end: where its time goes, what it
// brings, and whether it fails; and LoadTotals, what the loads of a dylib or a session came to.
//
// It costs a look at the clock where one stage follows another, five in a load of objects. A load
// that an initializer makes has a record of its own, and its time is also that of the initializer.
//
// Concurrency: a record is its thread's own; totals may be used by any thread.
#ifndef OBJECT_LOADER_SESSION_LOAD_RECORD_H_
#define OBJECT_LOADER_SESSION_LOAD_RECORD_H_

#include <time.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "link/image.h"

namespace object_loader {

class Dylib;

struct LoadTotals {
  // The stages of a load that are told of.
  enum Stage { kReading, kLinking, kInitializing, kStages };
  using Nanoseconds = std::array<uint64_t, kStages>;

  void Add(bool has_succeeded, const Nanoseconds& spent);
  Nanoseconds Spent() const;

  std::atomic<uint64_t> loads{0};  // that succeeded
  std::atomic<uint64_t> failures{0};

 private:
  std::array<std::atomic<uint64_t>, kStages> spent_{};
};

class LoadRecord {
 public:
  enum Stage {
    kReading = LoadTotals::kReading,
    kLinking = LoadTotals::kLinking,
    kInitializing = LoadTotals::kInitializing,
    kWaiting,  // for other threads
    kStages,
  };

  // The load begins, with reading.
  explicit LoadRecord(std::shared_ptr<Dylib> dylib) : dylib_(std::move(dylib)) {}
  // Adds it to the totals of the dylib and the session.
  ~LoadRecord();
  LoadRecord(const LoadRecord&) = delete;
  LoadRecord& operator=(const LoadRecord&) = delete;

  const Dylib& dylib() const { return *dylib_; }

  // Another stage begins. Each may come several times.
  void Enter(Stage stage) {
    uint64_t now = Now();
    spent_[stage_] += now - since_;
    stage_ = stage;
    since_ = now;
  }
  // The load is over. It failed where this is never called.
  void Succeed() {
    Enter(kWaiting);
    has_succeeded_ = true;
  }
  // How long the stage took so far.
  uint64_t nanoseconds(Stage stage) const { return spent_[stage]; }

  // What it brought.
  uint64_t objects = 0;
  Image::Bytes bytes;
  std::vector<std::string> libraries;

 private:
  // Nanoseconds of a clock that nobody sets.
  static uint64_t Now() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1000000000 + static_cast<uint64_t>(now.tv_nsec);
  }

  const std::shared_ptr<Dylib> dylib_;
  bool has_succeeded_ = false;
  Stage stage_ = kReading;
  uint64_t since_ = Now();
  std::array<uint64_t, kStages> spent_{};
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_LOAD_RECORD_H_
