"""The figures of accel/kvm: boot to user space against QEMU's, in one run of the rig.

Same kernel and initramfs for all three, whose init does nothing but restart the machine.
Time is the monitor's, from exec to its end, by the rig's clock: hardware times are other ones, but
the machines can be compared. Exits are those to user space: Trapeze's --stats, QEMU's trace of
kvm_run_exit, in a run of its own.

  figures.py TRAPEZE BOOTDONE [--rounds N]
"""

import argparse
import collections
import os
import re
import statistics
import sys

import rig

KERNEL_ARGUMENTS = "console=ttyS0 quiet panic=-1 rdinit=/init"
QEMU_FILES = ("bios-256k.bin", "bios-microvm.bin", "kvmvapic.bin", "linuxboot_dma.bin", "pvh.bin",
              "qboot.rom", "vgabios-stdvga.bin", "efi-virtio.rom")
QEMU = ("qemu-system-x86_64 -accel kvm -cpu host -m 256 -smp 1 -nodefaults -no-user-config -display none "
        "-no-reboot -serial file:/tmp/serial "
        f"-kernel /kit/vmlinux -initrd /guest/initrd -append '{KERNEL_ARGUMENTS}' ")
MONITORS = {
    "trapeze": "trapeze run --accel kvm --memory 256M --console /tmp/serial "
               f"--kernel /kit/vmlinux --initrd /guest/initrd --append '{KERNEL_ARGUMENTS}' --stats",
    "microvm": QEMU + "-M microvm,acpi=on",
    "q35": QEMU + "-M q35",
}
REASONS = {2: "io", 5: "hlt", 6: "mmio", 7: "irq_window", 8: "shutdown", 10: "intr", 17: "internal_error"}
SCRIPT = """
now() { cut -d' ' -f1 /proc/uptime; }
for round in $(seq 1 ROUNDS); do
MEASURES
done
COUNTS
"""


def add_monitors(host, trapeze):
    """Trapeze, the kit and QEMU."""
    host.add_program(trapeze, "/usr/bin/trapeze")
    host.add_kit()
    host.add_program("/usr/bin/qemu-system-x86_64")
    for name in QEMU_FILES:
        for folder in ("/usr/share/qemu", "/usr/share/seabios", "/usr/lib/ipxe/qemu"):
            path = os.path.join(folder, name)
            if os.path.exists(path):
                host.add_file(path, "/usr/share/qemu/" + name)
                host.add_file(path, "/usr/share/seabios/" + name)


def make_rig(trapeze, bootdone):
    host = rig.Rig()
    add_monitors(host, trapeze)
    archive = rig.Cpio()
    archive.character_device("dev/console", 5, 1)
    archive.file("init", rig.read(bootdone))
    host.files["/guest/initrd"] = archive.finish()
    return host


def measure(host, rounds):
    measures, counts = [], []
    for name, command in MONITORS.items():
        measures.append(f"rm -f /tmp/serial; a=$(now); timeout 100 {command} </dev/null >/tmp/out 2>&1; s=$?; b=$(now); "
                        f"grep -q panic /tmp/serial && s=99; echo time {name} $a $b $s; "
                        f"[ $s = 0 ] || cat /tmp/out /tmp/serial >&2")
    counts.append(f"timeout 100 {MONITORS['trapeze']} </dev/null 2>$RESULTS/trapeze.exits")
    for name in ("microvm", "q35"):
        counts.append(f"timeout 300 {MONITORS[name]} -trace kvm_run_exit -D $RESULTS/{name}.exits </dev/null"
                      " >&2")
    script = SCRIPT.replace("ROUNDS", str(rounds)).replace("MEASURES", "\n".join(measures))
    return host.run(script.replace("COUNTS", "\n".join(counts)), limit_s=300 + 200 * rounds, cpus=2)


def exits_of(result):
    """Userspace exits by reason, for each monitor."""
    table = {"trapeze": collections.Counter()}
    for line in result.files["trapeze.exits"].decode().splitlines():
        if match := re.fullmatch(r"exit\.(\w+) (\d+)", line):
            table["trapeze"][match[1]] = int(match[2])
    for name in ("microvm", "q35"):
        counter = collections.Counter()
        text = result.files.get(f"{name}.exits", b"").decode(errors="replace")
        for reason in re.findall(r"kvm_run_exit cpu_index \d+, reason (\d+)", text):
            counter[REASONS.get(int(reason), reason)] += 1
        counter["all"] = sum(counter.values())
        table[name] = counter
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trapeze")
    parser.add_argument("bootdone")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    result = measure(make_rig(arguments.trapeze, arguments.bootdone), arguments.rounds)
    times = collections.defaultdict(list)
    for name, start, end, status in re.findall(r"time (\w+) (\S+) (\S+) (\d+)", result.stdout.decode()):
        if status == "0":
            times[name].append(float(end) - float(start))
    if any(len(times[name]) < arguments.rounds for name in MONITORS):
        print(result, file=sys.stderr)
        return 1
    exits = exits_of(result)
    for name in MONITORS:
        listed = ", ".join(f"{reason} {count}" for reason, count in exits[name].most_common())
        print(f"{name:8} {statistics.median(times[name]):6.2f} s "
              f"({min(times[name]):.2f} to {max(times[name]):.2f})  {listed}")
    # Round by round: what else the machine does changes slowly.
    ratios = [ours / min(peers) for ours, *peers in zip(*(times[name] for name in MONITORS))]
    peer_exits = min(exits[name]["all"] for name in ("microvm", "q35"))
    print(f"time: {statistics.median(ratios):.2f} of the faster peer ({min(ratios):.2f} to "
          f"{max(ratios):.2f}, {len(ratios)} rounds); "
          f"exits: {exits['trapeze']['all'] / peer_exits:.2f} of the one with fewer")
    return 0


if __name__ == "__main__":
    sys.exit(main())
