#!/usr/bin/env python3
"""Sockets between guest and host: Trapeze against QEMU with vhost-vsock, side by side: peer, we, peer, we, ...

    python3 bench/vsock.py build/trapeze [--rounds 3] [--seconds 2] [--accel soft|kvm]

The guest connects by AF_VSOCK to a port of the host. There QEMU has AF_VSOCK, whose packets the host's kernel moves;
Trapeze has a unix socket (as Firecracker's protocol has it), whose bytes its own process moves, or AF_VSOCK as QEMU
has it ("with vhost"). In the guests and on the host runs the same program (tests/guest/programs/net_peer.cpp). Where
there is no /dev/vhost-vsock Trapeze is measured alone, with unix sockets. Prints a table and writes every sample to
build/bench-vsock.json. docs/benchmarks.md says more.
"""

import contextlib
import os
import tempfile

import guests
import pairs
import streams
from streams import ORDERS, PORT, line_of, server, unit_of

CIDS = {"trapeze": 4, "qemu": 77}
VHOST = "/dev/vhost-vsock"
KINDS = {"unix": "vsock", "vhost": "vsock with vhost"}
ROWS = {f"{kind}.{order}": f"{name}: {text}" for kind, name in KINDS.items() for order, text in ORDERS.items()}


def measure(options, kind, rows, samples, folder):
    with contextlib.ExitStack() as stack:
        option = f"vhost,cid={CIDS['trapeze']}"
        if kind == "unix":
            option = os.path.join(folder, "v.sock")
            stack.enter_context(server(options.program_path, f"{option}_{PORT}"))
        ours = stack.enter_context(guests.trapeze(options, ["--vsock", option]))
        machines = [ours]
        if not options.no_qemu:
            machines.insert(0, stack.enter_context(guests.qemu(
                options, guests.kernel_arguments(ours), ["-device", f"vhost-vsock-pci,guest-cid={CIDS['qemu']}"])))
        samples.measure(rows, lambda row, _: line_of(row.split(".")[1], "vsock", options), machines, options.rounds)


def add_options(parser):
    streams.add_options(parser)
    parser.add_argument("--kinds", help=f"of {','.join(KINDS)}; those that are possible unless told")


def main():
    options = pairs.parse(__doc__, "vsock", "net_peer", add_options)
    has_vhost = os.path.exists(VHOST)
    if not options.no_qemu and not has_vhost:
        print(f"QEMU is skipped: there is no {VHOST} (modprobe vhost_vsock), and QEMU has no vsock without it")
        options.no_qemu = True
    kinds = options.kinds.split(",") if options.kinds else [kind for kind in KINDS if kind != "vhost" or has_vhost]
    names = [row for row in pairs.chosen(options, ROWS) if row.split(".")[0] in kinds]
    samples = pairs.Samples()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="trapeze-bench-"))
        if has_vhost:
            stack.enter_context(server(options.program_path, "vsock"))
        for kind in kinds:
            if rows := [row for row in names if row.startswith(f"{kind}.")]:
                measure(options, kind, rows, samples, folder)
    pairs.report(options, samples, {row: ROWS[row] for row in names}, unit_of=unit_of)


if __name__ == "__main__":
    main()
