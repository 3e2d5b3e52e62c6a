#include "agent/protocol.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace trapeze::agent {
namespace {

std::vector<std::byte> exec_payload(ExecHeader header, std::string_view strings) {
  std::vector<std::byte> bytes(sizeof(header) + strings.size());
  std::memcpy(bytes.data(), &header, sizeof(header));
  std::memcpy(bytes.data() + sizeof(header), strings.data(), strings.size());
  return bytes;
}

bool accepts(const ExecHeader& header, std::string_view strings) {
  ExecHeader decoded;
  std::span<const std::byte> rest;
  const auto payload = exec_payload(header, strings);
  return decode_exec(payload, decoded, rest);
}

using namespace std::string_view_literals;

TEST(AgentProtocol, ExecPayload_RoundTrips) {
  const ExecHeader header{.argc = 2, .envc = 1, .rows = 24, .columns = 80};
  const auto payload = exec_payload(header, "echo\0a b\0HOME=/root\0/tmp\0"sv);
  ExecHeader decoded;
  std::span<const std::byte> strings;
  ASSERT_TRUE(decode_exec(payload, decoded, strings));
  EXPECT_EQ(decoded.rows, 24);
  StringCursor cursor(strings);
  EXPECT_EQ(cursor.next(), "echo");
  EXPECT_EQ(cursor.next(), "a b");
  EXPECT_EQ(cursor.next(), "HOME=/root");
  EXPECT_EQ(cursor.next(), "/tmp");
  EXPECT_TRUE(cursor.is_at_end());
  EXPECT_EQ(cursor.next().data(), nullptr);
}

TEST(AgentProtocol, ExecWithTooFewStrings_IsRefused) {
  EXPECT_FALSE(accepts({.argc = 2}, "echo\0\0"sv));
  EXPECT_FALSE(accepts({.argc = 1}, ""sv));
}

TEST(AgentProtocol, ExecWithBytesLeftOver_IsRefused) {
  EXPECT_TRUE(accepts({.argc = 1}, "echo\0\0"sv));
  EXPECT_FALSE(accepts({.argc = 1}, "echo\0\0x\0"sv));
}

TEST(AgentProtocol, ExecWithUnterminatedString_IsRefused) {
  EXPECT_FALSE(accepts({.argc = 1}, "echo\0/tmp"sv));
}

TEST(AgentProtocol, ExecWithAbsurdCounts_IsRefused) {
  EXPECT_FALSE(accepts({.argc = 0xffff'ffff, .envc = 1}, "\0\0"sv));
  EXPECT_FALSE(accepts({.argc = 1, .envc = kMaxStrings + 1}, "echo\0\0"sv));
}

TEST(AgentProtocol, ExecWithoutArguments_IsOnlyForTheDefaultShell) {
  EXPECT_FALSE(accepts({}, "\0"sv));
  EXPECT_TRUE(accepts({.flags = kExecDefaultShell}, "\0"sv));
}

TEST(AgentProtocol, ShortExecHeader_IsRefused) {
  const std::vector<std::byte> payload(sizeof(ExecHeader) - 1);
  ExecHeader decoded;
  std::span<const std::byte> strings;
  EXPECT_FALSE(decode_exec(payload, decoded, strings));
}

TEST(AgentProtocol, MountPayload_IsCheckedAsAWhole) {
  const auto accepts_mount = [](std::string_view strings, uint32_t flags = 0) {
    const MountHeader header{.flags = flags, .reserved = 0};
    std::vector<std::byte> payload(sizeof(header) + strings.size());
    std::memcpy(payload.data(), &header, sizeof(header));
    std::memcpy(payload.data() + sizeof(header), strings.data(), strings.size());
    MountHeader decoded;
    std::string_view tag;
    std::string_view path;
    return decode_mount(payload, decoded, tag, path) && tag == "share0" && path == "/mnt/a";
  };
  EXPECT_TRUE(accepts_mount("share0\0/mnt/a\0"sv));
  EXPECT_TRUE(accepts_mount("share0\0/mnt/a\0"sv, kMountReadOnly));
  EXPECT_FALSE(accepts_mount("share0\0/mnt/a\0"sv, 2));
  EXPECT_FALSE(accepts_mount("share0\0/mnt/a"sv));
  EXPECT_FALSE(accepts_mount("share0\0mnt/a\0"sv));
  EXPECT_FALSE(accepts_mount("\0/mnt/a\0"sv));
  EXPECT_FALSE(accepts_mount("share0\0/mnt/a\0more\0"sv));
}

TEST(AgentProtocol, FrameHeader_IsCheckedFieldByField) {
  EXPECT_TRUE(is_sound(FrameHeader{}));
  EXPECT_FALSE(is_sound(FrameHeader{.magic = 1}));
  EXPECT_FALSE(is_sound(FrameHeader{.version = kVersion + 1}));
  EXPECT_FALSE(is_sound(FrameHeader{.payload_bytes = kMaxPayloadBytes + 1}));
  EXPECT_FALSE(is_sound(FrameHeader{.reserved = 1}));
}

TEST(AgentProtocol, FixedPayload_MustHaveItsExactSize) {
  std::vector<std::byte> bytes(sizeof(Exited));
  Exited exited;
  EXPECT_TRUE(decode(bytes, exited));
  bytes.push_back({});
  EXPECT_FALSE(decode(bytes, exited));
}

}  // namespace
}  // namespace trapeze::agent
