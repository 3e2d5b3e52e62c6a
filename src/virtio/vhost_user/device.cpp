#include "virtio/vhost_user/device.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/event_fd.h"
#include "base/units.h"

namespace trapeze {
namespace {

// A turn of one queue: then other queues and completions get theirs.
constexpr uint16_t kMaxChainsPerTurn = 128;
// Where the back end sees the rings; far above any RAM.
constexpr uint64_t kRingsGuestAddress = uint64_t{1} << 45;
constexpr uint64_t kQueueFeatures = kFeatureEventIdx | kFeatureIndirectDesc;
constexpr std::byte kBlockIoError{1};

// The back end has the same open file and could make it block: never waits, whatever it does.
void clear_event(int event) {
  uint64_t count = 0;
  const iovec part{&count, sizeof(count)};
  if (::preadv2(event, &part, 1, -1, RWF_NOWAIT) >= 0 || errno != EOPNOTSUPP) return;
  [[maybe_unused]] const auto got = ::read(event, &count, sizeof(count));  // before Linux 5.8
}

Result<Fd> create_event() {
  Fd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.is_open()) return fail_errno("cannot make an event for a vhost-user ring");
  return event;
}

}  // namespace

VhostUserDevice::VhostUserDevice(VhostUserModel model, VhostUserBackend& backend,
                                 GuestMemory& memory, EventLoop& loop)
    : model_(std::move(model)),
      backend_(backend),
      memory_(memory),
      loop_(loop),
      config_bytes_(static_cast<uint32_t>(model_.config.size())),
      config_(model_.config) {
  CHECK(memory.shared_file() != nullptr);
  for (const auto& queue : model_.queues) {
    queue_sizes_.push_back(queue.max_size);
    rings_.push_back(std::make_unique<Ring>(memory));
  }
  backend_.attach(this);
}

VhostUserDevice::~VhostUserDevice() {
  reset();
  backend_.attach(nullptr);
}

// Configuration -----------------------------------------------------------------------------------

void VhostUserDevice::read_config(uint32_t offset, std::span<std::byte> to) {
  const std::lock_guard lock(config_mutex_);
  std::memcpy(to.data(), config_.data() + offset, to.size());
}

void VhostUserDevice::write_config(uint32_t offset, std::span<const std::byte> from) {
  if (!model_.writable_config_offset) return;
  const uint32_t writable = *model_.writable_config_offset;
  if (offset > writable || writable - offset >= from.size()) return;
  {
    const std::lock_guard lock(config_mutex_);
    config_[writable] = from[writable - offset];
    has_written_config_ = true;
  }
  if (is_config_to_send_.exchange(true, std::memory_order_acq_rel)) return;
  loop_.post([this] { send_config(); });
}

void VhostUserDevice::send_config() {
  is_config_to_send_.store(false, std::memory_order_release);
  if (!model_.writable_config_offset) return;
  std::byte value{};
  {
    const std::lock_guard lock(config_mutex_);
    if (!has_written_config_) return;
    value = config_[*model_.writable_config_offset];
  }
  backend_.write_config(*model_.writable_config_offset, {&value, 1});
}

// A disk may have grown meanwhile.
void VhostUserDevice::adopt_config(const VhostUserInfo& info) {
  bool is_changed = false;
  {
    const std::lock_guard lock(config_mutex_);
    auto config = vhost_user_config(model_, info);
    if (has_written_config_ && model_.writable_config_offset) {
      config[*model_.writable_config_offset] = config_[*model_.writable_config_offset];
    }
    is_changed = config != config_;
    config_ = std::move(config);
  }
  if (is_changed && active_ != nullptr) active_->interrupt.config_changed();
  send_config();
}

// The back end comes and goes ---------------------------------------------------------------------

bool VhostUserDevice::is_usable(const VhostUserInfo& info) const {
  // What the guest was promised. MAC and multi-queue come from us, not from the back end.
  const uint64_t own = model_.type == VirtioType::Net     ? feature_bit(5)
                       : model_.type == VirtioType::Block ? feature_bit(12)
                                                          : 0;
  const uint64_t needed = (model_.features & ~own) | kFeatureVersion1;
  const bool has_queues = model_.type == VirtioType::Net || info.queues >= model_.queues.size();
  const bool has_config = !model_.is_config_remote || info.config.size() == model_.config.size();
  return (info.features & needed) == needed && has_queues && has_config;
}

bool VhostUserDevice::backend_ready(const VhostUserInfo& info) {
  if (!is_usable(info)) return false;
  metrics_.connections.add();
  adopt_config(info);
  if (active_ != nullptr) start_session();
  return true;
}

