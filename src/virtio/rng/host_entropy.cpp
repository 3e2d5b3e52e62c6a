#include "virtio/rng/host_entropy.h"

#include <sys/random.h>

#include <cerrno>

namespace trapeze {

size_t HostEntropy::fill(std::span<std::byte> to) {
  size_t done = 0;
  while (done < to.size()) {
    const auto got = ::getrandom(to.data() + done, to.size() - done, GRND_NONBLOCK);
    if (got > 0) {
      done += static_cast<size_t>(got);
    } else if (errno != EINTR) {
      break;  // EAGAIN: the host has just booted and has no entropy itself
    }
  }
  return done;
}

}  // namespace trapeze
