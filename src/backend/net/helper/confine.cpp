#include "backend/net/helper/confine.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <netinet/in.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <cstdlib>
#include <memory>

#include "base/fd.h"
#include "base/units.h"

namespace trapeze {
namespace {

constexpr uid_t kNobody = 65534;
constexpr const char* kResolverFile = "/etc/resolv.conf";
// Each connection of the guest is a descriptor, and up to 256 KiB of buffers.
constexpr rlim_t kMaxFiles = 2048;
constexpr rlim_t kMaxDataBytes = 1 * GiB;

// Raw ICMP sockets, for ping where the host lets nobody have the unprivileged kind.
constexpr uint32_t kKeptCapability = CAP_NET_RAW;

Result<void> set_limit(__rlimit_resource resource, rlim_t value) {
  rlimit limit{};
  if (::getrlimit(resource, &limit) != 0) return fail_errno("getrlimit");
  limit.rlim_cur = limit.rlim_max = std::min(limit.rlim_max, value);
  if (::setrlimit(resource, &limit) != 0) return fail_errno("setrlimit");
  return {};
}

Result<void> limit_resources() {
  TRY(set_limit(RLIMIT_NOFILE, kMaxFiles));
  TRY(set_limit(RLIMIT_CORE, 0));
  TRY(set_limit(RLIMIT_FSIZE, 0));
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  TRY(set_limit(RLIMIT_DATA, kMaxDataBytes));
#endif
  return {};
}

// Root becomes nobody, as far as there is such a user in this namespace.
Result<void> leave_root() {
  if (::geteuid() != 0) return {};
  if (::prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0) return fail_errno("PR_SET_KEEPCAPS");
  // A user namespace may have forbidden or not mapped them; then it is that namespace's root.
  if (::setgroups(0, nullptr) != 0 || ::setresgid(kNobody, kNobody, kNobody) != 0) return {};
  [[maybe_unused]] const int changed = ::setresuid(kNobody, kNobody, kNobody);
  return {};
}

Result<void> drop_capabilities() {
  for (int capability = 0; capability <= 63; ++capability) {
    if (::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) != 1) continue;
    [[maybe_unused]] const int dropped = ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
  }
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  std::array<__user_cap_data_struct, 2> data{};
  if (::syscall(SYS_capget, &header, data.data()) != 0) return fail_errno("capget");
  constexpr uint32_t kKept = 1U << kKeptCapability;
  data[0] = {.effective = data[0].permitted & kKept,
             .permitted = data[0].permitted & kKept,
             .inheritable = 0};
  data[1] = {};
  if (::syscall(SYS_capset, &header, data.data()) != 0) return fail_errno("capset");
  return {};
}

// Where programs put new versions of the file that the name leads to.
std::string resolver_folder() {
  const std::unique_ptr<char, void (*)(void*)> real(::realpath(kResolverFile, nullptr), std::free);
  const std::string path = real == nullptr ? kResolverFile : real.get();
  return path.substr(0, path.find_last_of('/') + 1);
}

// False: the kernel has none.
Result<bool> hide_files() {
  landlock_ruleset_attr attributes{};
  attributes.handled_access_fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;  // all of ABI 1
  const Fd ruleset(
      static_cast<int>(::syscall(SYS_landlock_create_ruleset, &attributes, sizeof(attributes), 0)));
  if (!ruleset.is_open()) return false;
  const std::string folder = resolver_folder();
  const Fd parent(::open(folder.c_str(), O_PATH | O_CLOEXEC));
  if (parent.is_open()) {
    landlock_path_beneath_attr rule{};
    rule.allowed_access = LANDLOCK_ACCESS_FS_READ_FILE;
    rule.parent_fd = parent.get();
    if (::syscall(SYS_landlock_add_rule, ruleset.get(), LANDLOCK_RULE_PATH_BENEATH, &rule, 0) !=
        0) {
      return fail_errno("landlock_add_rule");
    }
  }
  if (::syscall(SYS_landlock_restrict_self, ruleset.get(), 0) != 0) {
    return fail_errno("landlock_restrict_self");
  }
  return true;
}

// What libslirp, the C library's allocator and our loop use. All else fails with EPERM.
constexpr int kAllowedCalls[] = {
    SCMP_SYS(read),         SCMP_SYS(write),          SCMP_SYS(readv),
    SCMP_SYS(writev),       SCMP_SYS(recvfrom),       SCMP_SYS(recvmsg),
    SCMP_SYS(recvmmsg),     SCMP_SYS(sendto),         SCMP_SYS(sendmsg),
    SCMP_SYS(sendmmsg),     SCMP_SYS(connect),        SCMP_SYS(bind),
    SCMP_SYS(listen),       SCMP_SYS(accept),         SCMP_SYS(accept4),
    SCMP_SYS(getsockname),  SCMP_SYS(getpeername),    SCMP_SYS(setsockopt),
    SCMP_SYS(getsockopt),   SCMP_SYS(shutdown),       SCMP_SYS(close),
    SCMP_SYS(fcntl),        SCMP_SYS(ioctl),          SCMP_SYS(poll),
    SCMP_SYS(ppoll),        SCMP_SYS(clock_gettime),  SCMP_SYS(gettimeofday),
    SCMP_SYS(time),         SCMP_SYS(futex),          SCMP_SYS(brk),
    SCMP_SYS(munmap),       SCMP_SYS(mremap),         SCMP_SYS(madvise),
    SCMP_SYS(newfstatat),   SCMP_SYS(fstat),          SCMP_SYS(stat),
    SCMP_SYS(lseek),        SCMP_SYS(exit),           SCMP_SYS(exit_group),
    SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigaction),   SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(getpid),       SCMP_SYS(gettid),         SCMP_SYS(tgkill),
    SCMP_SYS(getrandom),    SCMP_SYS(restart_syscall)};

