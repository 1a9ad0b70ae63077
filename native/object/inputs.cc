// SPDX-License-Identifier: Apache-2.0
#include "object/inputs.h"

#include <llvm/ADT/DenseMap.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/path.h"
#include "object/file_kind.h"
#include "object/symbol_names.h"

namespace object_loader {

namespace {

using llvm::StringRef;

// clang's driver has the linker pull in the runtime that writes the counts to a file by this name,
// to which objects compiled with -fprofile-instr-generate do not refer.
constexpr StringRef kProfileRuntime = "__llvm_profile_runtime";

bool HasProfile(const ElfView& object) {
  for (size_t i = 0; i < object.sections().size(); ++i) {
    if (object.SectionName(i) == "__llvm_prf_data") return true;
  }
  return false;
}

// Pulls members out of archives. The names that it keeps lie in the objects and archives.
class Linker {
 public:
  explicit Linker(llvm::function_ref<bool(StringRef)> is_defined) : is_defined_(is_defined) {}

  // An object that is linked in any case, now or later: nothing is pulled in for what it defines.
  void Announce(const ObjectSymbols& symbols) {
    for (StringRef name : symbols.defined) states_[name] = State::kDefined;
    for (StringRef name : symbols.common) states_.try_emplace(name, State::kAnnouncedCommon);
  }

  // An object that is linked next.
  void Add(const ObjectSymbols& symbols) {
    for (StringRef name : symbols.defined) states_[name] = State::kDefined;
    for (StringRef name : symbols.common) {
      State& state = states_.try_emplace(name, State::kUnknown).first->second;
      if (state != State::kDefined) {
        Want(name, state, is_defined_(name) ? State::kDefined : State::kCommon);
      }
    }
    for (StringRef name : symbols.undefined) Refer(name);
  }

  // The name is undefined in something that is linked.
  void Refer(StringRef name) {
    State& state = states_.try_emplace(name, State::kUnknown).first->second;
    if (state == State::kUnknown) {
      Want(name, state, is_defined_(name) ? State::kDefined : State::kUndefined);
    }
  }

  // Pulls in `members` of the archive, and then what is wanted of it. Returns whether anything was.
  bool Search(const Archive& archive, std::set<uint32_t> members, std::vector<ElfView>& linked) {
    Progress& progress = progress_[&archive];
    progress.pulled.resize(archive.size());
    const std::set<uint32_t> asked_for = members;
    bool any = false;
    uint32_t position = 0;
    // As the linker: from the first member to the last, and again for what was wanted meanwhile.
    for (;;) {
      for (; progress.seen < wanted_.size(); ++progress.seen) {
        for (uint32_t member : archive.Definers(wanted_[progress.seen])) {
          if (!progress.pulled[member]) members.insert(member);
        }
      }
      if (members.empty()) return any;
      auto next = members.lower_bound(position);
      if (next == members.end()) next = members.begin();
      uint32_t member = *next;
      members.erase(next);
      position = member + 1;
      if (progress.pulled[member]) continue;
      const ObjectSymbols& symbols = archive.symbols(member);
      if (!asked_for.count(member) && !IsWanted(symbols)) continue;
      progress.pulled[member] = true;
      any = true;
      linked.push_back(archive.Extract(member));
      Add(symbols);
      if (HasProfile(linked.back())) Refer(kProfileRuntime);
    }
  }

 private:
  enum class State { kUnknown, kAnnouncedCommon, kUndefined, kCommon, kDefined };
  struct Progress {
    size_t seen = 0;  // of wanted_
    std::vector<bool> pulled;
  };

  void Want(StringRef name, State& state, State wanted) {
    if (state == wanted) return;
    state = wanted;
    if (wanted != State::kDefined) wanted_.push_back(name);
  }

  bool IsWanted(const ObjectSymbols& symbols) const {
    for (StringRef name : symbols.defined) {
      State state = states_.lookup(name);
      if (state == State::kUndefined || state == State::kCommon) return true;
    }
    for (StringRef name : symbols.common) {
      if (states_.lookup(name) == State::kUndefined) return true;
    }
    return false;
  }

