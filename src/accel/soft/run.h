// The run loop of both executors.
#pragma once

#include <cstdint>

#include "accel/soft/core/cpu.h"

namespace trapeze::soft {

class Translator;

// Why run_interpreter() or run_translator() came back.
enum class RunResult : uint8_t {
  Kicked,    // kAttnKick was set (it is cleared)
  Halted,    // HLT with nothing to do, or waiting for SIPI: the caller sleeps and calls again
  ShutDown,  // triple fault
  Limit,     // the instruction limit was reached
  Fault,     // only with stop_on_fault: cpu.fault holds it, undelivered
};

struct RunLimits {
  uint64_t instructions = ~uint64_t{0};  // checked between blocks, so a few more may run
  bool stop_on_fault = false;            // for tests: come back instead of delivering exceptions
  bool single_step = false;              // for tests: blocks of one instruction
};

// Executes guest code until one of the above. Interrupts and exceptions are delivered inside.
RunResult run_interpreter(Cpu& cpu, const RunLimits& limits = {});
// The same with hot blocks translated. Translated code counts no instructions, so a limit is looked
// at only when it comes back.
RunResult run_translator(Cpu& cpu, Translator& translator, const RunLimits& limits = {});

}  // namespace trapeze::soft
