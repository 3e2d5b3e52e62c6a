// trapeze doctor: what this host offers, what `--accel auto` takes, and what is missing.
#include <sys/sysinfo.h>
#include <sys/utsname.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "accel/kvm/bench.h"
#include "accel/kvm/probe.h"
#include "app/cli/commands.h"
#include "app/cli/doctor_checks.h"
#include "base/units.h"
#include "kit/kit.h"

namespace trapeze::cli {
namespace {

using Json = nlohmann::ordered_json;

const char* name_of(CheckState state) {
  switch (state) {
    case CheckState::Good:
      return "good";
    case CheckState::Missing:
      return "missing";
    case CheckState::Note:
      return "note";
  }
  return "";
}

Json to_json(const Check& check) {
  Json json;
  json["state"] = name_of(check.state);
  json["detail"] = check.detail;
  if (!check.advice.empty()) json["advice"] = check.advice;
  return json;
}

Json host_facts() {
  Json facts;
  utsname host{};
  ::uname(&host);
  facts["kernel"] = host.release;
  facts["cpus"] = std::thread::hardware_concurrency();
  struct sysinfo memory {};
  ::sysinfo(&memory);
  facts["memory_mib"] = memory.totalram * memory.mem_unit / MiB;
  facts["free_memory_mib"] = (memory.freeram + memory.bufferram) * memory.mem_unit / MiB;
  return facts;
}

Json kvm_facts(const KvmFacts& kvm) {
  Json facts = to_json(check_kvm(kvm));
  facts["usable"] = kvm.is_usable;
  if (!kvm.is_usable) return facts;
  facts["kind"] = kvm.kind == kvm::HostKind::Hardware ? "hardware" : "pvm";
  for (const auto& capability : kvm_capabilities()) {
    facts["capabilities"][capability.name] = capability.value;
  }
  return facts;
}

Json kit_facts(const std::string& chosen_kit) {
  Json facts;
  const auto directory = kit::kit_directory(chosen_kit);
  facts["folder"] = directory ? directory->string() : std::string();
  const auto kit = directory ? kit::open_kit(*directory) : Result<kit::Kit>(fail("no folder"));
  facts["usable"] = kit.has_value();
  if (kit) {
    facts["kernel"] = kit->kernel_release;
    facts["current"] = kit->is_current();
  } else {
    facts["problem"] = kit.error().message;
  }
  return facts;
}

Json probe_facts() {
  const auto probe = kvm::probe_pvm();
  Json facts;
  facts["public_pvm_interface"] = probe.is_public;
  facts["ran"] = probe.ran;
  if (!probe.ran) {
    facts["problem"] = probe.problem;
    return facts;
  }
  facts["supervisor_cpl"] = probe.cpl;
  facts["interrupt_flag"] = probe.interrupt_flag;
  facts["synthetic_cpuid"] = probe.signature;
  return facts;
}

Result<Json> bench_facts() {
  Json facts;
  for (const auto& figure : TRY(kvm::run_bench())) {
    Json& json = facts[figure.name];
    json["meaning"] = figure.meaning;
    if (figure.problem.empty()) {
      json["ns"] = static_cast<uint64_t>(figure.ns);
    } else {
      json["problem"] = figure.problem;
    }
  }
  return facts;
}

Json collect(const std::string& chosen_kit) {
  Json facts;
  facts["host"] = host_facts();
  for (const auto& flag : cpu_flags()) facts["cpu"][flag.name] = flag.is_there;
  const KvmFacts kvm = inspect_kvm();
  facts["kvm"] = kvm_facts(kvm);
  // For the kit's kernel, which is no PVM-enlightened one.
  const auto choice = decide_accel({}, kvm);
  facts["accel"]["auto"] = choice ? choice->name() : "none";
  facts["accel"]["reason"] = choice ? choice->reason : choice.error().message;
  for (const Check& check : check_host()) facts["checks"][check.name] = to_json(check);
  facts["kit"] = kit_facts(chosen_kit);
  return facts;
}

std::string text(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

void print_check(const std::string& name, const Json& check) {
  fmt::print("{:<12} {:<8} {}\n", name, text(check["state"]), text(check["detail"]));
  if (check.contains("advice")) fmt::print("{:<21} -> {}\n", "", text(check["advice"]));
}

void print_kit(const Json& kit) {
  if (kit["usable"].get<bool>()) {
    fmt::print("{:<12} {:<8} {} (kernel {}){}\n", "kit", "good", text(kit["folder"]),
               text(kit["kernel"]),
               kit["current"].get<bool>() ? "" : ", made by another trapeze: trapeze kit build");
  } else {
    fmt::print("{:<12} {:<8} {}\n{:<21} -> trapeze kit build\n", "kit", "missing",
               text(kit["problem"]), "");
  }
}

void print_for_people(const Json& facts) {
  const Json& host = facts["host"];
  fmt::print("host         Linux {}, {} CPUs, {} MiB of memory ({} free)\n", text(host["kernel"]),
             text(host["cpus"]), text(host["memory_mib"]), text(host["free_memory_mib"]));
  fmt::print("cpu\n");
  for (const auto& flag : cpu_flags()) {
    fmt::print("  {:<10} {:<8} {}\n", flag.name, flag.is_there ? "yes" : "no", flag.meaning);
  }
  print_check("kvm", facts["kvm"]);
  for (const auto& capability : kvm_capabilities()) {
    if (capability.value > 0) continue;
    fmt::print("{:<21} lacks {}: {}\n", "", capability.name, capability.meaning);
  }
  for (const auto& [name, check] : facts["checks"].items()) print_check(name, check);
  print_kit(facts["kit"]);
  fmt::print("accel        auto takes {}: {}\n", text(facts["accel"]["auto"]),
             text(facts["accel"]["reason"]));
  if (facts.contains("probe")) {
    fmt::print("probe\n");
    for (const auto& [name, value] : facts["probe"].items()) {
      fmt::print("  {:<21} {}\n", name, text(value));
    }
  }
  if (facts.contains("bench")) {
    fmt::print("bench\n");
    for (const auto& [name, figure] : facts["bench"].items()) {
      const std::string value =
          figure.contains("ns") ? text(figure["ns"]) + " ns" : text(figure["problem"]);
      fmt::print("  {:<10} {:>12}  {}\n", name, value, text(figure["meaning"]));
    }
  }
}

}  // namespace

DoctorCommand::DoctorCommand(CLI::App& app) {
  app.add_flag("--json", json_, "Print the facts as JSON");
  app.add_option("--kit", kit_, "Folder of the guest kit (default: $TRAPEZE_KIT, or the user's)");
  app.add_flag("--bench", bench_,
               "Measure entries, exits, doorbells and interrupts of /dev/kvm with tiny guests");
  app.add_flag("--probe", probe_,
               "Ask a PVM host, with a tiny guest, whether it offers the public PVM interface");
}

int DoctorCommand::run() {
  auto facts = collect(kit_);
  if (probe_) facts["probe"] = probe_facts();
  if (bench_) {
    auto bench = bench_facts();
    if (!bench) return own_error("--bench: " + bench.error().message);
    facts["bench"] = std::move(*bench);
  }
  if (json_) {
    fmt::print("{}\n", facts.dump(2));
  } else {
    print_for_people(facts);
  }
  return 0;
}

}  // namespace trapeze::cli