  llvm::function_ref<bool(StringRef)> is_defined_;
  llvm::DenseMap<StringRef, State> states_;
  std::vector<StringRef> wanted_;  // ever, in the order in which they came up
  std::map<const Archive*, Progress> progress_;
};

ObjectSymbols SymbolsOf(const ElfView& object) {
  ObjectSymbols symbols;
  for (size_t i = object.first_global(); i < object.symbols().size(); ++i) {
    symbols.Add(object.symbols()[i], object.SymbolName(i));
  }
  return symbols;
}

std::set<uint32_t> AllMembers(const Archive& archive) {
  std::set<uint32_t> members;
  for (uint32_t i = 0; i < archive.size(); ++i) members.insert(i);
  return members;
}

// And with tvm-ffi's own symbols, such as an embedded module.
std::set<uint32_t> MembersWithFunctions(const Archive& archive) {
  const std::string prefix = FunctionSymbol("");
  std::set<uint32_t> members;
  for (uint32_t i = 0; i < archive.size(); ++i) {
    for (StringRef symbol : archive.symbols(i).defined) {
      if (symbol.starts_with(prefix)) members.insert(i);
    }
  }
  return members;
}

// See CheckSharedLibrary.
void CheckSegments(FileContent& file) {
  Elf::Ehdr header;
  std::memcpy(&header, file.bytes().data(), sizeof(header));
  uint64_t size = header.e_phnum * sizeof(Elf::Phdr);
  if (header.e_phentsize != sizeof(Elf::Phdr) || header.e_phoff > file.size() ||
      size > file.size() - header.e_phoff) {
    throw ObjectFormatError(file.name() + ": is a truncated or malformed shared library: its " +
                            "program headers are not there");
  }
  std::vector<Elf::Phdr> segments(header.e_phnum);
  file.Copy(header.e_phoff, size, reinterpret_cast<char*>(segments.data()));
  for (const Elf::Phdr& segment : segments) {
    if (segment.p_offset > file.size() || segment.p_filesz > file.size() - segment.p_offset) {
      throw ObjectFormatError(file.name() + ": is a truncated shared library: a segment reaches " +
                              "past the end of the file");
    }
  }
}

}  // namespace

void Inputs::AddFile(const std::string& path) {
  auto content = FileContent::OfFile(path);
  Add(content, {Source::kFile, AbsolutePath(path), content->identity(), nullptr});
}

void Inputs::AddBytes(StringRef bytes, bool immutable, const std::string& name) {
  // What is kept is a copy.
  Add(FileContent::OfBytes(bytes, immutable && !keep_contents_, name),
      {Source::kBytes, name, {}, nullptr});
}

void Inputs::AddAgain(const Source& source) {
  if (source.kind == Source::kLibrary) return AddFile(source.name);
  Add(OpenAgain(source), Source(source));
}

void Inputs::Add(std::shared_ptr<FileContent> content, Source&& source) {
  const FileKind kind = KindOf(content->bytes());
  const bool is_file = source.kind == Source::kFile;
  if (kind == FileKind::kSharedLibrary && is_file) {
    CheckSegments(*content);
    libraries_.push_back(content->name());
    source.kind = Source::kLibrary;
  } else {
    if (keep_contents_) {
      content->FetchAll();
      source.content = content;
    }
    if (kind == FileKind::kArchive) {
      any_archive_ = true;
      if (is_file && Archive::IsThin(content->bytes())) source.kind = Source::kThinArchive;
      inputs_.emplace_back(is_file ? Archive::FromFile(std::move(content))
                                   : Archive::FromBytes(std::move(content)));
    } else {
      inputs_.emplace_back(ElfView(std::move(content)));
    }
  }
  from_->sources.push_back(std::move(source));
}

Inputs ReadAgain(const LoadedFrom& from) {
  bool keeps = std::any_of(from.sources.begin(), from.sources.end(),
                           [](const Source& source) { return source.content != nullptr; });
  Inputs inputs(from.whole_archive, keeps);
  for (const Source& source : from.sources) inputs.AddAgain(source);
  return inputs;
}

void CheckSharedLibrary(const std::string& path) {
  auto content = FileContent::OfFile(path);
  if (KindOf(content->bytes()) == FileKind::kSharedLibrary) return CheckSegments(*content);
  ElfView object(std::move(content));  // or what else it is
  throw ObjectFormatError(path +
                          ": is an object, not a shared library: load it into a dylib of its "
                          "own, and put that into the link order");
}

void Inputs::RequireObjects() const {
  if (has_objects()) return;
  std::string paths;
  for (const std::string& path : libraries_) paths += (paths.empty() ? "" : ", ") + path;
  throw ObjectFormatError(paths +
                          ": a shared library without an object has no functions to make a module "
                          "of; use tvm_ffi.load_module for those that the library itself exports");
}

std::vector<ElfView> Inputs::TakeObjects(llvm::function_ref<bool(StringRef)> is_defined) {
  std::vector<ElfView> linked;
  if (!any_archive_) {
    for (auto& input : inputs_) linked.push_back(std::move(*std::get_if<ElfView>(&input)));
    return linked;
  }

  Linker linker(is_defined);
  std::vector<ObjectSymbols> symbols(inputs_.size());
  bool any_object = false;
  for (size_t i = 0; i < inputs_.size(); ++i) {
    if (auto* object = std::get_if<ElfView>(&inputs_[i])) {
      any_object = true;
      symbols[i] = SymbolsOf(*object);
      linker.Announce(symbols[i]);
    } else if (whole_archive_) {
      const Archive& archive = *std::get_if<Archive>(&inputs_[i]);
      for (uint32_t member = 0; member < archive.size(); ++member) {
        linker.Announce(archive.symbols(member));
      }
    }
  }
  std::string archives;
  for (size_t i = 0; i < inputs_.size(); ++i) {
    if (auto* object = std::get_if<ElfView>(&inputs_[i])) {
      linked.push_back(std::move(*object));
      linker.Add(symbols[i]);
      if (HasProfile(linked.back())) linker.Refer(kProfileRuntime);
      continue;
    }
    const Archive& archive = *std::get_if<Archive>(&inputs_[i]);
    archives += (archives.empty() ? "" : ", ") + archive.name();
    std::set<uint32_t> members;
    if (whole_archive_) {
      members = AllMembers(archive);
    } else if (!any_object) {
      members = MembersWithFunctions(archive);
    }
    linker.Search(archive, std::move(members), linked);
  }
  for (bool any = true; any;) {
    any = false;
    for (auto& input : inputs_) {
      if (auto* archive = std::get_if<Archive>(&input)) any |= linker.Search(*archive, {}, linked);
    }
  }
  if (linked.empty()) {
    throw ObjectFormatError(
        archives + (whole_archive_ ? ": has no members, so there is nothing to load"
                                   : ": no member exports a TVM-FFI function, so there is nothing "
                                     "to load: pass whole_archive=True to load all members, or the "
                                     "objects that use the archive together with it"));
  }
  inputs_.clear();
  return linked;
}

}  // namespace object_loader
