// SPDX-License-Identifier: Apache-2.0
#include "os/headroom.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>

#include "base/error.h"

namespace object_loader {

namespace {

// Measured: at most 14 times the size of objects that are tables for the most part, where each
// function has a section of its own, and 40 kB. The rest is for what an object could hold that no
// compiler writes, for malloc, which takes memory in larger pieces, and for what other threads
// allocate meanwhile. Content is copied twice at most.
constexpr uint64_t kBytesPerByte = 4;
constexpr uint64_t kBytesPerTableByte = 32;
constexpr uint64_t kBytesPerLoad = 4 << 20;

std::atomic<uint64_t> promised{0};

bool IsLimited(int resource) {
  rlimit limit;
  return getrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0 ||
         limit.rlim_cur != RLIM_INFINITY;
}

// Whether the system refuses memory beyond what it has (vm.overcommit_memory).
bool CountsMemory() {
  static const bool counts = [] {
    char mode = '2';
    int file = open("/proc/sys/vm/overcommit_memory", O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
      if (read(file, &mode, 1) != 1) mode = '2';
      close(file);
    }
    return mode == '2';
  }();
  return counts;
}

}  // namespace

Headroom::Headroom(uint64_t object_bytes, uint64_t table_bytes)
    : bytes_(kBytesPerLoad + kBytesPerByte * object_bytes + kBytesPerTableByte * table_bytes) {
  uint64_t all = promised.fetch_add(bytes_) + bytes_;
  // Asking takes longer than linking a small object. Without a limit the answer is known.
  if (!IsLimited(RLIMIT_AS) && !IsLimited(RLIMIT_DATA) && !CountsMemory()) return;
  // Writable, so that it counts for every limit that malloc's memory counts for.
  void* room = mmap(nullptr, all, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room != MAP_FAILED) {
    munmap(room, all);
    return;
  }
  int error = errno;
  promised.fetch_sub(bytes_);
  throw OutOfMemoryError("cannot map the " + std::to_string(bytes_) +
                         " bytes that linking may need: " + std::strerror(error));
}

Headroom::~Headroom() { promised.fetch_sub(bytes_); }

}  // namespace object_loader
