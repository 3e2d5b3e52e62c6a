// ReturnStack: where translated code returns to, as the host's own stack.
//
// A translated CALL pushes the guest's return address and calls; behind the call lies a jump to the
// code for that address. A translated RET compares the address that the guest's stack gives with
// the one on top, and returns: the host predicts it as it predicts its own. Where they differ (the
// guest switched stacks, or never returned) the frame is popped and the jump table used.
//
// A frame is 16 bytes: the host's return address, and the guest's above it, inverted. The stack pointer's low
// 16 bits are 0 where it is full, and where one frame too many was popped.
#pragma once

#include "accel/soft/core/translator_state.h"
#include "base/mapping.h"
#include "base/result.h"

namespace trapeze::soft {

class ReturnStack {
 public:
  static constexpr uint64_t kBytes = 65536;
  static constexpr unsigned kFrameBytes = 16;

  static Result<ReturnStack> create();

  // Empties it. `bottom`: where a return goes that matches the frame of the empty stack.
  void reset(TranslatorState& state, const void* bottom);

 private:
  // Signal handlers and the stubs need room below a full stack.
  static constexpr size_t kRoomBytes = 65536;

  explicit ReturnStack(Mapping mapping) : mapping_(std::move(mapping)) {}
  Mapping mapping_;
};

}  // namespace trapeze::soft
