// SPDX-License-Identifier: Apache-2.0
#include "file_content.h"

#include <fcntl.h>
#include <llvm/BinaryFormat/ELF.h>
#include <llvm/Object/ELFTypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "error.h"

namespace object_loader {

namespace {

using llvm::StringRef;
using Elf = llvm::object::ELF64LE;
namespace ELF = llvm::ELF;

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

// How much of a file is read before it is looked at.
constexpr size_t kFirstPiece = 64 << 10;

// Whether a file that begins with `start` is a shared library (or a position-independent
// executable, which looks the same) for this process.
bool IsSharedLibrary(StringRef start) {
  if (start.size() < sizeof(Elf::Ehdr)) return false;
  const auto& header = *reinterpret_cast<const Elf::Ehdr*>(start.data());
  return header.checkMagic() && header.e_ident[ELF::EI_CLASS] == ELF::ELFCLASS64 &&
         header.e_ident[ELF::EI_DATA] == ELF::ELFDATA2LSB && header.e_machine == ELF::EM_X86_64 &&
         header.e_type == ELF::ET_DYN;
}

// The dynamic linker maps what a library's headers say, and touching pages past the end of a file
// is a SIGBUS. Throws ObjectFormatError where this could happen.
void CheckSegments(StringRef start, int file, uint64_t size, const std::string& path) {
  const auto& header = *reinterpret_cast<const Elf::Ehdr*>(start.data());
  std::vector<Elf::Phdr> segments(header.e_phnum);
  size_t table_size = segments.size() * sizeof(Elf::Phdr);
  if (header.e_phentsize != sizeof(Elf::Phdr) ||
      pread(file, segments.data(), table_size, static_cast<off_t>(uint64_t{header.e_phoff})) !=
          static_cast<ssize_t>(table_size)) {
    throw ObjectFormatError(path + ": is a truncated or malformed shared library: its program " +
                            "headers are not there");
  }
  for (const Elf::Phdr& segment : segments) {
    if (segment.p_offset > size || segment.p_filesz > size - segment.p_offset) {
      throw ObjectFormatError(path + ": is a truncated shared library: a segment reaches past " +
                              "the end of the file");
    }
  }
}

std::unique_ptr<llvm::WritableMemoryBuffer> NewBuffer(size_t size, const std::string& name) {
  auto buffer = llvm::WritableMemoryBuffer::getNewUninitMemBuffer(size, name);
  if (!buffer)
    throw OutOfMemoryError("no memory for the " + std::to_string(size) + " bytes of " + name);
  return buffer;
}

}  // namespace

std::unique_ptr<llvm::WritableMemoryBuffer> ReadFile(const std::string& path) {
  if (path.find('\0') != std::string::npos) throw FileError(EINVAL, path);
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status;
  if (file.get() < 0 || fstat(file.get(), &status) != 0) throw FileError(errno, path);
  if (S_ISDIR(status.st_mode)) throw FileError(EISDIR, path);
  if (!S_ISREG(status.st_mode)) {
    throw ObjectFormatError(path + ": not a regular file; read it and pass its bytes");
  }
  auto buffer = NewBuffer(static_cast<size_t>(status.st_size), path);
  size_t done = 0;
  while (done < buffer->getBufferSize()) {
    size_t wanted = buffer->getBufferSize() - done;
    if (done == 0) wanted = std::min(wanted, kFirstPiece);
    ssize_t got = read(file.get(), buffer->getBufferStart() + done, wanted);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw FileError(errno, path);
    if (got == 0) throw ObjectFormatError(path + ": became shorter while it was read");
    bool first = done == 0;
    done += static_cast<size_t>(got);
    StringRef start(buffer->getBufferStart(), done);
    if (first && IsSharedLibrary(start)) {
      CheckSegments(start, file.get(), buffer->getBufferSize(), path);
      return nullptr;
    }
  }
  return buffer;
}

std::unique_ptr<llvm::WritableMemoryBuffer> CopyBytes(std::string_view bytes,
                                                      const std::string& name) {
  auto buffer = NewBuffer(bytes.size(), name);
  if (!bytes.empty()) std::memcpy(buffer->getBufferStart(), bytes.data(), bytes.size());
  return buffer;
}

}  // namespace object_loader
