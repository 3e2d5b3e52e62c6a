#include "backend/console/input_pump.h"

#include <algorithm>
#include <utility>

namespace trapeze {

InputPump::InputPump(EventLoop& loop, StreamFd input, Sink sink, EndHandler on_end)
    : loop_(loop),
      input_(std::move(input)),
      sink_(std::move(sink)),
      on_end_(std::move(on_end)),
      self_(std::make_shared<InputPump*>(this)) {}

Result<std::unique_ptr<InputPump>> InputPump::create(EventLoop& loop, StreamFd input, Sink sink,
                                                     EndHandler on_end) {
  auto pump = std::unique_ptr<InputPump>(
      new InputPump(loop, std::move(input), std::move(sink), std::move(on_end)));
  InputPump* self = pump.get();
  TRY(loop.watch(self->input_.fd(), EPOLLIN, [self](uint32_t) { self->on_readable(); }));
  return pump;
}

InputPump::~InputPump() {
  *self_ = nullptr;
  loop_.unwatch(input_.fd());
}

void InputPump::resume() {
  loop_.post([self = self_] {
    if (*self != nullptr) (*self)->deliver();
  });
}

// One read a turn, so that other work of the loop gets its turn, too.
void InputPump::on_readable() {
  if (start_ != end_ || is_at_end_) return;
  const auto outcome = input_.read(buffer_);
  switch (outcome.status) {
    case StreamFd::Status::Ok:
      start_ = 0;
      end_ = outcome.bytes;
      deliver();
      return;
    case StreamFd::Status::Blocked:
      return;
    case StreamFd::Status::End:
    case StreamFd::Status::Failed:
      finish();
      return;
  }
}

void InputPump::deliver() {
  if (is_at_end_) return;
  while (start_ != end_) {
    const auto rest = std::span(buffer_).subspan(start_, end_ - start_);
    const size_t taken = std::min(sink_(rest), rest.size());
    start_ += taken;
    if (taken == 0) break;
  }
  // No more is read than one buffer ahead of the sink.
  loop_.set_events(input_.fd(), start_ == end_ ? EPOLLIN : 0U);
}

void InputPump::finish() {
  is_at_end_ = true;
  loop_.set_events(input_.fd(), 0);
  if (on_end_) on_end_();
}

}  // namespace trapeze
