// Error: what went wrong on the host or in the configuration, in words a user can act on.
#pragma once

#include <fmt/format.h>

#include <cerrno>
#include <string>
#include <utility>

namespace trapeze {

struct Error {
  std::string message;  // names the thing and the value, and says what to do
  int os_error = 0;     // errno where the host said no, else 0
};

// The error half of a Result (base/result.h).
template <typename E>
class [[nodiscard]] Unexpected {
 public:
  constexpr explicit Unexpected(E error) : error_(std::move(error)) {}
  constexpr E& error() { return error_; }

 private:
  E error_;
};

// Text for an errno value (thread-safe).
std::string errno_text(int os_error);

// `return fail("{}: too short for an ELF header ({} bytes)", path, size);`
template <typename... Args>
Unexpected<Error> fail(fmt::format_string<Args...> text, Args&&... args) {
  return Unexpected(Error{fmt::format(text, std::forward<Args>(args)...), 0});
}

// The same for a failed system call: appends strerror(errno). Call it before anything changes
// errno.
template <typename... Args>
Unexpected<Error> fail_errno(fmt::format_string<Args...> text, Args&&... args) {
  const int os_error = errno;
  auto message = fmt::format(text, std::forward<Args>(args)...);
  return Unexpected(Error{message + ": " + errno_text(os_error), os_error});
}

}  // namespace trapeze
