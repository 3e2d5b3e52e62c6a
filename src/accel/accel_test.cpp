#include "accel/accel.h"

#include <gtest/gtest.h>

namespace trapeze {
namespace {

TEST(TscSpeed, is_the_same_within_what_a_host_measures) {
  EXPECT_TRUE(check_tsc_speed(2'500'000, 2'500'000));
  EXPECT_TRUE(check_tsc_speed(2'500'000, 2'500'600));
  EXPECT_TRUE(check_tsc_speed(0, 2'500'000)) << "nobody knew, so nobody told the guest";
  EXPECT_TRUE(check_tsc_speed(2'500'000, 0));
}

TEST(TscSpeed, other_speed_is_refused_with_both) {
  for (const uint32_t here : {2'499'000U, 2'501'000U, 1'000'000U}) {
    const auto checked = check_tsc_speed(2'500'000, here);
    ASSERT_FALSE(checked);
    EXPECT_NE(checked.error().message.find("2500000 kHz"), std::string::npos);
    EXPECT_NE(checked.error().message.find(std::to_string(here)), std::string::npos);
  }
}

}  // namespace
}  // namespace trapeze
