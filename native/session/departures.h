// SPDX-License-Identifier: Apache-2.0
//
// Departures: code that is to be unloaded goes when the last of the calls inside has returned.
//
// The thread whose call that is unloads it: each thread that is inside is asked to look then, which
// costs other calls nothing (see CallGate).
#ifndef OBJECT_LOADER_SESSION_DEPARTURES_H_
#define OBJECT_LOADER_SESSION_DEPARTURES_H_

#include <memory>

#include "session/call_gate.h"
#include "session/session.h"

namespace object_loader {

// Whether nobody is inside of the member's gate, which is closed. Otherwise TryUnload of the member
// is called when a thread that is has left. Throws std::bad_alloc.
bool IsLeftOrAwaited(const std::shared_ptr<SessionMember>& member, const CallGate& gate);

}  // namespace object_loader

#endif  // OBJECT_LOADER_SESSION_DEPARTURES_H_
