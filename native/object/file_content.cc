// SPDX-License-Identifier: Apache-2.0
#include "object/file_content.h"

#include <fcntl.h>
#include <llvm/Support/FileSystem.h>
#include <llvm/Support/Memory.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <system_error>

#include "base/error.h"

namespace object_loader {

namespace {

using llvm::StringRef;

// How much of a large input is read before it is looked at.
constexpr uint64_t kFirstPiece = 16 << 10;

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
  content->Allocate();
  if (content->is_whole()) {
    close(file);
    content->file_ = -1;
  }
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
  if (file_ >= 0) close(file_);
  if (is_mapped_) {
    llvm::sys::MemoryBlock block(buffer_, size_);
    static_cast<void>(llvm::sys::Memory::releaseMappedMemory(block));
  } else {
    std::free(buffer_);
  }
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
  uint64_t first = size_ <= kSmall ? size_ : kFirstPiece;
  Read(0, first, buffer_);
  fetched_ = first;
}

void FileContent::FetchAll() {
  if (is_whole()) return;
  Read(fetched_, size_ - fetched_, buffer_ + fetched_);
  fetched_ = size_;
}

void FileContent::Copy(uint64_t offset, uint64_t size, char* to) {
  if (offset + size <= fetched_) {
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
