// OsResult: a value or an errno value for the guest. Not Result's Error: a guest may ask for what
// does not exist as often as it likes, so no message is made.
#pragma once

#include <cerrno>

#include "base/result.h"

namespace trapeze {

struct OsError {
  int value = 0;
};

template <typename T = void>
using OsResult = Result<T, OsError>;

inline Unexpected<OsError> os_fail(int value) { return Unexpected(OsError{value}); }
// For a system call that has just failed.
inline Unexpected<OsError> os_fail() { return os_fail(errno); }

}  // namespace trapeze
