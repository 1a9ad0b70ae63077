// SPDX-License-Identifier: Apache-2.0
#include "os/profiler.h"

#include <fcntl.h>
#include <llvm/ADT/StringExtras.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "base/fork_lock.h"
#include "os/mapping.h"

namespace object_loader {

namespace {

constexpr uint32_t kLoadRecord = 0;
constexpr uint32_t kLinesRecord = 2;

struct DumpHeader {
  uint32_t magic = 0x4A695444;  // "JiTD"
  uint32_t version = 1;
  uint32_t size = sizeof(DumpHeader);
  uint32_t machine;
  uint32_t reserved = 0;
  uint32_t process;
  uint64_t time;
  uint64_t flags = 0;
};

// Before the load record of its function.
struct LinesRecord {
  uint32_t id = kLinesRecord;
  uint32_t size;
  uint64_t time;
  uint64_t address;
  uint64_t count;
};

// The file's name follows it.
struct LineEntry {
  uint64_t address;
  uint32_t line;
  uint32_t discriminator = 0;
};

struct LoadRecord {
  uint32_t id = kLoadRecord;
  uint32_t size;
  uint64_t time;
  uint32_t process;
  uint32_t thread;
  uint64_t address;
  uint64_t loaded_address;
  uint64_t code_size;
  uint64_t number;
};

// The clock of perf record -k mono.
uint64_t Now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1000000000 + static_cast<uint64_t>(time.tv_nsec);
}

// A file that is appended to.
class Output {
 public:
  // Throws FileError. Others may neither write the file nor have put another one in its place: the
  // folder may be everybody's.
  explicit Output(std::string path) : path_(std::move(path)) {
    file_ = open(path_.c_str(), O_CREAT | O_RDWR | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (file_ < 0) throw FileError(errno, path_);
    struct stat status;
    bool is_ours = fstat(file_, &status) == 0 && S_ISREG(status.st_mode) &&
                   status.st_uid == geteuid() && status.st_nlink == 1;
    // What is there is of an earlier process with this number.
    int error = !is_ours ? EPERM : ftruncate(file_, 0) != 0 ? errno : 0;
    if (error == 0) return;
    close(file_);
    throw FileError(error, path_);
  }
  ~Output() { close(file_); }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  int descriptor() const { return file_; }
  // Throws FileError.
  void Append(const std::string& bytes) {
    for (size_t done = 0; done < bytes.size();) {
      ssize_t written = write(file_, bytes.data() + done, bytes.size() - done);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) throw FileError(written < 0 ? errno : ENOSPC, path_);
      done += static_cast<size_t>(written);
    }
  }

 private:
  const std::string path_;
  int file_;
};

template <typename T>
void Add(std::string& bytes, const T& record) {
  bytes.append(reinterpret_cast<const char*>(&record), sizeof(record));
}

void AddText(std::string& bytes, const std::string& text) {
  bytes.append(text.c_str(), text.size() + 1);
}

void AddLines(std::string& bytes, const ProfiledFunction& function) {
  if (function.lines.empty()) return;
  std::string entries;
  for (const ProfiledLine& line : function.lines) {
    LineEntry entry;
    entry.address = line.address;
    entry.line = line.line;
    Add(entries, entry);
    AddText(entries, line.file);
  }
  LinesRecord record;
  record.size = static_cast<uint32_t>(sizeof(record) + entries.size());
  record.time = Now();
  record.address = function.address;
  record.count = function.lines.size();
  Add(bytes, record);
  bytes += entries;
}

std::string DumpFolder() {
  const char* folder = std::getenv("JITDUMPDIR");
  return folder && *folder ? folder : ".";
}

// The files of one process.
class Profile {
 public:
  Profile(pid_t process, uint32_t machine)
      : process_(process),
        map_("/tmp/perf-" + std::to_string(process) + ".map"),
        dump_(DumpFolder() + "/jit-" + std::to_string(process) + ".dump") {
    std::string bytes;
    DumpHeader header;
    header.machine = machine;
    header.process = static_cast<uint32_t>(process);
    header.time = Now();
    Add(bytes, header);
    dump_.Append(bytes);
    // By this perf takes notice of the file: that it is mapped as code is.
    mark_ = mmap(nullptr, PageSize(), PROT_READ | PROT_EXEC, MAP_PRIVATE, dump_.descriptor(), 0);
    if (mark_ == MAP_FAILED) throw FileError(errno, DumpFolder());
  }
  ~Profile() { munmap(mark_, PageSize()); }

  pid_t process() const { return process_; }

  void Append(llvm::ArrayRef<ProfiledFunction> functions) {
    std::string names;
    std::string code;
    for (const ProfiledFunction& function : functions) {
      names += llvm::utohexstr(function.address, /*LowerCase=*/true) + " " +
               llvm::utohexstr(function.size, /*LowerCase=*/true) + " " + function.name + "\n";
      AddLines(code, function);
      LoadRecord record;
      record.size =
          static_cast<uint32_t>(sizeof(record) + function.name.size() + 1 + function.size);
      record.time = Now();
      record.process = static_cast<uint32_t>(process_);
      record.thread = static_cast<uint32_t>(syscall(SYS_gettid));
      record.address = record.loaded_address = function.address;
      record.code_size = function.size;
      record.number = ++count_;
      Add(code, record);
      AddText(code, function.name);
      code.append(reinterpret_cast<const char*>(function.address), function.size);
    }
    map_.Append(names);
    dump_.Append(code);
  }

 private:
  const pid_t process_;
  Output map_;
  Output dump_;
  void* mark_;
  uint64_t count_ = 0;
};

// Never closed: loaded code may outlive everything else.
Profile* current = nullptr;
Mutex& ProfileMutex() {
  static auto* mutex = new Mutex;
  return *mutex;
}

// With the mutex held.
Profile& OfThisProcess(uint32_t machine) {
  pid_t process = getpid();
  if (!current || current->process() != process) {
    auto* profile = new Profile(process, machine);
    delete current;  // the files stay
    current = profile;
  }
  return *current;
}

}  // namespace

void OpenProfile(uint32_t machine) {
  std::lock_guard<Mutex> lock(ProfileMutex());
  OfThisProcess(machine);
}

void AddToProfile(uint32_t machine, llvm::ArrayRef<ProfiledFunction> functions) {
  std::lock_guard<Mutex> lock(ProfileMutex());
  OfThisProcess(machine).Append(functions);
}

}  // namespace object_loader