bool add_rules(scmp_filter_ctx filter) {
  bool is_complete = true;
  const auto allow = [&](int call, auto... conditions) {
    const std::array<scmp_arg_cmp, sizeof...(conditions)> list{conditions...};
    is_complete &=
        ::seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, call, list.size(), list.data()) == 0;
  };
  for (const int call : kAllowedCalls) allow(call);
  const auto equals = [](unsigned argument, uint64_t value) {
    return scmp_arg_cmp{argument, SCMP_CMP_EQ, value, 0};
  };
  const auto has_none_of = [](unsigned argument, uint64_t mask) {
    return scmp_arg_cmp{argument, SCMP_CMP_MASKED_EQ, mask, 0};
  };
  // IP only; raw sockets only for ICMP.
  for (const uint64_t family : {uint64_t{AF_INET}, uint64_t{AF_INET6}}) {
    for (const uint64_t type : {uint64_t{SOCK_STREAM}, uint64_t{SOCK_DGRAM}}) {
      const scmp_arg_cmp is_type{1, SCMP_CMP_MASKED_EQ, 0xf, type};
      allow(SCMP_SYS(socket), equals(0, family), is_type);
    }
    allow(SCMP_SYS(socket), equals(0, family), equals(2, IPPROTO_ICMP));
    allow(SCMP_SYS(socket), equals(0, family), equals(2, IPPROTO_ICMPV6));
  }
  // Files are read, memory is not executed.
  allow(SCMP_SYS(openat), has_none_of(2, O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND));
  allow(SCMP_SYS(open), has_none_of(1, O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND));
  allow(SCMP_SYS(mmap), has_none_of(2, 4 /* PROT_EXEC */));
  allow(SCMP_SYS(mprotect), has_none_of(2, 4 /* PROT_EXEC */));
  return is_complete;
}

Result<void> filter_system_calls() {
  scmp_filter_ctx filter = ::seccomp_init(SCMP_ACT_ERRNO(EPERM));
  if (filter == nullptr) return fail("seccomp_init");
  const bool is_loaded = add_rules(filter) && ::seccomp_load(filter) == 0;
  ::seccomp_release(filter);
  if (!is_loaded) return fail("the kernel takes no system call filter");
  return {};
}

}  // namespace

Result<Confinement> confine_helper() {
  Confinement confinement;
  TRY(limit_resources());
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return fail_errno("PR_SET_NO_NEW_PRIVS");
  // Before rights are dropped: the folder may be readable by root only.
  confinement.has_landlock = TRY(hide_files());
  TRY(leave_root());
  TRY(drop_capabilities());
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return fail_errno("PR_SET_DUMPABLE");
  TRY(filter_system_calls());
  return confinement;
}

}  // namespace trapeze
