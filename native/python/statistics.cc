// SPDX-License-Identifier: Apache-2.0
#include "python/statistics.h"

#include <string>
#include <vector>

#include "base/interpreter_lock.h"
#include "ffi/link_order.h"
#include "python/conversions.h"
#include "session/statistics.h"

namespace object_loader {

namespace nb = nanobind;

namespace {

struct Figures {
  std::string name;
  DylibStatistics statistics;
  ObjectModuleObj::Holders holders;
};

double Seconds(uint64_t nanoseconds) { return static_cast<double>(nanoseconds) / 1e9; }

void AddSeconds(nb::dict& figures, const LoadTotals::Nanoseconds& spent) {
  figures["seconds_reading"] = Seconds(spent[LoadTotals::kReading]);
  figures["seconds_linking"] = Seconds(spent[LoadTotals::kLinking]);
  figures["seconds_initializing"] = Seconds(spent[LoadTotals::kInitializing]);
}

void AddLoads(nb::dict& figures, const LoadFigures& loads) {
  figures["loads"] = loads.loads;
  figures["failures"] = loads.failures;
  AddSeconds(figures, loads.spent);
}

template <typename Bytes>
void AddBytes(nb::dict& figures, const Bytes& bytes) {
  figures["bytes_code"] = bytes.code;
  figures["bytes_constants"] = bytes.constants;
  figures["bytes_data"] = bytes.data;
}

nb::dict ToDict(const Figures& dylib) {
  const DylibStatistics& statistics = dylib.statistics;
  const CodeLifetime::Needs& needs = statistics.needs;
  nb::dict held_by;
  held_by["functions"] = dylib.holders.functions;
  held_by["modules"] = dylib.holders.others;
  held_by["calls"] = statistics.calls;
  held_by["objects"] = needs.objects;
  held_by["dylibs"] = needs.dylibs;
  held_by["embedded_modules"] = needs.modules;
  held_by["destructors"] = needs.destructors;
  held_by["for_ever"] = needs.for_ever;
  nb::dict figures;
  figures["name"] = ToStr(dylib.name);
  figures["closed"] = statistics.closed;
  figures["retained"] = needs.is_retained;
  figures["objects"] = needs.loaded_objects;
  figures["functions"] = statistics.functions;
  figures["symbols"] = statistics.symbols;
  AddBytes(figures, needs.bytes);
  AddLoads(figures, statistics.loads);
  figures["held_by"] = held_by;
  return figures;
}

}  // namespace

nb::dict FiguresOf(const ModulePtr& module) {
  Figures figures = {module->dylib()->name(), {}, {}};
  {
    OutsideInterpreter outside;
    figures.statistics = StatisticsOf(*module->dylib());
    figures.holders = module->CountHolders(static_cast<uint64_t>(module.use_count()));
  }
  return ToDict(figures);
}

nb::dict FiguresOf(Session& session) {
  SessionStatistics statistics;
  std::vector<Figures> retained;
  {
    OutsideInterpreter outside;  // what is let go of may be unloaded
    statistics = StatisticsOf(session);
    for (const auto& member : session.RetainedMembers()) {
      auto& dylib = static_cast<Dylib&>(*member);
      Figures& figures = retained.emplace_back(Figures{dylib.name(), StatisticsOf(dylib), {}});
      ModulePtr module = ModuleOf(dylib);
      // Its functions and modules are the next version's, where it was reloaded.
      if (!module || module->dylib().get() != &dylib) continue;
      figures.holders = module->CountHolders(static_cast<uint64_t>(module.use_count()) - 1);
    }
  }
  nb::list dylibs;
  for (const Figures& dylib : retained) {
    if (dylib.statistics.needs.is_retained) dylibs.append(ToDict(dylib));
  }
  nb::dict figures;
  figures["dylibs"] = statistics.dylibs;
  figures["objects"] = statistics.objects;
  figures["functions"] = statistics.functions;
  figures["symbols"] = statistics.symbols;
  AddBytes(figures, statistics.memory);
  figures["bytes_reserved"] = statistics.memory.reserved;
  figures["retained"] = dylibs;
  AddLoads(figures, statistics.loads);
  return figures;
}

nb::dict FiguresOf(const LoadRecord& record) {
  nb::dict figures;
  figures["objects"] = record.objects;
  figures["libraries"] = ToTuple(record.libraries);
  AddBytes(figures, record.bytes);
  AddSeconds(figures,
             {record.nanoseconds(LoadRecord::kReading), record.nanoseconds(LoadRecord::kLinking),
              record.nanoseconds(LoadRecord::kInitializing)});
  return figures;
}

}  // namespace object_loader
