// ioctl on KVM's file descriptors with an Error that names the request. Private to accel/kvm.
#pragma once

#include <sys/ioctl.h>

#include "base/fd.h"
#include "base/result.h"

namespace trapeze::kvm {

template <typename Argument>
Result<int> kvm_ioctl(const Fd& fd, unsigned long request, const char* name, Argument argument) {
  int result;
  do {
    result = ::ioctl(fd.get(), request, argument);
  } while (result < 0 && errno == EINTR);
  if (result < 0) return fail_errno("{}", name);
  return result;
}

}  // namespace trapeze::kvm

// The request's own name goes into the message.
#define KVM_CALL(fd, request, argument) ::trapeze::kvm::kvm_ioctl(fd, request, #request, argument)
