#include "accel/soft/translator/return_stack.h"

#include "base/units.h"

namespace trapeze::soft {
namespace {

// Compared with what the guest's stack holds: as good as any.
constexpr uint64_t kNoReturnAddress = ~uint64_t{0};

}  // namespace

Result<ReturnStack> ReturnStack::create() {
  return ReturnStack(TRY(Mapping::anonymous(kRoomBytes + 2 * kBytes, "the return stack")));
}

void ReturnStack::reset(TranslatorState& state, const void* bottom) {
  const uint64_t low = reinterpret_cast<uint64_t>(mapping_.data()) + kRoomBytes;
  const uint64_t top = align_up(low, kBytes) + kBytes - kFrameBytes;
  auto* frame = reinterpret_cast<uint64_t*>(top);
  frame[0] = reinterpret_cast<uint64_t>(bottom);
  frame[1] = kNoReturnAddress;
  state.return_top = state.return_stack = top;
}

}  // namespace trapeze::soft
