// Fences that ThreadSanitizer can be built with: it knows no std::atomic_thread_fence.
#pragma once

#include <atomic>

namespace trapeze {

// Stores before it are seen by all before loads behind it are made.
inline void full_fence() { __builtin_ia32_mfence(); }

// Stores before it are seen before stores behind it: x86 keeps that order, compilers need not.
inline void store_fence() { std::atomic_signal_fence(std::memory_order_release); }

}  // namespace trapeze
