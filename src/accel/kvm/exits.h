// What KVM_RUN came back for: counters by reason and by port, and texts for people.
#pragma once

#include <linux/kvm.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "accel/accel.h"

namespace trapeze::kvm {

const char* exit_name(uint32_t reason);  // "io", "mmio"; "other" for what is not of this machine
// Why KVM_EXIT_INTERNAL_ERROR, FAIL_ENTRY and the like, with what the kernel said.
std::string describe_exit(const kvm_run& run);

// Of one vCPU; its own thread only.
class ExitCounters {
 public:
  void count(uint32_t reason) { ++reasons_[reason < kReasons ? reason : kReasons - 1]; }
  void count_interrupted() { ++interrupted_; }
  void count_port(uint16_t port) { count_place(ports_, port, other_ports_); }
  void count_page(uint64_t gpa) { count_place(pages_, gpa >> 12, other_pages_); }
  std::vector<Stat> stats() const;

 private:
  struct Place {
    uint64_t key = 0;
    uint64_t count = 0;
  };
  static constexpr size_t kReasons = 48;
  using Places = std::array<Place, 48>;  // a hostile guest touches all ports: the rest is summed

  static void count_place(Places& places, uint64_t key, uint64_t& other);

  std::array<uint64_t, kReasons> reasons_{};
  uint64_t interrupted_ = 0;
  Places ports_;
  Places pages_;
  uint64_t other_ports_ = 0;
  uint64_t other_pages_ = 0;
};

}  // namespace trapeze::kvm
