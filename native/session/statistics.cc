// SPDX-License-Identifier: Apache-2.0
#include "session/statistics.h"

#include "session/dylib.h"

namespace object_loader {

namespace {

LoadFigures FiguresOf(const LoadTotals& totals) {
  return {totals.loads, totals.failures, totals.Spent()};
}

}  // namespace

DylibStatistics StatisticsOf(Dylib& dylib) {
  DylibStatistics statistics;
  statistics.closed = dylib.closed();
  if (!statistics.closed) statistics.functions = dylib.symbols().CountFunctions();
  statistics.symbols = dylib.symbols().Count();
  statistics.needs = dylib.code().CountNeeds();
  statistics.calls = dylib.gate().CountInside();
  statistics.loads = FiguresOf(dylib.totals());
  return statistics;
}

SessionStatistics StatisticsOf(Session& session) {
  SessionStatistics statistics;
  for (const auto& member : session.Members()) {
    ++statistics.dylibs;
    statistics.functions += static_cast<Dylib&>(*member).symbols().CountFunctions();
  }
  statistics.objects = session.objects;
  statistics.symbols = session.symbols;
  statistics.memory = session.linker().memory().usage();
  statistics.loads = FiguresOf(session.totals);
  return statistics;
}

}  // namespace object_loader
