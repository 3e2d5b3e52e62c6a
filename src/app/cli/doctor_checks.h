// What `trapeze doctor` looks at on this host. Nothing here starts a guest.
#pragma once

#include <string>
#include <vector>

#include "vm/accel_choice.h"

namespace trapeze::cli {

enum class CheckState { Good, Missing, Note };

struct Check {
  std::string name;  // for JSON: "vhost_net"
  CheckState state = CheckState::Note;
  std::string detail;  // what is there, or is not
  std::string advice;  // what to do; only when something is missing
};

struct CpuFlag {
  const char* name;
  bool is_there;
  const char* meaning;
};
std::vector<CpuFlag> cpu_flags();

// /dev/kvm: access, kind, what it lacks.
Check check_kvm(const KvmFacts& facts);
struct KvmCapability {
  std::string name;
  int value = 0;
  std::string meaning;
};
// Empty when /dev/kvm cannot be used.
std::vector<KvmCapability> kvm_capabilities();

// vhost, tun, libslirp, io_uring, userfaultfd, Landlock, huge pages.
std::vector<Check> check_host();

}  // namespace trapeze::cli
