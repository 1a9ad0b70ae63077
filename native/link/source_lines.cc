// SPDX-License-Identifier: Apache-2.0
#include "link/source_lines.h"

#include <llvm/DebugInfo/DIContext.h>
#include <llvm/DebugInfo/DWARF/DWARFCompileUnit.h>
#include <llvm/DebugInfo/DWARF/DWARFContext.h>
#include <llvm/DebugInfo/DWARF/DWARFDataExtractor.h>
#include <llvm/DebugInfo/DWARF/DWARFDebugLine.h>
#include <llvm/DebugInfo/DWARF/DWARFFormValue.h>
#include <llvm/Object/ObjectFile.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

namespace object_loader {

struct SourceLines::Reader {
  std::unique_ptr<llvm::object::ObjectFile> object;
  std::unique_ptr<llvm::DWARFContext> debug;
};

SourceLines::SourceLines(std::shared_ptr<const DebugImage> file) : file_(std::move(file)) {}

SourceLines::~SourceLines() = default;

namespace {

using LineTable = llvm::DWARFDebugLine::LineTable;
using llvm::DILineInfoSpecifier;

constexpr auto kPath = DILineInfoSpecifier::FileLineInfoKind::AbsoluteFilePath;

// How a table of lines writes an item of its directories and files (DWARF 5, 6.2.4.1).
bool IsSound(uint64_t type, uint64_t form) {
  switch (form) {
    case llvm::dwarf::DW_FORM_string:
    case llvm::dwarf::DW_FORM_line_strp:
    case llvm::dwarf::DW_FORM_strp:
    case llvm::dwarf::DW_FORM_strx:
    case llvm::dwarf::DW_FORM_strx1:
    case llvm::dwarf::DW_FORM_strx2:
    case llvm::dwarf::DW_FORM_strx3:
    case llvm::dwarf::DW_FORM_strx4:
      return type == llvm::dwarf::DW_LNCT_path || type == llvm::dwarf::DW_LNCT_LLVM_source;
    case llvm::dwarf::DW_FORM_udata:
    case llvm::dwarf::DW_FORM_data1:
    case llvm::dwarf::DW_FORM_data2:
    case llvm::dwarf::DW_FORM_data4:
    case llvm::dwarf::DW_FORM_data8:
      return type == llvm::dwarf::DW_LNCT_directory_index ||
             type == llvm::dwarf::DW_LNCT_timestamp || type == llvm::dwarf::DW_LNCT_size;
    case llvm::dwarf::DW_FORM_data16:
      return type == llvm::dwarf::DW_LNCT_MD5;
    default:
      return false;
  }
}

// Whether LLVM may read the table of lines there: of a form that it does not know it reads what
// happens to be in memory.
bool HasSoundHeader(const llvm::DWARFContext& debug, uint64_t offset) {
  const llvm::DWARFObject& file = debug.getDWARFObj();
  llvm::DWARFDataExtractor data(file, file.getLineSection(), debug.isLittleEndian(), 8);
  llvm::DataExtractor::Cursor cursor(offset);
  llvm::dwarf::FormParams sizes = {0, 8, llvm::dwarf::DWARF32};
  sizes.Format = data.getInitialLength(cursor).second;
  sizes.Version = data.getU16(cursor);
  bool is_sound = true;
  if (cursor && sizes.Version >= 5) {
    sizes.AddrSize = data.getU8(cursor);
    data.skip(cursor, 1 + sizes.getDwarfOffsetByteSize() + 5);
    data.skip(cursor, std::max<uint64_t>(data.getU8(cursor), 1) - 1);  // lengths of opcodes
    for (int table = 0; table < 2 && is_sound && cursor; ++table) {    // directories, files
      std::vector<llvm::dwarf::Form> forms;
      for (int left = data.getU8(cursor); left > 0 && cursor; --left) {
        uint64_t type = data.getULEB128(cursor);
        uint64_t form = data.getULEB128(cursor);
        is_sound = is_sound && IsSound(type, form);
        forms.push_back(static_cast<llvm::dwarf::Form>(form));
      }
      uint64_t entries = data.getULEB128(cursor);
      if (!cursor || !is_sound || table == 1 || forms.empty()) break;
      uint64_t at = cursor.tell();
      for (; entries > 0 && data.isValidOffset(at); --entries) {
        for (llvm::dwarf::Form form : forms) {
          llvm::DWARFFormValue::skipValue(form, data, &at, sizes);
        }
      }
      cursor.seek(at);
    }
  }
  // What is truncated is an error of LLVM's.
  llvm::consumeError(cursor.takeError());
  return is_sound;
}

// LLVM does not expect a unit without content, nor every table of lines.
bool IsSound(llvm::DWARFUnit& unit) {
  llvm::DWARFDie root = unit.getUnitDIE(/*ExtractUnitDIEOnly=*/false);
  if (!root.isValid()) return false;
  auto lines = llvm::dwarf::toSectionOffset(root.find(llvm::dwarf::DW_AT_stmt_list));
  return !lines || HasSoundHeader(unit.getContext(), *lines + unit.getLineTableOffset());
}

// The lines that the table has for code of the functions, which are sorted by address. (LLVM's own
// getLineInfoForAddressRange reads outside of tables that are malformed.)
void AddLines(const LineTable& table, const char* folder,
              std::vector<ProfiledFunction>& functions) {
  std::map<uint64_t, std::string> paths;
  for (const llvm::DWARFDebugLine::Sequence& sequence : table.Sequences) {
    size_t end = std::min<size_t>(sequence.LastRowIndex, table.Rows.size());
    for (size_t i = sequence.FirstRowIndex; i + 1 < end; ++i) {
      const llvm::DWARFDebugLine::Row& row = table.Rows[i];
      uint64_t address = row.Address.Address;
      if (row.Line == 0 || table.Rows[i + 1].Address.Address == address) continue;
      auto after = std::upper_bound(functions.begin(), functions.end(), address,
                                    [](uint64_t at, const auto& one) { return at < one.address; });
      if (after == functions.begin()) continue;
      ProfiledFunction& function = *std::prev(after);
      if (address - function.address >= function.size) continue;
      auto [path, is_new] = paths.try_emplace(row.File);
      if (is_new) table.getFileNameByIndex(row.File, folder, kPath, path->second);
      if (!path->second.empty()) function.lines.push_back({address, row.Line, path->second});
    }
  }
}

}  // namespace

bool SourceLines::Read() {
  // What is wrong with debug information concerns nobody.
  auto ignore = [](llvm::Error error) { llvm::consumeError(std::move(error)); };
  if (!std::exchange(is_read_, true)) {
    auto object =
        llvm::object::ObjectFile::createELFObjectFile(llvm::MemoryBufferRef(file_->bytes(), ""));
    if (!object) {
      ignore(object.takeError());
      return false;
    }
    auto debug = llvm::DWARFContext::create(
        **object, llvm::DWARFContext::ProcessDebugRelocations::Ignore, nullptr, "", ignore, ignore);
    reader_.reset(new Reader{std::move(*object), std::move(debug)});
  }
  return reader_ != nullptr;
}

std::optional<SourceLine> SourceLines::At(uint64_t address) {
  std::lock_guard<Mutex> lock(mutex_);
  if (!Read()) return std::nullopt;
  llvm::DWARFUnit* unit = reader_->debug->getCompileUnitForCodeAddress(address);
  if (!unit || !IsSound(*unit)) return std::nullopt;
  llvm::DIInliningInfo frames = reader_->debug->getInliningInfoForAddress(
      {address, llvm::object::SectionedAddress::UndefSection},
      DILineInfoSpecifier(kPath, llvm::DINameKind::None));
  if (frames.getNumberOfFrames() == 0) return std::nullopt;
  llvm::DILineInfo line = frames.getFrame(frames.getNumberOfFrames() - 1);
  if (line.Line == 0 || line.FileName == llvm::DILineInfo::BadString) return std::nullopt;
  return SourceLine{line.FileName, line.Line};
}

void SourceLines::AddTo(std::vector<ProfiledFunction>& functions) {
  std::lock_guard<Mutex> lock(mutex_);
  if (!Read()) return;
  for (const auto& unit : reader_->debug->compile_units()) {
    if (!IsSound(*unit)) continue;
    const LineTable* table = reader_->debug->getLineTableForUnit(unit.get());
    if (table) AddLines(*table, unit->getCompilationDir(), functions);
  }
  for (ProfiledFunction& function : functions) {
    std::stable_sort(function.lines.begin(), function.lines.end(),
                     [](const auto& a, const auto& b) { return a.address < b.address; });
  }
}

}  // namespace object_loader
