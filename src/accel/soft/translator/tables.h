// TablesMemory: the memory of a vCPU's TranslatorTables, and their place in its Cpu.
#pragma once

#include <memory>

#include "accel/soft/core/cpu.h"
#include "base/mapping.h"
#include "base/result.h"

namespace trapeze::soft {

void clear_jumps(JumpTable& jumps);

// While it lives, cpu.translator.tables points to it. Belongs to the vCPU's thread.
class TablesMemory {
 public:
  // Fails where there is no room below 2 GiB.
  static Result<std::unique_ptr<TablesMemory>> create(Cpu& cpu);
  ~TablesMemory();
  TablesMemory(const TablesMemory&) = delete;
  TablesMemory& operator=(const TablesMemory&) = delete;

 private:
  TablesMemory(Cpu& cpu, Mapping mapping);
  Cpu& cpu_;
  const Mapping mapping_;
};

}  // namespace trapeze::soft
