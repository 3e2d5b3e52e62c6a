#include "virtio/vsock/connection.h"

#include <algorithm>
#include <array>
#include <utility>

namespace trapeze {

using vsock::Op;

namespace {

// Of a packet for the guest; Linux's buffers are one.
constexpr size_t kMaxParts = 32;

}  // namespace

VsockConnection::VsockConnection(const VsockKey& key, State state,
                                 std::unique_ptr<VsockStream> stream, Owner& owner,
                                 VsockMetrics& metrics)
    : key_(key), state_(state), stream_(std::move(stream)), owner_(owner), metrics_(metrics) {
  stream_->attach(this);
  queue(state == State::Requested ? kRequest : kResponse);
  pause_or_go_on();
}

VsockConnection::~VsockConnection() {
  if (stream_ != nullptr) stream_->attach(nullptr);
}

void VsockConnection::leave_rest(LastBytes& to) {
  if (waiting_.is_empty()) return;
  to.add(std::move(stream_), std::move(waiting_));
}

void VsockConnection::fail() {
  waiting_.clear();  // nobody is there to take it
  queue(kReset);
}

void VsockConnection::queue(uint8_t what) {
  const bool was_idle = pending_ == 0;
  pending_ = static_cast<uint8_t>(pending_ | what);
  if (was_idle) owner_.connection_has_packet(*this);
}

// From the guest ----------------------------------------------------------------------------------

bool VsockConnection::handle(const vsock::Header& header, std::span<const iovec> data) {
  guest_buffer_bytes_ = header.buf_alloc;
  guest_forwarded_ = header.fwd_cnt;
  switch (static_cast<Op>(header.op)) {
    case Op::Response:
      if (state_ != State::Requested || (pending_ & kRequest) != 0) return false;
      state_ = State::Open;
      stream_->accepted(key_.host_port);
      break;
    case Op::Data:
      if (state_ != State::Open || is_guest_silent_ || !take_data(header.len, data)) return false;
      break;
    case Op::Shutdown:
      is_guest_deaf_ |= (header.flags & vsock::kShutdownReceive) != 0;
      is_guest_silent_ |= (header.flags & vsock::kShutdownSend) != 0;
      maybe_finish();
      break;
    case Op::CreditUpdate:
      break;
    case Op::CreditRequest:
      queue(kCredit);
      break;
    case Op::Reset:
      state_ = State::Over;
      return true;
    case Op::Request:
      return false;
    default:
      return false;
  }
  pause_or_go_on();
  return true;
}

bool VsockConnection::take_data(uint32_t bytes, std::span<const iovec> data) {
  // The guest knows how much room there is (§5.10.6.3.1).
  if (bytes > kBufferBytes - waiting_.size()) return false;
  metrics_.guest_to_host_bytes.add(bytes);
  size_t done = 0;
  if (waiting_.is_empty()) {
    const auto outcome = stream_->write(data);
    done = outcome.bytes;
    forwarded_ += static_cast<uint32_t>(done);
    if (outcome.status == VsockStream::Status::Failed) {
      fail();
      return true;
    }
  }
  waiting_.append(data, done);
  tell_room();
  return true;
}

void VsockConnection::tell_room() {
  if (forwarded_ - told_forwarded_ >= kToldBytes) queue(kCredit);
}

// True when nothing waits any more.
bool VsockConnection::flush() {
  const auto outcome = waiting_.write_to(*stream_);
  forwarded_ += static_cast<uint32_t>(outcome.bytes);
  if (outcome.status == VsockStream::Status::Failed) fail();
  tell_room();
  return waiting_.is_empty();
}

// Passes on what the guest has shut down, once its bytes are through.
void VsockConnection::maybe_finish() {
  if (!is_guest_silent_ || !waiting_.is_empty()) return;
  if (!has_ended_writing_) {
    has_ended_writing_ = true;
    stream_->end_writing();
  }
  if (is_guest_deaf_) queue(kReset);
}

// From the host -----------------------------------------------------------------------------------

uint32_t VsockConnection::guest_credit() const {
  const uint32_t under_way = sent_ - guest_forwarded_;
  return under_way < guest_buffer_bytes_ ? guest_buffer_bytes_ - under_way : 0;
}

void VsockConnection::pause_or_go_on() {
  const bool can_read = state_ == State::Open && !is_reading_over_ && !is_guest_deaf_ &&
                        guest_credit() != 0 && (pending_ & (kData | kReset)) == 0;
  stream_->want(can_read, !waiting_.is_empty());
}

void VsockConnection::stream_ready() {
  if (!waiting_.is_empty() && flush()) maybe_finish();
  if (state_ == State::Open && !is_reading_over_ && !is_guest_deaf_ && guest_credit() != 0) {
    // Whether there is something shows when there is a buffer for it.
    pending_ = static_cast<uint8_t>(pending_ | kData);
  }
  if (pending_ == 0) return pause_or_go_on();
  owner_.connection_is_ready(*this);
}

bool VsockConnection::read_data(vsock::Header& header, std::span<const iovec> room) {
  uint32_t limit = guest_credit();
  if (limit == 0 || is_reading_over_ || is_guest_deaf_) return false;
  std::array<iovec, kMaxParts> parts;
  size_t count = 0;
  size_t wanted = 0;
  for (const iovec& part : room) {
    if (limit == 0 || count == parts.size()) break;
    parts[count] = {part.iov_base, std::min<size_t>(part.iov_len, limit)};
    limit -= static_cast<uint32_t>(parts[count].iov_len);
    wanted += parts[count++].iov_len;
  }
  if (count == 0) return false;
  const auto outcome = stream_->read(std::span(parts).first(count));
  switch (outcome.status) {
    case VsockStream::Status::Ok:
      header.op = static_cast<uint16_t>(Op::Data);
      header.len = static_cast<uint32_t>(outcome.bytes);
      sent_ += header.len;
      metrics_.host_to_guest_bytes.add(outcome.bytes);
      if (outcome.bytes == wanted) {
        burst_ = std::min<uint16_t>(burst_ * 2, kMaxBurst);
      } else {
        burst_ = std::max<uint16_t>(burst_ / 2, 1);
        // All there was; the stream tells of more.
        pending_ = static_cast<uint8_t>(pending_ & ~kData);
      }
      return true;
    case VsockStream::Status::Blocked:
      return false;
    case VsockStream::Status::End:
      is_reading_over_ = true;
      queue(kShutdown);
      return false;
    case VsockStream::Status::Failed:
      fail();
      return false;
  }
  return false;
}

bool VsockConnection::next_packet(vsock::Header& header, std::span<const iovec> room) {
  bool has_packet = false;
  while (pending_ != 0 && !has_packet) {
    // A reset makes everything else pointless; else in the order of the bits.
    const auto next =
        (pending_ & kReset) != 0 ? uint8_t{kReset} : static_cast<uint8_t>(pending_ & -pending_);
    // Data stays pending as long as there is some: it must not be queued while it is taken off.
    if (next == kData) {
      has_packet = read_data(header, room);
      if (has_packet) break;
    }
    pending_ = static_cast<uint8_t>(pending_ & ~next);
    if (next == kData) continue;
    has_packet = true;
    if (next == kRequest) header.op = static_cast<uint16_t>(Op::Request);
    if (next == kResponse) header.op = static_cast<uint16_t>(Op::Response);
    if (next == kCredit) header.op = static_cast<uint16_t>(Op::CreditUpdate);
    if (next == kShutdown) {
      header.op = static_cast<uint16_t>(Op::Shutdown);
      header.flags = vsock::kShutdownSend;
    }
    if (next == kReset) {
      header.op = static_cast<uint16_t>(Op::Reset);
      state_ = State::Over;
      pending_ = 0;
    }
  }
  header.src_port = key_.host_port;
  header.dst_port = key_.guest_port;
  header.buf_alloc = kBufferBytes;
  header.fwd_cnt = forwarded_;
  if (has_packet) told_forwarded_ = forwarded_;
  // While there is more the stream stays as it is: to pause it for each packet would cost more.
  if (state_ != State::Over && (pending_ & kData) == 0) pause_or_go_on();
  return has_packet;
}

}  // namespace trapeze
