// CHECK(condition): for our own bugs only. Aborts in every build; a guest or a user must never be
// able to reach one. DCHECK is for hot paths: it costs nothing in release builds.
#pragma once

namespace trapeze {

[[noreturn]] void check_failed(const char* condition, const char* file, int line);

}  // namespace trapeze

#define CHECK(condition)                             \
  (__builtin_expect(static_cast<bool>(condition), 1) \
       ? static_cast<void>(0)                        \
       : ::trapeze::check_failed(#condition, __FILE__, __LINE__))

#ifdef NDEBUG
#define DCHECK(condition) static_cast<void>(sizeof(static_cast<bool>(condition)))
#else
#define DCHECK(condition) CHECK(condition)
#endif
