#include "backend/net/helper/guest_frame.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <vector>

namespace trapeze {
namespace {

std::vector<std::byte> bytes_of(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

uint16_t plain_checksum(std::span<const std::byte> bytes) {
  uint32_t sum = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    sum += static_cast<uint32_t>(bytes[i]) << (i % 2 == 0 ? 8 : 0);
    sum = (sum & 0xffff) + (sum >> 16);
  }
  const auto value = static_cast<uint16_t>(~sum);
  return static_cast<uint16_t>(value >> 8 | value << 8);
}

std::vector<std::byte> ipv4_frame(std::array<int, 4> from, std::array<int, 4> to, int flags = 0) {
  std::vector<std::byte> frame(14 + 20 + 8);
  frame[12] = std::byte{8};
  frame[14] = std::byte{0x45};
  frame[20] = static_cast<std::byte>(flags);
  for (size_t i = 0; i < 4; ++i) {
    frame[26 + i] = static_cast<std::byte>(from[i]);
    frame[30 + i] = static_cast<std::byte>(to[i]);
  }
  return frame;
}

TEST(GuestFrame, checksum_is_that_of_rfc_1071) {
  const auto example = bytes_of({0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7});
  const uint16_t sum = internet_checksum(example);
  EXPECT_EQ(sum, plain_checksum(example));
  EXPECT_EQ(sum & 0xff, 0x22);  // ~0xddf2, in network order
  EXPECT_EQ(sum >> 8, 0x0d);
}

TEST(GuestFrame, checksum_of_every_length_and_of_large_sums) {
  std::vector<std::byte> bytes;
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(internet_checksum(bytes), plain_checksum(bytes)) << i;
    bytes.push_back(static_cast<std::byte>(255 - i % 3));
  }
  const std::vector<std::byte> large(65535, std::byte{0xff});
  EXPECT_EQ(internet_checksum(large), plain_checksum(large));
}

TEST(GuestFrame, open_checksum_is_completed_in_its_place) {
  std::vector<std::byte> frame(64, std::byte{7});
  frame[40] = frame[41] = std::byte{0};
  const uint16_t expected = internet_checksum(std::span(frame).subspan(34));
  ASSERT_TRUE(complete_checksum(frame, 34, 6));
  uint16_t stored = 0;
  std::memcpy(&stored, frame.data() + 40, sizeof(stored));
  EXPECT_EQ(stored, expected);
  EXPECT_EQ(internet_checksum(std::span(frame).subspan(34)), 0);
}

TEST(GuestFrame, checksum_outside_of_the_frame_is_refused) {
  std::vector<std::byte> frame(64);
  EXPECT_TRUE(complete_checksum(frame, 34, 28));
  EXPECT_FALSE(complete_checksum(frame, 34, 29));
  EXPECT_FALSE(complete_checksum(frame, 65, 0));
  EXPECT_FALSE(complete_checksum(frame, 0xffff, 0xffff));
  EXPECT_FALSE(complete_checksum(frame, 13, 0));
}

TEST(GuestFrame, loopback_addresses_are_forbidden) {
  EXPECT_EQ(classify_frame(ipv4_frame({10, 0, 2, 15}, {10, 0, 2, 2})), FrameKind::Ordinary);
  EXPECT_EQ(classify_frame(ipv4_frame({0, 0, 0, 0}, {255, 255, 255, 255})), FrameKind::Ordinary);
  EXPECT_EQ(classify_frame(ipv4_frame({10, 0, 2, 15}, {127, 0, 0, 1})), FrameKind::Forbidden);
  EXPECT_EQ(classify_frame(ipv4_frame({10, 0, 2, 15}, {127, 9, 9, 9})), FrameKind::Forbidden);
  EXPECT_EQ(classify_frame(ipv4_frame({10, 0, 2, 15}, {0, 0, 0, 0})), FrameKind::Forbidden);
  EXPECT_EQ(classify_frame(ipv4_frame({127, 0, 0, 1}, {10, 0, 2, 2})), FrameKind::Forbidden);
}

TEST(GuestFrame, ipv6_loopback_in_all_clothes_is_forbidden) {
  std::vector<std::byte> frame(14 + 40);
  frame[12] = std::byte{0x86};
  frame[13] = std::byte{0xdd};
  frame[53] = std::byte{1};  // ::1
  EXPECT_EQ(classify_frame(frame), FrameKind::Forbidden);
  frame[48] = frame[49] = std::byte{0xff};  // ::ffff:0.0.0.1
  EXPECT_EQ(classify_frame(frame), FrameKind::Forbidden);
  frame[38] = std::byte{0xfe};
  EXPECT_EQ(classify_frame(frame), FrameKind::Ordinary);
}

TEST(GuestFrame, fragments_are_told_from_whole_packets) {
  EXPECT_EQ(classify_frame(ipv4_frame({10, 0, 2, 15}, {9, 9, 9, 9}, 0x40)), FrameKind::Ordinary);
  EXPECT_EQ(classify_frame(ipv4_frame({10, 0, 2, 15}, {9, 9, 9, 9}, 0x20)), FrameKind::Fragment);
  EXPECT_EQ(classify_frame(ipv4_frame({10, 0, 2, 15}, {9, 9, 9, 9}, 0x01)), FrameKind::Fragment);
}

TEST(GuestFrame, short_frames_are_no_danger) {
  const auto frame = ipv4_frame({10, 0, 2, 15}, {127, 0, 0, 1});
  for (size_t size = 0; size <= frame.size(); ++size) {
    const FrameKind kind = classify_frame(std::span(frame).first(size));
    EXPECT_EQ(kind, size < 14 || size >= 34 ? FrameKind::Forbidden : FrameKind::Ordinary) << size;
  }
}

// A guard of 10.0.2.0, and what it lets pass from the guest.
struct Guard : ::testing::Test {
  static std::vector<std::byte> segment(std::array<int, 4> from, std::array<int, 4> to,
                                        int protocol, int from_port, int to_port, int flags = 0) {
    auto frame = ipv4_frame(from, to);
    frame.resize(14 + 20 + 20);
    frame[23] = static_cast<std::byte>(protocol);
    frame[34] = static_cast<std::byte>(from_port >> 8);
    frame[35] = static_cast<std::byte>(from_port);
    frame[36] = static_cast<std::byte>(to_port >> 8);
    frame[37] = static_cast<std::byte>(to_port);
    frame[47] = static_cast<std::byte>(flags);
    return frame;
  }
  bool udp(std::array<int, 4> to, int from_port, int to_port) {
    return guard.may_pass(segment(kGuest, to, 17, from_port, to_port));
  }
  bool tcp(std::array<int, 4> to, int to_port, int flags) {
    return guard.may_pass(segment(kGuest, to, 6, 4000, to_port, flags));
  }
  static constexpr std::array<int, 4> kGuest{10, 0, 2, 15};
  static constexpr std::array<int, 4> kGateway{10, 0, 2, 2};
  static constexpr std::array<int, 4> kDns{10, 0, 2, 3};
  static constexpr std::array<int, 4> kAll{255, 255, 255, 255};
  GatewayGuard guard{0x0a000200};
};

TEST_F(Guard, the_world_dns_and_dhcp_pass) {
  EXPECT_TRUE(udp({9, 9, 9, 9}, 1000, 53));
  EXPECT_TRUE(tcp({9, 9, 9, 9}, 80, 2));
  EXPECT_TRUE(udp(kDns, 1000, 53));
  EXPECT_TRUE(tcp(kDns, 53, 2));
  EXPECT_TRUE(udp(kAll, 68, 67));
  EXPECT_TRUE(udp(kGateway, 68, 67));
}

TEST_F(Guard, services_behind_the_gateway_do_not) {
  EXPECT_FALSE(tcp(kGateway, 80, 2));
  EXPECT_FALSE(tcp(kGateway, 80, 2 | 8));
  EXPECT_FALSE(udp(kGateway, 1000, 53));
  EXPECT_FALSE(udp(kAll, 1000, 53));
  EXPECT_FALSE(udp(kDns, 1000, 54));
  EXPECT_FALSE(udp({10, 0, 2, 77}, 1000, 53));
}

TEST_F(Guard, connections_of_the_host_and_answers_do) {
  EXPECT_TRUE(tcp(kGateway, 5000, 2 | 16));
  EXPECT_TRUE(tcp(kGateway, 5000, 16));
  EXPECT_FALSE(udp(kGateway, 53, 5000));
  guard.note_to_guest(segment(kGateway, kGuest, 17, 5000, 53));
  EXPECT_TRUE(udp(kGateway, 53, 5000));
  EXPECT_FALSE(udp(kGateway, 54, 5000));
  EXPECT_FALSE(udp(kGateway, 53, 5001));
}

TEST_F(Guard, header_that_is_hidden_or_cut_does_not) {
  auto fragment = segment(kGuest, kGateway, 17, 53, 5000);
  fragment[20] = std::byte{0x20};
  EXPECT_FALSE(guard.may_pass(fragment));
  const auto syn = segment(kGuest, kGateway, 6, 4000, 80, 2);
  for (size_t size = 34; size <= syn.size(); ++size) {
    EXPECT_FALSE(guard.may_pass(std::span(syn).first(size))) << size;
  }
  auto with_options = segment(kGuest, kGateway, 6, 4000, 80, 2);
  with_options[14] = std::byte{0x46};
  with_options.insert(with_options.begin() + 34, 4, std::byte{0});
  EXPECT_FALSE(guard.may_pass(with_options));
}

TEST(FragmentBudget, is_spent_and_comes_back) {
  FragmentBudget budget;
  EXPECT_TRUE(budget.take(FragmentBudget::kBytes, 1000));
  EXPECT_FALSE(budget.take(1, 2000));
  EXPECT_TRUE(budget.take(1, 1000 + FragmentBudget::kPeriodMs + 60'001));
}

}  // namespace
}  // namespace trapeze
