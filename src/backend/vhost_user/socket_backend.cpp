#include "backend/vhost_user/socket_backend.h"

#include <poll.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace trapeze {

using vhost_user::Channel;
using vhost_user::Request;

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// A connection that lived so long was a good one: the next try comes soon.
constexpr milliseconds kGoodConnection{2000};

const char* name_of(Request request) {
  switch (request) {
    case Request::GetFeatures:
      return "GET_FEATURES";
    case Request::SetFeatures:
      return "SET_FEATURES";
    case Request::SetOwner:
      return "SET_OWNER";
    case Request::SetMemTable:
      return "SET_MEM_TABLE";
    case Request::SetVringNum:
      return "SET_VRING_NUM";
    case Request::SetVringAddr:
      return "SET_VRING_ADDR";
    case Request::SetVringBase:
      return "SET_VRING_BASE";
    case Request::GetVringBase:
      return "GET_VRING_BASE";
    case Request::SetVringKick:
      return "SET_VRING_KICK";
    case Request::SetVringCall:
      return "SET_VRING_CALL";
    case Request::GetProtocolFeatures:
      return "GET_PROTOCOL_FEATURES";
    case Request::SetProtocolFeatures:
      return "SET_PROTOCOL_FEATURES";
    case Request::GetQueueNum:
      return "GET_QUEUE_NUM";
    case Request::SetVringEnable:
      return "SET_VRING_ENABLE";
    case Request::GetConfig:
      return "GET_CONFIG";
    case Request::SetConfig:
      return "SET_CONFIG";
  }
  return "a request";
}

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span<const T, 1>(&value, 1));
}

template <typename T>
void append(std::vector<std::byte>& to, const T& value) {
  const auto bytes = bytes_of(value);
  to.insert(to.end(), bytes.begin(), bytes.end());
}

}  // namespace

Result<std::unique_ptr<SocketBackend>> SocketBackend::create(const SocketBackendConfig& config,
                                                             EventLoop& loop) {
  std::unique_ptr<SocketBackend> backend(new SocketBackend(config, loop));
  Result<void> done;
  loop.call([&] {
    done = backend->connect();
    if (done) done = backend->pump(config.reply_limit);
    if (done) {
      backend->all_done();
    } else {
      backend.reset();
    }
  });
  if (!done) return fail("{}: {}", config.name, done.error().message);
  return backend;
}

SocketBackend::~SocketBackend() {
  if (retry_timer_) loop_.cancel_timer(*retry_timer_);
  close();
}

// Calls -------------------------------------------------------------------------------------------

void SocketBackend::add(Request request, std::span<const std::byte> payload, ReplyHandler on_reply,
                        std::vector<int> fds) {
  Call call;
  call.message.request = request;
  call.message.payload.assign(payload.begin(), payload.end());
  call.message.fds = std::move(fds);
  call.wants_reply = static_cast<bool>(on_reply);
  call.on_reply = std::move(on_reply);
  if (!call.wants_reply && (protocol_ & vhost_user::kProtocolReplyAck) != 0) {
    call.message.flags = vhost_user::kFlagNeedReply;
    call.wants_reply = true;
  }
  calls_.push_back(std::move(call));
  // The loop finds the socket writable, and goes on.
  loop_.set_events(channel_->socket().get(), EPOLLIN | EPOLLOUT);
}

void SocketBackend::ask_number(Request request, std::function<Result<void>(uint64_t)> on_value) {
  add(request, {}, [request, on_value = std::move(on_value)](const Message& reply) -> Result<void> {
    uint64_t value = 0;
    if (reply.payload.size() != sizeof(value)) {
      return fail("it answered {} with {} bytes", name_of(request), reply.payload.size());
    }
    std::memcpy(&value, reply.payload.data(), sizeof(value));
    return on_value(value);
  });
}

Result<bool> SocketBackend::send_front() {
  Call& call = calls_.front();
  if (TRY(channel_->send(call.message)) == Channel::Sent::Full) return false;
  call.is_sent = true;
  if (!call.wants_reply) calls_.pop_front();
  return true;
}

