// SPDX-License-Identifier: Apache-2.0
#include "link/debug_image.h"

#include <llvm/BinaryFormat/ELF.h>
#include <llvm/Support/MathExtras.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <tuple>
#include <utility>

#include "target/target.h"

namespace object_loader {

namespace {

namespace ELF = llvm::ELF;
using llvm::StringRef;

// Strings one after the other, each with a null character.
class Strings {
 public:
  uint32_t Add(StringRef text) {
    auto offset = static_cast<uint32_t>(bytes_.size());
    bytes_.append(text.data(), text.size());
    bytes_.push_back('\0');
    return offset;
  }
  StringRef bytes() const { return bytes_; }

 private:
  std::string bytes_ = std::string(1, '\0');
};

// Far more than there are kinds of debug sections.
constexpr size_t kMostSections = 1000;

bool IsDebug(const ElfView& object, size_t section) {
  const Elf::Shdr& header = object.sections()[section];
  return object.SectionName(section).starts_with(".debug_") &&
         !(header.sh_flags & (ELF::SHF_ALLOC | ELF::SHF_EXCLUDE));
}

}  // namespace

class DebugImage::Writer {
 public:
  Writer(const Resolution& resolution, const Layout& layout, const Relocator& relocator,
         const Relocator::Memories& memories)
      : resolution_(resolution), layout_(layout), relocator_(relocator), memories_(memories) {}

  void Run(DebugImage& image) {
    sections_.emplace_back();
    PlaceMemory();
    ReadDebugSections();
    RelocateDebugSections();
    CollectSymbols(image.functions_);
    Finish(image.bytes_);
  }

 private:
  struct Section {
    Elf::Shdr header = {};
    std::string content;
  };
  // A debug section of an object, in the one of its name.
  struct Part {
    uint32_t object;
    uint32_t section;
    uint32_t output;
    uint64_t offset;
    std::vector<Elf::Rela> relocations;
  };

  uint32_t AddSection(StringRef name, uint32_t type, uint64_t flags, uint64_t address,
                      uint64_t size) {
    Section& section = sections_.emplace_back();
    section.header.sh_name = section_names_.Add(name);
    section.header.sh_type = type;
    section.header.sh_flags = flags;
    section.header.sh_addr = address;
    section.header.sh_size = size;
    section.header.sh_addralign = 1;
    return static_cast<uint32_t>(sections_.size() - 1);
  }

  // Of what is in memory, debuggers read code and frames in the file, too.
  uint32_t AddMemory(StringRef name, uint64_t flags, uint64_t address, uint64_t size,
                     bool has_content) {
    if (size == 0) return 0;
    uint32_t added = AddSection(name, has_content ? ELF::SHT_PROGBITS : ELF::SHT_NOBITS,
                                ELF::SHF_ALLOC | flags, address, size);
    if (has_content) sections_[added].content.assign(reinterpret_cast<const char*>(address), size);
    return added;
  }

  void PlaceMemory() {
    auto address = [&](Layout::Area area) { return memories_[area].address; };
    auto size = [&](Layout::Area area) { return layout_.size(area); };
    area_sections_[Layout::kCode] = AddMemory(".text", ELF::SHF_EXECINSTR, address(Layout::kCode),
                                              size(Layout::kCode), /*has_content=*/true);
    // The frames lie among the constants.
    Layout::Bounds frames = layout_.frames();
    uint64_t constants = address(Layout::kConstants);
    if (frames.begin == frames.end) frames.begin = frames.end = size(Layout::kConstants);
    area_sections_[Layout::kConstants] =
        AddMemory(".rodata", 0, constants, frames.begin, /*has_content=*/false);
    AddMemory(".eh_frame", 0, constants + frames.begin, frames.end - frames.begin,
              /*has_content=*/true);
    uint32_t tables = AddMemory(".got", 0, constants + frames.end,
                                size(Layout::kConstants) - frames.end, /*has_content=*/false);
    if (area_sections_[Layout::kConstants] == 0) area_sections_[Layout::kConstants] = tables;
    area_sections_[Layout::kData] = AddMemory(".data", ELF::SHF_WRITE, address(Layout::kData),
                                              size(Layout::kData), /*has_content=*/false);
    area_sections_[Layout::kZeros] = AddMemory(".bss", ELF::SHF_WRITE, address(Layout::kZeros),
                                               size(Layout::kZeros), /*has_content=*/false);
  }

