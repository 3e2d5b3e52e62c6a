"""One run of QEMU as the rig: watched while it runs, looked into when it stops, always ended.

The emulated host says on its second serial port that it lives (init.sh). Time is counted as the emulator gets
it: what its threads wait for a CPU does not count, so limits fit a busy machine as well as a quiet one.

QEMU 7.2's SVM changes a CPU's pending interrupts without the lock (helper_vmrun: interrupt_request |=), so
one that another thread raises at that moment can be lost, and an emulated CPU whose timer was lost sleeps for
good. Any further interrupt finds the lost one in the local APIC: so each CPU gets one every second, from a serial
port of its own.
"""

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import time

SILENCE_SECONDS = 30  # beats come every 2
END_SECONDS = 30  # from the word to the script's end
FACTOR = float(os.environ.get("TRAPEZE_RIG_FACTOR", "1"))
MOST_SECONDS = 3 * 3600  # whatever the machine does


class RigError(Exception):
    pass


class Frozen(RigError):
    """The emulated host stopped, or died before it did anything: no result of what runs on it."""

    def __init__(self, text, in_boot=False):
        super().__init__(text)
        self.in_boot = in_boot


class Line:
    """A serial port of the emulated host."""

    def __init__(self, path):
        self.path, self.socket, self.pending = path, None, b""

    def connect(self):
        line = socket.socket(socket.AF_UNIX)
        try:
            line.connect(self.path)
        except OSError:  # QEMU has not made it yet
            line.close()
            return
        line.setblocking(False)
        self.socket = line

    def write(self, text):
        try:
            self.socket.send(text)
        except OSError:  # nobody reads, or QEMU is about to end
            pass

    def lines(self):
        """The whole ones that have come."""
        try:
            part = self.socket.recv(65536)
        except OSError:
            part = b""
        *lines, self.pending = (self.pending + part).split(b"\n")
        return [line.decode(errors="replace").split() for line in lines]

    def close(self):
        if self.socket is not None:
            self.socket.close()


def tail(path, count=60):
    try:
        with open(path, "rb") as file:
            return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])
    except OSError:
        return ""


def end_with_parent():
    """Also when this process is killed: CTest does that to one that takes too long."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class FairClock:
    """Seconds that a process had, by the clock, less what its threads waited for a CPU."""

    def __init__(self, pid):
        self.folder = f"/proc/{pid}/task"
        self.seconds, self.wall = 0.0, 0.0
        self.before, self.spent = time.monotonic(), self._spent()

    def _spent(self):
        spent = {}
        try:
            for task in os.listdir(self.folder):
                with open(f"{self.folder}/{task}/schedstat", encoding="ascii") as file:
                    spent[task] = [int(word) for word in file.read().split()[:2]]
        except (OSError, ValueError):  # it ended, or this kernel does not tell
            pass
        return spent

    def tick(self):
        now, spent = time.monotonic(), self._spent()
        ran = waited = 0
        for task, (run, wait) in spent.items():
            run_before, wait_before = self.spent.get(task, (0, 0))
            ran, waited = ran + run - run_before, waited + wait - wait_before
        step = now - self.before
        self.wall += step
        self.seconds += step * ran / (ran + waited) if ran > 0 else step
        self.before, self.spent = now, spent


class Monitor:
    """QEMU's, by its machine protocol. Answers are texts, also of what went wrong."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(5)
        self.received = b""
        try:
            self.socket.connect(path)
            self._line()
            self._ask({"execute": "qmp_capabilities"})
        except (OSError, ValueError) as error:
            self.error = f"the emulator itself does not answer: {error!r}"
        else:
            self.error = ""

    def _line(self):
        while b"\n" not in self.received:
            part = self.socket.recv(65536)
            if not part:
                raise OSError("it hung up")
            self.received += part
        line, self.received = self.received.split(b"\n", 1)
        return json.loads(line)

    def _ask(self, request):
        self.socket.sendall(json.dumps(request).encode())
        while True:
            answer = self._line()
            if "event" not in answer:
                return answer

    def say(self, command):
        if not self.error:
            try:
                answer = self._ask({"execute": "human-monitor-command",
                                    "arguments": {"command-line": command}})
                return f"({command})\n{answer.get('return', answer)}".replace("\r", "").rstrip()
            except (OSError, ValueError) as error:
                self.error = f"the emulator itself does not answer: {error!r}"
        return f"({command}) {self.error}"

    def close(self):
        self.socket.close()


