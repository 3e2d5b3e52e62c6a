// What this host's KVM takes for the things a VMM does all the time, by guests of a few bytes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace trapeze::kvm {

struct BenchFigure {
  std::string name;     // "port_write"
  std::string meaning;  // for people
  double ns = 0;        // for one
  std::string problem;  // when it could not be measured
};

// Takes some tenths of a second. Starts VMs on this host's /dev/kvm.
Result<std::vector<BenchFigure>> run_bench();

}  // namespace trapeze::kvm
