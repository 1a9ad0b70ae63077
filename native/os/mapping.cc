// SPDX-License-Identifier: Apache-2.0
#include "os/mapping.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MFD_EXEC
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
    case Mapping::Access::kExecute:
      return PROT_READ | PROT_EXEC;
    case Mapping::Access::kRead:
      return PROT_READ;
    default:
      return PROT_READ | PROT_WRITE;
  }
}

}  // namespace

uint64_t PageSize() {
  static const uint64_t size = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return size;
}

AnonymousFile::AnonymousFile(const char* name, uint64_t size, bool executable)
    : file_(memfd_create(name, MFD_CLOEXEC | (executable ? MFD_EXEC : 0U))) {
  if (file_ < 0 && errno == EINVAL) file_ = memfd_create(name, MFD_CLOEXEC);  // Linux < 6.3
  if (file_ < 0 || ftruncate(file_, static_cast<off_t>(size)) == 0) return;
  int error = errno;
  close(file_);
  file_ = -1;
  errno = error;
}

AnonymousFile::~AnonymousFile() {
  if (file_ >= 0) close(file_);
}

bool AnonymousFile::Write(const char* bytes, size_t size) {
  for (size_t done = 0; done < size;) {
    ssize_t written = pwrite(file_, bytes + done, size - done, static_cast<off_t>(done));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    done += static_cast<size_t>(written);
  }
  return true;
}

Mapping::~Mapping() {
  if (begin_) munmap(begin_, size_);
}

Mapping Mapping::Reserve(uint64_t size, Place place) {
  Mapping mapping;
  int low = 0;
#ifdef MAP_32BIT
  if (place == Place::kLow) low = MAP_32BIT;
#endif
  mapping.begin_ = Map(nullptr, size, PROT_NONE, kPrivate | low, -1, 0);
  mapping.size_ = size;
  return mapping;
}

Mapping Mapping::OfFile(const AnonymousFile& file, uint64_t size) {
  Mapping mapping;
  mapping.begin_ = Map(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file.descriptor(), 0);
  mapping.size_ = size;
  return mapping;
}

bool Mapping::Commit(uint64_t offset, uint64_t size, Access access) {
  return size == 0 ||
         Map(begin_ + offset, size, Protection(access), MAP_FIXED | kPrivate, -1, 0) != nullptr;
}

bool Mapping::Commit(uint64_t offset, uint64_t size, Access access, const AnonymousFile& file,
                     uint64_t from) {
  return size == 0 || Map(begin_ + offset, size, Protection(access), MAP_FIXED | MAP_SHARED,
                          file.descriptor(), from) != nullptr;
}

int Mapping::Protect(uint64_t offset, uint64_t size, Access access) {
  return mprotect(begin_ + offset, size, Protection(access)) == 0 ? 0 : errno;
}

void Mapping::Populate(uint64_t offset, uint64_t size) const {
  madvise(begin_ + offset, size, MADV_POPULATE_WRITE);
}

void Mapping::UseHugePages(uint64_t offset, uint64_t size) const {
  madvise(begin_ + offset, size, MADV_HUGEPAGE);
}

void Mapping::Discard(uint64_t offset, uint64_t size, bool shared) const {
  madvise(begin_ + offset, size, shared ? MADV_REMOVE : MADV_DONTNEED);
}

void Mapping::Forget() const { madvise(begin_, size_, MADV_DONTNEED); }

}  // namespace object_loader
