// SPDX-License-Identifier: Apache-2.0
//
// Memory from the operating system: reservations of address space, memory that is mapped twice, and
// files that have no name.
//
// Lifetime: a Mapping is unmapped, a file closed, when it goes. Where the system refuses, the
// result is null or false, and the Refusals say which call it was, and why.
#ifndef OBJECT_LOADER_OS_MAPPING_H_
#define OBJECT_LOADER_OS_MAPPING_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace object_loader {

uint64_t PageSize();
// Huge pages have this size where pages have 4 KiB. Where both are larger, nothing comes of advice
// about so little.
constexpr uint64_t kHugePage = 2 << 20;

// The calls that the system refused, one after the other, and why. Takes no memory until it is
// told.
class Refusals {
 public:
  // The call, of a file there if anywhere, has just failed, for the reason in errno.
  void Add(const char* call, const char* folder = nullptr);
  // Whether the last one was for want of memory: that may pass, and no other way helps.
  bool want_memory() const;
  // "memfd_create: Operation not permitted; mprotect(PROT_EXEC): Permission denied".
  std::string text() const;

 private:
  struct Refusal {
    const char* call;
    const char* folder;
    int error;
  };
  std::array<Refusal, 16> all_ = {};  // more than there are ways
  size_t count_ = 0;
};

class AnonymousFile {
 public:
  // Of `size` bytes, all zeros; null where it can't be had. Its pages may be executable where
  // `executable` says so.
  AnonymousFile(const char* name, uint64_t size, bool executable, Refusals& refusals);
  ~AnonymousFile();
  AnonymousFile(const AnonymousFile&) = delete;
  AnonymousFile& operator=(const AnonymousFile&) = delete;

  explicit operator bool() const { return file_ >= 0; }
  int descriptor() const { return file_; }
  // Writes from the start of the file; false where that fails.
  bool Write(const char* bytes, size_t size);

 private:
  // Takes a file that was opened in the folder, or in memory, if it serves.
  bool Take(int file, const char* folder, uint64_t size, bool executable, Refusals& refusals);

  int file_ = -1;
};

// A file with a name, of these bytes, for as long as it lives.
class TemporaryFile {
 public:
  // Has no path where there is none, and errno says why.
  explicit TemporaryFile(const std::vector<char>& bytes);
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class Mapping {
 public:
  enum class Place { kAnywhere, kLow };  // below 2 GiB
  enum class Access { kNone, kExecute, kRead, kWrite };

  Mapping() = default;
  Mapping(Mapping&& other) noexcept { *this = std::move(other); }
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(begin_, other.begin_);
    std::swap(size_, other.size_);
    std::swap(file_, other.file_);
    return *this;
  }
  ~Mapping();

  // Address space without memory; it begins at a multiple of `alignment`, a power of two.
  static Mapping Reserve(uint64_t size, Place place, uint64_t alignment, Refusals& refusals);
  // Memory to be written that can be mapped a second time, to be executed: of no file, or of one
  // that has no name where the system maps the other only once (QEMU's user mode) or lets nothing
  // become executable (MemoryDenyWriteExecute= of systemd).
  static Mapping Shared(uint64_t size, Refusals& refusals);

  explicit operator bool() const { return begin_ != nullptr; }
  char* begin() const { return begin_; }
  uint64_t size() const { return size_; }

  // Puts memory of the process's own, or that of `shared` from `from` on, into the reservation.
  bool Commit(uint64_t offset, uint64_t size, Access access, Refusals& refusals);
  bool Commit(uint64_t offset, uint64_t size, Access access, const Mapping& shared, uint64_t from,
              Refusals& refusals);
  // Puts all that `other` maps there, in one step: whoever reads or executes it meanwhile finds the
  // old memory or the new one. `other` must have been committed as a whole.
  bool Replace(uint64_t offset, Mapping other, Refusals& refusals);
  // What may be done there from now on.
  bool Protect(uint64_t offset, uint64_t size, Access access, Refusals& refusals);

  // Advice: gets the pages at once; lets huge ones be used; gives pages back, of memory of the
  // process's own or, with `shared`, of the file; forgets which pages of a file were used through
  // this mapping. Nothing depends on whether the system follows it.
  void Populate(uint64_t offset, uint64_t size) const;
  void UseHugePages(uint64_t offset, uint64_t size) const;
  void Discard(uint64_t offset, uint64_t size, bool shared) const;
  void Forget() const;

 private:
  char* begin_ = nullptr;
  uint64_t size_ = 0;
  std::unique_ptr<AnonymousFile> file_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_OS_MAPPING_H_
