// SPDX-License-Identifier: Apache-2.0
//
// Resolution: which of the sections and symbols of a load's objects count, as a linker decides for
// `cc -shared a.o b.o`: one of the groups of each signature, one definition of each symbol, strong
// before common before weak.
//
// What is defined or referred to outside of the load is bound here by the caller (see Binder),
// before anything is laid out; so a missing symbol is known before memory is allocated.
//
// Lifetime: refers to the objects, which outlive it. Concurrency: for one thread at a time.
// Format: gABI chapter 4, "Symbol Table" and "Section Groups".
#ifndef OBJECT_LOADER_LINK_RESOLUTION_H_
#define OBJECT_LOADER_LINK_RESOLUTION_H_

#include <llvm/ADT/DenseMap.h>
#include <llvm/ADT/DenseSet.h>
#include <llvm/ADT/STLFunctionalExtras.h>

#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/name.h"
#include "link/tls_module.h"
#include "object/elf_view.h"

namespace object_loader {

// A symbol that a linker defines where nobody else does, or that is each library's own.
enum class LinkerSymbol : uint8_t {
  kNone,
  kDsoHandle,     // __dso_handle: what __cxa_atexit and __cxa_finalize know the load by
  kOffsetTable,   // _GLOBAL_OFFSET_TABLE_
  kThreadLocals,  // _TLS_MODULE_BASE_: the start of the load's thread-local variables
  kSectionStart,  // __start_NAME and __stop_NAME: the ends of section NAME
  kSectionStop,
  kCodeEnd,     // _etext, etext
  kContentEnd,  // _edata, edata
  kZerosStart,  // __bss_start
  kEnd,         // _end, end
  kInit,        // _init and _fini: what sections .init and .fini make
  kFini,
  kHeader,  // __ehdr_start: an ELF header, which has no segments to tell of
  kImage,   // _DYNAMIC: a part of a file, which a load has not
};

// A global symbol of the load's objects.
struct Global {
  enum class State : uint8_t {
    kUndefined,
    kDefined,   // in a section, by the object's symbol
    kCommon,    // by the largest of common symbols
    kAbsolute,  // a number
    kLinker,    // see `linker`
    kBound,     // to `value`, or to a thread-local variable
    kNull,      // undefined, and may be
  };
  NameRef name;
  State state = State::kUndefined;
  LinkerSymbol linker = LinkerSymbol::kNone;
  // Of the definition, or where there is none of all references: whether it is weak.
  bool weak = true;
  bool is_unique = false;        // STB_GNU_UNIQUE: one for the whole process
  bool is_grouped = false;       // defined in a COMDAT group: as every other user of its header
  bool is_hidden = false;        // not visible outside the dylib
  bool is_thread_local = false;  // defined so
  bool is_function = false;      // defined so
  bool is_data = false;          // defined so: a variable
  bool is_own = false;           // defined by the objects that the load was given
  bool is_referenced = false;    // by something that is loaded
  bool was_dropped = false;      // a definition of it, with its group
  bool is_unloaded = false;      // it lies in a section that is not loaded
  uint8_t needs = 0;             // see Need
  uint32_t near_uses = 0;        // references that take it for one near by, or below 4 GiB
  uint32_t object = 0;           // of the definition, or of the first reference
  uint32_t last_object = ~0U;    // the last one that refers to it
  uint32_t symbol = 0;
  uint64_t value = 0;      // of kAbsolute and kBound; of kCommon the number of bytes
  uint64_t alignment = 0;  // of kCommon
  uint64_t offset = 0;     // of kCommon, among the zeros, when that is decided
};

// How a symbol is referred to.
enum Need : uint8_t {
  kNeedsSlot = 1,    // an entry of the global offset table
  kNeedsNear = 2,    // a distance that not every address is within
  kNeedsNarrow = 4,  // an address of 32 bits, or less
  kNeedsBranch = 8,  // a distance, to be jumped to
  kNeedsThreadLocal = 16,
  kNeedsThreadOffset = 32,  // a thread-local variable by its distance from the thread pointer
  kNeedsFarSlot = 64,       // a slot where it is not the load's own
};

class Resolution {
 public:
  static constexpr uint32_t kLocal = ~0U;

