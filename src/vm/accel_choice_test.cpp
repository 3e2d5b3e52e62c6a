#include "vm/accel_choice.h"

#include <gtest/gtest.h>

namespace trapeze {
namespace {

KvmFacts hardware() {
  return {.is_usable = true, .problem = {}, .host = {.cpu_has_svm = true, .amd_module = true}};
}

KvmFacts pvm() {
  KvmFacts facts;
  facts.is_usable = true;
  facts.host.pvm_module = true;
  facts.kind = kvm::HostKind::Pvm;
  return facts;
}

KvmFacts missing() { return {.is_usable = false, .problem = "/dev/kvm: not there", .host = {}}; }

AccelWish wish(AccelKind wanted) {
  AccelWish result;
  result.wanted = wanted;
  result.kernel_path = "vmlinux";
  return result;
}

AccelWish pvm_wish(AccelKind wanted, bool is_public) {
  AccelWish result = wish(wanted);
  result.is_pvm_kernel = true;
  result.is_pvm_interface_known = is_public;
  return result;
}

TEST(AccelChoice, auto_takes_hardware_virtualization) {
  const auto choice = decide_accel(wish(AccelKind::Auto), hardware());
  EXPECT_EQ(choice->kind, AccelKind::Kvm);
  EXPECT_NE(choice->reason.find("AMD-V"), std::string::npos);
}

TEST(AccelChoice, auto_without_kvm_takes_soft_and_says_why) {
  const auto choice = decide_accel(wish(AccelKind::Auto), missing());
  EXPECT_EQ(choice->kind, AccelKind::Soft);
  EXPECT_EQ(choice->reason, "/dev/kvm: not there");
}

TEST(AccelChoice, kvm_never_falls_back) {
  const auto choice = decide_accel(wish(AccelKind::Kvm), missing());
  ASSERT_FALSE(choice);
  EXPECT_NE(choice.error().message.find("/dev/kvm: not there"), std::string::npos);
}

TEST(AccelChoice, stock_kernel_on_a_pvm_host_runs_on_soft_or_not_at_all) {
  EXPECT_EQ(decide_accel(wish(AccelKind::Auto), pvm())->kind, AccelKind::Soft);
  const auto refused = decide_accel(wish(AccelKind::Kvm), pvm());
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("vmlinux"), std::string::npos);
  EXPECT_NE(refused.error().message.find("--accel soft"), std::string::npos);
}

TEST(AccelChoice, pvm_kernel_takes_kvm_only_where_the_interface_is_public) {
  EXPECT_EQ(decide_accel(pvm_wish(AccelKind::Auto, true), pvm())->kind, AccelKind::Kvm);
  EXPECT_EQ(decide_accel(pvm_wish(AccelKind::Auto, false), pvm())->kind, AccelKind::Soft);
}

TEST(AccelChoice, pvm_kernel_on_hardware_is_a_kernel_like_any) {
  EXPECT_EQ(decide_accel(pvm_wish(AccelKind::Auto, false), hardware())->kind, AccelKind::Kvm);
}

TEST(AccelChoice, cpu_model_belongs_to_the_software_engine) {
  AccelWish with_model = wish(AccelKind::Auto);
  with_model.has_cpu_model = true;
  EXPECT_EQ(decide_accel(with_model, hardware())->kind, AccelKind::Soft);
  with_model.wanted = AccelKind::Kvm;
  EXPECT_FALSE(decide_accel(with_model, hardware()));
}

TEST(AccelChoice, kvm_options_are_not_ignored_on_soft) {
  AccelWish with_options = wish(AccelKind::Soft);
  with_options.has_kvm_options = true;
  EXPECT_FALSE(decide_accel(with_options, hardware()));
  with_options.wanted = AccelKind::Auto;
  EXPECT_FALSE(decide_accel(with_options, missing()));
  EXPECT_EQ(decide_accel(with_options, hardware())->kind, AccelKind::Kvm);
}

}  // namespace
}  // namespace trapeze
