#include "virtio/console/device.h"

#include <gtest/gtest.h>

#include <chrono>
#include <deque>

#include "virtio/queue/test_driver.h"

namespace trapeze {
namespace {

using console::Control;
using console::Event;
using Buffer = TestDriver::Buffer;

struct FakePort final : ConsolePort {
  void attach(ConsoleGuest* to) override { guest = to; }
  size_t receive(std::span<const std::byte> bytes) override {
    const size_t taken = std::min(bytes.size(), room);
    received.append(reinterpret_cast<const char*>(bytes.data()), taken);
    room -= taken;
    return taken;
  }
  void on_guest_ready() override { ++ready_calls; }
  void on_guest_open(bool open) override { opened.push_back(open); }
  size_t send(std::string_view text) { return guest->send(std::as_bytes(std::span(text))); }

  ConsoleGuest* guest = nullptr;
  std::string received;
  size_t room = 1 * MiB;
  int ready_calls = 0;
  std::vector<bool> opened;
};

struct FakeInterrupt final : DeviceInterrupt {
  void queue_used(uint16_t queue) override { used.push_back(queue); }
  void config_changed() override { ++config_changes; }
  void needs_reset() override { ++resets; }
  std::vector<uint16_t> used;
  int config_changes = 0;
  int resets = 0;
};

// A console with two ports (0: terminal, 1: "agent") and a driver for all of its queues.
struct ConsoleTest : ::testing::Test {
  static constexpr Gpa kBuffers{2 * MiB};

  ConsoleTest() : device(ConsoleConfig{.ports = {{"tty", true, &tty}, {"agent", false, &agent}}}) {}
  void start(uint64_t features = console::kFeatureSize | console::kFeatureMultiport) {
    active.features = features;
    active.queues.clear();
    active.queues.reserve(6);
    drivers.clear();
    for (uint16_t i = 0; i < 6; ++i) {
      drivers.emplace_back(*memory, 8, Gpa{0x1000 + uint64_t{i} * 0x1000});
      auto& queue = active.queues.emplace_back(std::in_place, *memory,
                                               [this](QueueFault) { interrupt.needs_reset(); });
      EXPECT_EQ(queue->configure(drivers[i].config(), {}, 64), QueueFault::None);
    }
    device.activate(active);
  }
  void kick(uint16_t queue) {
    while (device.on_kick(queue)) {
    }
  }
  void control(uint32_t id, Event event, uint16_t value) {
    const Control message{id, static_cast<uint16_t>(event), value};
    const Gpa at = kBuffers + 0x800;
    memory->store(at, message);
    drivers[3].add(Buffer{at, sizeof(message)});
    drivers[3].publish();
    kick(3);
    drivers[3].take_used();
  }
  // Gives the device buffers to fill, remembering where they are.
  void offer(uint16_t queue, uint32_t len, int count = 1) {
    for (int i = 0; i < count; ++i) {
      const Gpa at = kBuffers + 0x1000 + next_buffer++ * 0x1000 % (512 * KiB);
      offered[queue].push_back(at);
      drivers[queue].add(Buffer{at, len, true});
    }
    drivers[queue].publish();
  }
  std::optional<std::string> take(uint16_t queue) {
    const auto used = drivers[queue].take_used();
    if (!used) return std::nullopt;
    const Gpa at = offered[queue].front();
    offered[queue].pop_front();
    return text_at(*memory, at, used->len);
  }
  // All control messages so far as "event:id=value", with the payload of a name.
  std::string control_log() {
    std::string log;
    offer(2, 64, 8 - static_cast<int>(offered[2].size()));
    kick(2);
    while (auto message = take(2)) {
      Control header{};
      std::memcpy(&header, message->data(), sizeof(header));
      log += std::to_string(header.event) + ":" + std::to_string(header.id) + "=" +
             std::to_string(header.value);
      if (header.event == static_cast<uint16_t>(Event::PortName)) log += message->substr(8);
      if (header.event == static_cast<uint16_t>(Event::Resize)) resize = message->substr(8);
      log += " ";
      offer(2, 64);
      kick(2);
    }
    return log;
  }
  void open(uint32_t port) {
    control(0, Event::DeviceReady, 1);
    control(port, Event::PortReady, 1);
    control(port, Event::PortOpen, 1);
    control_log();
  }
  void write(uint16_t queue, std::string_view text) {
    memory->write(kBuffers, std::as_bytes(std::span(text)));
    drivers[queue].add(Buffer{kBuffers, static_cast<uint32_t>(text.size())});
    drivers[queue].publish();
    kick(queue);
  }

