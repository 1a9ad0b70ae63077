// SPDX-License-Identifier: Apache-2.0
//
// Memory from the operating system: reservations of address space, and files that have no name,
// whose pages can be mapped more than once.
//
// Lifetime: a Mapping is unmapped, a file closed, when it goes. Where the system refuses, the
// result is null and errno says why.
#ifndef OBJECT_LOADER_OS_MAPPING_H_
#define OBJECT_LOADER_OS_MAPPING_H_

#include <cstddef>
#include <cstdint>
#include <utility>

namespace object_loader {

uint64_t PageSize();

class AnonymousFile {
 public:
  // Of `size` bytes, all zeros; null where it can't be had. Its pages may be executable where
  // `executable` says so.
  AnonymousFile(const char* name, uint64_t size, bool executable);
  ~AnonymousFile();
  AnonymousFile(const AnonymousFile&) = delete;
  AnonymousFile& operator=(const AnonymousFile&) = delete;

  explicit operator bool() const { return file_ >= 0; }
  int descriptor() const { return file_; }
  // Writes from the start of the file; false where that fails.
  bool Write(const char* bytes, size_t size);

 private:
  int file_;
};

class Mapping {
 public:
  enum class Place { kAnywhere, kLow };  // below 2 GiB
  enum class Access { kExecute, kRead, kWrite };

  Mapping() = default;
  Mapping(Mapping&& other) noexcept { *this = std::move(other); }
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(begin_, other.begin_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Mapping();

  // Address space without memory.
  static Mapping Reserve(uint64_t size, Place place);
  // The whole of a file, to be written.
  static Mapping OfFile(const AnonymousFile& file, uint64_t size);

  explicit operator bool() const { return begin_ != nullptr; }
  char* begin() const { return begin_; }
  uint64_t size() const { return size_; }

  // Puts memory of the process's own, or pages of the file from `from` on, into the reservation.
  bool Commit(uint64_t offset, uint64_t size, Access access);
  bool Commit(uint64_t offset, uint64_t size, Access access, const AnonymousFile& file,
              uint64_t from);
  // Only to be read from now on, or also to be written. Returns an error number, or 0.
  int Protect(uint64_t offset, uint64_t size, Access access);

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
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_OS_MAPPING_H_
