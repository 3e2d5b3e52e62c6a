#include "base/startup_memory.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "base/units.h"

namespace trapeze {
namespace {

// Resident pages of program and libraries, in KiB (proc(5), statm).
long resident_file_kib() {
  std::ifstream statm("/proc/self/statm");
  long total = 0, resident = 0, shared = 0;
  statm >> total >> resident >> shared;
  return shared * static_cast<long>(kPageSize / KiB);
}

TEST(StartupMemory, pages_of_the_program_go_and_it_runs_on) {
  const std::string before = std::to_string(1234.5);
  const long held = resident_file_kib();
  release_startup_memory();
  const long left = resident_file_kib();
  EXPECT_LT(left, held);
  EXPECT_EQ(std::to_string(1234.5), before);
}

}  // namespace
}  // namespace trapeze
