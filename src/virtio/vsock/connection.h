// VsockConnection: one stream between a port of the guest and one of the host, with the credits of
// both directions (virtio 1.2 §5.10.6.3). Private to virtio/vsock; the device's thread.
//
// State         leaves on                                           to
// Requested     the guest's RESPONSE (host connects)                Open
// Open          RST from either side, an error of the stream,
//               or the guest's SHUTDOWN of both directions and
//               all its bytes delivered                             Over: the device removes it
#pragma once

#include <cstdint>
#include <memory>

#include "virtio/vsock/host.h"
#include "virtio/vsock/last_bytes.h"
#include "virtio/vsock/metrics.h"
#include "virtio/vsock/protocol.h"
#include "virtio/vsock/waiting_bytes.h"

namespace trapeze {

struct VsockKey {
  uint32_t host_port = 0;
  uint32_t guest_port = 0;
  auto operator<=>(const VsockKey&) const = default;
};

class VsockConnection final : private VsockStreamListener {
 public:
  // The guest may have this many bytes under way that the host's reader has not taken.
  static constexpr uint32_t kBufferBytes = 256 * 1024;
  // It is told when so much has been taken: half, so that it need not wait for the news.
  static constexpr uint32_t kToldBytes = kBufferBytes / 2;

  class Owner {
   public:
    virtual ~Owner() = default;
    // It has something for the guest; once until next_packet() has been called.
    virtual void connection_has_packet(VsockConnection& connection) = 0;
    // The same, when the loop has just come from its stream: the owner may take packets at once,
    // and calls pause_or_go_on() then. The connection may be destroyed inside.
    virtual void connection_is_ready(VsockConnection& connection) = 0;
  };
  bool is_in_line = false;  // the owner's: it will be asked for a packet
  enum class State : uint8_t { Requested, Open, Over };

  VsockConnection(const VsockKey& key, State state, std::unique_ptr<VsockStream> stream,
                  Owner& owner, VsockMetrics& metrics);
  ~VsockConnection() override;
  VsockConnection(const VsockConnection&) = delete;
  VsockConnection& operator=(const VsockConnection&) = delete;

  const VsockKey& key() const { return key_; }
  bool is_over() const { return state_ == State::Over; }
  // The guest has no more to do with it: what the host's side has still to get goes on without.
  // Nothing may be called after it.
  void leave_rest(LastBytes& to);
  // A packet of the guest, and its bytes, header.len of them, where the guest may still change
  // them. False: it breaks the rules; the connection is to be reset.
  bool handle(const vsock::Header& header, std::span<const iovec> data);
  // Fills in the next packet for the guest and reads its bytes into `room`. False: there is none.
  // Afterwards is_over() may be true: it was the last one.
  bool next_packet(vsock::Header& header, std::span<const iovec> room);
  bool has_packet() const { return pending_ != 0; }
  // How many of the guest's buffers its next data will probably fill, 1 to kMaxBurst. A packet may
  // be given room for them all: its bytes can be split into packets.
  static constexpr uint16_t kMaxBurst = 16;
  uint16_t burst() const { return pending_ == kData ? burst_ : uint16_t{1}; }
  // Whether the stream shall say that it is ready: not while its bytes wait for a buffer of the
  // guest.
  void pause_or_go_on();

 private:
  enum Pending : uint8_t {
    kRequest = 1,
    kResponse = 2,
    kShutdown = 4,
    kCredit = 8,
    kData = 16,
    kReset = 32
  };

  void stream_ready() override;
  void queue(uint8_t what);
  void fail();
  bool take_data(uint32_t bytes, std::span<const iovec> data);
  void tell_room();
  bool flush();
  void maybe_finish();
  uint32_t guest_credit() const;
  bool read_data(vsock::Header& header, std::span<const iovec> room);

  const VsockKey key_;
  State state_;
  std::unique_ptr<VsockStream> stream_;
  Owner& owner_;
  VsockMetrics& metrics_;
  uint8_t pending_ = 0;

  // Host to guest.
  uint32_t guest_buffer_bytes_ = 0;  // as the guest says
  uint32_t guest_forwarded_ = 0;     // of what we sent, taken by its reader; counts around
  uint32_t sent_ = 0;
  uint16_t burst_ = 1;
  bool is_reading_over_ = false;  // the host's side has ended
  bool is_guest_deaf_ = false;    // the guest will not receive any more

  // Guest to host.
  WaitingBytes waiting_;
  uint32_t forwarded_ = 0;
  uint32_t told_forwarded_ = 0;   // as the guest last heard
  bool is_guest_silent_ = false;  // the guest will not send any more
  bool has_ended_writing_ = false;
};

}  // namespace trapeze
