#include "backend/net/link_watch.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>

namespace trapeze {

Result<std::unique_ptr<LinkWatch>> LinkWatch::create(EventLoop& loop,
                                                     std::function<void()> changed) {
  Fd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = RTMGRP_LINK;
  if (!socket.is_open() ||
      ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return fail_errno("cannot watch network interfaces");
  }
  std::unique_ptr<LinkWatch> watch(new LinkWatch(loop, std::move(socket), std::move(changed)));
  TRY(loop.watch(watch->socket_.get(), EPOLLIN, [self = watch.get()](uint32_t) {
    self->drain();
    self->changed_();
  }));
  return watch;
}

LinkWatch::~LinkWatch() { loop_.unwatch(socket_.get()); }

// What the messages say is asked of the interface itself: some may have been lost (ENOBUFS).
void LinkWatch::drain() {
  std::array<char, 16> start;
  ssize_t got = 0;
  do {
    got = ::recv(socket_.get(), start.data(), start.size(), MSG_TRUNC);
  } while (got >= 0 || errno == ENOBUFS || errno == EINTR);
}

}  // namespace trapeze
