#include "vm/managed_vm.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "vm/builder.h"

namespace trapeze {
namespace {

// From the question for statistics to an answer without them.
constexpr std::chrono::seconds kStatsPatience{2};

// By balloon::StatTag.
constexpr std::array<const char*, balloon::kStatTags> kStatNames{
    "guest_swap_in",          "guest_swap_out",    "guest_major_faults",
    "guest_minor_faults",     "guest_free_bytes",  "guest_total_bytes",
    "guest_available_bytes",  "guest_cache_bytes", "guest_huge_pages_allocated",
    "guest_huge_pages_failed"};

manage::VmInfo describe(const RunConfig& config, const Vm& vm) {
  manage::VmInfo info;
  info.name = config.managed->name;
  info.pid = ::getpid();
  info.accelerator = vm.accel_name();
  info.vcpus = config.vm.vcpus;
  info.memory_bytes = config.vm.memory_bytes;
  info.started_at = ::time(nullptr);
  if (config.command) info.command = config.command->argv;
  info.has_agent = config.command.has_value();
  info.is_detached = config.managed->is_detached;
  return info;
}

}  // namespace

ManagedVm::ManagedVm(EventLoop& loop, const RunConfig& config, ManagedHandlers handlers,
                     manage::RunEntry entry)
    : loop_(loop),
      config_(config),
      handlers_(std::move(handlers)),
      console_(std::make_unique<manage::ConsoleHub>(loop, nullptr)),
      entry_(std::move(entry)) {}

Result<std::unique_ptr<ManagedVm>> ManagedVm::create(EventLoop& loop, const RunConfig& config,
                                                     ManagedHandlers handlers) {
  const auto directory = TRY(manage::RunDirectory::open());
  auto entry = TRY(directory.claim(config.managed->name));
  std::unique_ptr<ManagedVm> managed(
      new ManagedVm(loop, config, std::move(handlers), std::move(entry)));
  if (config.managed->is_detached) {
    const Fd log = TRY(managed->entry_.open_log());
    if (::dup2(log.get(), STDERR_FILENO) < 0) return fail_errno("dup2");
    if (config.command) TRY(managed->open_command_streams());
  }
  return managed;
}

ManagedVm::~ManagedVm() {
  if (console_streams_.is_open()) loop_.unwatch(console_streams_.get());
}

Result<void> ManagedVm::open_command_streams() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) != 0) {
    return fail_errno("cannot create the console");
  }
  command_out_ = Fd(ends[0]);
  console_streams_ = Fd(ends[1]);
  command_err_ = Fd(::fcntl(ends[0], F_DUPFD_CLOEXEC, 0));
  // Without a terminal it has no input, as with other programs that start things in the background.
  command_in_ = config_.command->on_terminal ? Fd(::fcntl(ends[0], F_DUPFD_CLOEXEC, 0))
                                             : Fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  return loop_.watch(console_streams_.get(), EPOLLIN, [this](uint32_t events) {
    if ((events & EPOLLOUT) != 0) {
      loop_.set_events(console_streams_.get(), EPOLLIN);
      console_->room_available();
    }
    read_command_streams();
  });
}

// Whether there was something.
bool ManagedVm::read_command_streams() {
  std::array<uint8_t, 16 * KiB> part;
  const ssize_t got = ::recv(console_streams_.get(), part.data(), part.size(), MSG_DONTWAIT);
  if (got > 0) console_->write(std::span(part).first(static_cast<size_t>(got)));
  return got > 0;
}

size_t ManagedVm::write_command_input(std::span<const std::byte> bytes) {
  if (!config_.command->on_terminal) return bytes.size();  // it has no input
  const ssize_t sent =
      ::send(console_streams_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  const size_t taken = sent > 0 ? static_cast<size_t>(sent) : 0;
  if (taken < bytes.size()) loop_.set_events(console_streams_.get(), EPOLLIN | EPOLLOUT);
  return taken;
}

ByteSink& ManagedVm::show_serial(ByteSink* next) {
  console_ = std::make_unique<manage::ConsoleHub>(loop_, next);
  return *console_;
}

HostStreams ManagedVm::streams() const {
  if (shows_serial()) return {};
  return {.in = command_in_.get(), .out = command_out_.get(), .err = command_err_.get()};
}

std::string ManagedVm::agent_socket() const {
  return config_.command ? entry_.path_of(manage::kAgentFile) : std::string();
}

Result<void> ManagedVm::publish(Vm& vm, AgentSession* session) {
  vm_ = &vm;
  session_ = session;
  if (shows_serial()) {
    vm.serial().set_room_listener(this);
    console_->set_handlers(
        {.input =
             [this](std::span<const std::byte> bytes) {
               return vm_->serial().receive(
                   {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
             },
         .resize = {}});
  } else {
    console_->set_handlers(
        {.input = [this](std::span<const std::byte> bytes) { return write_command_input(bytes); },
         .resize =
             [this](uint16_t rows, uint16_t columns) {
               if (session_ != nullptr) session_->resize(rows, columns);
             }});
  }
  server_ = TRY(
      manage::ControlServer::create(entry_.path_of(manage::kControlFile), loop_, *console_, *this));
  return entry_.publish(describe(config_, vm));
}

void ManagedVm::agent_is_ready() {
  is_agent_ready_ = true;
  if (server_ != nullptr) server_->agent_state_changed();
}

void ManagedVm::finish() {
  // A socket's buffer bounds what the command has left there.
  while (console_streams_.is_open() && read_command_streams()) {
  }
  if (server_ != nullptr) server_->finish();
}

manage::AgentState ManagedVm::agent_state() const {
  if (!config_.command) return manage::AgentState::None;
  return is_agent_ready_ ? manage::AgentState::Ready : manage::AgentState::Booting;
}

Result<void> ManagedVm::balloon_ordered(const manage::BalloonOrder& order) {
  BalloonDevice* const balloon = vm_->balloon();
  if (balloon == nullptr) return fail("it has no balloon: start it with --balloon");
  if (order.sets_size != 0) {
    TRY(check_balloon(order.size_bytes, config_.vm.memory_bytes));
    balloon->set_target(order.size_bytes);
  }
  if (stats_timer_) return {};  // asked already: one answer for all
  balloon->request_stats([this](const BalloonStats& stats) { answer_balloon(stats); });
  // A guest that boots, or is up to no good, says nothing.
  stats_timer_ = loop_.start_timer(kStatsPatience, [this] { answer_balloon({}); });
  return {};
}

void ManagedVm::answer_balloon(const BalloonStats& stats) {
  if (!stats_timer_) return;
  loop_.cancel_timer(*stats_timer_);
  stats_timer_.reset();
  const BalloonDevice& balloon = *vm_->balloon();
  std::string text;
  const auto add = [&](const char* name, uint64_t value) {
    text += fmt::format("{} {}\n", name, value);
  };
  add("target_bytes", balloon.target_bytes());
  add("actual_bytes", balloon.actual_bytes());
  add("inflated_pages", balloon.metrics().inflated_pages.get());
  add("deflated_pages", balloon.metrics().deflated_pages.get());
  add("reported_bytes", balloon.metrics().reported_bytes.get());
  add("returned_bytes", balloon.metrics().returned_bytes.get());
  for (size_t i = 0; i < stats.size(); ++i) {
    if (stats[i]) add(kStatNames[i], *stats[i]);
  }
  server_->answer_balloon(text);
}

}  // namespace trapeze
