#!/usr/bin/env python3
"""Network: Trapeze against QEMU's TCG, side by side on the same host: peer, we, peer, we, ...

    python3 bench/net.py build/trapeze [--runs 3] [--seconds 2]

Both give one guest of the kit one network card, behind the user network and on the same tap, in a
network namespace of their own (so it wants root, or user namespaces). In the guest and on the host
runs the same program (tests/guest/programs/net_peer.cpp). Prints a table and writes every sample to
build/bench-net.json. docs/benchmarks.md says more.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys

import host
from machines import MEMORY_MIB, QEMU_CPU, QEMU_MACHINE, Trapeze
from process import cpu_seconds
from run import find_kit

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/guest"))
import agent_peer  # noqa: E402
import net_test  # noqa: E402

LIMIT_S = 300
PORT = 5555
MAC = "02:00:00:00:77:02"
TAP, TAP_HOST = "tapbench", "10.77.0.1"
ROWS = {
    "user.send": "user network: guest to host",
    "user.receive": "user network: host to guest",
    "user.send4": "user network: guest to host, 4 streams",
    "user.receive4": "user network: host to guest, 4 streams",
    "user.ping": "user network: round trip",
    "tap.send": "tap: guest to host",
    "tap.receive": "tap: host to guest",
    "tap.send4": "tap: guest to host, 4 streams",
    "tap.receive4": "tap: host to guest, 4 streams",
    "tap.ping": "tap: round trip",
}
# Where the guest finds the host, the card for each of the two, and what the guest's init is told.
NETS = {
    "user": {"address": net_test.HOST, "trapeze": f"user,mac={MAC}", "qemu": "user,id=net",
             "init": f"trapeze.net={MAC},10.0.2.15/24,10.0.2.2,10.0.2.3"},
    "tap": {"address": TAP_HOST,
            "trapeze": f"tap={TAP},mac={MAC},ip=10.77.0.2/24,gateway={TAP_HOST}",
            "qemu": f"tap,id=net,ifname={TAP},script=no,downscript=no,vhost=off",
            "init": f"trapeze.net={MAC},10.77.0.2/24,{TAP_HOST},"},
}


def script(net, seconds):
    lines = ["cat > /tmp/peer && chmod +x /tmp/peer"]
    place = f"{NETS[net]['address']} {PORT} {seconds}"
    for row in (row for row in ROWS if row.startswith(net)):
        order = row.split(".")[1]
        streams = " 4" if order.endswith("4") else ""
        lines += [f"echo begin {row}", f"/tmp/peer {order.rstrip('4')} {place}{streams}"]
    # The processes have to be there still when the last line is read.
    return " && ".join([*lines, "sleep 1"])


def family_cpu(pid):
    """Of the process and its children that live: the user network has one."""
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, check=False).stdout
    return sum(cpu_seconds(int(one)) for one in [pid, *children.split()])


class Watch:
    """Reads the program's lines as they come, with the machine's CPU time at each."""

    def __init__(self):
        self.rest, self.row, self.begin_cpu, self.samples = b"", None, 0.0, {}

    def __call__(self, pid, data):
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            words = line.decode().split()
            if words[0] == "begin":
                self.row, self.begin_cpu = words[1], family_cpu(pid)
                continue
            amount, took_s = int(words[1]), int(words[2]) / 1e9
            unit = 1 if self.row.endswith("ping") else 1 << 20  # round trips, MiB
            self.samples[self.row] = {
                "rate": amount / unit / took_s,
                "cpu_us": (family_cpu(pid) - self.begin_cpu) * 1e6 / (amount / unit)}


def measure_trapeze(options, net, program):
    watch = Watch()
    command = [options.trapeze, "run", "--kit", options.kit, "--memory", f"{MEMORY_MIB}M",
               "--net", NETS[net]["trapeze"], "--timeout", str(LIMIT_S),
               *options.trapeze_option, "--", "sh", "-c", script(net, options.seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(program)
        process.stdin.close()
        while data := os.read(process.stdout.fileno(), 65536):
            watch(process.pid, data)
    if process.returncode != 0:
        raise RuntimeError(f"trapeze ended with status {process.returncode}")
    return watch.samples


def measure_qemu(options, net, program):
    watch = Watch()
    peer = agent_peer.Peer(
        options.kit, memory=f"{MEMORY_MIB}M", machine=QEMU_MACHINE, cpu_model=QEMU_CPU,
        kernel_arguments=options.kernel_arguments,
        # A busy host makes TCG's clocks fail the kernel's test of them.
        append=NETS[net]["init"] + " no_timer_check",
        devices=["-netdev", NETS[net]["qemu"], "-device",
                 f"virtio-net-pci,netdev=net,mac={MAC},romfile="])
    try:
        peer.wait_ready()
        outcome = peer.run_command(["sh", "-c", script(net, options.seconds)], stdin=program,
                                   timeout=LIMIT_S,
                                   on_output=lambda p, data: watch(p.process.pid, data))
    finally:
        peer.close()
    if outcome.status != 0:
        raise RuntimeError(f"qemu: status {outcome.status}: {outcome.stderr.decode()}")
    return watch.samples


def ratio_text(ratio):
    return f"{ratio:8.2f}" if ratio else "       -"


def show(samples, facts, runs, rows):
    loads = " ".join(f"{load:.1f}" for load in facts["load_average"])
    print(f"\n{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, load average {loads}; "
          f"medians of {runs} runs\n")
    print(f"{'':42}{'trapeze':>12}{'qemu tcg':>12}{'ratio':>9}   "
          f"{'CPU us each':>11}{'qemu':>10}{'ratio':>9}")
    ratios = []
    for row in rows:
        medians = {}
        for machine in ("trapeze", "qemu"):
            for key in ("rate", "cpu_us"):
                values = [sample[row][key] for sample in samples[machine] if row in sample]
                medians[machine, key] = statistics.median(values) if values else 0
        ours, peer = medians["trapeze", "rate"], medians["qemu", "rate"]
        our_cpu, peer_cpu = medians["trapeze", "cpu_us"], medians["qemu", "cpu_us"]
        ratio = ours / peer if peer else 0
        ratios.append(ratio)
        unit = "  /s" if row.endswith("ping") else "MB/s"
        print(f"{ROWS[row]:42}{ours:8.0f}{unit}{peer:8.0f}{unit} {ratio_text(ratio)}   "
              f"{our_cpu:11.0f}{peer_cpu:10.0f} "
              f"{ratio_text(our_cpu / peer_cpu if peer_cpu else 0)}")
    if all(ratios):
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        print(f"\ngeometric mean of the speed ratios (higher is better): {mean:.2f}; "
              f"smallest: {min(ratios):.2f}")


def set_host_up(options):
    if not net_test.enter_namespaces():
        raise SystemExit("this needs a network namespace: run it as root")
    net_test.host(f"ip tuntap add dev {TAP} mode tap && ip link set {TAP} up && "
                  f"ip addr add {TAP_HOST}/24 dev {TAP}")
    server = subprocess.Popen([options.program, "serve", "0.0.0.0", str(PORT)],
                              stdout=subprocess.PIPE)
    server.stdout.readline()
    return server


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trapeze", help="the binary to measure")
    parser.add_argument("--kit", default=os.environ.get("TRAPEZE_KIT"),
                        help="folder of the kit; made by this binary, for its init is QEMU's too")
    parser.add_argument("--program", default="build/tests/guest/net_peer")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2, help="for each row")
    parser.add_argument("--nets", default="user,tap")
    parser.add_argument("--no-qemu", action="store_true")
    parser.add_argument("--trapeze-option", action="append", default=[], metavar="--OPTION=VALUE")
    parser.add_argument("--output", default="build/bench-net.json")
    options = parser.parse_args()
    options.kit = find_kit(options.trapeze, options.kit)
    options.kernel_arguments = Trapeze(options.trapeze, options.kit).kernel_arguments()
    with open(options.program, "rb") as file:
        program = file.read()
    samples, facts = {"trapeze": [], "qemu": []}, host.facts()
    server = set_host_up(options)
    try:
        for _ in range(options.runs):
            for net in options.nets.split(","):
                if not options.no_qemu:
                    samples["qemu"].append(measure_qemu(options, net, program))
                samples["trapeze"].append(measure_trapeze(options, net, program))
    finally:
        server.kill()
        server.wait()
    show(samples, facts, options.runs,
         [row for row in ROWS if row.split(".")[0] in options.nets.split(",")])
    os.makedirs(os.path.dirname(options.output) or ".", exist_ok=True)
    with open(options.output, "w", encoding="utf-8") as file:
        json.dump({"host": facts, "rows": ROWS, "samples": samples,
                   "trapeze_options": options.trapeze_option}, file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    main()
