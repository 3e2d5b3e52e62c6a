"""Guests of Trapeze and of QEMU that are up at the same time and run lines of shell when they are told to: the
machines of bench/block.py, fs.py, net.py and vsock.py. One works while the other sleeps."""

import contextlib
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass

from machines import MEMORY_MIB, QEMU_CPU, QEMU_MACHINE
from process import cpu_seconds, family

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/guest"))
import agent_peer  # noqa: E402

LIMIT_S = 600  # for one line, and for the boot
# The kit has no place for the program: it comes on stdin, the orders after it. What a line says about its
# measurement goes to the host at once.
SCRIPT = ("dd of=/tmp/load bs={size} count=1 iflag=fullblock 2>/dev/null; chmod +x /tmp/load; "
          "while read -r line; do (eval \"$line\") </dev/null; echo done $?; done")


@dataclass
class Sample:
    amount_s: float   # a second of the guest's clock
    cpu_us: float     # of the machine's processes, for each


class Watch:
    """What the lines of the program say, with the CPU time at their arrival: "begin ..." and at last
    "WORD... AMOUNT NANOSECONDS"."""

    def __init__(self, cpu_s):
        self.cpu_s = cpu_s
        self.begin_s, self.sample = cpu_s(), None

    def __call__(self, line):
        words = line.split()
        if words[0] == "begin":
            self.begin_s = self.cpu_s()
            return
        amount, took_ns = map(int, words[-2:])
        used_s = self.cpu_s() - self.begin_s
        self.sample = Sample(amount / (took_ns / 1e9), used_s * 1e6 / max(1, amount))


class Guest:
    """`reader` and `writer` are the shell's streams. `pids`: whose CPU time counts."""

    def __init__(self, name, pids, reader, writer):
        self.name, self.pids, self.reader, self.writer = name, pids, reader, writer
        self.received = b""

    def cpu(self):
        return sum(cpu_seconds(one) for pid in self.pids for one in family(pid))

    def send(self, data):
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.writer, rest):]

    def lines(self):
        """Those of one order, as they come."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            *whole, self.received = self.received.split(b"\n")
            for line in map(bytes.decode, whole):
                if line.startswith("done "):
                    if line != "done 0":
                        raise RuntimeError(f"{self.name}: {line}")
                    return
                yield line
            ready, _, _ = select.select([self.reader], [], [], max(0, deadline - time.monotonic()))
            data = os.read(self.reader, 65536) if ready else b""
            if not data:
                raise RuntimeError(f"{self.name}: " + ("it ended" if ready else f"no answer within {LIMIT_S} s"))
            self.received += data

    def tell(self, line):
        self.send(line.encode() + b"\n")
        return list(self.lines())

    def measure(self, line):
        watch = Watch(self.cpu)
        self.send(line.encode() + b"\n")
        for answer in self.lines():
            watch(answer)
        return watch.sample


@contextlib.contextmanager
def trapeze(options, arguments):
    """`arguments`: of the device that is measured."""
    script = SCRIPT.format(size=len(options.program))
    command = [options.trapeze, "run", "--kit", options.kit, "--accel", options.accel,
               "--memory", f"{options.memory}M", *arguments, *options.trapeze_option, "--", "sh", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        guest = Guest("trapeze", [process.pid], process.stdout.fileno(), process.stdin.fileno())
        try:
            guest.send(options.program)
            guest.tell("true")
            yield guest
            process.stdin.close()
            if process.wait(LIMIT_S) != 0:
                raise RuntimeError(f"trapeze ended with status {process.returncode}")
        finally:
            process.kill()


@contextlib.contextmanager
def qemu(options, kernel_arguments, devices, helpers=()):
    """`helpers`: processes that work for it."""
    is_kvm = options.accel == "kvm"
    # The uncompressed kernel where unpacking it takes long and QEMU takes it.
    peer = agent_peer.Peer(
        options.kit, accel="kvm" if is_kvm else "tcg", cpu_model="host" if is_kvm else QEMU_CPU,
        kernel="vmlinux" if is_kvm else "vmlinuz", machine=QEMU_MACHINE, memory=f"{options.memory}M",
        # A busy host makes TCG's clocks fail the kernel's test of them.
        kernel_arguments=kernel_arguments + " no_timer_check", devices=devices)
    try:
        peer.wait_ready()
        peer.start_command(["sh", "-c", SCRIPT.format(size=len(options.program))])
        stream = peer.sockets["stdio"].fileno()
        guest = Guest("qemu", [peer.process.pid, *helpers], stream, stream)
        guest.send(options.program)
        guest.tell("true")
        yield guest
    except Exception:
        print(peer.serial_log(), file=sys.stderr)
        raise
    finally:
        peer.close()


def kernel_arguments(guest):
    """The command line that trapeze gives the kit's kernel, so that the peer gets the same."""
    words = guest.tell("cat /proc/cmdline")[0].split()
    return " ".join(word for word in words if not word.startswith("trapeze."))


def add_options(parser):
    parser.add_argument("--accel", choices=("soft", "kvm"), default="soft",
                        help="of both: soft against QEMU's TCG, kvm against KVM")
    parser.add_argument("--memory", type=int, default=MEMORY_MIB, help="MiB of each guest")
    parser.add_argument("--trapeze-option", action="append", default=[], metavar="--OPTION=VALUE")
