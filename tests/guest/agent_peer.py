"""The host side of the agent protocol (guest/agent/protocol.h), to drive the guest's init under
QEMU: the kit is proved without Trapeze's own engine, and the same boot is the benchmark's peer.

    python3 agent_peer.py --kit DIR [--tty] [--timeline] -- command...
"""

import argparse
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

MAGIC = 0x5A505254
VERSION = 1
EXEC, STDIN_END, SIGNAL, WINDOW_SIZE, POWER_OFF = 1, 2, 3, 4, 5
READY, STARTED, EXEC_FAILED, EXITED = 16, 17, 18, 19
PORTS = ("control", "stdio", "stderr")
CHUNK = 65536
KERNEL_ARGUMENTS = "quiet console=ttyS0 panic=-1"


def frame(kind, payload=b""):
    return struct.pack("<IHHII", MAGIC, kind, VERSION, len(payload), 0) + payload


def exec_frame(argv, env=(), cwd="", tty=False, rows=24, columns=80):
    flags = (1 if tty else 0) | (0 if argv else 2)
    header = struct.pack("<IIIHH32s", flags, len(argv), len(env), rows, columns, os.urandom(32))
    strings = b"".join(os.fsencode(text) + b"\0" for text in [*argv, *env, cwd])
    return frame(EXEC, header + strings)


class Outcome:
    def __init__(self):
        self.stdout = b""
        self.stderr = b""
        self.status = None  # exit status, or -signal
        self.exec_error = None  # (stage, errno)
        self.times = {}


