#include "backend/vhost_user/socket_backend.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "backend/vhost_user/fake_process.h"

namespace trapeze {
namespace {

namespace files = std::filesystem;
using std::chrono::milliseconds;
using vhost_user::FakeBehaviour;
using vhost_user::FakeProcess;
using vhost_user::Request;

constexpr uint64_t kVersion1 = uint64_t{1} << 32;

struct SocketBackendTest : ::testing::Test {
  SocketBackendTest() {
    std::string name = (files::temp_directory_path() / "trapeze-vuser.XXXXXX").string();
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    folder = name;
    config.name = "--vhost-user test";
    config.path = folder / "socket";
    config.config_bytes = 60;
    config.reply_limit = milliseconds(100);
    set_log_level(LogLevel::Error);
  }
  ~SocketBackendTest() override {
    process.reset();
    files::remove_all(folder);
  }
  void start(FakeBehaviour behaviour) {
    process = std::make_unique<FakeProcess>(config.path, std::move(behaviour));
  }
  // The message; empty when it worked.
  std::string error() {
    const auto backend = SocketBackend::create(config, *loop);
    return backend ? "" : backend.error().message;
  }

  files::path folder;
  SocketBackendConfig config;
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create()).value();
  std::unique_ptr<FakeProcess> process;
};

TEST_F(SocketBackendTest, learns_what_the_back_end_is) {
  FakeBehaviour behaviour;
  behaviour.features |= 1 << 9;
  behaviour.config[59] = std::byte{42};
  start(behaviour);
  const auto backend = std::move(SocketBackend::create(config, *loop)).value();
  EXPECT_EQ(backend->info().features, kVersion1 | 1 << 9);
  EXPECT_EQ(backend->info().queues, 4);
  EXPECT_EQ(backend->info().config, behaviour.config);
  EXPECT_TRUE(backend->is_ready());
}

TEST_F(SocketBackendTest, without_confirmations_it_works_too) {
  FakeBehaviour behaviour;
  behaviour.protocol = vhost_user::kProtocolConfig;
  start(behaviour);
  EXPECT_EQ(error(), "");
}

TEST_F(SocketBackendTest, nobody_there_is_said) {
  EXPECT_EQ(error(), "--vhost-user test: cannot connect: No such file or directory");
  start({});
  process.reset();  // the socket's file stays
  EXPECT_EQ(error(), "--vhost-user test: nobody listens there");
  config.path = std::string(200, 'x');
  EXPECT_NE(error().find("107 bytes"), std::string::npos);
}

TEST_F(SocketBackendTest, silence_ends_after_the_limit) {
  for (const Request request : {Request::GetFeatures, Request::GetConfig, Request::SetOwner}) {
    FakeBehaviour behaviour;
    behaviour.mute = request;
    start(behaviour);
    EXPECT_NE(error().find("within 100 ms"), std::string::npos);
    process.reset();
  }
}

TEST_F(SocketBackendTest, configuration_that_is_not_told_is_said) {
  FakeBehaviour behaviour;
  behaviour.protocol = 0;
  start(behaviour);
  EXPECT_NE(error().find("VHOST_USER_PROTOCOL_F_CONFIG"), std::string::npos);
  process.reset();
  behaviour = {};
  behaviour.config.resize(8);
  start(behaviour);
  EXPECT_NE(error().find("answered GET_CONFIG with 20 bytes"), std::string::npos);
}

TEST_F(SocketBackendTest, refusal_is_said) {
  FakeBehaviour behaviour;
  behaviour.refuse = Request::SetOwner;
  start(behaviour);
  EXPECT_EQ(error(), "--vhost-user test: it refused SET_OWNER");
}

// What comes instead of the answer to GET_FEATURES.
struct Nonsense : SocketBackendTest,
                  ::testing::WithParamInterface<std::pair<std::vector<uint32_t>, const char*>> {};

TEST_P(Nonsense, is_told_from_an_answer) {
  FakeBehaviour behaviour;
  behaviour.answer_raw = [](Request) {
    const auto bytes = std::as_bytes(std::span(GetParam().first));
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  };
  start(behaviour);
  EXPECT_NE(error().find(GetParam().second), std::string::npos) << error();
}

using Answer = std::pair<std::vector<uint32_t>, const char*>;
INSTANTIATE_TEST_SUITE_P(
    Answers, Nonsense,
    ::testing::Values(
        Answer(std::vector<uint32_t>{0x50545448, 0x3030'3030, 0}, "does not speak vhost-user"),
        Answer(std::vector<uint32_t>{1, 5, 513}, "message of 513 bytes"),
        Answer(std::vector<uint32_t>{1, 5, 0xffff'ffff}, "message of 4294967295 bytes"),
        Answer(std::vector<uint32_t>{1, 5, 4, 0}, "with 4 bytes"),
        Answer(std::vector<uint32_t>{1, 1, 8, 0, 0}, "is none"),
        Answer(std::vector<uint32_t>{2, 5, 8, 0, 0}, "is none"),
        Answer(std::vector<uint32_t>{1, 5, 8, 0}, "within 100 ms"),
        Answer(std::vector<uint32_t>{1, 5, 8, 0x4000'0000, 1, 1, 5, 8, 0, 1},
               "GET_PROTOCOL_FEATURES is none")));

struct Client final : VhostUserClient {
  bool backend_ready(const VhostUserInfo& info) override {
    features = info.features;
    ++ready;
    return true;
  }
  void backend_started() override {}
  void backend_lost() override { ++lost; }
  uint64_t features = 0;
  int ready = 0;
  int lost = 0;
};

TEST_F(SocketBackendTest, comes_back_after_a_death_and_asks_again) {
  config.first_retry = milliseconds(5);
  start({});
  Client client;
  auto backend = std::move(SocketBackend::create(config, *loop)).value();
  backend->attach(&client);
  const auto run_until = [&](const int& counter, int value) {
    for (int turns = 0; turns < 5000 && counter != value; ++turns) {
      loop->start_timer(milliseconds(2), [this] { loop->stop(); });
      loop->run();
    }
    return counter == value;
  };
  process.reset();
  ASSERT_TRUE(run_until(client.lost, 1));
  EXPECT_FALSE(backend->is_ready());
  FakeBehaviour other;
  other.features |= 1 << 9;
  start(other);
  ASSERT_TRUE(run_until(client.ready, 1));
  EXPECT_EQ(client.features, kVersion1 | 1 << 9);
  backend->reject("for a test");
  EXPECT_EQ(client.lost, 2);
  ASSERT_TRUE(run_until(client.ready, 2));
}

}  // namespace
}  // namespace trapeze
