// SPDX-License-Identifier: Apache-2.0
#include "object/archive.h"

#include <llvm/ADT/STLExtras.h>
#include <llvm/BinaryFormat/ELF.h>
#include <llvm/Object/ELF.h>
#include <llvm/Support/Endian.h>
#include <llvm/Support/MathExtras.h>

#include <cstring>
#include <map>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "object/file_kind.h"

namespace object_loader {

namespace {

using llvm::StringRef;
using ElfFile = llvm::object::ELFFile<Elf>;
namespace ELF = llvm::ELF;

constexpr StringRef kMagic = "!<arch>\n";
constexpr StringRef kThinMagic = "!<thin>\n";

struct Header {
  char name[16];
  char date[12];
  char user[6];
  char group[6];
  char mode[8];
  char size[10];
  char end[2];
};
static_assert(sizeof(Header) == 60, "a member's header is 60 characters");

// The global symbols of an object for this process, called `name` in messages. Far less is read and
// checked than for an ElfView: of most members of an archive, nothing else is ever needed.
ObjectSymbols ReadSymbols(StringRef content, const std::string& name) {
  auto check = [&](llvm::Error error) {
    if (error) {
      throw ObjectFormatError(name + ": is truncated or malformed: " + Message(std::move(error)));
    }
  };
  ObjectSymbols symbols;
  auto file = ElfFile::create(content);
  check(file.takeError());
  auto sections = file->sections();
  check(sections.takeError());
  for (const Elf::Shdr& section : *sections) {
    if (section.sh_type != ELF::SHT_SYMTAB) continue;
    auto table = file->symbols(&section);
    check(table.takeError());
    auto names = file->getStringTableForSymtab(section, *sections);
    check(names.takeError());
    for (const Elf::Sym& symbol : *table) {
      if (symbol.getBinding() == ELF::STB_LOCAL) continue;
      auto symbol_name = symbol.getName(*names);
      check(symbol_name.takeError());
      symbols.Add(symbol, *symbol_name);
    }
  }
  return symbols;
}

}  // namespace

void ObjectSymbols::Add(const Elf::Sym& symbol, StringRef symbol_name) {
  size_t at = symbol_name.find("@@");
  if (at != StringRef::npos) {
    StringRef version = symbol_name.drop_front(at).ltrim('@');
    StringRef name = symbol_name.take_front(at);
    symbol_name = made.emplace_back((name + "@" + version).str());
    if (symbol.st_shndx != ELF::SHN_UNDEF) defined.push_back(name);
  }
  bool in_section = symbol.st_shndx < ELF::SHN_LORESERVE || symbol.st_shndx == ELF::SHN_XINDEX ||
                    symbol.st_shndx == ELF::SHN_ABS;
  if (!in_section) {  // common, also in the processor's own kind of it
    common.push_back(symbol_name);
  } else if (symbol.st_shndx != ELF::SHN_UNDEF) {
    defined.push_back(symbol_name);
  } else if (symbol.getBinding() != ELF::STB_WEAK) {
    undefined.push_back(symbol_name);
  }
}

bool Archive::IsThin(StringRef content) { return content.starts_with(kThinMagic); }

Archive Archive::FromFile(std::shared_ptr<FileContent> content) {
  std::string path = content->name();
  Archive archive(std::move(content));
  archive.ReadMembers(&path);
  return archive;
}

Archive Archive::FromBytes(std::shared_ptr<FileContent> content) {
  Archive archive(std::move(content));
  archive.ReadMembers(nullptr);
  return archive;
}

void Archive::ReadMembers(const std::string* path) {
  content_->FetchAll();
  StringRef content = content_->bytes();
  bool thin = IsThin(content);
  if (thin && !path) {
    Fail("is a thin archive, whose members are files beside it: pass its path, not its content");
  }
  std::string folder;
  if (thin) folder = path->substr(0, path->rfind('/') + 1);
  StringRef long_names;
  StringRef symbol_table;
  unsigned symbol_table_width = 0;

  for (uint64_t offset = kMagic.size(); offset < content.size();) {
    auto malformed = [&](const std::string& what) {
      Fail("is truncated or malformed: the member at offset " + std::to_string(offset) + " " +
           what);
    };
    if (content.size() - offset < sizeof(Header)) malformed("ends within its header");
    const auto* header = reinterpret_cast<const Header*>(content.data() + offset);
    if (StringRef(header->end, 2) != "`\n") malformed("has no header");
    uint64_t size;
    if (StringRef(header->size, sizeof(header->size)).rtrim(' ').getAsInteger(10, size)) {
      malformed("has a size that is no number");
    }
    StringRef rest = content.drop_front(offset + sizeof(Header));
    StringRef name = StringRef(header->name, sizeof(header->name)).rtrim(' ');
    bool is_table = name == "/" || name == "//" || name == "/SYM64/";
    bool is_file = thin && !is_table;
    if (!is_file && size > rest.size()) malformed("reaches past the end of the file");
    StringRef data = is_file ? StringRef() : rest.take_front(size);
    uint64_t position;
    if (name == "//") {
      long_names = data;
    } else if (is_table) {
      // Microsoft's archives have a second one, of another format.
      if (symbol_table_width == 0) symbol_table = data;
      symbol_table_width = name == "/" ? 4 : 8;
    } else {
      if (name.consume_front("#1/")) {
        if (name.getAsInteger(10, position) || position > data.size()) {
          malformed("has a name that reaches past its end");
        }
        name = data.take_front(position).rtrim('\0');
        data = data.drop_front(position);
      } else if (name.consume_front("/")) {
        if (name.contains(':')) malformed("is a member of another archive, which is not supported");
        if (name.getAsInteger(10, position) || position >= long_names.size()) {
          malformed("has a name that is not in the table of names");
        }
        name = long_names.drop_front(position);
        name = name.take_front(name.find('\n'));
        name.consume_back("/");
      } else {
        name.consume_back("/");
      }
      if (!name.starts_with("__.SYMDEF")) {
        Member member;
        member.name = name.str();
        member.header_offset = offset;
        member.content = data;
        if (is_file) {
          if (name.empty() || name.contains('\0')) malformed("has no name");
          member.path = name.starts_with("/") ? name.str() : folder + name.str();
        }
        members_.push_back(std::move(member));
      }
    }
    offset = llvm::alignTo(offset + sizeof(Header) + (is_file ? 0 : size), 2);
  }
  ReadMemberSymbols();
  if (symbol_table_width != 0) ReadSymbolTable(symbol_table, symbol_table_width);
}

void Archive::ReadMemberSymbols() {
  bool any_loadable = false;
  const Member* foreign = nullptr;
  for (size_t i = 0; i < members_.size(); ++i) {
    Member& member = members_[i];
    if (!member.path.empty()) {
      try {
        member.file = FileContent::OfFile(member.path);
        if (KindOf(member.file->bytes()) == FileKind::kObject) member.file->FetchAll();
      } catch (const FileError&) {
        continue;  // as the linker, which misses only what it needs
      } catch (const ObjectFormatError&) {
        continue;  // no file on a disk
      }
      member.content = member.file->bytes();
    }
    if (KindOf(member.content) == FileKind::kObject) {
      any_loadable = true;
      member.symbols = ReadSymbols(member.content, MemberName(member));
      // Of GCC's -flto without -ffat-lto-objects, which leaves no code, only this mark.
      member.readable = !llvm::is_contained(member.symbols.common, "__gnu_lto_slim");
      for (const auto* names : {&member.symbols.defined, &member.symbols.common}) {
        for (StringRef symbol : *names) {
          auto& definers = definers_[symbol];
          if (definers.empty() || definers.back() != i) definers.push_back(i);
        }
      }
    } else if (!foreign && IsForeignObject(member.content)) {
      foreign = &member;
    }
  }
  // An archive for another machine, say: better said than found out symbol by symbol.
  if (!any_loadable && foreign) Extract(static_cast<size_t>(foreign - members_.data()));
}

// GNU's: a big-endian count, as many offsets of headers, and as many names.
void Archive::ReadSymbolTable(StringRef table, unsigned width) {
  auto number = [&](uint64_t index) -> uint64_t {
    const char* place = table.data() + index * width;
    return width == 4 ? llvm::support::endian::read32be(place)
                      : llvm::support::endian::read64be(place);
  };
  if (table.size() < width) return;
  uint64_t count = number(0);
  if (count > table.size() / width - 1) return;
  std::map<uint64_t, uint32_t> opaque;  // offset -> the member there
  for (uint32_t i = 0; i < members_.size(); ++i) {
    if (!members_[i].readable) opaque[members_[i].header_offset] = i;
  }
  if (opaque.empty()) return;
  StringRef names = table.drop_front((count + 1) * width);
  for (uint64_t i = 1; i <= count && !names.empty(); ++i) {
    StringRef name;
    std::tie(name, names) = names.split('\0');
    auto member = opaque.find(number(i));
    if (member == opaque.end()) continue;
    members_[member->second].symbols.defined.push_back(name);
    definers_[name].push_back(member->second);
  }
}

llvm::ArrayRef<uint32_t> Archive::Definers(StringRef symbol) const {
  auto found = definers_.find(symbol);
  if (found == definers_.end()) return {};
  return found->second;
}

ElfView Archive::Extract(size_t index) const {
  const Member& member = members_[index];
  if (!member.path.empty() && !member.file) FileContent::OfFile(member.path);  // throws again
  return ElfView(FileContent::PartOf(member.file ? member.file : content_, member.content,
                                     MemberName(member)));
}

std::string Archive::MemberName(const Member& member) const {
  return name() + "(" + member.name + ")";
}

void Archive::Fail(const std::string& what) const { throw ObjectFormatError(name() + ": " + what); }

}  // namespace object_loader