void VhostUserDevice::backend_started() {
  link_ = Link::Running;
  is_failing_ = false;
  if (give_up_timer_) loop_.cancel_timer(*std::exchange(give_up_timer_, std::nullopt));
  for (uint16_t i = 0; i < rings_.size(); ++i) {
    if (active_->queue(i) == nullptr) continue;
    kick_backend(*rings_[i]);
    active_->kick_again(i);  // what came while nobody was there
  }
}

void VhostUserDevice::backend_lost() {
  link_ = Link::Lost;
  end_session();
  if (active_ == nullptr) return;
  refuse_in_flight(OutageRule::Drop);
  if (is_failing_ || give_up_timer_) return;
  const auto give_up = [this] {
    give_up_timer_.reset();
    is_failing_ = true;
    refuse_in_flight(OutageRule::Fail);
  };
  if (model_.give_up_after.count() == 0) {
    give_up();
  } else {
    give_up_timer_ = loop_.start_timer(model_.give_up_after, give_up);
  }
}

void VhostUserDevice::start_session() {
  const auto setup = make_session();
  if (!setup) {
    if (log_limiter_.allow()) log(LogLevel::Warning, "{}", setup.error().message);
    end_session();
    active_->interrupt.needs_reset();
    return;
  }
  link_ = Link::Starting;
  backend_.start(*setup);
}

