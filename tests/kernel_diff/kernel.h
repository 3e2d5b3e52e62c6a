// Kernel: runs random kernels in the interpreter or the translator, with handlers that record
// exceptions and go on behind the instruction, or make the page present and try again.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "accel/soft/testing/machine.h"
#include "irq/chip/lapic.h"
#include "kernel_diff/program.h"

namespace trapeze::kernel_diff {

enum class Executor : uint8_t { Interpreter, Translator };

struct Outcome {
  soft::RunResult result = soft::RunResult::Limit;
  VcpuState state;
  std::vector<uint8_t> memory;
  uint64_t interrupts = 0;
};

// First difference in memory, registers that differ; empty when there are none.
std::string compare(const Outcome& expected, const Outcome& outcome);
// The exceptions that there were.
std::string describe_log(const Outcome& outcome);
// Their vectors, a bit each.
uint32_t vectors_of(const Outcome& outcome);

class Kernel {
 public:
  explicit Kernel(Executor executor);
  ~Kernel();

  // Interrupts::On: another thread sends NMIs and interrupts all the time. Off and None do not;
  // Off leaves out of the outcome what interrupts may change.
  enum class Interrupts : uint8_t { None, Off, On };
  void run(const Program& program, const Image& image, Interrupts interrupts, Outcome& outcome);

  // What the translator has emitted for what ran last and is still in use, as text.
  std::string emitted_code() const { return machine_.emitted_code(); }

 private:
  class Host;
  // Kicks a run that takes seconds: translated code counts no instructions.
  class Watchdog {
   public:
    explicit Watchdog(soft::Cpu& cpu);
    void start() { ++run_; }  // odd: running
    void stop() { ++run_; }

   private:
    std::atomic<uint64_t> run_{0};
    std::mutex mutex_;
    std::condition_variable_any changed_;
    std::jthread thread_;
  };

  void write_tables(const Program& program);
  void write_handlers();
  static void hide_flags(Outcome& outcome);
  void start(const Program& program);
  template <typename T>
  void put(uint64_t gpa, const T& value);

  soft::TestMachine machine_{soft::TestMode::Long64, soft::TestMachine::host_has_level3()
                                                         ? soft::TestMachine::kLevel3
                                                         : nullptr};
  FakeClock clock_;
  std::unique_ptr<Host> host_;
  std::unique_ptr<Lapic> lapic_;
  VcpuState initial_;
  std::vector<std::byte> first_page_;  // with the GDT
  Watchdog watchdog_;
};

}  // namespace trapeze::kernel_diff
