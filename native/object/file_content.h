// SPDX-License-Identifier: Apache-2.0
//
// FileContent: the bytes of one input, each read once: what happens to the file or the buffer later
// changes nothing.
//
// What is small is read at once. Of large inputs only the blocks are read in which somebody asks
// for something, tables and small sections with Fetch; the content of large sections goes straight
// to where it is needed, with Copy. A file is never mapped, so one that becomes shorter is an error
// and no signal.
//
// Lifetime: owns the open file and what was read. Concurrency: for one thread at a time.
#ifndef OBJECT_LOADER_OBJECT_FILE_CONTENT_H_
#define OBJECT_LOADER_OBJECT_FILE_CONTENT_H_

#include <llvm/ADT/StringRef.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace object_loader {

// What tells whether a path still leads to what was read there.
struct FileIdentity {
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t size = 0;
  int64_t modified = 0;  // nanoseconds since 1970

  friend bool operator==(const FileIdentity& a, const FileIdentity& b) {
    return a.device == b.device && a.inode == b.inode && a.size == b.size &&
           a.modified == b.modified;
  }
};

class FileContent {
 public:
  // Inputs of up to so many bytes are read at once.
  static constexpr uint64_t kSmall = 256 << 10;

  // Throws FileError, OutOfMemoryError, and ObjectFormatError for what is no file on a disk.
  static std::shared_ptr<FileContent> OfFile(const std::string& path);
  // `bytes` must outlive the result. Others may write into them meanwhile, unless `immutable` says
  // that nobody does.
  static std::shared_ptr<FileContent> OfBytes(llvm::StringRef bytes, bool immutable,
                                              const std::string& name = "<bytes>");
  // A part of `whole`, which has been fetched.
  static std::shared_ptr<FileContent> PartOf(std::shared_ptr<FileContent> whole,
                                             llvm::StringRef part, std::string name);
  ~FileContent();
  FileContent(const FileContent&) = delete;
  FileContent& operator=(const FileContent&) = delete;

  // What the caller gave: the path, or "<bytes>"; "libfoo.a(bar.o)" for an archive's member.
  const std::string& name() const { return name_; }
  uint64_t size() const { return size_; }
  // Of the file, when it was opened.
  const FileIdentity& identity() const { return identity_; }

  // Of the content's full size; only what has been fetched may be read in it. The first 64 bytes
  // have been, if there are so many.
  llvm::StringRef bytes() const { return {data_, size_}; }

  // Makes a range readable in bytes(). It lies within the content. Throws as OfFile does.
  void Fetch(uint64_t offset, uint64_t size) {
    if (offset + size > fetched_) FetchBlocks(offset, size);
  }
  // All of it; the file is closed then.
  void FetchAll();
  // Copies a range that was not fetched, or was.
  void Copy(uint64_t offset, uint64_t size, char* to);
  // Whether all of the content is readable in bytes().
  bool is_whole() const { return fetched_ == size_; }

 private:
  FileContent(std::string name, uint64_t size) : name_(std::move(name)), size_(size) {}
  void Allocate();
  void CloseFile();
  void FetchBlocks(uint64_t offset, uint64_t size);
  void Read(uint64_t offset, uint64_t size, char* to);

  const std::string name_;
  const uint64_t size_;
  FileIdentity identity_;
  const char* data_ = nullptr;
  uint64_t fetched_ = 0;      // so many bytes from the start on
  std::vector<bool> blocks_;  // those that have been fetched
  char* buffer_ = nullptr;    // what data_ is where it is our own
  bool is_mapped_ = false;    // the buffer, whose pages cost nothing until they are written
  int file_ = -1;
  llvm::StringRef source_;  // bytes of the caller's, where there is no file
  std::shared_ptr<FileContent> whole_;
};

}  // namespace object_loader

#endif  // OBJECT_LOADER_OBJECT_FILE_CONTENT_H_
