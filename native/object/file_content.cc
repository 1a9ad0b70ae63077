// SPDX-License-Identifier: Apache-2.0
#include "object/file_content.h"

#include <fcntl.h>
#include <llvm/Support/FileSystem.h>
#include <llvm/Support/Memory.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/pages.h"

namespace object_loader {

namespace {

using llvm::StringRef;

// How much of a large input is read at a time: an object can have thousands of small sections.
constexpr uint64_t kBlock = 32 << 10;

}  // namespace

std::shared_ptr<FileContent> FileContent::OfFile(const std::string& path) {
  if (path.find('\0') != std::string::npos) throw FileError(EINVAL, path);
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) throw FileError(errno, path);
  llvm::sys::fs::file_status status;
  std::error_code error = llvm::sys::fs::status(file, status);
  bool is_file = !error && status.type() == llvm::sys::fs::file_type::regular_file;
  if (!is_file) {
    close(file);
    if (error) throw FileError(error.value(), path);
    if (status.type() == llvm::sys::fs::file_type::directory_file) throw FileError(EISDIR, path);
    throw ObjectFormatError(path + ": not a regular file; read it and pass its bytes");
  }
  std::shared_ptr<FileContent> content(new FileContent(path, status.getSize()));
  content->file_ = file;
  auto modified = status.getLastModificationTime().time_since_epoch();
  content->identity_ = {status.getUniqueID().getDevice(), status.getUniqueID().getFile(),
                        status.getSize(),
                        std::chrono::duration_cast<std::chrono::nanoseconds>(modified).count()};
  content->Allocate();
  if (content->is_whole()) content->CloseFile();
  return content;
}

std::shared_ptr<FileContent> FileContent::OfBytes(StringRef bytes, bool immutable,
                                                  const std::string& name) {
  std::shared_ptr<FileContent> content(new FileContent(name, bytes.size()));
  content->source_ = bytes;
  if (immutable) {
    content->data_ = bytes.data();
    content->fetched_ = bytes.size();
  } else {
    content->Allocate();
  }
  return content;
}

std::shared_ptr<FileContent> FileContent::PartOf(std::shared_ptr<FileContent> whole, StringRef part,
                                                 std::string name) {
  std::shared_ptr<FileContent> content(new FileContent(std::move(name), part.size()));
  content->data_ = part.data();
  content->fetched_ = part.size();
  content->whole_ = std::move(whole);
  return content;
}

FileContent::~FileContent() {
  CloseFile();
  if (is_mapped_) {
    llvm::sys::MemoryBlock block(buffer_, size_);
    static_cast<void>(llvm::sys::Memory::releaseMappedMemory(block));
  } else {
    std::free(buffer_);
  }
}

void FileContent::CloseFile() {
  if (file_ >= 0) close(std::exchange(file_, -1));
}

void FileContent::Allocate() {
  int reason = ENOMEM;
  if (size_ <= kSmall) {
    buffer_ = static_cast<char*>(std::malloc(std::max<uint64_t>(size_, 1)));
  } else {
    std::error_code error;
    llvm::sys::MemoryBlock block = llvm::sys::Memory::allocateMappedMemory(
        size_, nullptr, llvm::sys::Memory::MF_READ | llvm::sys::Memory::MF_WRITE, error);
    buffer_ = error ? nullptr : static_cast<char*>(block.base());
    is_mapped_ = buffer_ != nullptr;
    if (error) reason = error.value();
  }
  if (!buffer_) {
    throw OutOfMemoryError("no memory for the " + std::to_string(size_) + " bytes of " + name_ +
                           ": " + std::strerror(reason));
  }
  data_ = buffer_;
  if (size_ > kSmall) {
    blocks_.resize((size_ + kBlock - 1) / kBlock);
    return Fetch(0, 1);
  }
  Read(0, size_, buffer_);
  fetched_ = size_;
}

// A block is read once: what was looked at in it does not change any more.
void FileContent::FetchBlocks(uint64_t offset, uint64_t size) {
  if (size == 0) return;
  const uint64_t end = (offset + size - 1) / kBlock + 1;
  for (uint64_t block = offset / kBlock; block < end;) {
    uint64_t first = block;
    while (block < end && !blocks_[block]) ++block;
    if (block > first) {
      uint64_t begin = first * kBlock;
      Read(begin, std::min(block * kBlock, size_) - begin, buffer_ + begin);
      std::fill(blocks_.begin() + static_cast<std::ptrdiff_t>(first),
                blocks_.begin() + static_cast<std::ptrdiff_t>(block), true);
    }
    while (block < end && blocks_[block]) ++block;
  }
}

void FileContent::FetchAll() {
  if (is_whole()) return;
  if (is_mapped_) AdviseHugePages(buffer_, size_);
  FetchBlocks(0, size_);
  fetched_ = size_;
  CloseFile();
}

void FileContent::Copy(uint64_t offset, uint64_t size, char* to) {
  // Small ones lie beside others of their kind.
  if (size <= kBlock) Fetch(offset, size);
  if (offset + size <= fetched_ || size <= kBlock) {
    if (size != 0) std::memcpy(to, data_ + offset, size);
  } else {
    Read(offset, size, to);
  }
}

void FileContent::Read(uint64_t offset, uint64_t size, char* to) {
  if (file_ < 0) {
    if (size != 0) std::memcpy(to, source_.data() + offset, size);
    return;
  }
  while (size > 0) {
    ssize_t got = pread(file_, to, size, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw FileError(errno, name_);
    if (got == 0) throw ObjectFormatError(name_ + ": became shorter while it was read");
    auto read = static_cast<uint64_t>(got);
    offset += read;
    size -= read;
    to += read;
  }
}

}  // namespace object_loader
