// VhostUserDevice: any virtio device whose work another process does (vhost-user).
//
// The back end never sees the guest's rings. A chain is popped from the guest's queue, put into a
// queue of our own that the back end serves (shadow_queue.h), and given back to the guest when the
// back end is done: so guest memory is told of what was written before the guest looks, whoever
// wrote it, and what is in flight survives the back end.
//
// Threads: as VirtioDevice says; the back end's port lives on the same EventLoop.
// It cannot be saved: part of its state is the back end's.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mapping.h"
#include "virtio/device.h"
#include "virtio/vhost_user/backend.h"
#include "virtio/vhost_user/metrics.h"
#include "virtio/vhost_user/model.h"
#include "virtio/vhost_user/shadow_queue.h"

namespace trapeze {

class VhostUserDevice final : public VirtioDevice, private VhostUserClient {
 public:
  // All must outlive the device; the memory is shared (GuestMemory::Backing). On the loop's thread,
  // as the destructor.
  VhostUserDevice(VhostUserModel model, VhostUserBackend& backend, GuestMemory& memory,
                  EventLoop& loop);
  ~VhostUserDevice() override;

  VirtioType type() const override { return model_.type; }
  uint64_t offered_features() const override { return model_.features; }
  std::span<const uint16_t> queue_max_sizes() const override { return queue_sizes_; }
  uint32_t config_bytes() const override { return config_bytes_; }
  void read_config(uint32_t offset, std::span<std::byte> to) override;
  void write_config(uint32_t offset, std::span<const std::byte> from) override;

  void activate(ActiveState& state) override;
  [[nodiscard]] bool on_kick(uint16_t queue) override;
  // Waits for the back end, but no longer than kMaxDrain and its port's own limit.
  void reset() override;

  const VhostUserMetrics& metrics() const { return metrics_; }

  // For requests under way when the guest resets the device.
  static constexpr std::chrono::milliseconds kMaxDrain{1000};

 private:
  struct Ring {
    explicit Ring(const GuestMemory& memory) : shadow(memory) {}
    ShadowQueue shadow;
    Fd kick;
    Fd call;
  };
  // The rings of one connection: its back end has no part in those of the next.
  struct Session {
    Fd file;
    Mapping mapping;
  };
  enum class Link : uint8_t {
    Lost,      // no back end
    Starting,  // it is told of the rings
    Running,
  };

  // VhostUserClient.
  bool backend_ready(const VhostUserInfo& info) override;
  void backend_started() override;
  void backend_lost() override;

  void start_session();
  Result<VhostUserSetup> make_session();
  void end_session();
  bool is_usable(const VhostUserInfo& info) const;
  void adopt_config(const VhostUserInfo& info);
  void send_config();

  bool handle(uint16_t index, Chain& chain);
  bool is_refusing(uint16_t index) const;
  bool is_well_formed(uint16_t index, const Chain& chain) const;
  void kick_backend(Ring& ring);
  void on_call(uint16_t index);
  bool take_all_used(uint16_t index);
  void refuse(uint16_t index, Chain& chain);
  void refuse_in_flight(OutageRule rule);
  bool drain();

  const VhostUserModel model_;
  VhostUserBackend& backend_;
  GuestMemory& memory_;
  EventLoop& loop_;
  std::vector<uint16_t> queue_sizes_;
  const uint32_t config_bytes_;

  std::mutex config_mutex_;
  std::vector<std::byte> config_;               // guarded by config_mutex_
  bool has_written_config_ = false;             // guarded by config_mutex_
  std::atomic<bool> is_config_to_send_{false};  // so that a guest has one task posted at most

  // Loop thread.
  ActiveState* active_ = nullptr;
  Link link_ = Link::Lost;
  bool is_failing_ = false;  // OutageRule::Fail has given up
  std::optional<EventLoop::TimerId> give_up_timer_;
  std::vector<std::unique_ptr<Ring>> rings_;
  Session session_;
  Chain chain_;
  VhostUserMetrics metrics_;
  LogLimiter log_limiter_;
};

}  // namespace trapeze
