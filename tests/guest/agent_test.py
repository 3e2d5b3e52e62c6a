"""The guest's init, driven through QEMU by agent_peer: what a command sees and what comes back."""

import os
import random
import shutil
import signal
import sys
import unittest

from agent_peer import Peer

KIT = os.environ.get("TRAPEZE_KIT", "")
ENOENT, EACCES, ENOTDIR = 2, 13, 20
STAGE_WORKING_DIRECTORY, STAGE_EXEC = 2, 3


class AgentTest(unittest.TestCase):
    def run_in_guest(self, argv, append="", **options):
        peer = Peer(KIT, append=append)
        try:
            return peer.run(argv, **options)
        finally:
            peer.close()

    def test_output_is_exact_and_unmixed_and_the_status_comes_back(self):
        script = r"printf 'a\r\n\0\377b'; printf 'e\0r' >&2; exit 42"
        outcome = self.run_in_guest(["sh", "-c", script])
        self.assertEqual(outcome.stdout, b"a\r\n\0\xffb")
        self.assertEqual(outcome.stderr, b"e\0r")
        self.assertEqual(outcome.status, 42)

    def test_large_stdin_comes_back_unchanged_with_stderr_beside_it(self):
        data = random.Random(1).randbytes(8 << 20)
        script = "tee /dev/stderr"
        outcome = self.run_in_guest(["sh", "-c", script], stdin=data)
        self.assertEqual(outcome.status, 0)
        self.assertTrue(outcome.stdout == data, "stdout differs")
        self.assertTrue(outcome.stderr == data, "stderr differs")

    def test_stdin_that_nobody_reads_does_no_harm(self):
        outcome = self.run_in_guest(["sh", "-c", "exec <&-; echo done"], stdin=bytes(1 << 20))
        self.assertEqual((outcome.stdout, outcome.status), (b"done\n", 0))

    def test_environment_arguments_and_folder_arrive_as_given(self):
        outcome = self.run_in_guest(
            ["sh", "-c", 'printf "%s|" "$A" "$HOME" "$PWD" "$0" "$1"', "zero", " a\n'b "],
            env=["A=x y=z", "HOME=/tmp"], cwd="/var")
        self.assertEqual(outcome.stdout, b"x y=z|/tmp|/var|zero| a\n'b |")

    def test_default_surroundings_are_usable(self):
        script = ("echo $HOME $PWD; test -c /dev/null -a -c /dev/ptmx -a -d /proc/1 -a -d /sys/bus;"
                  "echo $?; cat <(echo fd) 2>/dev/null; ls /proc/self/fd | tr '\\n' ' ';"
                  "head -c 16 /dev/random | wc -c; ping -c1 127.0.0.1 >/dev/null; echo $?;"
                  "modprobe overlay && grep -c overlay /proc/filesystems")
        outcome = self.run_in_guest(["sh", "-c", script])
        self.assertEqual(outcome.stdout, b"/root /root\n0\nfd\n0 1 2 3 16\n0\n1\n", outcome.stderr)

    def test_program_that_is_not_there(self):
        outcome = self.run_in_guest(["no-such-program"])
        self.assertEqual(outcome.exec_error, (STAGE_EXEC, ENOENT))

    def test_file_that_is_no_program(self):
        outcome = self.run_in_guest(["/etc/passwd"])
        self.assertEqual(outcome.exec_error, (STAGE_EXEC, EACCES))

    def test_folder_that_is_not_there(self):
        outcome = self.run_in_guest(["true"], cwd="/etc/passwd")
        self.assertEqual(outcome.exec_error, (STAGE_WORKING_DIRECTORY, ENOTDIR))

    def test_signal_ends_the_command(self):
        outcome = self.run_in_guest(["sleep", "1000"], signals=[signal.SIGTERM])
        self.assertEqual(outcome.status, -signal.SIGTERM)

    def test_signal_is_handled_by_the_command(self):
        script = "trap 'echo got; exit 7' INT; echo ready; while :; do sleep 0.1; done"

        def interrupt_once(peer, data):
            if b"ready" in data:
                peer.sockets["control"].sendall(bytes.fromhex(
                    "5452505a" "0300" "0100" "04000000" "00000000" "02000000"))

        outcome = self.run_in_guest(["sh", "-c", script], on_output=interrupt_once)
        self.assertEqual((outcome.stdout, outcome.status), (b"ready\ngot\n", 7))

    def test_what_the_command_leaves_behind_does_not_hold_the_session(self):
        script = "(sleep 1000 &) ; (trap '' TERM HUP INT; sleep 1000) & echo out; exit 3"
        outcome = self.run_in_guest(["sh", "-c", script], timeout=60)
        self.assertEqual((outcome.stdout, outcome.status), (b"out\n", 3))

    def test_terminal_session(self):
        outcome = self.run_in_guest([], tty=True, rows=33, columns=101, stdin=None,
                                    on_output=self.type_once)
        self.assertIn(b"33 101\r\n", outcome.stdout)
        self.assertIn(b"tty: /dev/pts/0", outcome.stdout)
        self.assertEqual(outcome.status, 5)

    def type_once(self, peer, _data):
        if not hasattr(self, "typed"):
            self.typed = True
            peer.sockets["stdio"].sendall(b"stty size; echo tty: $(tty); exit 5\n")

    def test_poweroff_by_the_command_is_an_orderly_end(self):
        outcome = self.run_in_guest(["sh", "-c", "echo bye; poweroff; sleep 1000"])
        self.assertEqual((outcome.stdout, outcome.status), (b"bye\n", 0))


if __name__ == "__main__":
    if shutil.which("qemu-system-x86_64") is None:
        print("skipped: no qemu-system-x86_64")
        sys.exit(77)
    unittest.main()