  void ReadDebugSections() {
    std::map<StringRef, uint32_t> by_name;
    places_.resize(resolution_.section_count());
    for (uint32_t object = 0; object < resolution_.objects().size(); ++object) {
      const ElfView& view = resolution_.objects()[object];
      for (uint32_t section = 1; section < view.sections().size(); ++section) {
        if (!IsDebug(view, section)) continue;
        std::vector<char> content;
        Part part = {object, section, 0, 0, {}};
        if (!view.ReadUnloaded(section, content, part.relocations) || content.empty()) continue;
        uint32_t& output = by_name[view.SectionName(section)];
        if (output == 0 && sections_.size() >= kMostSections) continue;
        if (output == 0) output = AddSection(view.SectionName(section), ELF::SHT_PROGBITS, 0, 0, 0);
        std::string& text = sections_[output].content;
        uint64_t alignment = view.sections()[section].sh_addralign;
        if (llvm::isPowerOf2_64(alignment) && alignment <= 64) {
          text.resize(llvm::alignTo(text.size(), alignment));
        }
        part.output = output;
        part.offset = text.size();
        text.append(content.data(), content.size());
        places_[resolution_.Number(object, section)] = {output, part.offset};
        parts_.push_back(std::move(part));
      }
    }
    for (Section& section : sections_) {
      if (!section.content.empty()) section.header.sh_size = section.content.size();
    }
  }

  void RelocateDebugSections() {
    for (const Part& part : parts_) {
      std::string& content = sections_[part.output].content;
      StringRef name = resolution_.objects()[part.object].SectionName(part.section);
      // Two zeros end a list there, which is to go on after a function that was dropped.
      uint64_t nowhere = name == ".debug_ranges" || name == ".debug_loc" ? 1 : 0;
      for (const Elf::Rela& relocation : part.relocations) {
        const RelocationKind& kind = KindOf(relocation.getType(false));
        uint64_t offset = part.offset + relocation.r_offset;
        if (kind.form == Form::kNothing || kind.form == Form::kRefused ||
            kind.width > content.size() - offset) {
          continue;
        }
        uint64_t value = ValueOf(part.object, relocation, kind.form, nowhere);
        if (kind.from == From::kPlace) value -= offset;
        Patch(kind, &content[offset], value);
      }
    }
  }

  uint64_t ValueOf(uint32_t object, const Elf::Rela& relocation, Form form,
                   uint64_t nowhere) const {
    auto addend = static_cast<uint64_t>(int64_t{relocation.r_addend});
    uint32_t symbol = relocation.getSymbol(false);
    if (symbol == 0) return addend;
    const ElfView& view = resolution_.objects()[object];
    const Elf::Sym& entry = view.symbols()[symbol];
    if (form == Form::kSize) return entry.st_size + addend;
    uint32_t section = view.SectionOf(symbol);
    if (section != 0 && section < view.sections().size() && !view.IsLoaded(section)) {
      return places_[resolution_.Number(object, section)].second + entry.st_value + addend;
    }
    bool is_local = resolution_.GlobalOf(object, symbol) == Resolution::kLocal;
    bool is_dropped = is_local && section < view.sections().size() &&
                      layout_.PlaceOf(resolution_.Number(object, section)).area == Layout::kNowhere;
    if (is_dropped) return nowhere;
    return relocator_.TargetOf(object, symbol).address + addend;
  }

