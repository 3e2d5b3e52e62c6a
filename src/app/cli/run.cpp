// trapeze run: a command, a shell or a kernel of one's own in a virtual machine.
#include "vm/run.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "app/cli/commands.h"
#include "app/cli/detach.h"
#include "app/cli/disk.h"
#include "app/cli/net.h"
#include "app/cli/share.h"
#include "app/cli/size.h"
#include "app/cli/vhost_user.h"
#include "arch/x86/cpuid/cpu_model.h"
#include "base/log.h"
#include "kit/build.h"
#include "kit/kit.h"
#include "vm/builder.h"
#include "vm/manage/run_directory.h"

namespace trapeze::cli {
namespace {

// For any Linux kernel: its messages on the serial port, and an end instead of a silent wait when
// it panics (vm/runner.cpp tells a panic from a reboot by panic_warm).
constexpr const char* kLinuxArguments = "console=ttyS0 panic=-1 reboot=panic_warm";
// For the kit's kernel besides: nothing that costs time at boot and serves no guest of ours.
//   8250.nr_uarts=1          one serial port is there: do not probe four
//   cryptomgr.notests        no self-tests of ciphers that nobody uses
//   rcupdate.rcu_expedited=1 do not wait for timer ticks between boot steps
//   apparmor=0               no profiles in an initramfs
//   mitigations=off          the guest has no secrets from its own command; the software engine
//   does
//                            not speculate at all
//   random.trust_cpu=on      the host's random numbers are good enough to start with
constexpr const char* kKitArguments =
    "8250.nr_uarts=1 cryptomgr.notests rcupdate.rcu_expedited=1 apparmor=0 mitigations=off "
    "random.trust_cpu=on";

std::string known_cpu_models() {
  std::string list;
  for (const auto name : CpuModel::names()) list += (list.empty() ? "" : ", ") + std::string(name);
  return list;
}

bool is_terminal(int fd) { return ::isatty(fd) == 1; }

double milliseconds(uint64_t from_ns, uint64_t to_ns) {
  return static_cast<double>((to_ns - from_ns) / 1000) / 1000.0;
}

}  // namespace

RunCommand::RunCommand(CLI::App& app) {
  app.footer(
      "A command stands after --: trapeze run [OPTIONS] -- COMMAND [ARGUMENTS...]\n"
      "Without a command: the guest's shell. With --kernel and no command: that kernel, its "
      "serial\n"
      "port on stdin and stdout.\n\n"
      "Exit status: the command's (128+n when signal n ended it); 124 after --timeout; 125 when\n"
      "trapeze or the guest failed; 126 or 127 when the command cannot be executed or is not "
      "there.\n"
      "In a terminal session Ctrl-C belongs to the guest; Ctrl-] typed three times ends the VM.\n"
      "On a serial console that is Ctrl-A x.\n\n"
      "Examples:\n"
      "  trapeze run -- uname -a\n"
      "  trapeze run --cpus 2 --memory 1G\n"
      "  trapeze run --share .:/src -- make -C /src\n"
      "  trapeze run --rootfs / -- make -C \"$PWD\" test\n"
      "  tar c . | trapeze run -- sh -c 'tar x && ls -l'\n"
      "  trapeze run --kernel bzImage --initrd rootfs.cpio --append 'rdinit=/sbin/init'");
  app.add_option("--accel", accel_, "What executes the guest: auto, kvm, soft")
      ->check(CLI::IsMember({"auto", "kvm", "soft"}))
      ->capture_default_str();
  app.add_option("--soft-exec", soft_exec_,
                 "How the software engine executes: auto, interpreter, translator (auto is the "
                 "translator where this CPU has BMI2)")
      ->check(CLI::IsMember({"auto", "interpreter", "translator"}));
  app.add_option("--cpu", cpu_,
                 "CPU model of the software engine: " + known_cpu_models() +
                     "; x86-64-v3 (AVX2 and the like) needs a host that has it");
  app.add_option("--cpus", cpus_, "Number of virtual CPUs")
      ->check(CLI::Range(1U, kMaxVcpus))
      ->capture_default_str();
  app.add_option("--memory", memory_, "Guest memory, such as 512M or 2G")->capture_default_str();
  app.add_option("--kit", kit_, "Folder of the guest kit (default: $TRAPEZE_KIT, or the user's)");
  app.add_option("--kernel", kernel_, "Kernel instead of the kit's: bzImage, ELF or multiboot 1");
  app.add_option("--initrd", initrd_, "Initial RAM disk instead of the kit's");
  app.add_option("--append", append_, "Kernel command line, added to the default one");
  app.add_option("--console", console_,
                 "The guest's serial port: stdio, none or a file. With a command, stdio means "
                 "stderr (default: none with a command or shell, stdio without)");
  app.add_option("--disk", disks_, kDiskHelp)->take_all()->allow_extra_args(false);
  app.add_option("--share", shares_, kShareHelp)->take_all()->allow_extra_args(false);
  app.add_option("--rootfs", rootfs_, kRootfsHelp);
  app.add_option("--net", nets_, kNetHelp)->take_all()->allow_extra_args(false);
  app.add_option("--publish", published_, kPublishHelp)->take_all()->allow_extra_args(false);
  app.add_option(
      "--vsock", vsock_,
      "Sockets between guest and host (virtio-vsock): PATH[,cid=N]. A program on the host "
      "connects to the unix socket PATH and writes CONNECT PORT; the guest's connections "
      "to port P of CID 2 go to the unix socket PATH_P (default CID of the guest: 3). Or "
      "vhost[,cid=N]: AF_VSOCK on the host, too, by its kernel (/dev/vhost-vsock); each machine "
      "needs a CID of its own (a socket of that name: ./vhost)");
  app.add_option("--pmem", pmems_,
                 "A file of the host as memory of the guest, /dev/pmem0 and so on: FILE[,ro], any "
                 "number of times; its size is a multiple of 2 MiB. For file systems mounted with "
                 "-o dax. ro: the file stays as it is, what the guest writes is forgotten")
      ->take_all()
      ->allow_extra_args(false);
  balloon_option_ =
      app.add_option(
             "--balloon", balloon_,
             "Memory that the guest does not use goes back to the host; SIZE, such as 256M, is "
             "taken from the guest at once (default: 0; see trapeze balloon)")
          ->expected(0, 1)
          ->default_str("0");
  app.add_option("--vhost-user", vhost_users_, kVhostUserHelp)->take_all()->allow_extra_args(false);
  app.add_option("--iothreads", io_threads_, "Threads that serve disks (default: one for each)")
      ->check(CLI::Range(1U, 64U));
  command_.add_to(app);
  app.add_option("--name", name_,
                 "Name of the machine, for trapeze ls, exec, console, stop (default with "
                 "--detach: one that is made up; otherwise none)");
  app.add_flag("-d,--detach", detach_,
               "Run the machine in the background: print its name as soon as the command runs; "
               "what the command writes is shown by trapeze console");
  app.add_option("--timeout", timeout_, "End the VM after that time: seconds, or 500ms, 5m, 1h");
  app.add_option("--timeline", timeline_,
                 "Write when the run reached what, in ms, as JSON to a file (- is stdout)");
  app.add_flag("--debug-exit", debug_exit_,
               "Port 0xf4 ends the VM with status (value << 1) | 1, as QEMU's isa-debug-exit");
  app.add_flag("--test-devices", test_devices_,
               "The devices that CPU test images expect, and --debug-exit");
  app.add_option("--irqchip", irqchip_,
                 "KVM: interrupt controllers in the kernel, or split (only the local APICs there)")
      ->check(CLI::IsMember({"kernel", "split"}));
  app.add_flag("--cpu-pm", cpu_pm_,
               "KVM: HLT, PAUSE and MWAIT do not leave the guest; its CPUs seem busy all the time");
  app.add_option("--halt-poll", halt_poll_ns_,
                 "KVM: nanoseconds that a halted vCPU polls before it sleeps");
  app.add_flag(
      "--stats", stats_,
      "At the end, print what the accelerator counted on stderr, a name and a value a line");
  app.add_flag("-v,--verbose", verbose_, "Say on stderr what happens");
}

int RunCommand::run(const std::vector<std::string>& command, bool has_command,
                    uint64_t process_start_ns) {
  if (verbose_) set_log_level(LogLevel::Info);
  auto config = make_config(command, has_command);
  if (!config) return own_error(config.error().message);
  config->process_start_ns = process_start_ns;
  if (detach_) return run_detached(std::move(*config));
  auto outcome = run_vm(*config);
  if (!outcome) return own_error(outcome.error().message);
  for (const auto& message : outcome->messages) log_line(LogLevel::Error, message);
  if (stats_) {
    for (const Stat& stat : outcome->stats) fmt::print(stderr, "{} {}\n", stat.name, stat.value);
  }
  if (const auto written = write_timeline(outcome->timeline); !written) {
    return own_error(written.error().message);
  }
  return outcome->status;
}

Result<RunConfig> RunCommand::make_config(const std::vector<std::string>& command,
                                          bool has_command) {
  RunConfig config;
  const auto memory = parse_size(memory_);
  if (!memory) return fail("--memory {}: not a size; write for example 512M or 2G", memory_);
  config.vm.memory_bytes = *memory;
  config.vm.accel = accel_ == "soft"  ? AccelKind::Soft
                    : accel_ == "kvm" ? AccelKind::Kvm
                                      : AccelKind::Auto;
  config.vm.kvm.split_irqchip = irqchip_ == "split";
  config.vm.kvm.cpu_pm = cpu_pm_;
  config.vm.kvm.halt_poll_ns = halt_poll_ns_;
  if (soft_exec_ == "interpreter") config.vm.soft_exec = SoftExecutor::Interpreter;
  if (soft_exec_ == "translator") config.vm.soft_exec = SoftExecutor::Translator;
  config.vm.cpu_model = cpu_;
  config.vm.vcpus = cpus_;
  config.vm.debug_exit = debug_exit_;
  config.vm.test_devices = test_devices_;
  if (balloon_option_->count() != 0) {
    config.vm.balloon_bytes = balloon_ == "0" ? std::optional<uint64_t>(0) : parse_size(balloon_);
    if (!config.vm.balloon_bytes) {
      return fail("--balloon {}: not a size; write for example 256M", balloon_);
    }
  }
  TRY(validate(config.vm));
  if (!timeout_.empty()) {
    config.timeout = parse_duration(timeout_);
    if (!config.timeout) {
      return fail("--timeout {}: not a time; write seconds, or for example 500ms or 5m", timeout_);
    }
  }
  TRY(check_timeline());
  const bool wants_agent = has_command || kernel_.empty();
  if (has_command && command.empty()) return fail("there is no command after --");
  if (!wants_agent && command_.any_given()) {
    return fail("--tty, --env and --workdir need a command: with --kernel, put one after --");
  }
  if (wants_agent) TRY(choose_command(config, command));
  TRY(choose_guest(config, wants_agent));
  TRY(choose_disks(config, wants_agent));
  TRY(choose_nets(config, wants_agent));
  TRY(choose_name(config));
  choose_console(config);
  return config;
}

Result<void> RunCommand::choose_name(RunConfig& config) {
  if (name_.empty() && !detach_) return {};
  if (detach_ && (console_ == "stdio" || !timeline_.empty() || stats_)) {
    return fail("--detach: --console stdio, --timeline and --stats need a foreground");
  }
  ManagedConfig managed;
  managed.name = name_.empty() ? make_up_name() : name_;
  managed.is_detached = detach_;
  TRY(manage::check_name(managed.name));
  config.managed = std::move(managed);
  // Leaving its console must not end the machine.
  if (detach_ && config.command) config.command->has_escape = false;
  return {};
}

Result<void> RunCommand::choose_guest(RunConfig& config, bool wants_agent) {
  config.vm.linux_cmdline = kLinuxArguments;
  config.vm.cmdline = append_;
  config.vm.kernel_path = kernel_;
  config.vm.initrd_path = initrd_;
  if (!wants_agent || (!kernel_.empty() && !initrd_.empty())) return {};

  const auto directory = TRY(kit::kit_directory(kit_));
  if (!kit::kit_exists(directory)) {
    if (!kit_.empty() || !is_terminal(STDERR_FILENO)) {
      return fail("no guest kit in {}; make one with: trapeze kit build", directory.string());
    }
    // At a terminal somebody waits for the command: make it now, and say so.
    show_progress("there is no guest kit yet: making one, once");
    const auto cache = TRY(kit::cache_directory());
    TRY(kit::build_kit({.output = directory, .cache = cache}, show_progress));
  }
  const auto kit = TRY(kit::open_kit(directory));
  if (initrd_.empty() && !pmems_.empty() && kit.modules_version < kit::kModulesVersion) {
    return fail(
        "--pmem: the guest kit in {} has no driver for it; make it again with: "
        "trapeze kit build",
        directory.string());
  }
  if (initrd_.empty()) {
    config.vm.initrd_path = kit.initrd.string();
    config.vm.initrd_is_stable = true;
    // The agent of another build may speak another protocol.
    if (!kit.is_current()) config.vm.initrd_overlay = kit::init_archive();
  }
  if (kernel_.empty()) {
    config.vm.kernel_path = kit.kernel.string();
    config.vm.kernel_is_stable = true;
    config.vm.kernel_is_pvm = kit.is_pvm_kernel;
    config.vm.linux_cmdline += std::string(" ") + kKitArguments;
  }
  return {};
}

Result<void> RunCommand::choose_disks(RunConfig& config, bool wants_agent) {
  config.vm.io_threads = io_threads_;
  for (const auto& text : pmems_) config.vm.pmems.push_back(TRY(parse_pmem_option(text)));
  if (!vsock_.empty()) {
    config.vm.vsock = TRY(parse_vsock_option(vsock_));
    // Any user of the host can connect to the guest's ports then.
    const bool is_open = config.vm.vsock->kind == VsockConfig::Kind::Vhost;
    if (is_open && wants_agent) config.vm.linux_cmdline += " trapeze.sessions=off";
  }
  if (!rootfs_.empty()) {
    auto root = TRY(parse_rootfs_option(rootfs_));
    config.vm.linux_cmdline += " " + (wants_agent ? root.init_arguments : root.kernel_arguments);
    if (root.disk) config.vm.disks.push_back(std::move(*root.disk));
    if (root.share) config.vm.shares.push_back(std::move(*root.share));
  }
  for (size_t i = 0; i < shares_.size(); ++i) {
    auto share = TRY(parse_share_option(shares_[i], i));
    if (config.command) {
      config.command->mounts.push_back({share.tag, share.guest_path, share.is_read_only});
    }
    config.vm.shares.push_back(std::move(share));
  }
  TRY(check_nesting(config.vm.shares));
  for (const auto& text : vhost_users_) {
    config.vm.vhost_users.push_back(TRY(parse_vhost_user_option(text)));
  }
  for (const auto& text : disks_) config.vm.disks.push_back(TRY(parse_disk_option(text)));
  if (io_threads_ != 0 && config.vm.disks.empty()) return fail("--iothreads: there is no --disk");
  return {};
}

Result<void> RunCommand::choose_nets(RunConfig& config, bool wants_agent) {
  NetConfig* user = nullptr;
  for (const auto& text : nets_) config.vm.nets.push_back(TRY(parse_net_option(text)));
  for (NetConfig& net : config.vm.nets) {
    if (user == nullptr && net.kind == NetConfig::Kind::User) user = &net;
    if (wants_agent) config.vm.linux_cmdline += " " + network_argument(net);
  }
  for (const auto& text : published_) {
    if (user == nullptr) return fail("--publish {}: there is no --net user", text);
    user->user.ports.push_back(TRY(parse_publish_option(text)));
    user->option += " --publish " + text;
  }
  return {};
}

Result<void> RunCommand::choose_command(RunConfig& config,
                                        const std::vector<std::string>& command) {
  const bool at_terminal = is_terminal(STDIN_FILENO) && is_terminal(STDOUT_FILENO);
  // A shell in the background has its terminal in `trapeze console`.
  config.command = TRY(command_.make(command, command.empty() && (at_terminal || detach_)));
  return {};
}

void RunCommand::choose_console(RunConfig& config) const {
  const std::string chosen =
      !console_.empty() ? console_ : (config.command || detach_ ? "none" : "stdio");
  if (chosen == "stdio") {
    config.console = ConsoleMode::Stdio;
  } else if (chosen != "none") {
    config.console = ConsoleMode::File;
    config.console_path = chosen;
  }
  // Nobody reads them, and each costs guest time; a panic is printed all the same.
  if (config.console == ConsoleMode::None && config.command) config.vm.linux_cmdline += " quiet";
}

// Before the VM runs: nobody wants to learn after an hour that the file cannot be written.
Result<void> RunCommand::check_timeline() const {
  if (timeline_.empty() || timeline_ == "-") return {};
  std::ofstream file(timeline_, std::ios::app);
  if (!file) return fail_errno("--timeline {}", timeline_);
  return {};
}

Result<void> RunCommand::write_timeline(const Timeline& timeline) const {
  if (timeline_.empty()) return {};
  nlohmann::ordered_json json;
  const auto add = [&](const char* name, uint64_t when_ns) {
    json[name] = when_ns == 0
                     ? nlohmann::ordered_json()
                     : nlohmann::ordered_json(milliseconds(timeline.process_start_ns, when_ns));
  };
  json["accel"] = timeline.accel;
  json["accel_reason"] = timeline.accel_reason;
  add("vm_built", timeline.vm_built_ns);
  add("first_instruction", timeline.first_instruction_ns);
  add("init", timeline.init_ns);
  add("command", timeline.command_ns);
  add("exit", timeline.exit_ns);
  add("vm_stopped", timeline.vm_stopped_ns);
  json["first_instruction_cpu"] = milliseconds(0, timeline.first_instruction_cpu_ns);
  json["guest_instructions"] = timeline.guest_instructions;
  const std::string text = json.dump(2) + "\n";
  if (timeline_ == "-") {
    std::fwrite(text.data(), 1, text.size(), stdout);
    return std::fflush(stdout) == 0 ? Result<void>() : fail_errno("--timeline -");
  }
  std::ofstream file(timeline_, std::ios::trunc);
  file << text;
  file.close();
  if (!file) return fail_errno("--timeline {}", timeline_);
  return {};
}

}  // namespace trapeze::cli
