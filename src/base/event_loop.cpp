#include "base/event_loop.h"

#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <ctime>

#include "base/check.h"
#include "base/event_fd.h"

namespace trapeze {
namespace {

constexpr uint32_t kReadyEvents = EPOLLIN | EPOLLOUT;

uint64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000U + static_cast<uint64_t>(now.tv_nsec);
}

void drain(int fd) {
  uint64_t count = 0;
  [[maybe_unused]] const auto got = ::read(fd, &count, sizeof(count));
}

uint64_t pack(int fd, uint32_t generation) {
  return uint64_t{generation} << 32 | static_cast<uint32_t>(fd);
}

}  // namespace

EventLoop::EventLoop(Fd epoll, Fd wake, Fd timer)
    : epoll_(std::move(epoll)), wake_(std::move(wake)), timer_(std::move(timer)) {}

EventLoop::~EventLoop() = default;

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.is_open()) return fail_errno("cannot create an epoll instance");
  Fd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.is_open()) return fail_errno("cannot create an eventfd");
  Fd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!timer.is_open()) return fail_errno("cannot create a timerfd");
  auto loop = std::unique_ptr<EventLoop>(
      new EventLoop(std::move(epoll), std::move(wake), std::move(timer)));
  EventLoop* self = loop.get();
  TRY(loop->watch(self->wake_.get(), EPOLLIN, [self](uint32_t) {
    drain(self->wake_.get());
    self->run_posted();
  }));
  TRY(loop->watch(self->timer_.get(), EPOLLIN, [self](uint32_t) {
    drain(self->timer_.get());
    self->armed_ns_ = 0;
    self->run_timers();
  }));
  return loop;
}

void EventLoop::run() {
  {
    std::unique_lock lock(mutex_);
    CHECK(owner_ != std::this_thread::get_id());
    changed_.wait(lock, [this] { return owner_ == std::thread::id(); });
    owner_ = std::this_thread::get_id();
    is_owner_in_run_ = true;
  }
  std::array<epoll_event, 64> ready{};
  handle_events({});
  while (!stop_requested_.load(std::memory_order_acquire)) {
    const int count = ::epoll_wait(epoll_.get(), ready.data(), static_cast<int>(ready.size()),
                                   is_always_ready_ ? 0 : -1);
    CHECK(count >= 0 || errno == EINTR);
    handle_events(std::span(ready).first(count > 0 ? static_cast<size_t>(count) : 0));
  }
  stop_requested_.store(false, std::memory_order_relaxed);
  release_after_posted();
}

void EventLoop::handle_events(std::span<const epoll_event> ready) {
  is_turn_wanted_.store(true, std::memory_order_relaxed);
  const std::lock_guard turn(turn_);
  is_turn_wanted_.store(false, std::memory_order_relaxed);
  for (const epoll_event& event : ready) {
    handle_ready(static_cast<int>(event.data.u64 & 0xffffffffU),
                 static_cast<uint32_t>(event.data.u64 >> 32), event.events);
  }
  is_always_ready_ = handle_always_ready();
}

void EventLoop::stop() {
  stop_requested_.store(true, std::memory_order_release);
  wake();
}

void EventLoop::wake() { signal_event(wake_); }

void EventLoop::post(Task task) {
  bool was_empty = false;
  {
    std::lock_guard lock(mutex_);
    was_empty = posted_.empty();
    posted_.push_back(std::move(task));
  }
  // The loop takes the whole list at once, so a list that was not empty has its wake-up under way.
  if (was_empty) wake();
}

void EventLoop::call(const Task& task) {
  bool is_done = false;
  std::unique_lock lock(mutex_);
  if (owner_ == std::this_thread::get_id()) {
    lock.unlock();
    task();
    return;
  }
  // Another call() that runs its task itself is soon over; run() is not.
  changed_.wait(lock, [this] { return owner_ == std::thread::id() || is_owner_in_run_; });
  posted_.push_back([&] {
    task();
    std::lock_guard inner(mutex_);
    is_done = true;
    changed_.notify_all();
  });
  if (owner_ == std::thread::id()) {
    owner_ = std::this_thread::get_id();
    lock.unlock();
    release_after_posted();
    return;
  }
  wake();
  changed_.wait(lock, [&] { return is_done; });
}

bool EventLoop::is_on_loop_thread() const {
  std::lock_guard lock(mutex_);
  return owner_ == std::this_thread::get_id();
}

void EventLoop::run_posted() {
  std::vector<Task> tasks;
  {
    std::lock_guard lock(mutex_);
    tasks.swap(posted_);
  }
  for (Task& task : tasks) task();
}

// Gives the loop up once nothing is posted any more, in one step: a call() that saw an owner must
// find its task run.
void EventLoop::release_after_posted() {
  for (;;) {
    {
      const std::lock_guard turn(turn_);
      run_posted();
    }
    std::lock_guard lock(mutex_);
    if (!posted_.empty()) continue;
    owner_ = std::thread::id();
    is_owner_in_run_ = false;
    changed_.notify_all();
    return;
  }
}

