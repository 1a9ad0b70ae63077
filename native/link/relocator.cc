// SPDX-License-Identifier: Apache-2.0
#include "link/relocator.h"

#include <llvm/ADT/StringExtras.h>
#include <llvm/BinaryFormat/ELF.h>

#include <cstring>

#include "base/error.h"
#include "link/elf_header.h"
#include "os/thread_exit.h"
#include "target/target.h"

namespace object_loader {

namespace {

namespace ELF = llvm::ELF;
using State = Global::State;

}  // namespace

uint64_t Relocator::LocalAddress(uint32_t object, uint32_t symbol, bool& is_thread_local) const {
  is_thread_local = false;
  if (symbol == 0) return 0;
  const ElfView& view = resolution_.objects()[object];
  const Elf::Sym& entry = view.symbols()[symbol];
  uint32_t section = view.SectionOf(symbol);
  if (section == ElfView::kAbsolute) return entry.st_value;
  if (entry.getType() == ELF::STT_GNU_IFUNC) {
    if (const Tables::Indirect* indirect = tables_.IndirectOf({object, symbol})) {
      return At(Layout::kCode, tables_.stub(indirect->stub));
    }
  }
  Layout::Place place = layout_.PlaceOf(resolution_.Number(object, section));
  // What a table of exceptions says of a function that was dropped.
  if (place.area == Layout::kNowhere) return 0;
  is_thread_local = place.area == Layout::kThreadLocal;
  return At(place.area, place.offset) + entry.st_value;
}

uint64_t Relocator::LinkerAddress(const Global& global) const {
  auto end_of = [&](Layout::Area area) { return At(area, layout_.size(area)); };
  switch (global.linker) {
    case LinkerSymbol::kDsoHandle:
      return At(Layout::kData, tables_.dso_handle());
    case LinkerSymbol::kHeader:
      return At(Layout::kConstants, tables_.header());
    case LinkerSymbol::kOffsetTable:
      return At(Layout::kConstants, tables_.slot(0));
    case LinkerSymbol::kSectionStart:
    case LinkerSymbol::kSectionStop: {
      bool start = global.linker == LinkerSymbol::kSectionStart;
      llvm::StringRef prefix = start ? "__start_" : "__stop_";
      const Layout::Bounds* bounds = layout_.BoundsOf((*global.name).drop_front(prefix.size()));
      return bounds ? At(bounds->area, start ? bounds->begin : bounds->end) : 0;
    }
    case LinkerSymbol::kCodeEnd:
      return end_of(Layout::kCode);
    case LinkerSymbol::kContentEnd:
      return end_of(Layout::kData);
    case LinkerSymbol::kZerosStart:
      return At(Layout::kZeros, 0);
    case LinkerSymbol::kEnd:
      return end_of(Layout::kZeros);
    case LinkerSymbol::kInit:
      return At(Layout::kCode, layout_.init().offset);
    case LinkerSymbol::kFini:
      return At(Layout::kCode, layout_.fini().offset);
    default:
      return 0;
  }
}

uint64_t Relocator::AddressOf(const Global& global) const {
  switch (global.state) {
    case State::kDefined: {
      bool is_thread_local;
      return LocalAddress(global.object, global.symbol, is_thread_local);
    }
    case State::kCommon:
      return At(Layout::kZeros, global.offset);
    case State::kLinker:
      return LinkerAddress(global);
    case State::kNull:
    case State::kUndefined:
      return 0;
    default: {
      const Tables::Made& made = tables_.For(resolution_.IndexOf(global));
      return made.is_stub ? At(Layout::kCode, tables_.stub(made.stub)) : global.value;
    }
  }
}

Relocator::Target Relocator::TargetOf(uint32_t object, uint32_t symbol) const {
  if (symbol == 0) return {0, Resolution::kLocal, false};
  uint32_t number = resolution_.GlobalOf(object, symbol);
  if (number == Resolution::kLocal) {
    bool is_thread_local;
    uint64_t address = LocalAddress(object, symbol, is_thread_local);
    return {address, Resolution::kLocal, is_thread_local};
  }
  const Global& global = resolution_.globals()[number];
  bool is_thread_local = global.state == State::kDefined
                             ? global.is_thread_local
                             : resolution_.ThreadLocal(global) != nullptr ||
                                   global.linker == LinkerSymbol::kThreadLocals;
  return {AddressOf(global), number, is_thread_local};
}

void Relocator::Write(const Memories& memories) {
  memories_ = memories;
  far_used_ = 0;
  // The initial values may hold addresses; what the dynamic linker tells of the variables then goes
  // into code and tables.
  memories_[Layout::kThreadLocal] = {0, thread_locals_.values()};
  WriteArea(Layout::kThreadLocal);
  thread_locals_.Open();
  WriteTables();
  for (Layout::Area area : {Layout::kCode, Layout::kConstants, Layout::kData}) WriteArea(area);
}

void Relocator::WriteArea(Layout::Area area) {
  if (!memories_[area].writable) return;
  uint64_t done = 0;
  auto fill_to = [&](uint64_t offset) {
    int filling = area == Layout::kCode ? kCodeFill : 0;
    std::memset(Writable(area, done), filling, offset - done);
  };
  for (const Layout::Piece& piece : layout_.pieces(area)) {
    fill_to(piece.offset);
    done = piece.offset + piece.size;
    switch (piece.kind) {
      case Layout::Piece::kSection:
        resolution_.objects()[piece.object].CopyContent(piece.section,
                                                        Writable(area, piece.offset));
        Relocate(piece.object, piece.section, Writable(area, piece.offset), At(area, piece.offset));
        break;
      case Layout::Piece::kText:
        std::memcpy(Writable(area, piece.offset), piece.text, piece.size);
        break;
      case Layout::Piece::kFrames:
        WriteFrames();
        break;
      case Layout::Piece::kMade:
        break;
    }
  }
  uint64_t end =
      area == Layout::kThreadLocal ? layout_.initialized_thread_locals() : layout_.size(area);
  fill_to(end);
}

void Relocator::WriteFrames() {
  Layout::Bounds table = layout_.frames();
  for (EHFrame& frame : const_cast<Liveness&>(liveness_).eh_frames()) {
    auto object = static_cast<uint32_t>(frame.object());
    auto section = static_cast<uint32_t>(frame.section());
    for (const EHFrame::Record& record : frame.records()) {
      if (!record.is_live) continue;
      uint64_t offset = table.begin + record.place;
      frame.Copy(record, Writable(table.area, offset));
      for (const Elf::Rela& relocation : frame.RelocationsOf(record)) {
        uint64_t within = relocation.r_offset - record.offset;
        if (KindOf(relocation.getType(false)).width > record.size - within) {
          throw ObjectFormatError(resolution_.objects()[object].name() +
                                  ": malformed .eh_frame: a relocation reaches past its record");
        }
        Apply({object, section, relocation, Writable(table.area, offset + within),
               At(table.area, offset + within), within});
      }
    }
  }
  std::memset(Writable(table.area, table.end - 4), 0, 4);
}

void Relocator::WriteTables() {
  auto write = [&](Layout::Area area, uint64_t offset, uint64_t value) {
    std::memcpy(Writable(area, offset), &value, sizeof(value));
  };
  for (uint32_t i = 0; i < resolution_.globals().size(); ++i) {
    const Tables::Made& made = tables_.For(i);
    if (made.slot == Tables::kNone && made.stub == Tables::kNone) continue;
    uint64_t address = AddressOf(resolution_.globals()[i]);
    if (made.slot != Tables::kNone) write(Layout::kConstants, tables_.slot(made.slot), address);
    if (made.stub != Tables::kNone) {
      const Global& global = resolution_.globals()[i];
      bool is_null = global.state == State::kNull;
      WriteStub(Writable(Layout::kCode, tables_.stub(made.stub)), is_null ? 0 : global.value);
    }
  }
  for (const auto& [symbol, slot] : tables_.local_slots()) {
    bool ignored;
    write(Layout::kConstants, tables_.slot(slot),
          LocalAddress(symbol.first, symbol.second, ignored));
  }
  for (const Tables::Copy& copy : tables_.copies()) {
    std::memcpy(Writable(Layout::kConstants, copy.offset), copy.from, copy.size);
  }
  for (const Tables::Indirect& indirect : tables_.indirect_functions()) {
    const ElfView& view = resolution_.objects()[indirect.resolver.first];
    uint32_t symbol = indirect.resolver.second;
    Layout::Place place =
        layout_.PlaceOf(resolution_.Number(indirect.resolver.first, view.SectionOf(symbol)));
    write(Layout::kData, indirect.pointer,
          At(place.area, place.offset) + view.symbols()[symbol].st_value);
    uint64_t stub = tables_.stub(indirect.stub);
    WriteIndirectStub(Writable(Layout::kCode, stub), At(Layout::kCode, stub),
                      At(Layout::kData, indirect.pointer));
  }
  if (tables_.has_header()) {
    const llvm::ELF::Elf64_Ehdr header = ElfHeader(0);
    std::memcpy(Writable(Layout::kConstants, tables_.header()), &header, sizeof(header));
  }
  if (tables_.has_dso_handle()) {
    uint64_t handle = tables_.dso_handle();
    write(Layout::kData, handle + offsetof(DsoHandle, self), At(Layout::kData, handle));
  }
  thread_locals_.WriteSlots(Writable(Layout::kConstants, 0));
}

void Relocator::Relocate(uint32_t object, uint32_t section, char* place, uint64_t address) {
  for (const Elf::Rela& relocation : resolution_.objects()[object].Relocations(section)) {
    uint64_t offset = relocation.r_offset;
    Apply({object, section, relocation, place + offset, address + offset, offset});
  }
}

uint64_t Relocator::SlotAddress(const Field& field, const Target& target) const {
  uint32_t symbol = field.relocation.getSymbol(false);
  uint32_t slot = target.global == Resolution::kLocal ? tables_.SlotOf({field.object, symbol})
                                                      : tables_.For(target.global).slot;
  return At(Layout::kConstants, tables_.slot(slot));
}

uint64_t Relocator::SizeOf(const Field& field) const {
  const ElfView& view = resolution_.objects()[field.object];
  return view.symbols()[field.relocation.getSymbol(false)].st_size;
}

uint64_t Relocator::ValueOf(const Field& field, const Target& target, Form form) const {
  switch (form) {
    case Form::kSymbol:
    case Form::kBranch:
      return target.address;
    case Form::kSlot:
    case Form::kRelaxableSlot:
      return SlotAddress(field, target);
    case Form::kTable:
      return OffsetTable();
    case Form::kSize:
      return SizeOf(field);
    case Form::kModuleOffset:
      if (target.global != Resolution::kLocal &&
          resolution_.ThreadLocal(resolution_.globals()[target.global])) {
        Fail(field,
             "the thread-local variable is expected in the load itself, but is defined elsewhere; "
             "compile with -fPIC and without -ftls-model=local-dynamic");
      }
      return target.address;
    case Form::kThreadOffset:
      return thread_locals_.ThreadOffset(target.global, target.address);
    default:
      return At(Layout::kConstants, thread_locals_.SlotFor(form, target.global, target.address));
  }
}

uint64_t Relocator::Measure(From from, uint64_t value, uint64_t place) const {
  switch (from) {
    case From::kZero:
      return value;
    case From::kPlace:
      return value - place;
    case From::kPage:
      return PageOf(value) - PageOf(place);
    case From::kTable:
      return value - OffsetTable();
    default:  // kTablePage
      return value - PageOf(OffsetTable());
  }
}

void Relocator::Apply(const Field& field) {
  const RelocationKind& kind = KindOf(field.relocation.getType(false));
  if (kind.form == Form::kNothing) return;
  Target target = kind.form == Form::kTable
                      ? Target{0, Resolution::kLocal, false}
                      : TargetOf(field.object, field.relocation.getSymbol(false));
  if (target.is_thread_local != IsThreadLocal(kind.form) && kind.form != Form::kSize) {
    if (target.is_thread_local) {
      Fail(field, "it does not suit a thread-local variable");
    }
    bool any_suits = kind.form == Form::kModuleSlot;  // of the load, whatever the symbol
    if (!any_suits) Fail(field, "the symbol is used as a thread-local variable, which it is not");
  }
  if (kind.form == Form::kRelaxableSlot) {
    bool is_place = target.global == Resolution::kLocal ||
                    resolution_.globals()[target.global].state != State::kAbsolute;
    if (is_place && RelaxSlot(field.place, field.before, target.address, field.address,
                              field.relocation.r_addend)) {
      return;
    }
  }
  uint64_t value = ValueOf(field, target, kind.form);
  auto addend = static_cast<uint64_t>(int64_t{field.relocation.r_addend});
  uint64_t measured = Measure(kind.from, value + addend, field.address);
  if (!Patch(kind, field.place, measured) && !ApplyByDetour(field, target, kind, value)) {
    FailOutOfReach(field, target, measured);
  }
}

bool Relocator::ApplyByDetour(const Field& field, const Target& target, const RelocationKind& kind,
                              uint64_t value) {
  if (kind.reach == Reach::kShort && ReachFarOnce(field, kind, value, 0)) return true;
  bool is_place =
      (kind.form == Form::kSymbol && kind.from != From::kTable) || kind.form == Form::kBranch;
  if (!is_place || target.global == Resolution::kLocal) return false;
  const Tables::Made& made = tables_.For(target.global);
  bool may_change = made.is_far && kind.form != Form::kBranch;
  if (may_change &&
      ReachFarOnce(field, kind, value, At(Layout::kConstants, tables_.slot(made.slot)))) {
    return true;
  }
  // Another relocation is for the rest of the address, and takes the symbol's own.
  if (kind.from == From::kPage) return false;
  uint64_t address;
  if (made.stub != Tables::kNone) {
    address = At(Layout::kCode, tables_.stub(made.stub));
  } else if (made.copy != Tables::kNone) {
    address = At(Layout::kConstants, tables_.copies()[made.copy].offset);
  } else {
    return false;
  }
  auto addend = static_cast<uint64_t>(int64_t{field.relocation.r_addend});
  return Patch(kind, field.place, Measure(kind.from, address + addend, field.address));
}

bool Relocator::ReachFarOnce(const Field& field, const RelocationKind& kind, uint64_t value,
                             uint64_t slot) {
  const Elf::Shdr& section = resolution_.objects()[field.object].sections()[field.section];
  // Elsewhere, bytes that look like an instruction are none.
  if (!(section.sh_flags & ELF::SHF_EXECINSTR)) return false;
  uint64_t after = section.sh_size - field.before - kind.width;
  uint64_t thunk = tables_.far_thunk(far_used_);
  bool done =
      ReachFar({kind, field.place, field.before, after, field.address, field.relocation.r_addend,
                value, slot, Writable(Layout::kCode, thunk), At(Layout::kCode, thunk)});
  far_used_ += done;
  return done;
}

void Relocator::Fail(const Field& field, const std::string& why) const {
  const ElfView& view = resolution_.objects()[field.object];
  throw LinkError(view.name() + ": " + DescribeRelocation(view, field.section, field.relocation) +
                  why);
}

void Relocator::FailOutOfReach(const Field& field, const Target& target, uint64_t value) const {
  std::string text =
      "its value 0x" + llvm::utohexstr(value, /*LowerCase=*/true) + " is out of range";
  bool is_number = field.relocation.getSymbol(false) == 0 ||
                   (target.global == Resolution::kLocal &&
                    resolution_.objects()[field.object].SectionOf(
                        field.relocation.getSymbol(false)) == ElfView::kAbsolute);
  if (!is_number) {
    text += std::string("; ") + WhyOutOfRange(field.relocation.getType(false));
  }
  const ElfView& view = resolution_.objects()[field.object];
  throw OutOfReachError(view.name() + ": " +
                        DescribeRelocation(view, field.section, field.relocation) + text);
}

}  // namespace object_loader
