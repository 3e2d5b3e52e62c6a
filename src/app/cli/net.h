// --net and --publish: network cards as people write them.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "vm/config.h"

namespace trapeze::cli {

inline constexpr const char* kNetHelp =
    "A network card: user or tap[=NAME], with [,KEY=VALUE...], any number of times. user: a "
    "network "
    "behind this process, no privilege needed: DHCP, DNS, outgoing TCP and UDP, ping where the "
    "host "
    "allows it. tap: the tap interface NAME of the host, or a new one. mac=, mtu=. bw=SIZE and "
    "ops=N: at most so much a second, in each direction, or tx-bw, tx-ops, rx-bw, rx-ops for one; "
    "SIZE:MS:BURST as with --disk. user: net=A.B.C.0 (default 10.0.2.0), host-loopback=on (.2 is "
    "the host's own 127.0.0.1; default off). tap: queues=N; vhost=auto, on or off (vhost-net; "
    "auto: "
    "with KVM); ip=dhcp (default), ip=none or "
    "ip=A.B.C.D/LEN, with gateway= and dns=: what a command's guest does with it";
inline constexpr const char* kPublishHelp =
    "With --net user: connections to a port of the host go to one of the guest: "
    "[ADDRESS:]PORT:GUESTPORT[/udp]. ADDRESS is the host's, 127.0.0.1 by default (0.0.0.0: all)";

net::MacAddress random_card_address();
// The value of mac=, which the messages name.
Result<net::MacAddress> parse_card_address(const std::string& value);

// Checks the text, not the host. Without mac= the card gets a random address.
Result<NetConfig> parse_net_option(const std::string& text);
Result<user_wire::PublishedPort> parse_publish_option(const std::string& text);

}  // namespace trapeze::cli
