// Insistence: SIGINT and SIGTERM go to the command; somebody who sends them three times in two
// seconds wants an end, whatever the command makes of them.
#pragma once

#include <csignal>
#include <cstdint>

namespace trapeze {

class Insistence {
 public:
  bool insists(int signal, uint64_t now_ns) {
    if (signal != SIGINT && signal != SIGTERM) return false;
    if (now_ns - first_ns_ > kWithinNs) {
      first_ns_ = now_ns;
      count_ = 0;
    }
    return ++count_ >= kTimes;
  }

 private:
  static constexpr unsigned kTimes = 3;
  static constexpr uint64_t kWithinNs = 2'000'000'000;
  uint64_t first_ns_ = 0;
  unsigned count_ = 0;
};

}  // namespace trapeze
