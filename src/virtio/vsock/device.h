// virtio-vsock (virtio 1.2 §5.10): stream sockets between guest and host.
//
// Threads: as VirtioDevice says; the VsockHost lives on the same EventLoop. Construct and destroy
// it, and call save() and restore(), while the loop does not run or on its thread.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "base/bulk_mode.h"
#include "base/event_loop.h"
#include "virtio/device.h"
#include "virtio/vsock/connection.h"
#include "virtio/vsock/host.h"
#include "virtio/vsock/last_bytes.h"
#include "virtio/vsock/metrics.h"
#include "virtio/vsock/state.h"
#include "virtio/vsock/transport_reset.h"

namespace trapeze {

class VsockDevice final : public VirtioDevice, private VsockGuest, private VsockConnection::Owner {
 public:
  // A guest that opens more is refused: each costs the host a file descriptor.
  static constexpr size_t kMaxConnections = 4096;

  // `host` and `loop` must outlive the device. `waits_in_streams`: BulkMode while many bytes come
  // from the host, for vCPUs that a doorbell stops.
  VsockDevice(uint64_t guest_cid, VsockHost& host, EventLoop& loop, bool waits_in_streams = false);
  ~VsockDevice() override;

  VirtioType type() const override { return VirtioType::Vsock; }
  uint64_t offered_features() const override { return 0; }  // streams, as ever
  std::span<const uint16_t> queue_max_sizes() const override { return kQueueSizes; }
  bool has_one_interrupt() const override { return true; }
  uint32_t config_bytes() const override { return sizeof(guest_cid_); }
  void read_config(uint32_t offset, std::span<std::byte> to) override;

  void activate(ActiveState& state) override;
  [[nodiscard]] bool on_kick(uint16_t queue) override;
  void reset() override;

  const VsockMetrics& metrics() const { return metrics_; }
  // With those that are over but for bytes that the host's side has not taken.
  size_t connections() const { return connections_.size() + last_bytes_.streams(); }

  // For when the guest runs no more: ends all connections, and brings to the host's side what the
  // guest had sent on them while the loop runs. `on_done` is called once, maybe at once.
  void finish(std::function<void()> on_done);
  // What the host's side has not taken of it.
  size_t undelivered_bytes() const { return last_bytes_.bytes(); }

  VsockState save() const { return {.guest_cid = guest_cid_}; }
  // Before the transport's restore(), which activates the device.
  void restore(const VsockState& state);

 private:
  static constexpr std::array<uint16_t, 3> kQueueSizes{256, 256, 16};
  static constexpr uint16_t kMaxPacketsPerTurn = 128;
  // Resets for packets that belong to no connection; more are dropped, the guest has had its
  // answer.
  static constexpr size_t kMaxLooseResets = 256;

  using Connections = std::map<VsockKey, std::unique_ptr<VsockConnection>>;

  bool serve_transmit();
  void tell_taken_or_wait(bool is_first, bool has_more);
  void tell_answer();
  void tell_taken();
  void stop_waiting();
  void handle_chain(Chain& chain);
  void handle_packet(const vsock::Header& header, std::span<const iovec> data);
  void open(const vsock::Header& header);
  void refuse(const vsock::Header& header);
  void remove(Connections::iterator at);
  void leave_all();
  bool serve_receive();
  bool has_packet() const { return !ready_.empty() || !loose_resets_.empty(); }
  uint16_t take_buffers(VirtQueue& queue);
  uint16_t fill(uint16_t count, VirtQueue& queue);
  void put_in_line(VsockConnection& connection);
  bool next_packet(vsock::Header& header, std::span<const iovec> room);

  // VsockGuest.
  void host_connects(uint32_t guest_port, std::unique_ptr<VsockStream> stream) override;
  // VsockConnection::Owner.
  void connection_has_packet(VsockConnection& connection) override;
  void connection_is_ready(VsockConnection& connection) override;

  uint64_t guest_cid_;
  VsockHost& host_;
  EventLoop& loop_;
  ActiveState* active_ = nullptr;
  Chain chain_;
  // A guest that asks and waits for the answer is not woken before, only to hear that its packet
  // was taken: both are told together. Meanwhile it is in the used ring; and a guest whose answer
  // does not come in time is not kept waiting again until it has had some answers in a row.
  static constexpr uint16_t kAnswersToTrust = 16;
  static constexpr uint16_t kMaxUntold = 64;
  // Linux only frees the packets then: long, so that a guest that talks all the time starts few
  // timers.
  static constexpr std::chrono::milliseconds kMaxWait{100};
  uint16_t untold_ = 0;           // packets that were taken
  uint16_t answers_ = 0;          // in a row, up to kAnswersToTrust
  bool awaits_answer_ = false;    // the guest has sent, and got nothing since
  bool is_timer_for_it_ = false;  // was started with the first packet that is untold
  std::optional<EventLoop::TimerId> wait_timer_;
  std::vector<iovec> parts_;  // of a packet's bytes, in guest RAM
  // Buffers for the next packet, or for the data of as many as they are.
  std::array<Chain, VsockConnection::kMaxBurst> buffers_;
  bool receives_soon_ = false;  // serve_receive() comes in this turn anyway
  Connections connections_;
  LastBytes last_bytes_;                // of connections that are gone
  std::deque<VsockConnection*> ready_;  // have a packet; each once, served in turn
  std::deque<VsockKey> loose_resets_;
  uint32_t next_host_port_ = 1U << 30;
  TransportReset transport_reset_;
  VsockMetrics metrics_;
  const bool waits_in_streams_;
  BulkMode bulk_;
};

}  // namespace trapeze
