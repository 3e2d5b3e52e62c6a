#!/usr/bin/env python3
"""Network: Trapeze against QEMU, side by side on the same host: peer, we, peer, we, ...

    python3 bench/net.py build/trapeze [--rounds 3] [--seconds 2] [--accel soft|kvm]

Each gives one guest of the kit one network card, behind the user network or on a tap of its own, in a
network namespace of their own (so it wants root, or user namespaces). In the guest and on the host
runs the same program (tests/guest/programs/net_peer.cpp). "vhost" is a tap whose frames the host's
kernel moves, for both, where it can. Prints a table and writes every sample to build/bench-net.json.
docs/benchmarks.md says more.
"""

import contextlib
import os
import sys

import guests
import pairs
import streams
from streams import ORDERS, line_of, server, unit_of

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/guest"))
import net_test  # noqa: E402

MAC = "02:00:00:00:77:02"
NETS = {"user": "user network", "tap": "tap", "vhost": "tap with vhost-net"}
# TCP makes segments for the network card smaller the longer the round trip, from 512 us on; from 8 ms on, here.
LONG_ROUND_TRIP = "echo 13 > /proc/sys/net/ipv4/tcp_tso_rtt_log"
ROWS = {f"{net}.{order}": f"{name}: {text}" for net, name in NETS.items() for order, text in ORDERS.items()}


class Tap:
    """One of the host's, with addresses for both its ends."""

    def __init__(self, number):
        self.name = f"tapbench{number}"
        self.host, self.guest = (f"10.77.{number}.{end}" for end in (1, 2))

    def set_up(self):
        net_test.host(f"ip tuntap add dev {self.name} mode tap && ip link set {self.name} up && "
                      f"ip addr add {self.host}/24 dev {self.name}")


TAPS = {"trapeze": Tap(1), "qemu": Tap(2)}


def trapeze_arguments(net):
    tap, vhost = TAPS["trapeze"], "on" if net == "vhost" else "off"
    return ["--net", f"user,mac={MAC}" if net == "user" else
            f"tap={tap.name},mac={MAC},ip={tap.guest}/24,gateway={tap.host},vhost={vhost}"]


def qemu_arguments(net):
    """The kernel's arguments (what the guest's init is told) and the devices."""
    tap, vhost = TAPS["qemu"], "on" if net == "vhost" else "off"
    address = "10.0.2.15/24,10.0.2.2,10.0.2.3" if net == "user" else f"{tap.guest}/24,{tap.host},"
    back_end = ("user,id=net" if net == "user" else
                f"tap,id=net,ifname={tap.name},script=no,downscript=no,vhost={vhost}")
    return (f" trapeze.net={MAC},{address}",
            ["-netdev", back_end, "-device", f"virtio-net-pci,netdev=net,mac={MAC},romfile="])


def host_address(net, machine):
    return net_test.HOST if net == "user" else TAPS[machine.name].host


def measure(options, net, rows, samples):
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(guests.trapeze(options, trapeze_arguments(net)))
        machines = [ours]
        if not options.no_qemu:
            card, devices = qemu_arguments(net)
            machines.insert(0, stack.enter_context(
                guests.qemu(options, guests.kernel_arguments(ours) + card, devices)))
        if options.slow_host:
            for machine in machines:
                machine.tell(LONG_ROUND_TRIP)
        samples.measure(rows, lambda row, machine: line_of(row.split(".")[1], host_address(net, machine), options),
                        machines, options.rounds)


def set_host_up(options):
    if not net_test.enter_namespaces():
        raise SystemExit("this needs a network namespace: run it as root")
    if options.slow_host:
        net_test.host(LONG_ROUND_TRIP)
    for tap in TAPS.values():
        tap.set_up()


def add_options(parser):
    streams.add_options(parser)
    parser.add_argument("--nets", help=f"of {','.join(NETS)}; those that are possible unless told")
    parser.add_argument("--slow-host", action="store_true",
                        help="an emulated one, whose round trips of milliseconds are not those of a long way")


def main():
    options = pairs.parse(__doc__, "net", "net_peer", add_options)
    nets = options.nets.split(",") if options.nets else [
        net for net in NETS if net != "vhost" or os.path.exists("/dev/vhost-net")]
    names = [row for row in pairs.chosen(options, ROWS) if row.split(".")[0] in nets]
    samples = pairs.Samples()
    set_host_up(options)
    with server(options.program_path, "0.0.0.0"):
        for net in nets:
            if rows := [row for row in names if row.startswith(f"{net}.")]:
                measure(options, net, rows, samples)
    pairs.report(options, samples, {row: ROWS[row] for row in names}, unit_of=unit_of)


if __name__ == "__main__":
    main()
