// Ownership: whose files the guest sees, and what becomes of the owners it asks for.
//
// With privileges (root on the host) users are the same numbers on both sides. Without, the host's
// user is the guest's root: its files are root's in the guest, all that the guest makes belongs to
// it, and a change of owner is accepted and ignored, so that tar, cp -a and package managers work
// as root. What the user may not do on the host, the guest may not either.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace trapeze {

struct Owner {
  uint32_t uid = 0;
  uint32_t gid = 0;
};

class Ownership {
 public:
  static Ownership of_process() { return Ownership(::geteuid(), ::getegid()); }
  Ownership(uid_t uid, gid_t gid) : uid_(uid), gid_(gid) {}

  bool is_privileged() const { return uid_ == 0; }
  // Root without the right to give files away, or in a user namespace that has no such user: as
  // without privileges, the file stays whose it is.
  static bool is_tolerable(int os_error) { return os_error == EPERM || os_error == EINVAL; }
  Owner to_guest(Owner host) const {
    if (is_privileged()) return host;
    return {host.uid == uid_ ? 0 : host.uid, host.gid == gid_ ? 0 : host.gid};
  }

 private:
  uid_t uid_;
  gid_t gid_;
};

}  // namespace trapeze
