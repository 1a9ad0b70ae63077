// SPDX-License-Identifier: Apache-2.0
#include "python/symbols.h"

#include <llvm/Demangle/Demangle.h>

#include <optional>

#include "python/conversions.h"
#include "session/loaded_code.h"
#include "session/locations.h"
#include "session/session.h"

namespace object_loader {

namespace nb = nanobind;
using namespace nb::literals;

static const char* SectionName(Image::Area area) {
  constexpr const char* kNames[] = {".text", ".rodata", ".data", ".bss"};
  return kNames[area];
}

nb::tuple ToTuple(const LoadedSymbol& symbol) {
  return nb::make_tuple(ToStr((*symbol.name).str()), ToStr(llvm::demangle(*symbol.name)),
                        symbol.address, symbol.size, ToStr((*symbol.object).str()),
                        SectionName(symbol.area), symbol.is_function, symbol.is_local,
                        symbol.exported, symbol.weak);
}

nb::object LocationOf(uint64_t address, const Session* only) {
  std::optional<Location> location = Locate(address, /*with_line=*/true, only);
  if (!location) return nb::none();
  nb::object symbol = nb::none();
  if (location->symbol) symbol = ToTuple(*location->symbol);
  nb::object file = nb::none();
  nb::object line = nb::none();
  if (location->line) {
    file = ToStr(location->line->file);
    line = nb::int_(location->line->line);
  }
  return nb::make_tuple(ToStr(location->session), ToStr(location->dylib),
                        ToStr((*location->object).str()), file, line, symbol);
}

void BindSymbols(nb::module_& m) {
  m.def(
      "symbolize", [](uint64_t address) { return LocationOf(address, nullptr); }, "address"_a,
      nb::sig("def symbolize(address: int) -> tuple[str, str, str, str | None, int | None, "
              "tuple[str, str, int, int, str, "
              "str, bool, bool, bool, bool] | None] | None"));
}

}  // namespace object_loader
