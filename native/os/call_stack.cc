// SPDX-License-Identifier: Apache-2.0
#include "os/call_stack.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <link.h>
#include <unistd.h>
#include <unwind.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

#include "base/fork_lock.h"
#include "os/dynamic_symbols.h"

namespace object_loader {

namespace {

using Visit = llvm::function_ref<bool(const CallFrame&)>;

_Unwind_Reason_Code VisitFrame(_Unwind_Context* context, void* visit) {
  uint64_t function = _Unwind_GetRegionStart(context);
  int is_interrupted = 0;
  uint64_t address = _Unwind_GetIPInfo(context, &is_interrupted);
  if (!is_interrupted) --address;
  CodeOwner* owner = CodeOwner::FindByAddress(reinterpret_cast<const void*>(function));
  return (*static_cast<Visit*>(visit))({address, function, owner}) ? _URC_NO_REASON
                                                                   : _URC_END_OF_STACK;
}

struct FunctionSearch {
  uint64_t address;
  std::string name;

  static int Visit(dl_phdr_info* info, size_t, void* search) {
    auto& self = *static_cast<FunctionSearch*>(search);
    bool is_here = false;
    const ElfW(Dyn)* dynamic = nullptr;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
      const ElfW(Phdr) & segment = info->dlpi_phdr[i];
      uint64_t begin = info->dlpi_addr + segment.p_vaddr;
      if (segment.p_type == PT_DYNAMIC) dynamic = reinterpret_cast<const ElfW(Dyn)*>(begin);
      is_here |= segment.p_type == PT_LOAD && self.address - begin < segment.p_memsz;
    }
    if (!is_here) return 0;
    if (dynamic) {
      if (const char* name = DynamicSymbols(info->dlpi_addr, dynamic).FunctionAt(self.address)) {
        self.name = name;
      }
    }
    return 1;
  }
};

}  // namespace

void VisitCallStack(Visit visit) { _Unwind_Backtrace(VisitFrame, &visit); }

namespace {

// How many libraries were closed so far.
int CountClosed(dl_phdr_info* info, size_t, void* result) {
  *static_cast<uint64_t*>(result) = info->dlpi_subs;
  return 1;
}

// A library's symbols are not sorted by address. So what was found is kept: the same callers come
// again with every error.
struct KnownNames {
  static constexpr size_t kMost = 4096;

  Mutex mutex;
  std::map<uint64_t, std::string> names;
  uint64_t closed = 0;  // libraries, as of when the names were found
};

KnownNames& Known() {
  static auto* known = new KnownNames;
  return *known;
}

}  // namespace

std::string NameOfLibraryFunction(uint64_t address) {
  KnownNames& known = Known();
  uint64_t closed = 0;
  dl_iterate_phdr(CountClosed, &closed);
  {
    std::lock_guard<Mutex> lock(known.mutex);
    if (known.closed != closed || known.names.size() >= KnownNames::kMost) known.names.clear();
    known.closed = closed;
    auto found = known.names.find(address);
    if (found != known.names.end()) return found->second;
  }
  FunctionSearch search = {address, {}};
  dl_iterate_phdr(FunctionSearch::Visit, &search);
  std::lock_guard<Mutex> lock(known.mutex);
  if (known.closed == closed) known.names.try_emplace(address, search.name);
  return search.name;
}

static_assert(sizeof(LibraryAddress) == sizeof(Dl_info) &&
              offsetof(LibraryAddress, base) == offsetof(Dl_info, dli_fbase) &&
              offsetof(LibraryAddress, symbol) == offsetof(Dl_info, dli_sname) &&
              offsetof(LibraryAddress, symbol_address) == offsetof(Dl_info, dli_saddr));

int FindLibraryAddress(const void* address, LibraryAddress* result) {
  Dl_info info;
  int found = dladdr(address, &info);
  if (found) *result = {info.dli_fname, info.dli_fbase, info.dli_sname, info.dli_saddr};
  return found;
}

std::string DescribeLibraryAddress(const void* address) {
  void* addresses[] = {const_cast<void*>(address)};
  std::unique_ptr<char*, decltype(&std::free)> lines(backtrace_symbols(addresses, 1), std::free);
  if (!lines) throw std::bad_alloc();
  return lines.get()[0];
}

void WriteLine(int file, std::string line) {
  line += '\n';
  for (size_t done = 0; done < line.size();) {
    ssize_t written = write(file, line.data() + done, line.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    done += static_cast<size_t>(written);
  }
}

}  // namespace object_loader
