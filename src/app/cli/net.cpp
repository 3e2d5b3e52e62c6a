#include "app/cli/net.h"

#include <arpa/inet.h>
#include <sys/random.h>

#include <cstdio>

#include "app/cli/words.h"

namespace trapeze::cli {
namespace {

std::optional<in_addr> parse_address(const std::string& text) {
  in_addr address{};
  if (::inet_pton(AF_INET, text.c_str(), &address) != 1) return std::nullopt;
  return address;
}

std::optional<uint16_t> parse_port(const std::string& text) {
  const auto port = parse_number(text);
  if (!port || *port == 0 || *port > 65535) return std::nullopt;
  return static_cast<uint16_t>(*port);
}

std::optional<net::MacAddress> parse_mac(const std::string& text) {
  net::MacAddress mac{};
  unsigned parts[6];
  int used = 0;
  if (text.size() != 17 ||
      std::sscanf(text.c_str(), "%2x:%2x:%2x:%2x:%2x:%2x%n", &parts[0], &parts[1], &parts[2],
                  &parts[3], &parts[4], &parts[5], &used) != 6 ||
      used != 17) {
    return std::nullopt;
  }
  for (size_t i = 0; i < mac.size(); ++i) mac[i] = static_cast<uint8_t>(parts[i]);
  return mac;
}

Result<void> set_mac(NetConfig& config, const std::string& value) {
  config.mac = TRY(parse_card_address(value));
  return {};
}

Result<void> set_mtu(NetConfig& config, const std::string& value) {
  const bool is_user = config.kind == NetConfig::Kind::User;
  const uint16_t least = is_user ? UserNetSettings::kMinMtu : net::kMinMtu;
  const auto mtu = parse_number(value);
  if (!mtu || *mtu < least || *mtu > net::kMaxMtu) {
    return fail("mtu={}: must be {} to {}", value, least, net::kMaxMtu);
  }
  config.user.mtu = static_cast<uint16_t>(*mtu);
  config.tap.mtu = static_cast<uint16_t>(*mtu);
  return {};
}

// True: `key` is a limit, and `result` says how it went.
bool set_limit(NetConfig& config, const std::string& key, const std::string& value,
               Result<void>& result) {
  const std::string base = key.starts_with("tx-") || key.starts_with("rx-") ? key.substr(3) : key;
  const bool is_bytes = base == "bw";
  if (!is_bytes && base != "ops") return false;
  std::optional<TokenBucketConfig> bucket;
  result = set_bucket(bucket, key, value, is_bytes);
  const auto set = [&](RateLimits& limits) {
    (is_bytes ? limits.bandwidth : limits.operations) = bucket;
  };
  if (!key.starts_with("rx-")) set(config.send_limits);
  if (!key.starts_with("tx-")) set(config.receive_limits);
  return true;
}

Result<void> set_user(NetConfig& config, const std::string& key, const std::string& value) {
  if (key == "host-loopback") {
    if (value != "on" && value != "off") return fail("{}={}: must be on or off", key, value);
    config.user.may_reach_host_loopback = value == "on";
    return {};
  }
  if (key == "net") {
    const auto network = parse_address(value);
    const uint32_t number = network ? ntohl(network->s_addr) : 0;
    const uint32_t first = number >> 24;
    if ((number & 0xff) != 0 || first == 0 || first == 127 || first >= 224) {
      return fail("net={}: not a network; write A.B.C.0, for example net=10.0.5.0", value);
    }
    config.user.network = number;
    return {};
  }
  return fail("{}: no such key; there are mac, mtu, bw, ops, net, host-loopback", key);
}

Result<void> set_guest_address(GuestAddress& guest, const std::string& value) {
  if (value == "none" || value == "dhcp") {
    guest.kind = value == "none" ? GuestAddress::Kind::None : GuestAddress::Kind::Dhcp;
    return {};
  }
  const size_t slash = value.find('/');
  const auto length = slash == std::string::npos ? std::optional<uint64_t>(33)
                                                 : parse_number(value.substr(slash + 1));
  if (!length || *length > 32 || !parse_address(value.substr(0, slash))) {
    return fail("ip={}: must be dhcp, none or A.B.C.D/LEN, for example ip=192.168.7.2/24", value);
  }
  guest.kind = GuestAddress::Kind::Static;
  guest.address = value;
  return {};
}

Result<void> set_tap(NetConfig& config, const std::string& key, const std::string& value) {
  if (key == "name") {
    if (value.empty()) return fail("name=: there is no name");
    config.tap.name = value;
    return {};
  }
  if (key == "queues") {
    const auto queues = parse_number(value);
    if (!queues || *queues < 1 || *queues > NetDeviceConfig::kMaxPairs) {
      return fail("queues={}: must be 1 to {}", value, NetDeviceConfig::kMaxPairs);
    }
    config.tap.pairs = static_cast<uint16_t>(*queues);
    return {};
  }
  if (key == "vhost") {
    if (value != "on" && value != "off" && value != "auto") {
      return fail("vhost={}: must be on, off or auto", value);
    }
    config.vhost = value == "on"    ? NetConfig::Vhost::On
                   : value == "off" ? NetConfig::Vhost::Off
                                    : NetConfig::Vhost::Auto;
    return {};
  }
  if (key == "ip") return set_guest_address(config.guest, value);
  if (key == "gateway" || key == "dns") {
    if (!parse_address(value)) return fail("{}={}: must be A.B.C.D", key, value);
    (key == "dns" ? config.guest.dns : config.guest.gateway) = value;
    return {};
  }
  return fail(
      "{}: no such key; there are name, mac, mtu, bw, ops, queues, vhost, ip, gateway, "
      "dns",
      key);
}

Result<void> apply(NetConfig& config, const std::string& word) {
  const size_t sign = word.find('=');
  if (sign == std::string::npos) {
    return fail("{}: no such word; a value is written as KEY=VALUE", word);
  }
  const std::string key = word.substr(0, sign);
  const std::string value = word.substr(sign + 1);
  if (key == "mac") return set_mac(config, value);
  if (key == "mtu") return set_mtu(config, value);
  Result<void> limit;
  if (set_limit(config, key, value, limit)) return limit;
  return config.kind == NetConfig::Kind::User ? set_user(config, key, value)
                                              : set_tap(config, key, value);
}

Result<void> choose_kind(NetConfig& config, const std::string& word) {
  if (word == "user") {
    config.kind = NetConfig::Kind::User;
    return {};
  }
  if (word != "tap" && !word.starts_with("tap=")) {
    return fail("must begin with user or tap[=NAME]");
  }
  config.kind = NetConfig::Kind::Tap;
  config.guest.kind = GuestAddress::Kind::Dhcp;
  return word == "tap" ? Result<void>() : set_tap(config, "name", word.substr(4));
}

std::string place(uint32_t network, uint32_t host) {
  const uint32_t all = network | host;
  return fmt::format("{}.{}.{}.{}", all >> 24, (all >> 16) & 0xff, (all >> 8) & 0xff, all & 0xff);
}

}  // namespace

// Locally administered, for one station.
net::MacAddress random_card_address() {
  net::MacAddress mac{};
  [[maybe_unused]] const auto got = ::getrandom(mac.data(), mac.size(), 0);
  mac[0] = static_cast<uint8_t>((mac[0] & 0xfc) | 2);
  return mac;
}

Result<net::MacAddress> parse_card_address(const std::string& value) {
  const auto mac = parse_mac(value);
  if (!mac) return fail("mac={}: not an address; write for example mac=02:00:00:12:34:56", value);
  if (((*mac)[0] & 1) != 0) return fail("mac={}: is a group's address (first byte odd)", value);
  if (*mac == net::MacAddress{}) return fail("mac={}: is no address of a card", value);
  return *mac;
}

Result<NetConfig> parse_net_option(const std::string& text) {
  NetConfig config;
  config.option = "--net " + text;
  config.mac = random_card_address();
  const auto words = split_words(text);
  auto applied = choose_kind(config, words.front());
  for (size_t i = 1; applied && i < words.size(); ++i) applied = apply(config, words[i]);
  if (!applied) return fail("{}: {}", config.option, applied.error().message);
  if (config.kind == NetConfig::Kind::User) {
    // Faster than DHCP, which is there for other guests.
    const uint32_t network = config.user.network;
    config.guest = {.kind = GuestAddress::Kind::Static,
                    .address = place(network, user_wire::kGuestHost) + "/24",
                    .gateway = place(network, user_wire::kGatewayHost),
                    .dns = place(network, user_wire::kDnsHost)};
    return config;
  }
  const bool is_limited =
      config.send_limits != RateLimits{} || config.receive_limits != RateLimits{};
  if (config.vhost == NetConfig::Vhost::On && is_limited) {
    return fail("{}: limits and vhost=on exclude each other: the kernel knows no limits",
                config.option);
  }
  if (config.guest.kind != GuestAddress::Kind::Static &&
      !(config.guest.gateway.empty() && config.guest.dns.empty())) {
    return fail("{}: gateway= and dns= need ip=A.B.C.D/LEN", config.option);
  }
  return config;
}

Result<user_wire::PublishedPort> parse_publish_option(const std::string& text) {
  user_wire::PublishedPort port;
  std::string ports = text;
  if (const size_t slash = ports.find('/'); slash != std::string::npos) {
    const std::string protocol = ports.substr(slash + 1);
    if (protocol != "udp" && protocol != "tcp") {
      return fail("--publish {}: {} is neither tcp nor udp", text, protocol);
    }
    port.is_udp = protocol == "udp" ? 1 : 0;
    ports.resize(slash);
  }
  const size_t last = ports.rfind(':');
  const size_t before = last == std::string::npos || last == 0 ? last : ports.rfind(':', last - 1);
  const bool has_address = last != std::string::npos && last != 0 && before != std::string::npos;
  const auto address = parse_address(has_address ? ports.substr(0, before) : "127.0.0.1");
  if (!address) {
    return fail("--publish {}: {} is no IPv4 address", text, ports.substr(0, before));
  }
  const size_t host_begin = has_address ? before + 1 : 0;
  const auto host = last == std::string::npos
                        ? std::nullopt
                        : parse_port(ports.substr(host_begin, last - host_begin));
  const auto guest = last == std::string::npos ? std::nullopt : parse_port(ports.substr(last + 1));
  if (!host || !guest) {
    return fail("--publish {}: write [ADDRESS:]PORT:GUESTPORT[/udp], for example 8080:80", text);
  }
  port.host_address = *address;
  port.host_port = *host;
  port.guest_port = *guest;
  return port;
}

}  // namespace trapeze::cli