Result<void> SocketBackend::work() {
  uint32_t events = EPOLLIN;
  for (;;) {
    while (!calls_.empty() && !calls_.front().is_sent) {
      if (!TRY(send_front())) {
        events |= EPOLLOUT;
        break;
      }
    }
    Message reply;
    if (TRY(channel_->receive(reply)) == Channel::Got::Nothing) break;
    TRY(handle_reply(reply));
  }
  loop_.set_events(channel_->socket().get(), events);
  return {};
}

Result<void> SocketBackend::handle_reply(const Message& reply) {
  if (calls_.empty() || !calls_.front().is_sent) return fail("it sent a message unasked");
  const Call call = std::move(calls_.front());
  calls_.pop_front();
  const Request request = call.message.request;
  if (reply.request != request || (reply.flags & vhost_user::kFlagReply) == 0) {
    return fail("its answer to {} is none", name_of(request));
  }
  if (call.on_reply) return call.on_reply(reply);
  uint64_t status = 0;
  if (reply.payload.size() != sizeof(status)) {
    return fail("it confirmed {} with {} bytes", name_of(request), reply.payload.size());
  }
  std::memcpy(&status, reply.payload.data(), sizeof(status));
  if (status != 0) return fail("it refused {}", name_of(request));
  return {};
}

void SocketBackend::on_event() {
  const size_t before = calls_.size();
  const auto worked = work();
  if (!worked) {
    lose(worked.error().message);
    return;
  }
  if (calls_.empty()) {
    all_done();
  } else if (calls_.size() != before || !limit_timer_) {
    arm_limit();
  }
}

void SocketBackend::arm_limit() {
  disarm_limit();
  limit_timer_ = loop_.start_timer(config_.reply_limit, [this] {
    limit_timer_.reset();
    lose(fmt::format("it did not answer {} within {} ms",
                     calls_.empty() ? "" : name_of(calls_.front().message.request),
                     config_.reply_limit.count()));
  });
}

void SocketBackend::disarm_limit() {
  if (limit_timer_) loop_.cancel_timer(*std::exchange(limit_timer_, std::nullopt));
}

// Nothing may be called back while somebody waits in here, so all_done() is the caller's.
Result<void> SocketBackend::pump(milliseconds limit) {
  disarm_limit();
  const auto end = Clock::now() + limit;
  for (;;) {
    TRY(work());
    if (calls_.empty()) return {};
    const auto left = std::chrono::ceil<milliseconds>(end - Clock::now());
    if (left.count() <= 0) {
      return fail("it did not answer {} within {} ms", name_of(calls_.front().message.request),
                  limit.count());
    }
    const auto events = calls_.front().is_sent ? POLLIN : POLLIN | POLLOUT;
    pollfd wait{channel_->socket().get(), static_cast<short>(events), 0};
    ::poll(&wait, 1, static_cast<int>(left.count()));
  }
}

// Connecting --------------------------------------------------------------------------------------

Result<void> SocketBackend::connect() {
  channel_.emplace(TRY(config_.connect ? config_.connect() : Channel::connect(config_.path)));
  connected_at_ = Clock::now();
  state_ = State::Asking;
  protocol_ = 0;
  asked_ = {};
  const auto watched =
      loop_.watch(channel_->socket().get(), EPOLLIN, [this](uint32_t) { on_event(); });
  if (!watched) {
    close();
    return watched;
  }
  ask();
  arm_limit();
  return {};
}

void SocketBackend::ask() {
  ask_number(Request::GetFeatures, [this](uint64_t offered) -> Result<void> {
    features_ = offered;
    asked_.features = offered & ~vhost_user::kFeatureProtocol;
    if ((offered & vhost_user::kFeatureProtocol) != 0) {
      ask_number(Request::GetProtocolFeatures,
                 [this](uint64_t protocol) { return ask_protocol(protocol); });
      return {};
    }
    return ask_protocol(0);
  });
}

