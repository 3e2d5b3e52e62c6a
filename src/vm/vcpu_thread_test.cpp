#include "vm/vcpu_thread.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>

namespace trapeze {
namespace {

// run() blocks, as HLT does, until it is kicked or told how to end.
class FakeVcpu final : public AccelVcpu {
 public:
  ExitReason run() override {
    std::unique_lock lock(mutex_);
    ++runs_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return kicked_ || end_; });
    kicked_ = false;
    return end_.value_or(ExitReason::Kicked);
  }
  void kick() override {
    const std::lock_guard lock(mutex_);
    kicked_ = true;
    changed_.notify_all();
  }
  VcpuState save() const override { return {}; }
  Result<void> restore(const VcpuState&) override { return {}; }
  std::string error() const override { return "out of luck"; }
  uint64_t instructions() const override { return 7; }

  void end(ExitReason reason) {
    const std::lock_guard lock(mutex_);
    end_ = reason;
    changed_.notify_all();
  }
  void wait_for_runs(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return runs_ >= count; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool kicked_ = false;
  int runs_ = 0;
  std::optional<ExitReason> end_;
};

class VcpuThreadTest : public testing::Test {
 protected:
  VcpuThreadTest() {
    auto vcpu = std::make_unique<FakeVcpu>();
    fake_ = vcpu.get();
    thread_ = std::make_unique<VcpuThread>(VcpuId(0), std::move(vcpu),
                                           [this](VcpuId, ExitReason reason, std::string text) {
                                             const std::lock_guard lock(mutex_);
                                             reason_ = reason;
                                             text_ = std::move(text);
                                             ended_.notify_all();
                                           });
  }
  void wait_for_end() {
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [this] { return reason_.has_value(); });
  }
  FakeVcpu* fake_ = nullptr;
  std::mutex mutex_;
  std::condition_variable ended_;
  std::optional<ExitReason> reason_;
  std::string text_;
  std::unique_ptr<VcpuThread> thread_;
};

TEST_F(VcpuThreadTest, SpuriousKick_OnlyRunsOn) {
  thread_->start({});
  fake_->wait_for_runs(1);
  fake_->kick();
  fake_->wait_for_runs(2);
  thread_->stop();
  EXPECT_FALSE(reason_.has_value());
}

TEST_F(VcpuThreadTest, StopBeforeTheFirstRun_IsNotLost) {
  thread_->request_stop();
  thread_->start({});
  thread_->stop();
  EXPECT_FALSE(reason_.has_value());
}

TEST_F(VcpuThreadTest, FirstInstruction_ComesAfterItsHook) {
  std::atomic<int> hooks{0};
  thread_->start([&] { ++hooks; });
  fake_->wait_for_runs(1);
  EXPECT_EQ(hooks.load(), 1);
  thread_->stop();
}

TEST_F(VcpuThreadTest, TripleFault_IsToldWithTheRegisters) {
  thread_->start({});
  fake_->end(ExitReason::TripleFault);
  wait_for_end();
  EXPECT_EQ(*reason_, ExitReason::TripleFault);
  EXPECT_NE(text_.find("cr3 0x0"), std::string::npos);
}

TEST_F(VcpuThreadTest, AcceleratorError_IsToldInItsWords) {
  thread_->start({});
  fake_->end(ExitReason::AccelError);
  wait_for_end();
  EXPECT_EQ(*reason_, ExitReason::AccelError);
  EXPECT_EQ(text_, "out of luck");
}

TEST_F(VcpuThreadTest, NeverStarted_CanBeStopped) { thread_->stop(); }

}  // namespace
}  // namespace trapeze
