"""The machines that are compared. Both virtual ones run one command in a fresh VM of the same kit
and tell when it reached what; `on_output(pid, data)` sees the command's stdout as it comes, and
what it returns goes to the command's stdin when that `stays_open`. The host itself is the third."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass

from process import cpu_seconds

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/guest"))
import agent_peer  # noqa: E402  (the guest's init, driven under QEMU, as the tests do)

MEMORY_MIB = 512
TIME_LIMIT_S = 900

# The peer's best sane configuration: docs/benchmarks.md says how it was chosen.
QEMU_MACHINE = "q35"
QEMU_CPU = "qemu64"


@dataclass
class Run:
    init_s: float = 0.0      # process start to the agent's first message
    init_cpu_s: float = 0.0  # CPU time used by then
    cpu_s: float = 0.0       # CPU time of the whole process, to its end
    instructions: int = 0    # of the guest, where the machine counts them
    stdout: bytes = b""


def children_cpu():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Native:
    """The command as a process of the host."""

    name = "native"

    @staticmethod
    def run(argv, on_output):
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        try:
            while data := os.read(process.stdout.fileno(), 65536):
                process.stdin.write(on_output(process.pid, data) or b"")
        finally:
            process.stdin.close()
            process.stdout.close()
            if process.wait() != 0:
                raise RuntimeError(f"native: the command ended with status {process.returncode}")


class Trapeze:
    name = "trapeze"

    def __init__(self, binary, kit, executor=None):
        self.binary, self.kit = binary, kit
        self.options = ["--accel", "soft"] + (["--soft-exec", executor] if executor else [])

    def version(self):
        return subprocess.run([self.binary, "version"], check=True, capture_output=True,
                              text=True).stdout.strip()

    def kernel_arguments(self):
        """The command line that trapeze gives the kit's kernel, so that the peer gets the same."""
        return self.run(["cat", "/proc/cmdline"]).stdout.decode().strip()

    def run(self, argv, stdin=b"", on_output=None, stays_open=False, cpus=1):
        with tempfile.TemporaryDirectory(prefix="trapeze-bench-") as folder:
            timeline = os.path.join(folder, "timeline")
            command = [self.binary, "run", *self.options, "--kit", self.kit,
                       "--cpus", str(cpus), "--memory", f"{MEMORY_MIB}M",
                       "--timeout", str(TIME_LIMIT_S), "--timeline", timeline, "--", *argv]
            before = children_cpu()
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       bufsize=0)
            try:
                result = self._converse(process, stdin, on_output, stays_open)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            if process.returncode != 0:
                raise RuntimeError(f"trapeze: the command ended with status {process.returncode}")
            result.cpu_s = children_cpu() - before
            with open(timeline, encoding="utf-8") as file:
                times = json.load(file)
            result.init_s = times["init"] / 1000
            result.instructions = times["guest_instructions"]
            return result

    def _converse(self, process, stdin, on_output, stays_open):
        feeder = threading.Thread(target=self._feed, args=(process.stdin, stdin, stays_open),
                                  daemon=True)
        feeder.start()
        result = Run()
        parts = []
        while data := os.read(process.stdout.fileno(), 65536):
            # The end of the boot is told by the first output, some milliseconds after init. That
            # is to our disadvantage: the peer's CPU time is taken at init's own message.
            if not parts:
                result.init_cpu_s = cpu_seconds(process.pid)
            parts.append(data)
            answer = on_output(process.pid, data) if on_output else None
            if answer and stays_open:
                process.stdin.write(answer)
        process.wait()
        feeder.join()
        process.stdin.close()
        process.stdout.close()
        result.stdout = b"".join(parts)
        return result

    @staticmethod
    def _feed(pipe, data, stays_open):
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[pipe.write(rest):]
            if not stays_open:
                pipe.close()
        except BrokenPipeError:
            pass


class Qemu:
    name = "qemu tcg"

    def __init__(self, kit, kernel_arguments):
        self.kit, self.kernel_arguments = kit, kernel_arguments

    @staticmethod
    def version():
        return subprocess.run(["qemu-system-x86_64", "--version"], check=True, capture_output=True,
                              text=True).stdout.splitlines()[0]

    def run(self, argv, stdin=b"", on_output=None, stays_open=False, cpus=1):
        def forward(sender, data):
            answer = on_output(sender.process.pid, data) if on_output else None
            if answer and stays_open:
                sender.sockets["stdio"].sendall(answer)

        result = Run()
        before = children_cpu()
        start = time.monotonic()
        peer = agent_peer.Peer(self.kit, cpus=cpus, memory=f"{MEMORY_MIB}M",
                               machine=QEMU_MACHINE, cpu_model=QEMU_CPU,
                               kernel_arguments=self.kernel_arguments)
        try:
            peer.wait_ready()
            result.init_s = time.monotonic() - start
            result.init_cpu_s = cpu_seconds(peer.process.pid)
            outcome = peer.run_command(argv, stdin=stdin, stdin_ends=not stays_open,
                                       timeout=TIME_LIMIT_S, on_output=forward)
        finally:
            peer.close()
        if outcome.status != 0:
            raise RuntimeError(f"qemu: the command ended with status {outcome.status}")
        result.cpu_s = children_cpu() - before
        result.stdout = outcome.stdout
        return result