Result<void> SocketBackend::ask_protocol(uint64_t offered) {
  if (config_.config_bytes != 0 && (offered & vhost_user::kProtocolConfig) == 0) {
    return fail("it cannot tell its configuration (VHOST_USER_PROTOCOL_F_CONFIG)");
  }
  const uint64_t wanted = offered & (vhost_user::kProtocolMultiQueue |
                                     vhost_user::kProtocolReplyAck | vhost_user::kProtocolConfig);
  if ((features_ & vhost_user::kFeatureProtocol) != 0) {
    add(Request::SetProtocolFeatures, bytes_of(wanted));
  }
  protocol_ = wanted;
  ask_rest();
  return {};
}

void SocketBackend::ask_rest() {
  add(Request::SetOwner, {});
  if ((protocol_ & vhost_user::kProtocolMultiQueue) != 0) {
    ask_number(Request::GetQueueNum, [this](uint64_t queues) -> Result<void> {
      asked_.queues = static_cast<uint16_t>(std::min<uint64_t>(queues, 0xffff));
      return {};
    });
  }
  if (config_.config_bytes == 0) return;
  CHECK(config_.config_bytes <= vhost_user::kMaxConfigBytes);
  std::vector<std::byte> payload;
  append(payload, vhost_user::ConfigHeader{.offset = 0, .size = config_.config_bytes, .flags = 0});
  payload.resize(payload.size() + config_.config_bytes);
  const size_t expected = payload.size();
  add(Request::GetConfig, payload, [this, expected](const Message& reply) -> Result<void> {
    if (reply.payload.size() != expected) {
      return fail("it answered GET_CONFIG with {} bytes", reply.payload.size());
    }
    asked_.config.assign(reply.payload.begin() + sizeof(vhost_user::ConfigHeader),
                         reply.payload.end());
    return {};
  });
}

void SocketBackend::all_done() {
  disarm_limit();
  switch (state_) {
    case State::Asking: {
      state_ = State::Idle;
      info_ = asked_;
      if (client_ != nullptr && !client_->backend_ready(info_)) {
        lose("it is not the back end that it was: it lacks features or queues that the guest uses");
        return;
      }
      if (!told_.empty() && log_limiter_.allow()) {
        log(LogLevel::Warning, "{}: the back end is there again", config_.name);
      }
      told_.clear();
      break;
    }
    case State::Starting:
      state_ = State::Running;
      if (client_ != nullptr) client_->backend_started();
      break;
    case State::Lost:
    case State::Idle:
    case State::Running:
      break;
  }
}

// The port ----------------------------------------------------------------------------------------

void SocketBackend::start(const VhostUserSetup& setup) {
  CHECK(state_ == State::Idle);
  state_ = State::Starting;
  add(Request::SetFeatures, bytes_of(setup.features | (features_ & vhost_user::kFeatureProtocol)));
  add_memory(setup.regions);
  for (const VhostUserRing& ring : setup.rings) add_ring(ring);
  // Only with protocol features are rings off at first.
  if ((features_ & vhost_user::kFeatureProtocol) != 0) {
    for (const VhostUserRing& ring : setup.rings) {
      add(Request::SetVringEnable, bytes_of(vhost_user::VringState{ring.queue, 1}));
    }
  }
  running_rings_.clear();
  for (const VhostUserRing& ring : setup.rings) running_rings_.push_back(ring.queue);
  arm_limit();
}

void SocketBackend::add_memory(const std::vector<VhostUserRegion>& regions) {
  CHECK(regions.size() <= vhost_user::kMaxRegions);
  std::vector<std::byte> table;
  std::vector<int> fds;
  append(table, vhost_user::MemTableHeader{static_cast<uint32_t>(regions.size()), 0});
  for (const VhostUserRegion& region : regions) {
    append(table, vhost_user::MemRegion{region.guest_address, region.size, region.user_address,
                                        region.file_offset});
    fds.push_back(region.fd);
  }
  add(Request::SetMemTable, table, {}, std::move(fds));
}

