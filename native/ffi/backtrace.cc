// SPDX-License-Identifier: Apache-2.0
#include "ffi/backtrace.h"

#include <cxxabi.h>
#include <llvm/ADT/STLExtras.h>
#include <llvm/ADT/StringRef.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "os/call_stack.h"
#include "session/loaded_code.h"

namespace object_loader {

namespace {

using llvm::StringRef;

// What follows are tvm-ffi's own rules (backtrace_utils.h).

std::string Demangle(std::string name) {
  int status = 0;
  std::unique_ptr<char, decltype(&std::free)> text(
      abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status), std::free);
  return text && status == 0 && text.get()[0] ? text.get() : std::move(name);
}

bool StartsWithAny(StringRef name, std::initializer_list<StringRef> prefixes) {
  return llvm::any_of(prefixes, [&](StringRef prefix) { return name.starts_with(prefix); });
}

bool IsLeftOut(StringRef name) {
  return StartsWithAny(name, {"tvm::ffi::Function", "tvm::ffi::detail::", "TVMFFIBacktrace",
                              "TVMFFIErrorSetRaisedFromCStr", "__libc_", "ffi_call_"});
}

// Python tells of itself, and what calls it.
bool IsBoundary(StringRef name) {
  return StartsWithAny(
      name, {"TVMFFIFunctionCall", "slot_tp_call", "object_is_not_callable", "_Py", "PyObject"});
}

size_t MostLines() {
  constexpr size_t kDefault = 512;
  const char* given = std::getenv("TVM_TRACEBACK_LIMIT");
  int32_t limit;
  return given && !StringRef(given).getAsInteger(10, limit) && limit >= 0 ? limit : kDefault;
}

// Of a frame; no name where it is not shown.
struct Shown {
  std::string name;
  bool is_loaded;
  std::optional<SourceLine> source;
};

std::string Line(const Shown& frame) {
  const SourceLine source = frame.source.value_or(SourceLine{"<unknown>", 0});
  return "  File \"" + source.file + "\", line " + std::to_string(source.line) + ", in " +
         frame.name + "\n";
}

StringRef NameIn(StringRef line) { return line.rsplit(", in ").second.rtrim('\n'); }

// What tvm-ffi shows of a frame that it knows no function for.
bool IsAddress(StringRef line) { return NameIn(line).starts_with("0x"); }

bool HasSource(StringRef line) { return !line.contains("\"<unknown>\""); }

// Of a function that the compiler has split: a call lies in one part, what follows in another.
StringRef WholeFunction(StringRef name) { return name.substr(0, name.find(" [clone .cold]")); }

// The frames that tvm-ffi would look at, the innermost first; none where no loaded code is there.
std::vector<Shown> FramesToShow(bool cross_ffi_boundary, size_t most) {
  std::vector<Shown> frames;
  std::map<uint64_t, std::string> known;  // recursion makes for many of a kind
  size_t loaded = 0;
  VisitCallStack([&](const CallFrame& frame) {
    auto [entry, is_new] = known.try_emplace(frame.function);
    std::string& name = entry->second;
    auto* load = static_cast<LoadedCode*>(frame.owner);
    if (is_new) {
      name = Demangle(load ? load->FunctionName(frame.function)
                           : NameOfLibraryFunction(frame.function));
    }
    if (!frame.owner && !cross_ffi_boundary && IsBoundary(name)) return false;
    bool is_shown = !IsLeftOut(name);
    frames.push_back({is_shown ? name : "", load != nullptr,
                      load && is_shown ? load->LineAt(frame.address) : std::nullopt});
    if (frame.owner && is_shown && !name.empty()) ++loaded;
    return loaded < most;
  });
  if (loaded == 0) frames.clear();
  return frames;
}

std::vector<std::string> SplitLines(StringRef text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    size_t size = std::min(text.find('\n'), text.size() - 1) + 1;
    lines.push_back(text.take_front(size).str());
    text = text.drop_front(size);
  }
  return lines;
}

