// SocketBackend: a vhost-user back end behind a unix socket: connects, asks what it can do, tells
// it of memory and rings, and connects again when it is gone.
//
// Every answer has a time limit, and nothing waits for one but create() and stop(). A back end that
// does not answer in time, or answers nonsense, is disconnected as if it had gone.
//
// Threads: the port's (virtio/vhost_user/backend.h), that is, those of the EventLoop. create() from
// a thread that is not the loop's.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "backend/vhost_user/channel.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "virtio/vhost_user/backend.h"

namespace trapeze {

struct SocketBackendConfig {
  std::string name;  // for messages: "--vhost-user blk:/run/disk.sock"
  std::string path;
  uint32_t config_bytes = 0;  // of the device's configuration to ask for; 0: none of it
  std::chrono::milliseconds reply_limit{5000};
  std::chrono::milliseconds stop_limit{2000};
  std::chrono::milliseconds first_retry{100};
  std::chrono::milliseconds last_retry{1000};
  // For tests: instead of a connection to `path`.
  std::function<Result<vhost_user::Channel>()> connect{};
};

class SocketBackend final : public VhostUserBackend {
 public:
  // Connects and asks; waits for the answers. `loop` must run, or be run by nobody, and outlive it.
  static Result<std::unique_ptr<SocketBackend>> create(const SocketBackendConfig& config,
                                                       EventLoop& loop);
  // On the loop's thread.
  ~SocketBackend() override;
  SocketBackend(const SocketBackend&) = delete;
  SocketBackend& operator=(const SocketBackend&) = delete;

  // What create() learned.
  const VhostUserInfo& info() const { return info_; }

  void attach(VhostUserClient* client) override { client_ = client; }
  bool is_ready() const override { return state_ == State::Idle; }
  void start(const VhostUserSetup& setup) override;
  void stop() override;
  void reject(std::string_view why) override;
  void write_config(uint32_t offset, std::span<const std::byte> bytes) override;

 private:
  enum class State : uint8_t { Lost, Asking, Idle, Starting, Running };
  using Message = vhost_user::Message;
  // What a reply means; an Error when it is nonsense.
  using ReplyHandler = std::function<Result<void>(const Message&)>;
  struct Call {
    Message message;
    ReplyHandler on_reply;  // empty: there is none, but perhaps a confirmation
    bool wants_reply = false;
    bool is_sent = false;
  };

  SocketBackend(const SocketBackendConfig& config, EventLoop& loop)
      : config_(config), loop_(loop) {}

  Result<void> connect();
  void ask();
  Result<void> ask_protocol(uint64_t offered);
  void ask_rest();

  void add(vhost_user::Request request, std::span<const std::byte> payload,
           ReplyHandler on_reply = {}, std::vector<int> fds = {});
  void ask_number(vhost_user::Request request, std::function<Result<void>(uint64_t)> on_value);
  void add_memory(const std::vector<VhostUserRegion>& regions);
  void add_ring(const VhostUserRing& ring);

  // Sends and receives as far as that goes without waiting.
  Result<void> work();
  Result<bool> send_front();
  Result<void> handle_reply(const Message& reply);
  void on_event();
  void all_done();
  void arm_limit();
  void disarm_limit();
  // Works, waiting for the socket, until all calls are done.
  Result<void> pump(std::chrono::milliseconds limit);

  void lose(std::string_view why);
  void close();
  void retry_later();

  const SocketBackendConfig config_;
  EventLoop& loop_;
  VhostUserClient* client_ = nullptr;
  State state_ = State::Lost;
  std::optional<vhost_user::Channel> channel_;
  std::deque<Call> calls_;  // the first one is under way
  uint64_t features_ = 0;
  uint64_t protocol_ = 0;
  VhostUserInfo info_;
  VhostUserInfo asked_;  // becomes info_
  std::vector<uint16_t> running_rings_;
  std::optional<EventLoop::TimerId> limit_timer_;
  std::optional<EventLoop::TimerId> retry_timer_;
  std::chrono::milliseconds retry_delay_{0};
  std::chrono::steady_clock::time_point connected_at_;
  std::string told_;  // the last loss that was reported; empty: it is there
  LogLimiter log_limiter_{20};
};

}  // namespace trapeze
