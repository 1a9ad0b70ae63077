// SPDX-License-Identifier: Apache-2.0
#include "link/source_lines.h"

#include <llvm/DebugInfo/DIContext.h>
#include <llvm/DebugInfo/DWARF/DWARFCompileUnit.h>
#include <llvm/DebugInfo/DWARF/DWARFContext.h>
#include <llvm/DebugInfo/DWARF/DWARFDebugLine.h>
#include <llvm/Object/ObjectFile.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

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

// LLVM does not expect a unit without content.
bool HasContent(llvm::DWARFUnit& unit) {
  return unit.getUnitDIE(/*ExtractUnitDIEOnly=*/false).isValid();
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
  if (!unit || !HasContent(*unit)) return std::nullopt;
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
    if (!HasContent(*unit)) continue;
    const LineTable* table = reader_->debug->getLineTableForUnit(unit.get());
    if (table) AddLines(*table, unit->getCompilationDir(), functions);
  }
  for (ProfiledFunction& function : functions) {
    std::stable_sort(function.lines.begin(), function.lines.end(),
                     [](const auto& a, const auto& b) { return a.address < b.address; });
  }
}

}  // namespace object_loader