Result<void> EventLoop::watch(int fd, uint32_t events, FdHandler handler) {
  CHECK(!watches_.contains(fd));
  auto entry = std::make_shared<Watch>();
  entry->generation = next_generation_++;
  entry->events = events;
  entry->handler = std::move(handler);
  epoll_event event{};
  event.events = events;
  event.data.u64 = pack(fd, entry->generation);
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    if (errno != EPERM) return fail_errno("cannot wait for events of file descriptor {}", fd);
    entry->is_always_ready = true;
    ++always_ready_count_;
    wake();
  } else {
    entry->is_in_epoll = true;
    if (events == 0) apply_events(fd, *entry);
  }
  watches_.emplace(fd, std::move(entry));
  return {};
}

void EventLoop::set_events(int fd, uint32_t events) {
  const auto found = watches_.find(fd);
  if (found == watches_.end() || found->second->events == events) return;
  Watch& entry = *found->second;
  entry.events = events;
  if (entry.is_always_ready) {
    if (events != 0) wake();
    return;
  }
  apply_events(fd, entry);
}

// epoll reports hang-ups of whatever it knows: a paused watch must be unknown to it, or the loop
// spins on a peer that has gone.
void EventLoop::apply_events(int fd, Watch& entry) {
  const bool is_wanted = entry.events != 0;
  if (!is_wanted && !entry.is_in_epoll) return;
  epoll_event event{};
  event.events = entry.events;
  event.data.u64 = pack(fd, entry.generation);
  const int in_epoll_op = is_wanted ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
  ::epoll_ctl(epoll_.get(), entry.is_in_epoll ? in_epoll_op : EPOLL_CTL_ADD, fd, &event);
  entry.is_in_epoll = is_wanted;
}

void EventLoop::unwatch(int fd) {
  const auto found = watches_.find(fd);
  if (found == watches_.end()) return;
  Watch& entry = *found->second;
  if (entry.is_always_ready) --always_ready_count_;
  entry.events = 0;
  apply_events(fd, entry);
  watches_.erase(found);
}

void EventLoop::handle_ready(int fd, uint32_t generation, uint32_t events) {
  const auto found = watches_.find(fd);
  if (found == watches_.end() || found->second->generation != generation) return;
  // The handler may unwatch its own fd: keep it alive meanwhile.
  const std::shared_ptr<Watch> entry = found->second;
  entry->handler(events);
}

// True when such a watch still wants events, so that the loop must not sleep. (One that a turn of
// another thread adds or resumes wakes it.)
bool EventLoop::handle_always_ready() {
  if (always_ready_count_ == 0) return false;
  std::vector<std::pair<int, uint32_t>> ready;
  for (const auto& [fd, entry] : watches_) {
    if (entry->is_always_ready && (entry->events & kReadyEvents) != 0) {
      ready.emplace_back(fd, entry->generation);
    }
  }
  for (const auto& [fd, generation] : ready) {
    const auto found = watches_.find(fd);
    if (found == watches_.end()) continue;
    handle_ready(fd, generation, found->second->events & kReadyEvents);
  }
  for (const auto& [fd, entry] : watches_) {
    if (entry->is_always_ready && (entry->events & kReadyEvents) != 0) return true;
  }
  return false;
}

EventLoop::TimerId EventLoop::start_timer(std::chrono::nanoseconds delay, Task task) {
  const int64_t delay_ns = delay.count() > 0 ? delay.count() : 0;
  const uint64_t id = next_timer_id_++;
  timers_.emplace(Deadline{now_ns() + static_cast<uint64_t>(delay_ns), id}, std::move(task));
  arm_timer();
  return TimerId{id};
}

void EventLoop::cancel_timer(TimerId timer) {
  for (auto it = timers_.begin(); it != timers_.end(); ++it) {
    if (it->first.second != static_cast<uint64_t>(timer)) continue;
    timers_.erase(it);  // an early wake-up finds nothing due, that is all
    return;
  }
}

void EventLoop::arm_timer() {
  if (timers_.empty()) return;
  const uint64_t deadline_ns = timers_.begin()->first.first;
  if (armed_ns_ != 0 && armed_ns_ <= deadline_ns) return;
  armed_ns_ = deadline_ns;
  itimerspec spec{};
  spec.it_value.tv_sec = static_cast<time_t>(deadline_ns / 1'000'000'000U);
  spec.it_value.tv_nsec = static_cast<long>(deadline_ns % 1'000'000'000U);
  ::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &spec, nullptr);
}

void EventLoop::run_timers() {
  // Only what is due now: a timer that restarts itself with no delay must not keep the loop here.
  const Deadline limit{now_ns(), next_timer_id_};
  while (!timers_.empty() && timers_.begin()->first < limit) {
    auto due = timers_.extract(timers_.begin());
    due.mapped()();
  }
  arm_timer();
}

Result<std::unique_ptr<EventLoopThread>> EventLoopThread::create(std::string name) {
  auto loop = TRY(EventLoop::create());
  return std::unique_ptr<EventLoopThread>(new EventLoopThread(std::move(name), std::move(loop)));
}

}  // namespace trapeze
