// SPDX-License-Identifier: Apache-2.0
#include "os/mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/pages.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MFD_EXEC
#define MFD_NOEXEC_SEAL 0x0008U
#define MFD_EXEC 0x0010U
#endif

namespace object_loader {

namespace {

char* Map(void* at, uint64_t size, int protection, int flags, int file, uint64_t offset) {
  void* result = mmap(at, size, protection, flags, file, static_cast<off_t>(offset));
  return result == MAP_FAILED ? nullptr : static_cast<char*>(result);
}

constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

int Protection(Mapping::Access access) {
  switch (access) {
    case Mapping::Access::kNone:
      return PROT_NONE;
    case Mapping::Access::kExecute:
      return PROT_READ | PROT_EXEC;
    case Mapping::Access::kRead:
      return PROT_READ;
    default:
      return PROT_READ | PROT_WRITE;
  }
}

}  // namespace

void AdviseHugePages(char* begin, uint64_t size) { madvise(begin, size, MADV_HUGEPAGE); }

uint64_t PageSize() {
  static const uint64_t size = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return size;
}

namespace {

bool WriteAll(int file, const char* bytes, size_t size) {
  for (size_t done = 0; done < size;) {
    ssize_t written = pwrite(file, bytes + done, size - done, static_cast<off_t>(done));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    done += static_cast<size_t>(written);
  }
  return true;
}

}  // namespace

void Refusals::Add(const char* call, const char* folder) {
  count_ = std::min(count_, all_.size() - 1);
  all_[count_++] = {call, folder, errno};
}

bool Refusals::want_memory() const {
  const int last = count_ ? all_[count_ - 1].error : 0;
  return last == ENOMEM || last == EAGAIN;
}

std::string Refusals::text() const {
  std::string text;
  for (size_t i = 0; i < count_; ++i) {
    const auto& [call, folder, error] = all_[i];
    if (i > 0) text += "; ";
    text += call;
    if (folder) text += std::string(" in ") + folder;
    text += std::string(": ") + std::strerror(error);
  }
  return text;
}

AnonymousFile::AnonymousFile(const char* name, uint64_t size, bool executable, Refusals& refusals) {
  int file = memfd_create(name, MFD_CLOEXEC | (executable ? MFD_EXEC : MFD_NOEXEC_SEAL));
  if (file < 0 && errno == EINVAL) file = memfd_create(name, MFD_CLOEXEC);  // Linux < 6.3
  if (file < 0) refusals.Add("memfd_create");
  if (Take(file, "memory", size, executable, refusals) || refusals.want_memory()) return;
  // Where a filter of system calls knows no files in memory. Some of these folders are mounted
  // without the right to execute what lies there.
  for (const char* folder :
       {"/dev/shm", static_cast<const char*>(getenv("TMPDIR")), "/tmp", "/var/tmp"}) {
    if (!folder) continue;
    file = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0700);
    if (file < 0) refusals.Add("open(O_TMPFILE)", folder);
    if (Take(file, folder, size, executable, refusals)) return;
  }
}

bool AnonymousFile::Take(int file, const char* folder, uint64_t size, bool executable,
                         Refusals& refusals) {
  if (file < 0) return false;
  file_ = file;
  if (ftruncate(file, static_cast<off_t>(size)) != 0) {
    refusals.Add("ftruncate", folder);
  } else if (!executable) {
    return true;
  } else if (char* page = Map(nullptr, PageSize(), PROT_READ | PROT_EXEC, MAP_SHARED, file, 0)) {
    munmap(page, PageSize());
    return true;
  } else {
    refusals.Add("mmap(PROT_EXEC)", folder);
  }
  close(std::exchange(file_, -1));
  return false;
}

AnonymousFile::~AnonymousFile() {
  if (file_ >= 0) close(file_);
}

bool AnonymousFile::Write(const char* bytes, size_t size) { return WriteAll(file_, bytes, size); }

TemporaryFile::TemporaryFile(const std::vector<char>& bytes) {
  for (const char* folder : {"/dev/shm", static_cast<const char*>(getenv("TMPDIR")), "/tmp"}) {
    if (!folder) continue;
    std::string path = std::string(folder) + "/object_loader_XXXXXX";
    int file = mkostemp(path.data(), O_CLOEXEC);
    if (file < 0) continue;
    bool is_written = WriteAll(file, bytes.data(), bytes.size());
    int error = errno;
    close(file);
    if (is_written) {
      path_ = path;
      return;
    }
    unlink(path.c_str());
    errno = error;
  }
}

TemporaryFile::~TemporaryFile() {
  if (!path_.empty()) unlink(path_.c_str());
}

Mapping::~Mapping() {
  if (begin_) munmap(begin_, size_);
}