void SocketBackend::add_ring(const VhostUserRing& ring) {
  add(Request::SetVringNum, bytes_of(vhost_user::VringState{ring.queue, ring.size}));
  add(Request::SetVringBase, bytes_of(vhost_user::VringState{ring.queue, 0}));
  add(Request::SetVringAddr, bytes_of(vhost_user::VringAddr{.index = ring.queue,
                                                            .flags = 0,
                                                            .desc = ring.desc,
                                                            .used = ring.used,
                                                            .avail = ring.avail,
                                                            .log = 0}));
  const uint64_t queue = ring.queue;
  add(Request::SetVringCall, bytes_of(queue), {}, {ring.call_fd});
  add(Request::SetVringKick, bytes_of(queue), {}, {ring.kick_fd});
}

void SocketBackend::stop() {
  if (state_ != State::Starting && state_ != State::Running) return;
  for (const uint16_t ring : running_rings_) {
    add(Request::GetVringBase, bytes_of(vhost_user::VringState{ring, 0}),
        [](const Message& reply) -> Result<void> {
          if (reply.payload.size() == sizeof(vhost_user::VringState)) return {};
          return fail("it answered GET_VRING_BASE with {} bytes", reply.payload.size());
        });
  }
  running_rings_.clear();
  const auto stopped = pump(config_.stop_limit);
  if (stopped) {
    state_ = State::Idle;
    return;
  }
  VhostUserClient* const client = std::exchange(client_, nullptr);
  lose(stopped.error().message);
  client_ = client;
}

void SocketBackend::reject(std::string_view why) { lose(why); }

void SocketBackend::write_config(uint32_t offset, std::span<const std::byte> bytes) {
  const bool is_connected =
      state_ == State::Idle || state_ == State::Starting || state_ == State::Running;
  if (!is_connected || (protocol_ & vhost_user::kProtocolConfig) == 0) return;
  std::vector<std::byte> payload;
  append(payload, vhost_user::ConfigHeader{
                      .offset = offset, .size = static_cast<uint32_t>(bytes.size()), .flags = 0});
  payload.insert(payload.end(), bytes.begin(), bytes.end());
  // The guest may write as often as it likes: one that has not gone out yet is overtaken.
  for (Call& call : calls_) {
    if (call.is_sent || call.message.request != Request::SetConfig) continue;
    if (call.message.payload.size() != payload.size()) continue;
    call.message.payload = std::move(payload);
    return;
  }
  const bool was_empty = calls_.empty();
  add(Request::SetConfig, payload);
  if (was_empty) arm_limit();
}

// Losing it ---------------------------------------------------------------------------------------

void SocketBackend::close() {
  disarm_limit();
  if (channel_) loop_.unwatch(channel_->socket().get());
  channel_.reset();
  calls_.clear();
  state_ = State::Lost;
}

void SocketBackend::lose(std::string_view why) {
  if (state_ == State::Lost) return;
  const bool was_used = state_ != State::Asking;
  std::string reason(why);  // close() may own the text
  close();
  // Once for each reason, not for each try.
  if (reason != told_ && log_limiter_.allow()) {
    log(LogLevel::Warning, "{}: the back end is gone: {}; trying to connect again", config_.name,
        reason);
  }
  told_ = std::move(reason);
  if (Clock::now() - connected_at_ > kGoodConnection) retry_delay_ = milliseconds(0);
  retry_later();
  if (was_used && client_ != nullptr) client_->backend_lost();
}

void SocketBackend::retry_later() {
  retry_delay_ = std::clamp(retry_delay_ * 2, config_.first_retry, config_.last_retry);
  retry_timer_ = loop_.start_timer(retry_delay_, [this] {
    retry_timer_.reset();
    if (!connect()) retry_later();
  });
}

}  // namespace trapeze
