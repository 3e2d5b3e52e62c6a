// Thread: a named thread that joins when it goes out of scope. Whoever owns one makes its function
// end first (EventLoop::stop, AccelVcpu::kick): joining waits.
#pragma once

#include <pthread.h>

#include <functional>
#include <string>
#include <thread>
#include <utility>

namespace trapeze {

class Thread {
 public:
  Thread() = default;
  // The kernel keeps 15 characters of `name`.
  Thread(std::string name, std::function<void()> body)
      : thread_([name = name.substr(0, 15), body = std::move(body)] {
          ::pthread_setname_np(::pthread_self(), name.c_str());
          body();
        }) {}
  Thread(Thread&&) = default;
  Thread& operator=(Thread&& other) noexcept {
    join();
    thread_ = std::move(other.thread_);
    return *this;
  }
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;
  ~Thread() { join(); }

  bool is_running() const { return thread_.joinable(); }
  std::thread::native_handle_type native_handle() { return thread_.native_handle(); }
  void join() {
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::thread thread_;
};

}  // namespace trapeze