  // Those of the objects, where they are loaded. Local ones come first.
  void CollectSymbols(std::vector<ProfiledFunction>& functions) {
    std::vector<Elf::Sym> locals(1);
    std::vector<Elf::Sym> globals;
    locals[0] = {};
    for (uint32_t object = 0; object < resolution_.objects().size(); ++object) {
      const ElfView& view = resolution_.objects()[object];
      for (uint32_t i = 1; i < view.symbols().size(); ++i) {
        Elf::Sym symbol = view.symbols()[i];
        StringRef name = view.SymbolName(i);
        uint8_t type = symbol.getType();
        uint32_t section = view.SectionOf(i);
        bool is_place = type == ELF::STT_FUNC || type == ELF::STT_OBJECT ||
                        type == ELF::STT_NOTYPE || type == ELF::STT_GNU_IFUNC;
        if (!is_place || name.empty() || name.starts_with(".L") || section == 0 ||
            section >= view.sections().size()) {
          continue;
        }
        Layout::Place place = layout_.PlaceOf(resolution_.Number(object, section));
        if (place.area > Layout::kZeros) continue;
        uint64_t most = layout_.size(place.area) - place.offset - symbol.st_value;
        symbol.st_value = memories_[place.area].address + place.offset + symbol.st_value;
        symbol.st_size = std::min<uint64_t>(symbol.st_size, most);
        symbol.st_name = symbol_names_.Add(name);
        symbol.st_shndx = static_cast<uint16_t>(area_sections_[place.area]);
        (i < view.first_global() ? locals : globals).push_back(symbol);
        if (place.area == Layout::kCode && type != ELF::STT_OBJECT && symbol.st_size != 0) {
          functions.push_back({symbol.st_value, symbol.st_size, name.str()});
        }
      }
    }
    for (const Global& global : resolution_.globals()) {
      if (global.state != Global::State::kCommon) continue;
      Elf::Sym symbol = {};
      symbol.setBindingAndType(ELF::STB_GLOBAL, ELF::STT_OBJECT);
      symbol.st_value = memories_[Layout::kZeros].address + global.offset;
      symbol.st_size = global.value;
      symbol.st_name = symbol_names_.Add(*global.name);
      symbol.st_shndx = static_cast<uint16_t>(area_sections_[Layout::kZeros]);
      globals.push_back(symbol);
    }
    std::sort(functions.begin(), functions.end(),
              [](const ProfiledFunction& a, const ProfiledFunction& b) {
                return std::tie(a.address, b.size, a.name) < std::tie(b.address, a.size, b.name);
              });
    functions.erase(std::unique(functions.begin(), functions.end(),
                                [](const ProfiledFunction& a, const ProfiledFunction& b) {
                                  return a.address == b.address;
                                }),
                    functions.end());
    uint32_t table = AddSection(".symtab", ELF::SHT_SYMTAB, 0, 0, 0);
    uint32_t names = AddSection(".strtab", ELF::SHT_STRTAB, 0, 0, 0);
    Section& section = sections_[table];
    for (const auto* list : {&locals, &globals}) {
      section.content.append(reinterpret_cast<const char*>(list->data()),
                             list->size() * sizeof(Elf::Sym));
    }
    section.header.sh_link = names;
    section.header.sh_info = static_cast<uint32_t>(locals.size());
    section.header.sh_entsize = sizeof(Elf::Sym);
    section.header.sh_addralign = 8;
    sections_[names].content = symbol_names_.bytes();
  }

  void Finish(std::vector<char>& bytes) {
    uint32_t names = AddSection(".shstrtab", ELF::SHT_STRTAB, 0, 0, 0);
    sections_[names].content = section_names_.bytes();
    bytes.resize(sizeof(Elf::Ehdr));
    for (Section& section : sections_) {
      bytes.resize(llvm::alignTo(bytes.size(), 16));
      section.header.sh_offset = bytes.size();
      if (section.header.sh_type == ELF::SHT_NOBITS) continue;
      section.header.sh_size = section.content.size();
      bytes.insert(bytes.end(), section.content.begin(), section.content.end());
    }
    sections_[0].header = {};
    Elf::Ehdr header = resolution_.objects()[0].header();
    header.e_type = ELF::ET_EXEC;
    header.e_entry = 0;
    header.e_phoff = 0;
    header.e_phnum = 0;
    header.e_phentsize = 0;
    bytes.resize(llvm::alignTo(bytes.size(), 16));
    header.e_shoff = bytes.size();
    header.e_shnum = static_cast<uint16_t>(sections_.size());
    header.e_shstrndx = static_cast<uint16_t>(names);
    for (const Section& section : sections_) {
      const char* from = reinterpret_cast<const char*>(&section.header);
      bytes.insert(bytes.end(), from, from + sizeof(section.header));
    }
    std::memcpy(bytes.data(), &header, sizeof(header));
  }

  const Resolution& resolution_;
  const Layout& layout_;
  const Relocator& relocator_;
  const Relocator::Memories& memories_;
  Strings section_names_;
  Strings symbol_names_;
  std::vector<Section> sections_;
  std::array<uint32_t, Layout::kAreaCount> area_sections_ = {};
  std::vector<Part> parts_;
  std::vector<std::pair<uint32_t, uint64_t>> places_;  // by the number of the object's section
};

DebugImage::DebugImage(const Resolution& resolution, const Layout& layout,
                       const Relocator& relocator, const Relocator::Memories& memories) {
  Writer(resolution, layout, relocator, memories).Run(*this);
}

}  // namespace object_loader
