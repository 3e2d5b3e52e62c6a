#include "accel/kvm/exits.h"

#include <fmt/format.h>

#include <algorithm>

namespace trapeze::kvm {
namespace {

std::string internal_error(const kvm_run& run) {
  const auto& internal = run.internal;
  const char* what = "an error inside KVM";
  switch (internal.suberror) {
    case KVM_INTERNAL_ERROR_EMULATION:
      what = "KVM cannot emulate the guest's instruction";
      break;
    case KVM_INTERNAL_ERROR_SIMUL_EX:
      what = "KVM met exceptions at the same time that it cannot merge";
      break;
    case KVM_INTERNAL_ERROR_DELIVERY_EV:
      what = "KVM could not deliver an event";
      break;
    case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON:
      what = "the CPU left the guest for a reason that KVM does not know";
      break;
  }
  std::string text =
      fmt::format("{} (KVM_EXIT_INTERNAL_ERROR, suberror {})", what, internal.suberror);
  const auto& failure = run.emulation_failure;
  const bool has_bytes = internal.suberror == KVM_INTERNAL_ERROR_EMULATION && failure.ndata >= 1 &&
                         (failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
  if (has_bytes) {
    text += "; instruction bytes:";
    for (unsigned i = 0; i < std::min<unsigned>(failure.insn_size, 15); ++i) {
      text += fmt::format(" {:02x}", failure.insn_bytes[i]);
    }
  } else if (internal.ndata > 0) {
    text += "; data:";
    for (unsigned i = 0; i < std::min<unsigned>(internal.ndata, 16); ++i) {
      text += fmt::format(" {:#x}", static_cast<uint64_t>(internal.data[i]));
    }
  }
  return text;
}

}  // namespace

const char* exit_name(uint32_t reason) {
  switch (reason) {
    case KVM_EXIT_UNKNOWN:
      return "unknown";
    case KVM_EXIT_EXCEPTION:
      return "exception";
    case KVM_EXIT_IO:
      return "io";
    case KVM_EXIT_HYPERCALL:
      return "hypercall";
    case KVM_EXIT_DEBUG:
      return "debug";
    case KVM_EXIT_HLT:
      return "hlt";
    case KVM_EXIT_MMIO:
      return "mmio";
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return "irq_window";
    case KVM_EXIT_SHUTDOWN:
      return "shutdown";
    case KVM_EXIT_FAIL_ENTRY:
      return "fail_entry";
    case KVM_EXIT_INTR:
      return "intr";
    case KVM_EXIT_SET_TPR:
      return "set_tpr";
    case KVM_EXIT_TPR_ACCESS:
      return "tpr_access";
    case KVM_EXIT_NMI:
      return "nmi";
    case KVM_EXIT_INTERNAL_ERROR:
      return "internal_error";
    case KVM_EXIT_SYSTEM_EVENT:
      return "system_event";
    case KVM_EXIT_IOAPIC_EOI:
      return "ioapic_eoi";
    case KVM_EXIT_HYPERV:
      return "hyperv";
    case KVM_EXIT_X86_RDMSR:
      return "rdmsr";
    case KVM_EXIT_X86_WRMSR:
      return "wrmsr";
    case KVM_EXIT_DIRTY_RING_FULL:
      return "dirty_ring_full";
    case KVM_EXIT_X86_BUS_LOCK:
      return "bus_lock";
    case KVM_EXIT_XEN:
      return "xen";
    case KVM_EXIT_NOTIFY:
      return "notify";
    default:
      return "other";
  }
}

std::string describe_exit(const kvm_run& run) {
  switch (run.exit_reason) {
    case KVM_EXIT_INTERNAL_ERROR:
      return internal_error(run);
    case KVM_EXIT_FAIL_ENTRY:
      return fmt::format(
          "the CPU refused to enter the guest (KVM_EXIT_FAIL_ENTRY, hardware reason {:#x})",
          static_cast<uint64_t>(run.fail_entry.hardware_entry_failure_reason));
    case KVM_EXIT_UNKNOWN:
      return fmt::format("the CPU left the guest for a reason unknown to KVM ({:#x})",
                         static_cast<uint64_t>(run.hw.hardware_exit_reason));
    case KVM_EXIT_EXCEPTION:
      return fmt::format("an exception of the guest came out: vector {}, error code {:#x}",
                         run.ex.exception, run.ex.error_code);
    case KVM_EXIT_SYSTEM_EVENT:
      return fmt::format("KVM reports a system event of type {}", run.system_event.type);
    default:
      return fmt::format("KVM came back for reason {} ({}), which nobody asked it for",
                         run.exit_reason, exit_name(run.exit_reason));
  }
}

void ExitCounters::count_place(Places& places, uint64_t key, uint64_t& other) {
  for (Place& place : places) {
    if (place.count == 0) place.key = key;
    if (place.key != key) continue;
    ++place.count;
    return;
  }
  ++other;
}

std::vector<Stat> ExitCounters::stats() const {
  std::vector<Stat> stats;
  uint64_t sum = 0;
  for (uint32_t reason = 0; reason < kReasons; ++reason) sum += reasons_[reason];
  stats.push_back({"exit.all", sum});
  for (uint32_t reason = 0; reason < kReasons; ++reason) {
    if (reasons_[reason] != 0) {
      stats.push_back({std::string("exit.") + exit_name(reason), reasons_[reason]});
    }
  }
  if (interrupted_ != 0) stats.push_back({"exit.interrupted", interrupted_});
  for (const Place& place : ports_) {
    if (place.count != 0) stats.push_back({fmt::format("io.{:#x}", place.key), place.count});
  }
  if (other_ports_ != 0) stats.push_back({"io.other", other_ports_});
  for (const Place& page : pages_) {
    if (page.count != 0) stats.push_back({fmt::format("mmio.{:#x}", page.key << 12), page.count});
  }
  if (other_pages_ != 0) stats.push_back({"mmio.other", other_pages_});
  return stats;
}

}  // namespace trapeze::kvm