  std::unique_ptr<GuestMemory> memory = make_test_memory();
  FakePort tty;
  FakePort agent;
  FakeInterrupt interrupt;
  std::vector<uint16_t> kicked_again;
  ActiveState active{*memory, interrupt, 0, [this](uint16_t q) { kicked_again.push_back(q); }, {}};
  std::deque<TestDriver> drivers;
  std::array<std::deque<Gpa>, 6> offered;
  uint64_t next_buffer = 0;
  std::string resize;
  ConsoleDevice device;
};

TEST_F(ConsoleTest, configuration_tells_size_and_ports) {
  console::Config config{};
  device.read_config(0, std::as_writable_bytes(std::span(&config, 1)));
  EXPECT_EQ(config.cols, 80);
  EXPECT_EQ(config.rows, 25);
  EXPECT_EQ(config.max_nr_ports, 2U);
  EXPECT_EQ(device.queue_max_sizes().size(), 6U);
}

TEST_F(ConsoleTest, ports_are_announced_step_by_step) {
  start();
  EXPECT_EQ(control_log(), "");
  control(~0U, Event::DeviceReady, 1);
  EXPECT_EQ(control_log(), "1:0=1 1:1=1 ");
  control(0, Event::PortReady, 1);
  EXPECT_EQ(control_log(), "4:0=1 5:0=1 7:0=1tty 6:0=1 ");
  EXPECT_EQ(resize, (std::string{25, 0, 80, 0}));
  control(1, Event::PortReady, 1);
  EXPECT_EQ(control_log(), "7:1=1agent 6:1=1 ");
}

TEST_F(ConsoleTest, control_messages_wait_for_buffers_and_do_not_pile_up) {
  start();
  for (int i = 0; i < 1000; ++i) control(0, Event::DeviceReady, 1);
  for (int i = 0; i < 1000; ++i) control(1, Event::PortReady, 1);
  agent.guest->set_host_open(false);
  agent.guest->set_host_open(true);
  agent.guest->set_host_open(false);
  EXPECT_EQ(control_log(), "1:0=1 1:1=1 7:1=1agent 6:1=0 ");
}

TEST_F(ConsoleTest, nonsense_in_control_messages_is_ignored) {
  start();
  control(2, Event::PortReady, 1);
  control(~0U, Event::PortOpen, 1);
  control(0, Event::PortAdd, 1);
  control(0, static_cast<Event>(77), 1);
  drivers[3].add(Buffer{kBuffers, 7});  // too short
  drivers[3].add(Buffer{kBuffers, 8, true});
  drivers[3].publish();
  kick(3);
  EXPECT_EQ(drivers[3].used_idx(), 6);
  EXPECT_EQ(control_log(), "");
  EXPECT_TRUE(tty.opened.empty() && agent.opened.empty());
}

TEST_F(ConsoleTest, output_reaches_the_host_in_order) {
  start();
  open(1);
  write(5, "hello ");
  write(5, "world");
  EXPECT_EQ(agent.received, "hello world");
  EXPECT_EQ(drivers[5].used_idx(), 2);
  EXPECT_EQ(interrupt.used.back(), 5);
}

TEST_F(ConsoleTest, host_that_takes_part_holds_the_buffer_until_it_is_ready) {
  start();
  open(1);
  agent.room = 4;
  write(5, "hello world");
  EXPECT_EQ(agent.received, "hell");
  EXPECT_EQ(drivers[5].used_idx(), 0);
  kick(5);  // changes nothing
  EXPECT_EQ(agent.received, "hell");
  agent.room = 3;
  agent.guest->output_ready();
  EXPECT_EQ(agent.received, "hello w");
  agent.room = 100;
  agent.guest->output_ready();
  EXPECT_EQ(agent.received, "hello world");
  EXPECT_EQ(drivers[5].used_idx(), 1);
  EXPECT_EQ(device.metrics(1).guest_to_host_stalls.get(), 2U);
}

TEST_F(ConsoleTest, input_fills_buffers_and_waits_for_more) {
  start();
  open(1);
  EXPECT_EQ(agent.send("abcdef"), 0U);
  offer(4, 4);
  kick(4);
  EXPECT_EQ(agent.ready_calls, 1);
  EXPECT_EQ(agent.send("abcdef"), 4U);
  EXPECT_EQ(take(4), "abcd");
  EXPECT_EQ(interrupt.used.back(), 4);
  offer(4, 4, 2);
  EXPECT_TRUE(drivers[4].needs_kick());  // the device waits for buffers
  kick(4);
  EXPECT_EQ(agent.ready_calls, 2);
  EXPECT_EQ(agent.send("ef"), 2U);
  EXPECT_EQ(take(4), "ef");
  offer(4, 4);
  EXPECT_FALSE(drivers[4].needs_kick());  // nobody waits
  kick(4);
  EXPECT_EQ(agent.ready_calls, 2);
}

TEST_F(ConsoleTest, input_waits_until_the_guest_opens_the_port) {
  start();
  offer(4, 16);
  EXPECT_EQ(agent.send("early"), 0U);
  open(1);
  EXPECT_EQ(agent.opened, std::vector<bool>{true});
  EXPECT_EQ(agent.ready_calls, 1);
  EXPECT_EQ(agent.send("early"), 5U);
  control(1, Event::PortOpen, 0);
  EXPECT_EQ(agent.opened, (std::vector<bool>{true, false}));
  EXPECT_EQ(agent.send("late"), 0U);
}

TEST_F(ConsoleTest, unfillable_input_buffer_breaks_only_its_queue) {
  start();
  open(1);
  drivers[4].add(Buffer{kBuffers, 16, false});
  drivers[4].publish();
  EXPECT_EQ(agent.send("x"), 0U);
  EXPECT_EQ(interrupt.resets, 1);
  write(5, "still here");
  EXPECT_EQ(agent.received, "still here");
}

TEST_F(ConsoleTest, without_multiport_port_0_is_an_open_terminal) {
  start(console::kFeatureSize);
  EXPECT_EQ(tty.opened, std::vector<bool>{true});
  write(1, "boot");
  EXPECT_EQ(tty.received, "boot");
  offer(0, 16);
  EXPECT_EQ(tty.send("ls"), 2U);
  EXPECT_EQ(take(0), "ls");
  tty.guest->resize(100, 50);
  EXPECT_EQ(interrupt.config_changes, 1);
  control(1, Event::PortOpen, 1);
  EXPECT_TRUE(agent.opened.empty());
}

TEST_F(ConsoleTest, resize_is_told_by_message_once) {
  start();
  open(0);
  tty.guest->resize(100, 50);
  tty.guest->resize(100, 50);
  tty.guest->resize(132, 43);
  EXPECT_EQ(control_log(), "5:0=1 5:0=1 ");
  EXPECT_EQ(resize, (std::string{43, 0, static_cast<char>(132), 0}));
}

TEST_F(ConsoleTest, reset_closes_ports_and_drops_held_buffers) {
  start();
  open(1);
  agent.room = 2;
  write(5, "abcdef");
  device.reset();
  EXPECT_EQ(agent.opened, (std::vector<bool>{true, false}));
  agent.room = 100;
  agent.guest->output_ready();
  EXPECT_EQ(agent.send("x"), 0U);
  start();
  open(1);
  EXPECT_EQ(agent.ready_calls, 1);  // it still waited
  write(5, "new");
  EXPECT_EQ(agent.received, "abnew");
}

TEST_F(ConsoleTest, huge_chain_is_delivered_in_turns) {
  start();
  open(1);
  agent.room = ~size_t{0};
  drivers[5].add(std::vector<Buffer>(6, Buffer{Gpa{2 * MiB}, 1024 * 1024}));
  drivers[5].publish();
  int turns = 1;
  while (device.on_kick(5)) ++turns;
  EXPECT_EQ(turns, 7);
  EXPECT_EQ(agent.received.size(), 6 * MiB);
  EXPECT_EQ(drivers[5].used_idx(), 1);
}

TEST_F(ConsoleTest, long_output_after_a_stall_goes_on_by_kicking_again) {
  start();
  open(1);
  agent.room = 0;
  drivers[5].add(std::vector<Buffer>(3, Buffer{Gpa{2 * MiB}, 1024 * 1024}));
  drivers[5].publish();
  kick(5);
  agent.room = ~size_t{0};
  agent.guest->output_ready();
  EXPECT_EQ(kicked_again, std::vector<uint16_t>{5});
}

TEST_F(ConsoleTest, saved_state_continues_in_another_device) {
  start();
  open(1);
  agent.room = 4;
  write(5, "hello world");
  control(0, Event::PortReady, 1);  // messages that the guest has no buffers for: 4 of them
  const ConsoleState state = device.save();
  std::vector<QueueState> queues;
  for (auto& queue : active.queues) queues.push_back(queue->save());

  FakePort new_tty;
  FakePort new_agent;
  ConsoleDevice copy(
      ConsoleConfig{.ports = {{"tty", true, &new_tty}, {"agent", false, &new_agent}}});
  ActiveState copy_active{*memory, interrupt, active.features, [](uint16_t) {}, {}};
  copy_active.queues.reserve(6);
  for (const QueueState& queue : queues) {
    auto& added = copy_active.queues.emplace_back(std::in_place, *memory);
    EXPECT_EQ(added->restore(queue), QueueFault::None);
  }
  copy.restore(state);
  copy.activate(copy_active);
  EXPECT_EQ(new_agent.opened, std::vector<bool>{true});
  EXPECT_FALSE(copy.on_kick(5));
  EXPECT_EQ(new_agent.received, "o world");
  EXPECT_EQ(copy.save().ports[0].pending_control, state.ports[0].pending_control);
  // The first device may go on, too.
  agent.room = 100;
  agent.guest->output_ready();
  EXPECT_EQ(agent.received, "hello world");
}

TEST_F(ConsoleTest, hundred_megabytes_take_well_under_a_second) {
  start();
  open(1);
  struct Sink final : ConsolePort {
    void attach(ConsoleGuest*) override {}
    size_t receive(std::span<const std::byte> bytes) override {
      std::memcpy(buffer.data(), bytes.data(), bytes.size());
      total += bytes.size();
      return bytes.size();
    }
    void on_guest_ready() override {}
    void on_guest_open(bool) override {}
    std::vector<std::byte> buffer = std::vector<std::byte>(64 * KiB);
    uint64_t total = 0;
  } sink;
  ConsoleDevice fast(ConsoleConfig{.ports = {{"data", false, &sink}}});
  fast.activate(active);
  const auto before = std::chrono::steady_clock::now();
  while (sink.total < 100 * MiB) {
    for (int i = 0; i < 8; ++i) drivers[1].add(Buffer{Gpa{2 * MiB}, 32 * KiB});
    drivers[1].publish();
    (void)fast.on_kick(1);
    while (drivers[1].take_used()) {
    }
  }
  const auto taken = std::chrono::steady_clock::now() - before;
  RecordProperty("milliseconds", static_cast<int>(taken / std::chrono::milliseconds(1)));
  EXPECT_LT(taken, std::chrono::seconds(2));
}

}  // namespace
}  // namespace trapeze