// The text with the frames of loaded code. Both end with the outermost frames, so they are compared
// from there: a frame of loaded code that is not in the text comes before what was called further
// out. Of a text that was made just now, whose first `above` lines are further in than all frames,
// those of loaded code come first.
std::string Merge(StringRef text, const std::vector<Shown>& frames, bool is_new, size_t above) {
  std::vector<std::string> lines = SplitLines(text);
  size_t before = lines.size();
  size_t first = 0;  // of the innermost frames of loaded code, and what is after them
  while (first < frames.size() && !frames[first].is_loaded) ++first;
  size_t end = first;
  while (end < frames.size() && frames[end].is_loaded) ++end;
  size_t place = lines.size();
  auto is_at = [&](const Shown& frame, size_t end_of_line) {
    return end_of_line > above &&
           WholeFunction(NameIn(lines[end_of_line - 1])) == WholeFunction(frame.name);
  };
  // Of a stack that ends in no boundary, as that of a thread that a library started, the outermost
  // lines may be of functions that only debug information names.
  bool is_outermost = !lines.empty() && IsAddress(lines.back());
  size_t nameless = 0;
  for (size_t i = frames.size(); i-- > 0;) {
    const Shown& frame = frames[i];
    if (is_new && i + 1 == end) place = above;
    if (frame.name.empty()) {
      if (is_outermost) ++nameless;
      continue;
    }
    size_t further = place;
    while (!is_at(frame, further) && further > above &&
           (IsAddress(lines[further - 1]) || (nameless > 0 && HasSource(lines[further - 1])))) {
      --further;
      if (nameless > 0) --nameless;
    }
    if (is_at(frame, further)) {
      place = further - 1;
    } else if (frame.is_loaded) {
      place = further;
      lines.insert(lines.begin() + static_cast<std::ptrdiff_t>(place), Line(frame));
    } else {
      continue;
    }
    is_outermost = false;
    nameless = 0;
  }
  size_t most = std::max(before, MostLines());
  if (lines.size() > most) lines.resize(most);
  std::string merged;
  for (const std::string& line : lines) merged += line;
  return merged;
}

}  // namespace

const TVMFFIByteArray* Backtrace(const char* filename, int line, const char* function,
                                 int cross_ffi_boundary) {
  // Not to be named as a caller: tvm-ffi leaves out as many frames as this has, where it is told
  // where it was called.
  const TVMFFIByteArray* others =
      filename && function ? TVMFFIBacktrace(filename, line, function, cross_ffi_boundary)
                           : TVMFFIBacktrace("", 0, "TVMFFIBacktrace", cross_ffi_boundary);
  static thread_local std::string text;
  static thread_local TVMFFIByteArray result;
  try {
    std::vector<Shown> frames = FramesToShow(cross_ffi_boundary != 0, MostLines());
    if (frames.empty()) return others;
    StringRef before(others->data, others->size);
    std::string site;
    if (filename && function) {
      site = std::string("  File \"") + filename + "\", line " + std::to_string(line) + ", in " +
             function + "\n";
    }
    bool has_site = !site.empty() && before.starts_with(site);
    // Whoever called says itself where it is.
    if (filename && function) {
      auto caller = llvm::find_if(frames, [](const Shown& frame) { return frame.is_loaded; });
      if (caller != frames.end()) caller->name.clear();
    }
    text = Merge(before, frames, /*is_new=*/true, has_site ? 1 : 0);
    result = {text.data(), text.size()};
    return &result;
  } catch (const std::bad_alloc&) {
    return others;
  }
}

namespace {

// The error that this thread has raised, where its callers have been added. Only compared with.
thread_local const void* completed = nullptr;

void AddFramesTo(TVMFFIObject* error, bool has_returned, bool is_new) {
  try {
    std::vector<Shown> frames = FramesToShow(/*cross_ffi_boundary=*/false, MostLines());
    if (frames.empty()) return;
    if (has_returned) {
      // The call is over: what runs now is the part that deals with failures.
      auto caller = llvm::find_if(frames, [](const Shown& frame) { return frame.is_loaded; });
      caller->name = WholeFunction(caller->name).str();
    }
    auto* cell = TVMFFIErrorGetCellPtr(error);
    StringRef before(cell->backtrace.data, cell->backtrace.size);
    std::string after = Merge(before, frames, is_new, 0);
    if (after.size() == before.size()) return;
    TVMFFIByteArray bytes = {after.data(), after.size()};
    cell->update_backtrace(error, &bytes, kTVMFFIBacktraceUpdateModeReplace);
  } catch (const std::bad_alloc&) {
  }
}

void AddFramesToRaised(bool is_new) {
  TVMFFIObjectHandle error = nullptr;
  TVMFFIErrorMoveFromRaised(&error);
  if (!error) return;
  AddFramesTo(static_cast<TVMFFIObject*>(error), /*has_returned=*/false, is_new);
  completed = error;
  TVMFFIErrorSetRaised(error);
  TVMFFIObjectDecRef(error);
}

}  // namespace

void AddCallersTo(TVMFFIObject* error) {
  AddFramesTo(error, /*has_returned=*/false, /*is_new=*/false);
}

void AddCallersToRaised() { AddFramesToRaised(/*is_new=*/false); }

void ErrorSetRaisedFromCStr(const char* kind, const char* message) {
  TVMFFIErrorSetRaisedFromCStr(kind, message);
  AddFramesToRaised(/*is_new=*/true);
}

void ErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
  TVMFFIErrorSetRaisedFromCStrParts(kind, parts, count);
  AddFramesToRaised(/*is_new=*/true);
}

void ErrorMoveFromRaised(TVMFFIObjectHandle* result) {
  TVMFFIErrorMoveFromRaised(result);
  if (*result == std::exchange(completed, nullptr)) return;
  AddFramesTo(static_cast<TVMFFIObject*>(*result), /*has_returned=*/true, /*is_new=*/false);
}

}  // namespace object_loader