class Peer:
    """One guest under QEMU."""

    def __init__(self, kit, append="", cpus=1, memory="512M", kernel="vmlinuz", machine="q35",
                 cpu_model="max", kernel_arguments=KERNEL_ARGUMENTS, devices=(), accel="tcg"):
        self.folder = tempfile.TemporaryDirectory(prefix="agent-peer-")
        self.start = time.monotonic()
        listeners = {}
        command = [
            "qemu-system-x86_64", "-accel", accel, "-cpu", cpu_model, "-M", machine,
            "-smp", str(cpus), "-m", memory, "-nodefaults", "-display", "none", "-no-reboot",
            "-kernel", os.path.join(kit, kernel), "-initrd", os.path.join(kit, "initrd"),
            "-append", (kernel_arguments + " " + append).strip(),
            "-serial", "file:" + os.path.join(self.folder.name, "serial"),
            "-device", "virtio-serial-pci", *devices]
        for name in PORTS:
            path = os.path.join(self.folder.name, name)
            listeners[name] = socket.socket(socket.AF_UNIX)
            listeners[name].bind(path)
            listeners[name].listen(1)
            command += ["-chardev", f"socket,id={name},path={path}",
                        "-device", f"virtserialport,chardev={name},name=org.trapeze.{name}"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self.sockets = {name: listener.accept()[0] for name, listener in listeners.items()}
        for listener in listeners.values():
            listener.close()

    def serial_log(self):
        with open(os.path.join(self.folder.name, "serial"), "rb") as log:
            return log.read().decode(errors="replace")

    def receive_exactly(self, name, size):
        data = b""
        while len(data) < size:
            part = self.sockets[name].recv(size - len(data))
            if not part:
                raise EOFError(f"port {name} closed; serial log:\n{self.serial_log()}")
            data += part
        return data

    def receive_frame(self):
        magic, kind, version, size, _ = struct.unpack("<IHHII", self.receive_exactly("control", 16))
        assert (magic, version) == (MAGIC, VERSION)
        return kind, self.receive_exactly("control", size)

    def wait_ready(self):
        for role, name in enumerate(PORTS, 1):
            greeting = struct.unpack("<IHH", self.receive_exactly(name, 8))
            assert greeting == (MAGIC, VERSION, role), greeting
        kind, _ = self.receive_frame()
        assert kind == READY, kind

    def elapsed_ms(self):
        return round((time.monotonic() - self.start) * 1000)

    def run(self, argv, **options):
        """Runs one command and powers the guest off."""
        self.wait_ready()
        ready = self.elapsed_ms()
        outcome = self.run_command(argv, **options)
        outcome.times["ready"] = ready
        return outcome

    def execute(self, argv, **options):
        """The guest's answer to the order."""
        self.sockets["control"].sendall(exec_frame(argv, **options))
        return self.receive_frame()

    def start_command(self, argv):
        """One that is talked to at the socket "stdio" as long as the guest lives."""
        kind, _ = self.execute(argv)
        assert kind == STARTED, kind

    def run_command(self, argv, stdin=b"", timeout=120, signals=(), on_output=None,
                    stdin_ends=True, **options):
        """The same once the guest is ready. `signals` are sent when the command has started. After
        a `stdin` that does not end, `on_output` may send more of it."""
        outcome = Outcome()
        kind, payload = self.execute(argv, **options)
        if kind == EXEC_FAILED:
            outcome.exec_error = struct.unpack("<III", payload)[:2]
        else:
            assert kind == STARTED, kind
            outcome.times["started"] = self.elapsed_ms()
            for number in signals:
                self.sockets["control"].sendall(frame(SIGNAL, struct.pack("<I", number)))
            if stdin is not None and stdin_ends:
                self.sockets["control"].sendall(frame(STDIN_END, struct.pack("<Q", len(stdin))))
            self._pump(outcome, stdin or b"", time.monotonic() + timeout, on_output)
        self.sockets["control"].sendall(frame(POWER_OFF))
        self.process.wait(timeout=30)
        outcome.times["off"] = self.elapsed_ms()
        return outcome

    def _pump(self, outcome, stdin, deadline, on_output):
        selector = selectors.DefaultSelector()
        for name in PORTS:
            selector.register(self.sockets[name], selectors.EVENT_READ, name)
        self.sockets["stdio"].setblocking(False)
        stdout, stderr, rest, control, expected = [], [], memoryview(stdin), b"", None
        counts = [0, 0]
        while expected != tuple(counts):
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if rest else 0)
            selector.modify(self.sockets["stdio"], events, "stdio")
            ready = selector.select(max(0, deadline - time.monotonic()))
            assert ready, "timed out; serial log:\n" + self.serial_log()
            for key, mask in ready:
                if mask & selectors.EVENT_WRITE:
                    try:
                        rest = rest[key.fileobj.send(rest[:CHUNK]):]
                    except BlockingIOError:
                        pass
                if not mask & selectors.EVENT_READ:
                    continue
                data = key.fileobj.recv(CHUNK)
                if not data:
                    raise EOFError("guest gone; serial log:\n" + self.serial_log())
                if key.data == "control":
                    control += data
                    if len(control) >= 16 + 24:
                        kind, value, out, err = struct.unpack("<IIQQ", control[16:40])
                        outcome.status = value if kind == 1 else -value
                        outcome.times["exited"] = self.elapsed_ms()
                        expected = (out, err)
                else:
                    (stdout if key.data == "stdio" else stderr).append(data)
                    counts[0 if key.data == "stdio" else 1] += len(data)
                    if on_output:
                        on_output(self, data)
        outcome.stdout, outcome.stderr = b"".join(stdout), b"".join(stderr)

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        for end in self.sockets.values():
            end.close()
        self.folder.cleanup()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kit", required=True)
    parser.add_argument("--append", default="")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--memory", default="512M")
    parser.add_argument("--tty", action="store_true")
    parser.add_argument("--timeline", action="store_true")
    parser.add_argument("command", nargs="*")
    options = parser.parse_args()
    peer = Peer(options.kit, options.append, options.cpus, options.memory)
    try:
        stdin = b"" if sys.stdin.isatty() else sys.stdin.buffer.read()
        outcome = peer.run(options.command, stdin=stdin, tty=options.tty)
    finally:
        if options.timeline:
            print(peer.serial_log(), file=sys.stderr)
        peer.close()
    sys.stdout.buffer.write(outcome.stdout)
    sys.stderr.buffer.write(outcome.stderr)
    if options.timeline:
        print(outcome.times, file=sys.stderr)
    if outcome.exec_error:
        print("exec failed:", outcome.exec_error, file=sys.stderr)
        return 127
    return outcome.status if outcome.status >= 0 else 128 - outcome.status


if __name__ == "__main__":
    sys.exit(main())
