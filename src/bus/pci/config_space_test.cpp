#include "bus/pci/config_space.h"

#include <gtest/gtest.h>

#include "base/units.h"

namespace trapeze {
namespace {

PciDeviceConfig sample() {
  PciDeviceConfig config{.name = "sample",
                         .vendor_id = 0x1af4,
                         .device_id = 0x1041,
                         .revision = 1,
                         .class_code = 0x020000,
                         .subsystem_vendor_id = 0x1af4,
                         .subsystem_id = 0x40,
                         .msix = PciMsixConfig{.vectors = 5, .bar = 1, .pending_offset = 0x800},
                         .capabilities = {},
                         .has_intx = true};
  config.bars[0] = {PciBarKind::Memory32, false, 16 * KiB};
  config.bars[1] = {PciBarKind::Memory32, false, 4 * KiB};
  config.bars[4] = {PciBarKind::Memory64, true, 8 * GiB};
  config.capabilities.push_back(
      {.id = kPciCapVendorSpecific,
       .bytes = {0, 0, 20, 5, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9},
       .write_mask = {0, 0, 0, 0, 0xff, 0xf0},
       .window_offset = 16,
       .window_bytes = 4});
  return config;
}

TEST(PciConfigSpace, header_tells_what_the_device_is) {
  const PciConfigSpace space(sample());
  EXPECT_EQ(space.read(0x00, Width::Dword), 0x10411af4U);
  EXPECT_EQ(space.read(0x08, Width::Dword), 0x02000001U);
  EXPECT_EQ(space.read(0x2c, Width::Dword), 0x00401af4U);
  EXPECT_EQ(space.read(0x3d, Width::Byte), 1U);
  EXPECT_EQ(space.read(0x0e, Width::Byte), 0U);  // type 0, one function
  EXPECT_EQ(space.read(0x100, Width::Dword), 0U);
  EXPECT_EQ(space.read(0xffe, Width::Dword), 0U);
}

TEST(PciConfigSpace, read_only_bytes_stay) {
  PciConfigSpace space(sample());
  const auto before = space.save();
  space.write(0x00, Width::Dword, 0);
  space.write(0x08, Width::Dword, 0xffffffff);
  space.write(0x34, Width::Byte, 0xff);
  space.write(0x3d, Width::Byte, 0xff);
  space.write(0x06, Width::Word, 0xffff);
  space.write(0x400, Width::Dword, 0xffffffff);
  EXPECT_EQ(space.save(), before);
}

TEST(PciConfigSpace, bars_answer_the_sizing_protocol) {
  PciConfigSpace space(sample());
  space.write(0x10, Width::Dword, 0xffffffff);
  EXPECT_EQ(space.read(0x10, Width::Dword), ~uint32_t{16 * KiB - 1});
  space.write(0x20, Width::Dword, 0xffffffff);
  space.write(0x24, Width::Dword, 0xffffffff);
  EXPECT_EQ(space.read(0x20, Width::Dword), 0x0000000cU);  // 64-bit, prefetchable
  EXPECT_EQ(space.read(0x24, Width::Dword), 0xfffffffeU);
  space.write(0x18, Width::Dword, 0xffffffff);
  EXPECT_EQ(space.read(0x18, Width::Dword), 0U);  // no such BAR
  EXPECT_EQ(space.bar_address(4), 0xfffffffe00000000U);
}

TEST(PciConfigSpace, io_bar_has_sixteen_bits_and_a_bit_in_the_command_register) {
  PciDeviceConfig config = sample();
  config.bars[3] = {PciBarKind::Io, false, 64};
  PciConfigSpace space(config);
  space.write(0x1c, Width::Dword, 0xffffffff);
  EXPECT_EQ(space.read(0x1c, Width::Dword), 0x0000ffc1U);
  space.set_bar_address(3, 0xc040);
  EXPECT_EQ(space.read(0x1c, Width::Dword), 0xc041U);
  EXPECT_EQ(space.bar_address(3), 0xc040U);
  space.write(0x04, Width::Word, 0xffff);
  EXPECT_EQ(space.read(0x04, Width::Word), 0x0547U);
  EXPECT_TRUE(space.io_enabled());
  space.write(0x04, Width::Word, 2);
  EXPECT_FALSE(space.io_enabled());
  space.enable_decoding();
  EXPECT_TRUE(space.io_enabled());
}

TEST(PciConfigSpace, command_register_keeps_only_what_it_implements) {
  PciConfigSpace space(sample());
  space.write(0x04, Width::Word, 0xffff);
  EXPECT_EQ(space.read(0x04, Width::Word), 0x0546U);
  EXPECT_TRUE(space.memory_enabled());
  EXPECT_TRUE(space.bus_master_enabled());
  EXPECT_TRUE(space.intx_disabled());
}

TEST(PciConfigSpace, capabilities_form_a_list) {
  const PciConfigSpace space(sample());
  EXPECT_EQ(space.read(0x06, Width::Word) & 0x10U, 0x10U);
  const unsigned msix = space.read(0x34, Width::Byte);
  EXPECT_EQ(space.read(msix, Width::Byte), kPciCapMsix);
  EXPECT_EQ(space.read(msix + 2, Width::Word), 4U);
  EXPECT_EQ(space.read(msix + 4, Width::Dword), 1U);
  EXPECT_EQ(space.read(msix + 8, Width::Dword), 0x801U);
  const unsigned vendor = space.read(msix + 1, Width::Byte);
  EXPECT_EQ(space.read(vendor, Width::Byte), kPciCapVendorSpecific);
  EXPECT_EQ(space.read(vendor + 1, Width::Byte), 0U);
  EXPECT_EQ(space.read(vendor + 4, Width::Dword), 0x04030201U);
}

TEST(PciConfigSpace, capability_bytes_are_writable_where_masked) {
  PciConfigSpace space(sample());
  const unsigned msix = space.read(0x34, Width::Byte);
  const unsigned vendor = space.read(msix + 1, Width::Byte);
  space.write(vendor + 4, Width::Dword, 0xffffffff);
  EXPECT_EQ(space.read(vendor + 4, Width::Dword), 0x0403f2ffU);
  space.write(msix + 2, Width::Word, 0xffff);
  EXPECT_EQ(space.read(msix + 2, Width::Word), 0xc004U);
  EXPECT_TRUE(space.msix_enabled());
  EXPECT_TRUE(space.msix_function_masked());
  EXPECT_EQ(space.window_at(vendor + 15), nullptr);
  ASSERT_NE(space.window_at(vendor + 19), nullptr);
  EXPECT_EQ(space.window_at(vendor + 19)->capability, vendor);
  EXPECT_EQ(space.window_at(vendor + 20), nullptr);
}

TEST(PciConfigSpace, restore_takes_only_what_a_guest_could_have_written) {
  PciConfigSpace space(sample());
  const uint32_t identity = space.read(0, Width::Dword);
  PciConfigSpace::Bytes damaged;
  damaged.fill(0xff);
  space.restore(damaged);
  EXPECT_EQ(space.read(0, Width::Dword), identity);
  EXPECT_EQ(space.bar_address(0), uint64_t{~uint32_t{16 * KiB - 1}});
}

}  // namespace
}  // namespace trapeze
