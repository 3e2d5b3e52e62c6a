#!/usr/bin/env python3
"""Sockets between guest and host: Trapeze against QEMU with vhost-vsock, side by side: peer, we, peer, we, ...

    python3 bench/vsock.py build/trapeze [--rounds 3] [--seconds 2] [--accel soft|kvm]

The guest connects by AF_VSOCK to a port of the host. There Trapeze has a unix socket (as Firecracker's
protocol has it), QEMU AF_VSOCK, whose packets the host's kernel moves; in the guests and on the host runs
the same program (tests/guest/programs/net_peer.cpp). Where there is no /dev/vhost-vsock Trapeze is measured
alone. Prints a table and writes every sample to build/bench-vsock.json. docs/benchmarks.md says more.
"""

import contextlib
import os
import tempfile

import guests
import pairs
import streams
from streams import ORDERS, PORT, line_of, server, unit_of

GUEST_CID = 77
VHOST = "/dev/vhost-vsock"
ROWS = {order: f"vsock: {text}" for order, text in ORDERS.items()}


def main():
    options = pairs.parse(__doc__, "vsock", "net_peer", streams.add_options)
    if not options.no_qemu and not os.path.exists(VHOST):
        print(f"QEMU is skipped: there is no {VHOST} (modprobe vhost_vsock), and QEMU has no vsock without it")
        options.no_qemu = True
    names = pairs.chosen(options, ROWS)
    samples = pairs.Samples()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="trapeze-bench-"))
        path = os.path.join(folder, "v.sock")
        stack.enter_context(server(options.program_path, f"{path}_{PORT}"))
        ours = stack.enter_context(guests.trapeze(options, ["--vsock", path]))
        machines = [ours]
        if not options.no_qemu:
            stack.enter_context(server(options.program_path, "vsock"))
            machines.insert(0, stack.enter_context(guests.qemu(
                options, guests.kernel_arguments(ours),
                ["-device", f"vhost-vsock-pci,guest-cid={GUEST_CID}"])))
        samples.measure(names, lambda row, _: line_of(row, "vsock", options), machines, options.rounds)
    pairs.report(options, samples, {row: ROWS[row] for row in names}, unit_of=unit_of)


if __name__ == "__main__":
    main()