Result<VhostUserSetup> VhostUserDevice::make_session() {
  const size_t bytes = rings_.size() * ShadowQueue::kBytes;
  session_.file = Fd(::memfd_create("vhost-user-rings", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!session_.file.is_open() ||
      ::ftruncate(session_.file.get(), static_cast<off_t>(bytes)) != 0 ||
      ::fcntl(session_.file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail_errno("cannot make the memory of vhost-user rings");
  }
  session_.mapping = TRY(Mapping::create(bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                                         session_.file.get(), 0, "vhost-user rings"));
  VhostUserSetup setup;
  setup.features = (active_->features & model_.features & ~kQueueFeatures) | kFeatureVersion1;
  for (const GpaRange& range : memory_.ram()) {
    const auto user = reinterpret_cast<uint64_t>(memory_.host_base()) + range.start.raw();
    setup.regions.push_back(
        {range.start.raw(), range.size, user, range.start.raw(), memory_.shared_file()->get()});
  }
  const auto base = reinterpret_cast<uint64_t>(session_.mapping.data());
  setup.regions.push_back({kRingsGuestAddress, bytes, base, 0, session_.file.get()});
  for (uint16_t i = 0; i < rings_.size(); ++i) {
    if (active_->queue(i) == nullptr) continue;
    Ring& ring = *rings_[i];
    ring.kick = TRY(create_event());
    ring.call = TRY(create_event());
    const size_t offset = i * ShadowQueue::kBytes;
    ring.shadow.begin(session_.mapping.bytes().subspan(offset, ShadowQueue::kBytes));
    TRY(loop_.watch(ring.call.get(), EPOLLIN, [this, i](uint32_t) { on_call(i); }));
    setup.rings.push_back(
        {i, ShadowQueue::kSize, base + offset, base + offset + ShadowQueue::kAvailOffset,
         base + offset + ShadowQueue::kUsedOffset, ring.kick.get(), ring.call.get()});
  }
  return setup;
}

void VhostUserDevice::end_session() {
  for (auto& ring : rings_) {
    if (ring->call.is_open()) loop_.unwatch(ring->call.get());
    ring->call.reset();
    ring->kick.reset();
    ring->shadow.end();
  }
  session_ = {};
}

// The driver --------------------------------------------------------------------------------------

void VhostUserDevice::activate(ActiveState& state) {
  active_ = &state;
  if (backend_.is_ready()) {
    start_session();
  } else {
    backend_lost();  // it was lost while nobody used it
  }
}

void VhostUserDevice::reset() {
  if (active_ == nullptr) return;
  // Before stop(): back ends answer that at once, with requests still under way.
  if (link_ == Link::Running) drain();
  if (link_ != Link::Lost) backend_.stop();
  link_ = Link::Lost;
  end_session();
  for (auto& ring : rings_) ring = std::make_unique<Ring>(memory_);
  if (give_up_timer_) loop_.cancel_timer(*std::exchange(give_up_timer_, std::nullopt));
  is_failing_ = false;
  active_ = nullptr;
}

// False when it was lost meanwhile, or does not get done. Queues that it only fills when it has
// something (a network card's receive queue) are not waited for.
bool VhostUserDevice::drain() {
  const auto end = std::chrono::steady_clock::now() + kMaxDrain;
  while (link_ == Link::Running) {
    std::vector<pollfd> waits;
    for (uint16_t i = 0; i < rings_.size(); ++i) {
      const bool never_ends = model_.type == VirtioType::Net && i == 0;
      if (active_->queue(i) == nullptr || never_ends) continue;
      if (!take_all_used(i)) return false;
      if (rings_[i]->shadow.in_flight() != 0) {
        waits.push_back({rings_[i]->call.get(), POLLIN, 0});
      }
    }
    if (waits.empty()) return true;
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        end - std::chrono::steady_clock::now());
    if (left.count() <= 0) return false;
    ::poll(waits.data(), waits.size(), static_cast<int>(left.count()));
    for (const pollfd& wait : waits) {
      if (wait.revents != 0) clear_event(wait.fd);
    }
  }
  return false;
}

// Requests ----------------------------------------------------------------------------------------

// HOT
bool VhostUserDevice::on_kick(uint16_t index) {
  VirtQueue* queue = active_ != nullptr ? active_->queue(index) : nullptr;
  if (queue == nullptr) return false;
  // Until the back end is there they stay in the guest's ring.
  if (link_ != Link::Running && !is_refusing(index)) return false;
  const bool has_more =
      serve(*queue, chain_, kMaxChainsPerTurn, [&](Chain& chain) { return handle(index, chain); });
  if (link_ == Link::Running) kick_backend(*rings_[index]);
  active_->notify_used(index);
  return has_more;
}

bool VhostUserDevice::is_refusing(uint16_t index) const {
  switch (model_.queues[index].outage) {
    case OutageRule::Hold:
      return false;
    case OutageRule::Fail:
      return is_failing_;
    case OutageRule::Drop:
      return link_ == Link::Lost;
  }
  return false;
}

// False: there is no room in the ring, and `chain` is untouched.
bool VhostUserDevice::handle(uint16_t index, Chain& chain) {
  if (!is_well_formed(index, chain)) {
    metrics_.bad_requests.add();
    active_->queue(index)->mark_broken(QueueFault::WrongDirection);
    return true;
  }
  if (link_ != Link::Running) {
    refuse(index, chain);
    return true;
  }
  ShadowQueue& shadow = rings_[index]->shadow;
  if (!shadow.has_room(chain)) return false;
  shadow.submit(chain);
  metrics_.requests.add();
  return true;
}

bool VhostUserDevice::is_well_formed(uint16_t index, const Chain& chain) const {
  const VhostUserQueueModel& queue = model_.queues[index];
  return chain.readable_bytes() >= queue.min_readable_bytes &&
         chain.writable_bytes() >= queue.min_writable_bytes &&
         chain.readable().size() + chain.writable().size() <= ShadowQueue::kSize;
}

void VhostUserDevice::kick_backend(Ring& ring) {
  if (!ring.shadow.publish()) return;
  // The back end has the same open file: see clear_event(). A counter that is full needs no kick.
  pollfd room{ring.kick.get(), POLLOUT, 0};
  if (::poll(&room, 1, 0) <= 0) return;
  signal_event(ring.kick);
}

void VhostUserDevice::on_call(uint16_t index) {
  clear_event(rings_[index]->call.get());
  if (link_ != Link::Running || !take_all_used(index)) return;
  // What found no room in the ring; the driver makes no other kick for it.
  if (active_->queue(index)->pending() > 0) active_->kick_again(index);
}

// False when the back end was lost over it.
bool VhostUserDevice::take_all_used(uint16_t index) {
  VirtQueue* const queue = active_->queue(index);
  ShadowQueue& shadow = rings_[index]->shadow;
  auto taken = ShadowQueue::Taken::Chain;
  // Ends: nothing is submitted here, and more than is in flight is a violation.
  while (taken == ShadowQueue::Taken::Chain) {
    uint32_t len = 0;
    taken = shadow.take_used(chain_, len);
    if (taken != ShadowQueue::Taken::Chain) break;
    // It may have written more than it says.
    chain_.note_written(chain_.writable_bytes());
    queue->push_used(chain_, len);
    metrics_.replies.add();
  }
  active_->notify_used(index);
  if (taken != ShadowQueue::Taken::Violation) return true;
  backend_.reject("it gave back a request that was not in flight, or more bytes than fit into it");
  return false;
}

// Gives a chain back that no back end will see.
void VhostUserDevice::refuse(uint16_t index, Chain& chain) {
  metrics_.failed.add();
  if (model_.queues[index].outage == OutageRule::Fail) {
    const iovec& last = chain.writable().back();
    *(static_cast<volatile std::byte*>(last.iov_base) + last.iov_len - 1) = kBlockIoError;
  }
  // A back end that died may have written anything into it.
  chain.note_written(chain.writable_bytes());
  active_->queue(index)->push_used(chain, 0);
}

void VhostUserDevice::refuse_in_flight(OutageRule rule) {
  for (uint16_t i = 0; i < rings_.size(); ++i) {
    if (model_.queues[i].outage != rule || active_->queue(i) == nullptr) continue;
    while (rings_[i]->shadow.take_oldest(chain_)) refuse(i, chain_);
    active_->notify_used(i);
    active_->kick_again(i);
  }
}

}  // namespace trapeze
