// LinkWatch: tells when something happened to the network interfaces of this process's namespace
// (rtnetlink(7), RTMGRP_LINK).
//
// Threads: all on the loop's thread, create() too.
#pragma once

#include <functional>
#include <memory>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/result.h"

namespace trapeze {

class LinkWatch {
 public:
  // `changed`: one came, went or changed; perhaps another one than yours.
  static Result<std::unique_ptr<LinkWatch>> create(EventLoop& loop, std::function<void()> changed);
  ~LinkWatch();
  LinkWatch(const LinkWatch&) = delete;
  LinkWatch& operator=(const LinkWatch&) = delete;

 private:
  LinkWatch(EventLoop& loop, Fd socket, std::function<void()> changed)
      : loop_(loop), socket_(std::move(socket)), changed_(std::move(changed)) {}
  void drain();

  EventLoop& loop_;
  const Fd socket_;
  const std::function<void()> changed_;
};

}  // namespace trapeze
