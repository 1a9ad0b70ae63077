// SPDX-License-Identifier: Apache-2.0
//
// .eh_frame on its way through a link, to the form that unwinders read: record after record,
// without gaps, up to four zero bytes.
//
// Format: Linux Standard Base, "Exception Frames".
#ifndef OBJECT_LOADER_EH_FRAME_H_
#define OBJECT_LOADER_EH_FRAME_H_

#include <llvm/ExecutionEngine/JITLink/JITLink.h>

#include "unwind.h"

namespace object_loader {

// JITLink takes .eh_frame apart into its records, to drop those of functions that nobody uses. This
// hides the section from it, which then stays whole and keeps all functions that it describes. Most
// of the time for an object of many small functions goes into those records.
void KeepEHFrameWhole(llvm::jitlink::LinkGraph& graph);

// Lays the records side by side, also where pruning has removed one that kept the next aligned.
llvm::Error PackEHFrame(llvm::jitlink::LinkGraph& graph);

// Where the table lies, once addresses are known; empty where it has no record.
AddressRange EHFrameRange(llvm::jitlink::LinkGraph& graph);

}  // namespace object_loader

#endif  // OBJECT_LOADER_EH_FRAME_H_
