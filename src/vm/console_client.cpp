#include "vm/console_client.h"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <memory>

#include "backend/console/input_pump.h"
#include "backend/console/terminal.h"
#include "base/bytes.h"
#include "vm/agent/output_stream.h"
#include "vm/agent/session.h"
#include "vm/manage/control_client.h"
#include "vm/signals.h"

namespace trapeze {
namespace {

using manage::PacketType;

class Viewer {
 public:
  Viewer(std::unique_ptr<EventLoop> loop, manage::ControlClient client)
      : loop_(std::move(loop)), client_(std::move(client)), output_(*loop_, STDOUT_FILENO) {}
  ~Viewer() { loop_->unwatch(client_.fd()); }

  Result<void> start() {
    signals_ = TRY(SignalWatch::create(*loop_, [this](int number) { on_signal(number); }));
    output_.set_handlers([this] { show(); }, [this](int) { loop_->stop(); });
    const bool has_terminal = ::isatty(STDIN_FILENO) == 1;
    const TerminalSize size = terminal_size(STDIN_FILENO);
    const manage::WindowSize order{.rows = has_terminal ? size.rows : uint16_t{0},
                                   .columns = size.columns};
    TRY(client_.send(PacketType::Console, bytes_of_value(order)));
    TRY(loop_->watch(client_.fd(), EPOLLIN, [this](uint32_t events) { on_ready(events); }));
    if (has_terminal) {
      if (::isatty(STDERR_FILENO) == 1) {
        constexpr std::string_view kHint = "Ctrl-] three times leaves the console\r\n";
        [[maybe_unused]] const auto written = ::write(STDERR_FILENO, kHint.data(), kHint.size());
      }
      raw_terminal_ = TRY(RawTerminal::create(STDIN_FILENO));
      TRY(raw_terminal_->watch_size(*loop_, [this](TerminalSize now) {
        const manage::WindowSize resized{.rows = now.rows, .columns = now.columns};
        (void)send(PacketType::Resize, bytes_of_value(resized));
      }));
    }
    auto input = StreamFd::borrow(STDIN_FILENO, StreamFd::Direction::Read);
    if (!input) return {};  // started without a stdin: only look
    input_ =
        TRY(InputPump::create(*loop_, std::move(*input), [this](std::span<const std::byte> bytes) {
          return take_input(bytes);
        }));
    return {};
  }

  void run() {
    loop_->run();
    raw_terminal_.reset();
  }

 private:
  void on_signal(int number) {
    if (number == SIGUSR1 || number == SIGUSR2) return;
    loop_->stop();
  }

  void on_ready(uint32_t events) {
    if ((events & EPOLLOUT) != 0) {
      wants_room_ = false;
      input_->resume();
    }
    if (begin_ == end_) receive();
    update_events();
  }

  void receive() {
    std::array<std::byte, manage::kMaxPacketBytes> buffer;
    const ssize_t got = ::recv(client_.fd(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    const auto packet =
        got <= 0 ? std::nullopt
                 : manage::parse_packet(std::span(buffer).first(static_cast<size_t>(got)));
    if (!packet || packet->type != PacketType::Data) return loop_->stop();
    data_.assign(packet->payload.begin(), packet->payload.end());
    begin_ = 0;
    end_ = data_.size();
    show();
  }

  void show() {
    begin_ += output_.write(std::span(data_).subspan(begin_, end_ - begin_));
    update_events();
  }

  size_t take_input(std::span<const std::byte> bytes) {
    if (wants_room_) return 0;
    bytes = bytes.first(std::min(bytes.size(), manage::kMaxPayloadBytes / 2));
    if (!send(PacketType::Input, bytes)) return 0;
    if (raw_terminal_ == nullptr) return bytes.size();
    for (const std::byte byte : bytes) {
      escapes_seen_ = byte == kEscapeByte ? escapes_seen_ + 1 : 0;
      if (escapes_seen_ == kEscapeCount) loop_->stop();
    }
    return bytes.size();
  }

  // False: not now.
  bool send(PacketType type, std::span<const std::byte> payload) {
    const manage::PacketHeader header{.type = type};
    std::array<iovec, 2> parts{iovec{const_cast<manage::PacketHeader*>(&header), sizeof(header)},
                               iovec{const_cast<std::byte*>(payload.data()), payload.size()}};
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = parts.size();
    if (::sendmsg(client_.fd(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return true;
    if (errno == EAGAIN) {
      wants_room_ = true;
      update_events();
    } else if (errno != EINTR) {
      loop_->stop();
    }
    return false;
  }

  void update_events() {
    loop_->set_events(client_.fd(), (begin_ == end_ ? uint32_t{EPOLLIN} : 0) |
                                        (wants_room_ ? uint32_t{EPOLLOUT} : 0));
  }

  const std::unique_ptr<EventLoop> loop_;
  manage::ControlClient client_;
  OutputStream output_;
  std::unique_ptr<SignalWatch> signals_;
  std::unique_ptr<InputPump> input_;
  std::unique_ptr<RawTerminal> raw_terminal_;
  std::vector<std::byte> data_;
  size_t begin_ = 0;  // [begin_, end_) of data_ is not written yet
  size_t end_ = 0;
  bool wants_room_ = false;
  unsigned escapes_seen_ = 0;
};

}  // namespace

Result<void> view_console(const manage::RunningVm& vm) {
  auto client = TRY(manage::ControlClient::connect(vm));
  Viewer viewer(TRY(EventLoop::create()), std::move(client));
  TRY(viewer.start());
  viewer.run();
  return {};
}

}  // namespace trapeze