  // The first `own` of the objects are what the load was given; what the others define is for these
  // alone. `has_group` tells of groups that the dylib has already. Throws ObjectFormatError,
  // LinkError and DuplicateSymbolError (two of the objects define the same symbol).
  Resolution(const std::vector<ElfView>& objects, size_t own,
             llvm::function_ref<bool(NameRef)> has_group);
  Resolution(const Resolution&) = delete;
  Resolution& operator=(const Resolution&) = delete;

  // Of the load, for messages: the objects that it was given, at most a few of them.
  const std::string& name() const { return name_; }
  const std::vector<ElfView>& objects() const { return objects_; }
  size_t own() const { return own_; }

  // Sections of all objects are numbered through.
  uint32_t Number(size_t object, size_t section) const {
    return first_section_[object] + static_cast<uint32_t>(section);
  }
  uint32_t section_count() const { return first_section_.back(); }
  // Whether the section is loaded if something refers to it: false for those of dropped groups.
  bool IsKept(uint32_t section) const { return kept_[section]; }

  std::vector<Global>& globals() { return globals_; }
  const std::vector<Global>& globals() const { return globals_; }
  // The global that the object's symbol stands for, or kLocal.
  uint32_t GlobalOf(size_t object, uint32_t symbol) const {
    uint32_t first = first_global_[object];
    return symbol < first ? kLocal : global_of_[object][symbol - first];
  }
  Global* Find(llvm::StringRef name);
  uint32_t IndexOf(const Global& global) const {
    return static_cast<uint32_t>(&global - globals_.data());
  }

  // Whether any section of this name is kept.
  bool HasSection(llvm::StringRef name) const;
  // Whether code takes the global for one near by, or below 4 GiB, as without -fPIC.
  bool IsExpectedNear(uint32_t global);

  // Of the names that are no text of an object. The caller takes them with the globals' names.
  std::deque<std::string> TakeMadeNames() { return std::move(made_names_); }

  // The signatures of the groups that are kept, of the objects that the load was given.
  const std::vector<NameRef>& groups() const { return groups_; }

  // Whether any section of the object was dropped in favour of another one's.
  bool HasDropped(size_t object) const { return dropped_[object]; }

  // Drops the definition, if there is one, in favour of what is elsewhere.
  void Bind(Global& global, uint64_t address);
  void Bind(Global& global, TlsVariable variable);
  // Lets the reference be null.
  void BindToNull(Global& global) { global.state = Global::State::kNull; }
  // Of a global that is bound to one; null otherwise.
  const TlsVariable* ThreadLocal(const Global& global) const;

 private:
  using State = Global::State;

  void ResolveGroups(size_t object, llvm::function_ref<bool(NameRef)> has_group);
  void DropSection(size_t object, uint32_t section);
  void ResolveSymbols(size_t object);
  uint32_t Intern(NameRef name, size_t object, uint32_t symbol);
  void Define(Global& global, size_t object, uint32_t symbol, Global definition);
  void Refer(Global& global, size_t object, const Elf::Sym& symbol, bool is_new);
  bool KeepGroup(llvm::StringRef signature, size_t object,
                 llvm::function_ref<bool(NameRef)> has_group);

  const std::vector<ElfView>& objects_;
  const size_t own_;
  std::string name_;
  std::vector<uint32_t> first_section_;
  std::vector<uint32_t> first_global_;
  std::vector<bool> kept_;
  std::vector<bool> grouped_;  // members of COMDAT groups
  std::vector<Global> globals_;
  std::deque<std::string> made_names_;  // those without the versions that objects give them
  llvm::DenseMap<NameRef, uint32_t> by_name_;
  std::vector<std::vector<uint32_t>> global_of_;
  std::vector<NameRef> groups_;
  llvm::DenseMap<NameRef, size_t> group_of_;   // signature -> object
  llvm::DenseSet<NameRef> single_;             // signatures of groups with one section
  llvm::DenseMap<NameRef, size_t> link_once_;  // NAME of .gnu.linkonce.x.NAME -> object
  std::unordered_map<const Global*, TlsVariable> thread_locals_;
  std::vector<std::pair<uint32_t, size_t>> duplicates_;  // global, the second object
  std::vector<bool> expected_near_;                      // by global, when somebody has asked
  std::vector<bool> dropped_;                            // by object
};

// The names of several objects, at most a few of them: "a.o + b.o + 7 more".
std::string ListObjects(const std::vector<ElfView>& objects, size_t count);

}  // namespace object_loader

#endif  // OBJECT_LOADER_LINK_RESOLUTION_H_
