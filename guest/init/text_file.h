// A whole small file as a string.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstddef>

namespace trapeze::guest {

// Cut to what fits; empty when it cannot be read.
template <size_t N>
void read_text(const char* path, char (&text)[N]) {
  text[0] = '\0';
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  size_t size = 0;
  while (size + 1 < N) {
    const ssize_t got = ::read(fd, text + size, N - 1 - size);
    if (got <= 0) break;
    size += static_cast<size_t>(got);
  }
  ::close(fd);
  text[size] = '\0';
}

}  // namespace trapeze::guest
