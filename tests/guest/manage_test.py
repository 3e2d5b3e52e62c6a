"""Running machines by name: run --name, --detach, ls, stop, exec, console.

Environment as for run_test.py, and TRAPEZE_TEST_OPTIONS (options of `trapeze run` besides).
"""

import fcntl
import hashlib
import json
import os
import pty
import random
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import unittest

from run_test import LIMIT, NOT_FOUND, OWN_ERROR, PROGRAM, SIGNAL_BASE, GuestCase, Outcome

OPTIONS = os.environ.get("TRAPEZE_TEST_OPTIONS", "").split()
KILLED = SIGNAL_BASE + signal.SIGKILL
ESCAPE = b"\x1d" * 3


def is_running(pid):
    """A zombie whose other threads are still ending holds its files, and its lock, open."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        state, threads = fields[0], int(fields[17])
        return state != "Z" or threads > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


class ManageCase(GuestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="trapeze-manage-")
        self.addCleanup(folder.cleanup)
        self.runtime = folder.name
        self.env = {**os.environ, "XDG_RUNTIME_DIR": folder.name}
        self.entries = os.path.join(folder.name, "trapeze")

    def trapeze(self, *arguments, stdin=b""):
        done = subprocess.run([PROGRAM, *map(str, arguments)], input=stdin, capture_output=True,
                              timeout=LIMIT, env=self.env, check=False)
        return Outcome(done.returncode, done.stdout, done.stderr.decode(errors="replace"))

    def detach(self, name, *command, options=()):
        outcome = self.trapeze("run", "-d", "--name", name, *OPTIONS, *options,
                               *(["--", *command] if command else []))
        self.expect(outcome, 0, name.encode() + b"\n", "")
        self.addCleanup(self.trapeze, "stop", "--timeout", "0", name)

    def exec(self, name, *command, options=(), stdin=b""):
        return self.trapeze("exec", name, *options, "--", *command, stdin=stdin)

    def popen(self, *arguments, **streams):
        process = subprocess.Popen([PROGRAM, *arguments], env=self.env, **streams)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                self.addCleanup(stream.close)
        return process

    def listed(self):
        return json.loads(self.trapeze("ls", "--json").stdout)

    def wait_for(self, what):
        end = time.monotonic() + LIMIT
        while not what():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)


class Names(ManageCase):
    def test_life_of_a_machine(self):
        self.expect(self.trapeze("ls", "--json"), 0, b"[]\n")
        self.detach("first", "sleep", "1000", options=("--memory", "256M", "--cpus", "2"))
        (vm,) = self.listed()
        self.assertEqual((vm["name"], vm["state"], vm["cpus"], vm["memory_bytes"], vm["command"]),
                         ("first", "running", 2, 256 << 20, ["sleep", "1000"]))
        self.assertTrue(os.path.exists(f"/proc/{vm['pid']}"))
        self.assertIn(vm["accelerator"], ("soft", "kvm"))
        table = self.trapeze("ls").stdout.decode().splitlines()
        self.assertEqual(len(table), 2)
        self.assertRegex(table[1], r"^first +\d+ \w+ +2 +256M +\d+s  sleep 1000$")
        self.expect(self.trapeze("stop", "first"), 0, b"", "")
        self.expect(self.trapeze("ls", "--json"), 0, b"[]\n")
        self.assertFalse(is_running(vm["pid"]))
        self.assertEqual(os.listdir(self.entries), [])

    def test_name_that_is_taken(self):
        self.detach("taken", "sleep", "1000")
        before = sorted(os.listdir(os.path.join(self.entries, "taken")))
        for options in ((), ("-d",)):
            outcome = self.trapeze("run", "--name", "taken", *options, "--", "true")
            self.expect_own_error(outcome, "--name taken", "running", "trapeze stop taken")
        self.assertEqual(sorted(os.listdir(os.path.join(self.entries, "taken"))), before)
        self.expect(self.exec("taken", "echo", "still there"), 0, b"still there\n")

    def test_two_at_the_same_moment(self):
        processes = [self.popen("run", "-d", "--name", "race", "--", "sleep", "1000",
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
        results = sorted(process.wait(timeout=LIMIT) for process in processes)
        self.assertEqual(results, [0] + [OWN_ERROR] * 3)
        self.expect(self.trapeze("stop", "--timeout", "0", "race"), 0)

    def test_process_that_was_killed_leaves_a_free_name(self):
        self.detach("again", "sleep", "1000")
        pid = self.listed()[0]["pid"]
        os.kill(pid, signal.SIGKILL)
        self.wait_for(lambda: not is_running(pid))
        self.assertTrue(os.path.exists(os.path.join(self.entries, "again", "control")))
        self.expect_own_error(self.trapeze("exec", "again", "--", "true"), "again", "trapeze ls")
        self.detach("again", "sleep", "1000")
        os.kill(self.listed()[0]["pid"], signal.SIGKILL)
        self.wait_for(lambda: self.listed() == [])
        self.assertEqual(os.listdir(self.entries), [])

    def test_made_up_name(self):
        outcome = self.trapeze("run", "-d", *OPTIONS, "--", "sleep", "1000")
        self.expect(outcome, 0, stderr="")
        name = outcome.stdout.decode().strip()
        self.assertRegex(name, r"^vm-[0-9a-f]{8}$")
        self.expect(self.trapeze("stop", name, "--timeout", "0"), 0)

    def test_machine_that_ends_by_itself_goes_away(self):
        outcome = self.trapeze("run", "--name", "short", *OPTIONS, "--", "sh", "-c", "exit 3")
        self.expect(outcome, 3, b"", "")
        self.assertEqual(os.listdir(self.entries), [])

    def test_failed_start_is_told_and_leaves_nothing(self):
        outcome = self.trapeze("run", "-d", "--name", "bad", *OPTIONS, "--", "no-such-program")
        self.expect(outcome, NOT_FOUND, b"")
        self.assertIn("no-such-program", outcome.stderr)
        outcome = self.trapeze("run", "-d", "--name", "bad", "--kernel", "/dev/null")
        self.expect_own_error(outcome, "/dev/null")
        outcome = self.trapeze("run", "-d", "--name", "bad", "--disk", "/nowhere", "--", "true")
        self.expect_own_error(outcome, "/nowhere")
        self.wait_for(lambda: os.listdir(self.entries) == [])

    def test_bad_names(self):
        for name in ("../x", "a/b", ".hidden", "-x", "a b", "x" * 65, "a\nb"):
            outcome = self.trapeze("run", f"--name={name}", "--", "true")
            self.expect_own_error(outcome, "not a name")
        self.expect_own_error(self.trapeze("exec", "..", "--", "true"), "not a name")

    def test_run_directory_of_others_is_not_used(self):
        os.mkdir(self.entries, 0o755)
        os.chmod(self.entries, 0o755)
        self.expect_own_error(self.trapeze("ls"), self.entries, "mode 700")
        os.rmdir(self.entries)
        os.symlink(self.runtime, self.entries)
        self.expect_own_error(self.trapeze("run", "--name", "x", "--", "true"), self.entries)

    def test_long_runtime_directory(self):
        folder = os.path.join(self.runtime, "d" * 200)
        os.mkdir(folder, 0o700)
        self.env["XDG_RUNTIME_DIR"] = folder
        self.detach("n" * 64, "sleep", "1000")
        self.expect(self.exec("n" * 64, "echo", "reached"), 0, b"reached\n")

    def test_unknown_name(self):
        for arguments in (["stop", "nobody"], ["console", "nobody"], ["exec", "nobody"]):
            self.expect_own_error(self.trapeze(*arguments), "nobody", "trapeze ls")


class Stop(ManageCase):
    def test_command_may_clean_up(self):
        process = self.popen("run", "--name", "tidy", *OPTIONS, "--", "sh", "-c",
                             "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done",
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        self.expect(self.trapeze("stop", "tidy"), 0)
        self.assertEqual(process.stdout.read(), b"bye\n")
        self.assertEqual(process.wait(timeout=LIMIT), 5)

    def test_command_that_does_not_want_to(self):
        process = self.popen("run", "--name", "deaf", *OPTIONS, "--", "sh", "-c",
                             "trap '' TERM; echo ready; while :; do sleep 0.05; done",
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        started = time.monotonic()
        self.expect(self.trapeze("stop", "--timeout", "1", "deaf"), 0)
        self.assertGreater(time.monotonic() - started, 1)
        self.assertEqual(process.wait(timeout=LIMIT), KILLED)
        self.assertIn(b"stopped by", process.stderr.read())

    def test_at_once(self):
        self.detach("now", "sh", "-c", "trap '' TERM; while :; do sleep 1; done")
        self.expect(self.trapeze("stop", "--timeout", "0", "now"), 0)
        self.assertEqual(self.listed(), [])

    def test_stuck_process_is_killed(self):
        self.detach("stuck", "sleep", "1000")
        os.kill(self.listed()[0]["pid"], signal.SIGSTOP)
        outcome = self.trapeze("stop", "--timeout", "0", "stuck")
        self.expect_own_error(outcome, "did not answer and was killed")
        self.assertEqual(self.listed(), [])

    def test_shell_in_the_background(self):
        self.detach("shell")
        self.expect(self.trapeze("stop", "shell"), 0)

    def test_bad_timeout(self):
        self.expect_own_error(self.trapeze("stop", "--timeout", "soon", "x"), "--timeout soon")


class Exec(ManageCase):
    @classmethod
    def setUpClass(cls):
        cls.shared = cls("run_nothing")
        ManageCase.setUp(cls.shared)
        outcome = cls.shared.trapeze("run", "-d", "--name", "box", *OPTIONS, "--", "sleep", "10000")
        assert outcome.status == 0, outcome

    @classmethod
    def tearDownClass(cls):
        cls.shared.trapeze("stop", "--timeout", "0", "box")
        cls.shared.doCleanups()

    def run_nothing(self):
        pass

    def setUp(self):
        self.env, self.runtime, self.entries = self.shared.env, self.shared.runtime, self.shared.entries

    def box(self, *command, **more):
        return self.exec("box", *command, **more)

    def test_streams_are_exact_and_unmixed(self):
        outcome = self.box("sh", "-c", r"printf 'a\r\n\0\377b'; printf 'e\r\n' >&2; exit 42")
        self.expect(outcome, 42, b"a\r\n\0\xffb", "e\r\n")

    def test_large_stdin_comes_back_on_both_streams(self):
        data = random.Random(8).randbytes(4 << 20)
        done = subprocess.run([PROGRAM, "exec", "box", "--", "tee", "/dev/stderr"], input=data,
                              env=self.env, capture_output=True, timeout=LIMIT, check=False)
        self.assertEqual(done.returncode, 0)
        self.assertTrue(done.stdout == data, "stdout differs")
        self.assertTrue(done.stderr == data, "stderr differs")

    def test_status_of_a_signal_and_of_failures(self):
        self.expect(self.box("sh", "-c", "kill -9 $$"), KILLED, b"")
        self.expect(self.box("no-such-program"), NOT_FOUND, b"")
        outcome = self.box("true", options=("--workdir", "/nowhere"))
        self.expect_own_error(outcome, "/nowhere")

    def test_environment_and_folder(self):
        outcome = self.box("sh", "-c", 'echo "$A|$PWD"', options=["--env", "A=x y", "--workdir", "/var"])
        self.expect(outcome, 0, b"x y|/var\n")

    def test_sessions_share_the_machine(self):
        self.expect(self.box("sh", "-c", "echo here > /tmp/shared"))
        self.expect(self.box("cat", "/tmp/shared"), 0, b"here\n")

    def test_what_it_leaves_running_goes_on_and_does_not_hold_it(self):
        self.expect(self.box("sh", "-c", "sleep 12345 & echo out"), 0, b"out\n")
        self.expect(self.box("sh", "-c", "kill $(ps | awk '/[s]leep 12345/{print $1}')"), 0, b"", "")

    def test_all_output_arrives_though_somebody_goes_on_writing(self):
        outcome = self.box("sh", "-c", "yes >&2 & seq 20000; kill -9 $$")
        self.assertEqual(outcome.status, KILLED)
        self.assertEqual(outcome.stdout, "".join(f"{n}\n" for n in range(1, 20001)).encode())

    def test_signals_are_forwarded(self):
        for number, status in ((signal.SIGTERM, 9), (signal.SIGUSR1, 8)):
            process = self.popen("exec", "box", "--", "sh", "-c",
                                 "trap 'exit 9' TERM; trap 'exit 8' USR1; echo ready;"
                                 "while :; do sleep 0.05; done",
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            self.assertEqual(process.stdout.readline(), b"ready\n")
            process.send_signal(number)
            self.assertEqual(process.wait(timeout=LIMIT), status)

    def test_client_that_is_killed_takes_its_command_with_it(self):
        process = self.popen("exec", "box", "--", "sh", "-c", "echo ready; exec sleep 54321",
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        process.kill()
        self.wait_for(lambda: self.box("sh", "-c", "ps | grep -q '[s]leep 54321'").status == 1)

    def test_reader_that_leaves_ends_an_endless_command(self):
        process = self.popen("exec", "box", "--", "yes", stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE)
        self.assertEqual(process.stdout.read(4), b"y\ny\n")
        process.stdout.close()
        self.assertEqual(process.wait(timeout=LIMIT), SIGNAL_BASE + signal.SIGPIPE)

    def test_closed_stdin(self):
        done = subprocess.run(["sh", "-c", f'exec "{PROGRAM}" exec box -- cat <&-'], env=self.env,
                              capture_output=True, timeout=LIMIT, check=False)
        self.assertEqual((done.returncode, done.stdout), (0, b""), done.stderr)

    def test_many_at_once(self):
        outcomes = {}

        def one(number):
            outcomes[number] = self.box("sh", "-c", f"cat; exit {number}",
                                        stdin=str(number).encode() * 1000)

        threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number in range(20):
            self.expect(outcomes[number], number, str(number).encode() * 1000, "")

    def test_terminal(self):
        client, terminal = pty.openpty()
        self.addCleanup(os.close, client)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
        process = self.popen("exec", "box", "--", "sh", "-c",
                             "stty size; trap 'stty size; exit 4' WINCH; echo ready; "
                             "while :; do sleep 0.05; done",
                             stdin=terminal, stdout=terminal, stderr=terminal)
        os.close(terminal)
        self.assertIn(b"33 77\r\nready\r\n", self.read_until(client, b"ready\r\n"))
        fcntl.ioctl(client, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 99, 0, 0))
        process.send_signal(signal.SIGWINCH)
        self.read_until(client, b"44 99\r\n")
        self.assertEqual(process.wait(timeout=LIMIT), 4)

    def read_until(self, fd, end):
        data, limit = b"", time.monotonic() + LIMIT
        while end not in data:
            self.assertLess(time.monotonic(), limit, data)
            if select.select([fd], [], [], 1)[0]:
                data += os.read(fd, 4096)
        return data


class Lifetime(ManageCase):
    def test_exec_waits_for_the_boot(self):
        process = self.popen("run", "--name", "slow", *OPTIONS, "--", "sleep", "1000",
                             stdin=subprocess.DEVNULL)
        self.wait_for(lambda: any(vm["state"] == "running" for vm in self.listed()))
        self.expect(self.exec("slow", "echo", "hello"), 0, b"hello\n")
        self.expect(self.trapeze("stop", "slow"), 0)
        self.assertEqual(process.wait(timeout=LIMIT), SIGNAL_BASE + signal.SIGTERM)

    def test_end_of_the_machine_ends_its_sessions(self):
        self.detach("brief", "sleep", "1000")
        process = self.popen("exec", "brief", "--", "sh", "-c", "echo ready; sleep 1000",
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        self.expect(self.trapeze("stop", "--timeout", "0", "brief"), 0)
        self.assertEqual(process.wait(timeout=LIMIT), OWN_ERROR)
        self.assertIn(b"the machine ended", process.stderr.read())

    def test_hash_of_much_data_beside_the_first_command(self):
        data = random.Random(9).randbytes(8 << 20)
        self.detach("busy", "sh", "-c", "while :; do :; done")
        outcome = self.exec("busy", "sha256sum", stdin=data)
        self.expect(outcome, 0, hashlib.sha256(data).hexdigest().encode() + b"  -\n")

    def test_with_a_vsock_of_the_user(self):
        path = os.path.join(self.runtime, "v.sock")
        self.detach("both", "sleep", "1000", options=("--vsock", path))
        self.expect(self.exec("both", "echo", "through"), 0, b"through\n")
        import socket  # pylint: disable=import-outside-toplevel
        with socket.socket(socket.AF_UNIX) as outside:
            outside.settimeout(LIMIT)
            outside.connect(path)
            outside.sendall(b"CONNECT 1000\n")
            self.assertEqual(outside.recv(100), b"")

    def test_kernel_without_an_agent(self):
        image = os.path.join(os.environ.get("TRAPEZE_IMAGES", "build/tests/images"), "hang.bin")
        if not os.path.exists(image):
            self.skipTest("no test images")
        self.detach("own", options=("--kernel", image))
        self.expect_own_error(self.exec("own", "true"), "own", "without an agent")
        self.expect(self.trapeze("stop", "own"), 0)


class Console(ManageCase):
    def view(self, name):
        client, terminal = pty.openpty()
        self.addCleanup(os.close, client)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        process = self.popen("console", name, stdin=terminal, stdout=terminal,
                             stderr=subprocess.DEVNULL)
        os.close(terminal)
        return process, client

    read_until = Exec.read_until

    def test_shell_that_is_left_and_met_again(self):
        self.detach("dev")
        process, client = self.view("dev")
        self.read_until(client, b"# ")
        os.write(client, b"echo $((6 * 7))-first\r")
        self.read_until(client, b"\n42-first")
        os.write(client, ESCAPE)
        self.assertEqual(process.wait(timeout=LIMIT), 0)
        self.assertEqual([vm["name"] for vm in self.listed()], ["dev"])
        process, client = self.view("dev")
        self.read_until(client, b"\n42-first")  # the scrollback
        os.write(client, b"\x03stty size; exit 3\r")
        self.read_until(client, b"40 100")
        self.assertEqual(process.wait(timeout=LIMIT), 0)
        self.wait_for(lambda: self.listed() == [])

    def test_output_of_a_command_in_the_background(self):
        self.detach("log", "sh", "-c", "echo out; echo err >&2; seq 100000; echo end; sleep 1000")
        process = self.popen("console", "log", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        data = b""
        while b"end\n" not in data:
            data += os.read(process.stdout.fileno(), 65536)
        # What is kept is bounded, and begins with a whole line.
        self.assertLessEqual(len(data), 600_000)
        self.assertRegex(data.split(b"\n")[0], rb"^(out|\d+)$")
        late = self.popen("console", "log", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        data = b""
        while b"end\n" not in data:
            data += os.read(late.stdout.fileno(), 65536)
        self.assertLessEqual(len(data), 256 * 1024)
        self.expect(self.trapeze("stop", "log"), 0)
        for viewer in (process, late):
            self.assertEqual(viewer.wait(timeout=LIMIT), 0)
            self.assertEqual(viewer.stdout.read(), b"")

    def test_viewer_that_does_not_read_holds_up_nobody(self):
        self.detach("loud", "sh", "-c", "seq 300000 | tail -n 1 > /tmp/x; seq 300000; echo done > /tmp/y; sleep 1000")
        self.popen("console", "loud", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.wait_for(lambda: self.exec("loud", "cat", "/tmp/y").stdout == b"done\n")

    def test_serial_port_of_a_machine_in_the_foreground(self):
        self.popen("run", "--name", "serial", *OPTIONS, "--append", "loglevel=7", "--", "sleep",
                   "1000", stdin=subprocess.DEVNULL)
        self.wait_for(lambda: any(vm["state"] == "running" for vm in self.listed()))
        process = self.popen("console", "serial", stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE)
        self.assertIn(b"Linux version", process.stdout.read(400))
        self.expect(self.trapeze("stop", "--timeout", "0", "serial"), 0)
        self.assertEqual(process.wait(timeout=LIMIT), 0)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-v", *sys.argv[1:]])
