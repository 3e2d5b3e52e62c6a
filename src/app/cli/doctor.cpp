// trapeze doctor: what this host offers, what `--accel auto` takes, and what is missing.
#include <cpuid.h>
#include <fcntl.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "app/cli/commands.h"
#include "base/units.h"
#include "kit/kit.h"
#include "vm/accel_choice.h"

namespace trapeze::cli {
namespace {

struct CpuFeature {
  const char* name;
  uint32_t leaf;
  char reg;  // b, c, d
  unsigned bit;
  const char* meaning;
};

constexpr CpuFeature kFeatures[] = {
    {"vmx", 1, 'c', 5, "hardware virtualization (Intel)"},
    {"svm", 0x80000001, 'c', 2, "hardware virtualization (AMD)"},
    {"hypervisor", 1, 'c', 31, "this host is itself a virtual machine"},
    {"sse4_2", 1, 'c', 20, "the software engine runs guest SSE on it"},
    {"aes", 1, 'c', 25, "guest AES instructions run as they are"},
    {"avx2", 7, 'b', 5, "for guests with an AVX2 CPU model"},
    {"bmi2", 7, 'b', 8, "for the translator to come"},
    {"fsgsbase", 7, 'b', 0, "for the translator to come"},
};

bool has_feature(const CpuFeature& feature) {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (__get_cpuid_count(feature.leaf, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  const unsigned value = feature.reg == 'b' ? ebx : feature.reg == 'c' ? ecx : edx;
  return ((value >> feature.bit) & 1U) != 0;
}

// What a person needs to know of /dev/kvm, although nothing uses it yet.
std::string kvm_state() {
  if (::access("/dev/kvm", F_OK) != 0) return "not there";
  if (::access("/dev/kvm", R_OK | W_OK) != 0) return "there, but not accessible for this user";
  const bool in_hardware = has_feature(kFeatures[0]) || has_feature(kFeatures[1]);
  return in_hardware ? "there" : "there, without hardware virtualization (a PVM host?)";
}

nlohmann::ordered_json collect(const std::string& chosen_kit) {
  nlohmann::ordered_json facts;
  utsname host{};
  ::uname(&host);
  facts["host"]["kernel"] = host.release;
  facts["host"]["cpus"] = std::thread::hardware_concurrency();
  struct sysinfo memory {};
  ::sysinfo(&memory);
  facts["host"]["memory_mib"] = memory.totalram * memory.mem_unit / MiB;
  facts["host"]["free_memory_mib"] = (memory.freeram + memory.bufferram) * memory.mem_unit / MiB;
  for (const auto& feature : kFeatures) facts["cpu"][feature.name] = has_feature(feature);
  facts["kvm"] = kvm_state();
  const auto choice = decide_accel({}, inspect_kvm());
  facts["accel"]["auto"] = choice ? choice->name() : "none";
  facts["accel"]["reason"] = choice ? choice->reason : choice.error().message;

  const auto directory = kit::kit_directory(chosen_kit);
  facts["kit"]["folder"] = directory ? directory->string() : std::string();
  const auto kit = directory ? kit::open_kit(*directory) : Result<kit::Kit>(fail("no folder"));
  facts["kit"]["usable"] = kit.has_value();
  if (kit) {
    facts["kit"]["kernel"] = kit->kernel_release;
    facts["kit"]["current"] = kit->is_current();
  } else {
    facts["kit"]["problem"] = kit.error().message;
  }
  return facts;
}

void print_for_people(const nlohmann::ordered_json& facts) {
  const auto text = [](const nlohmann::ordered_json& value) {
    return value.is_string() ? value.get<std::string>() : value.dump();
  };
  fmt::print("host:   Linux {}, {} CPUs, {} MiB of memory ({} free)\n",
             text(facts["host"]["kernel"]), text(facts["host"]["cpus"]),
             text(facts["host"]["memory_mib"]), text(facts["host"]["free_memory_mib"]));
  fmt::print("CPU:\n");
  for (const auto& feature : kFeatures) {
    fmt::print("  {:<11} {:<4} {}\n", feature.name,
               facts["cpu"][feature.name].get<bool>() ? "yes" : "no", feature.meaning);
  }
  fmt::print("kvm:    {}\n", text(facts["kvm"]));
  fmt::print("accel:  auto takes {}: {}\n", text(facts["accel"]["auto"]),
             text(facts["accel"]["reason"]));
  const auto& kit = facts["kit"];
  if (kit["usable"].get<bool>()) {
    fmt::print("kit:    {} (kernel {}){}\n", text(kit["folder"]), text(kit["kernel"]),
               kit["current"].get<bool>() ? "" : ", made by another trapeze");
  } else {
    fmt::print("kit:    {}\n        make one with: trapeze kit build\n", text(kit["problem"]));
  }
}

}  // namespace

DoctorCommand::DoctorCommand(CLI::App& app) {
  app.add_flag("--json", json_, "Print the facts as JSON");
  app.add_option("--kit", kit_, "Folder of the guest kit (default: $TRAPEZE_KIT, or the user's)");
}

int DoctorCommand::run() {
  const auto facts = collect(kit_);
  if (json_) {
    fmt::print("{}\n", facts.dump(2));
  } else {
    print_for_people(facts);
  }
  return 0;
}

}  // namespace trapeze::cli
