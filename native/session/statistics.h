// SPDX-License-Identifier: Apache-2.0
//
// What sessions and dylibs have in memory, why, and what their loads came to, in figures.
//
// Concurrency: every function may be called from any thread. Each figure is what it was at some
// moment of the call.
#ifndef OBJECT_LOADER_SESSION_STATISTICS_H_
#define OBJECT_LOADER_SESSION_STATISTICS_H_

#include <cstdint>

#include "link/memory_pool.h"
#include "session/code_lifetime.h"
#include "session/load_record.h"

namespace object_loader {

class Dylib;
class Session;

struct LoadFigures {
  uint64_t loads = 0;
  uint64_t failures = 0;
  LoadTotals::Nanoseconds spent{};
};

struct DylibStatistics {
  bool closed = false;
  uint64_t functions = 0;  // exported, and not closed
  uint64_t symbols = 0;
  CodeLifetime::Needs needs;
  uint64_t calls = 0;  // that are running
  LoadFigures loads;
};
DylibStatistics StatisticsOf(Dylib& dylib);

struct SessionStatistics {
  uint64_t dylibs = 0;
  uint64_t objects = 0;
  uint64_t functions = 0;  // of the open dylibs
  uint64_t symbols = 0;
  MemoryPool::Usage memory;
  LoadFigures loads;
};
SessionStatistics StatisticsOf(Session& session);

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_STATISTICS_H_