class Emulator:
    def __init__(self, command, folder, limit):
        """`command`: of QEMU, to which the watching is added. `limit`: of the script, in fair seconds."""
        self.paths = {name: os.path.join(folder, name)
                      for name in ("console", "wake", "line", "monitor", "live", "results", "said")}
        for path in self.paths.values():
            if os.path.exists(path):
                os.unlink(path)
        self.command = command + [
            "-chardev", f"socket,id=c,path={self.paths['wake']},server=on,wait=off,"
            f"logfile={self.paths['console']}", "-serial", "chardev:c",
            "-serial", f"unix:{self.paths['line']},server=on,wait=off",
            "-qmp", f"unix:{self.paths['monitor']},server=on,wait=off",
            "-device", "virtio-serial-pci,disable-legacy=on",
            "-chardev", f"file,id=r,path={self.paths['results']}", "-device",
            "virtserialport,nr=1,chardev=r",
            "-chardev", f"file,id=l,path={self.paths['live']}", "-device",
            "virtserialport,nr=2,chardev=l"]
        self.limit = limit
        self.line, self.wake = (Line(self.paths[name]) for name in ("line", "wake"))
        self.woken = 0.0
        self.begun = self.told_to_end = None  # fair seconds
        self.beat = "none"
        self.qemu = self.clock = None
        self.heard = 0.0

    def run(self, boot_limit):
        with open(self.paths["said"], "wb") as said, \
             subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=said,
                              stderr=subprocess.STDOUT, start_new_session=True,
                              preexec_fn=end_with_parent) as self.qemu:
            self.clock = FairClock(self.qemu.pid)
            try:
                while self.qemu.poll() is None:
                    self._listen()
                    self._wake()
                    self.clock.tick()
                    self._judge(boot_limit)
            finally:  # also at Ctrl-C: nothing stays behind
                if self.qemu.poll() is None:
                    os.killpg(self.qemu.pid, signal.SIGKILL)
                self.line.close()
                self.wake.close()
        if self.qemu.returncode not in (0, -signal.SIGKILL):
            raise RigError(f"qemu ended with status {self.qemu.returncode}: {tail(self.paths['said'])}")

    def _listen(self):
        ports = (self.line, self.wake)
        for port in ports:
            if port.socket is None:
                port.connect()
        if None in (port.socket for port in ports):
            time.sleep(0.05)
            return
        if not select.select([port.socket for port in ports], [], [], 0.5)[0]:
            return
        time.sleep(0.05)
        self.wake.lines()
        for words in filter(None, self.line.lines()):
            self.heard = self.clock.seconds
            if words[0] == "beat":
                self.beat = words[-1]
            elif words[0] == "begun":
                self.begun = self.clock.seconds

    def _wake(self):
        if self.begun is not None and time.monotonic() - self.woken > 1:
            self.woken = time.monotonic()
            for port in (self.line, self.wake):
                port.write(b"\n")

    def _judge(self, boot_limit):
        """Raises Frozen when nothing more is to be expected."""
        now = self.clock.seconds
        if self.begun is None:
            if now > boot_limit:
                self._give_up(f"it did not boot within {boot_limit:g} s")
        elif now - self.heard > SILENCE_SECONDS * FACTOR:
            if "rig: done" in tail(self.paths["console"]):  # all is there but the power-off
                os.killpg(self.qemu.pid, signal.SIGKILL)
                self.qemu.wait()
                return
            self._give_up(f"no sign of life for {now - self.heard:.0f} s")
        elif self.told_to_end is None:
            if now - self.begun > self.limit:
                self.told_to_end = now
                self.line.write(b"end\n")
        elif now - self.told_to_end > END_SECONDS * FACTOR:
            self._give_up("the script's time was over, and the rig did not end it")
        if self.clock.wall > MOST_SECONDS:
            self._give_up(f"nothing ended it for {MOST_SECONDS} s")

    def _give_up(self, why):
        raise Frozen(f"the rig did not end: {why}; {self.clock.seconds:.0f} s of emulation in "
                     f"{self.clock.wall:.0f} s, last beat at {self.beat} s of its clock\n"
                     f"{self.post_mortem()}\n{self.outputs()}", in_boot=self.begun is None)

    def outputs(self):
        return (f"its script's output:\n{tail(self.paths['live'])}\n"
                f"its console:\n{tail(self.paths['console'])}\n{tail(self.paths['said'])}")

    def post_mortem(self):
        """Tells a kernel that waits for something from one that loops, and both from an emulator
        that does not run."""
        monitor = Monitor(self.paths["monitor"])
        seen = [self._threads(), monitor.say("info registers -a"), monitor.say("info lapic"),
                monitor.say("info pic")]
        time.sleep(1)
        seen += [self._threads(), monitor.say("info registers -a")]
        # A kernel that still takes NMIs panics with its stack (unknown_nmi_panic).
        seen.append(monitor.say("nmi"))
        time.sleep(2)
        monitor.close()
        return "\n".join(seen)

    def _threads(self):
        lines = ["(threads of the emulator: state, user and system time, waits in)"]
        folder = f"/proc/{self.qemu.pid}/task"
        for task in sorted(os.listdir(folder)):
            try:
                with open(f"{folder}/{task}/stat", encoding="ascii") as file:
                    name, rest = file.read().split("(", 1)[1].rsplit(")", 1)
                with open(f"{folder}/{task}/wchan", encoding="ascii") as file:
                    where = file.read()
            except OSError:
                continue
            words = rest.split()
            lines.append(f"{task} {name}: {words[0]} {words[11]} {words[12]} {where}")
        return "\n".join(lines)