namespace {

// Address space of no use but to hold its place; null where the system has none.
char* ReserveAnywhere(uint64_t size) { return Map(nullptr, size, PROT_NONE, kPrivate, -1, 0); }

// The same below 2 GiB.
char* ReserveLow(uint64_t size) {
#ifdef MAP_32BIT
  return Map(nullptr, size, PROT_NONE, kPrivate | MAP_32BIT, -1, 0);
#else
  constexpr uint64_t kEnd = uint64_t{1} << 31;
  constexpr uint64_t kStep = 4 << 20;
  for (uint64_t at = kStep; size < kEnd && at <= kEnd - size; at += kStep) {
    void* wanted = reinterpret_cast<void*>(at);
    char* begin = Map(wanted, size, PROT_NONE, kPrivate | MAP_FIXED_NOREPLACE, -1, 0);
    if (begin == wanted) return begin;
    if (begin) munmap(begin, size);  // Linux < 4.17 takes it for advice
  }
  errno = ENOMEM;
  return nullptr;
#endif
}

}  // namespace

Mapping Mapping::Reserve(uint64_t size, Place place, uint64_t alignment, Refusals& refusals) {
  Mapping mapping;
  uint64_t room = size + (alignment > PageSize() ? alignment : 0);
  char* begin = place == Place::kLow ? ReserveLow(room) : ReserveAnywhere(room);
  if (!begin) return refusals.Add("mmap"), Mapping();
  uint64_t before = -reinterpret_cast<uintptr_t>(begin) & (alignment - 1);
  if (before != 0) munmap(begin, before);
  if (room - before != size) munmap(begin + before + size, room - before - size);
  mapping.begin_ = begin + before;
  mapping.size_ = size;
  return mapping;
}

Mapping Mapping::Shared(uint64_t size, Refusals& refusals) {
  Mapping mapping;
  if (size == 0) return mapping;
  constexpr int kWrite = PROT_READ | PROT_WRITE;
  constexpr int kShared = MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE;
  mapping.begin_ = Map(nullptr, size, kWrite, kShared, -1, 0);
  if (!mapping.begin_) return refusals.Add("mmap(MAP_SHARED)"), Mapping();
  mapping.size_ = size;
  // Tried out with a page: the system may map memory twice, but let nothing become executable.
  Mapping page = Reserve(PageSize(), Place::kAnywhere, PageSize(), refusals);
  if (page && page.Commit(0, PageSize(), Access::kExecute, mapping, 0, refusals)) return mapping;
  if (refusals.want_memory()) return Mapping();
  auto file = std::make_unique<AnonymousFile>("object_loader", size, /*executable=*/true, refusals);
  if (!*file) return Mapping();
  if (!Map(mapping.begin_, size, kWrite, MAP_SHARED | MAP_FIXED, file->descriptor(), 0)) {
    return refusals.Add("mmap(MAP_SHARED)"), Mapping();
  }
  mapping.file_ = std::move(file);
  return mapping;
}

bool Mapping::Commit(uint64_t offset, uint64_t size, Access access, Refusals& refusals) {
  if (size == 0 ||
      Map(begin_ + offset, size, Protection(access), MAP_FIXED | kPrivate, -1, 0) != nullptr) {
    return true;
  }
  return refusals.Add("mmap"), false;
}

bool Mapping::Commit(uint64_t offset, uint64_t size, Access access, const Mapping& shared,
                     uint64_t from, Refusals& refusals) {
  if (size == 0) return true;
  char* place = begin_ + offset;
  if (shared.file_) {
    if (Map(place, size, Protection(access), MAP_FIXED | MAP_SHARED, shared.file_->descriptor(),
            from)) {
      return true;
    }
    return refusals.Add("mmap(MAP_SHARED)"), false;
  }
  // An old size of 0: the pages stay where they were, too.
  void* twin = mremap(shared.begin_ + from, 0, size, MREMAP_MAYMOVE | MREMAP_FIXED, place);
  if (twin == MAP_FAILED) return refusals.Add("mremap of size 0"), false;
  return Protect(offset, size, access, refusals);
}

bool Mapping::Replace(uint64_t offset, Mapping other, Refusals& refusals) {
  void* moved = mremap(other.begin_, other.size_, other.size_, MREMAP_MAYMOVE | MREMAP_FIXED,
                       begin_ + offset);
  if (moved == MAP_FAILED) return refusals.Add("mremap"), false;
  other.begin_ = nullptr;  // nothing is there any more
  return true;
}

bool Mapping::Protect(uint64_t offset, uint64_t size, Access access, Refusals& refusals) {
  if (mprotect(begin_ + offset, size, Protection(access)) == 0) return true;
  refusals.Add(access == Access::kExecute ? "mprotect(PROT_EXEC)" : "mprotect");
  return false;
}

void Mapping::Populate(uint64_t offset, uint64_t size) const {
  madvise(begin_ + offset, size, MADV_POPULATE_WRITE);
}

void Mapping::UseHugePages(uint64_t offset, uint64_t size) const {
  AdviseHugePages(begin_ + offset, size);
}

void Mapping::Discard(uint64_t offset, uint64_t size, bool shared) const {
  madvise(begin_ + offset, size, shared ? MADV_REMOVE : MADV_DONTNEED);
}

void Mapping::Forget() const { madvise(begin_, size_, MADV_DONTNEED); }

}  // namespace object_loader
