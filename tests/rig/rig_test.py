"""The rig itself: what goes in comes out, and a run ends whatever happens inside.

These are in `make test`; kvm_test.py has what runs on its /dev/kvm.
"""

import contextlib
import io
import os
import subprocess
import sys
import unittest
import unittest.mock

import rig


class FreezingRig(rig.Rig):
    """Whose first try is told to stop all its processes."""

    tries = 0

    def freeze(self):
        self.tries += 1
        raise rig.Frozen("as told")

    def _run_once(self, command, folder, limit):
        self.tries += 1
        if self.tries > 1:
            return super()._run_once(command, folder, limit)
        with unittest.mock.patch("emulator.SILENCE_SECONDS", 6):
            return super()._run_once([*command[:-1], command[-1] + " freeze"], folder, limit)


class RigTest(unittest.TestCase):
    def test_files_streams_and_status_come_through(self):
        host = rig.Rig()
        host.add_text("/data/in", "a\0b\r\n")
        result = host.run("cat /data/in; echo no >&2; cp /data/in $RESULTS/copy; ls /dev/kvm; exit 7")
        self.assertEqual(result.status, 7, result)
        self.assertEqual(result.stdout, b"a\0b\r\n/dev/kvm\n")
        self.assertEqual(result.stderr, b"no\n")
        self.assertEqual(result.files["copy"], b"a\0b\r\n")

    def test_script_that_hangs_is_ended_and_shows_what_it_was_at(self):
        result = rig.Rig().run("echo before; sleep 1000", limit_s=2)
        self.assertEqual((result.status, result.stdout), (137, b"before\n"), result)
        self.assertIn(b"sleep 1000", result.files["hang"], result)

    def test_rig_that_freezes_is_shown_and_tried_once_more(self):
        host, said = FreezingRig(), io.StringIO()
        with contextlib.redirect_stderr(said):
            result = host.run("echo before; sleep 2; grep -q freeze /proc/cmdline && "
                              "{ kill -STOP -1; while :; do :; done; }; echo after")
        self.assertEqual((result.status, result.stdout), (0, b"before\nafter\n"), result)
        self.assertEqual(host.tries, 2)
        for words in ("no sign of life for", "before\n", "RIP=", "CPU 0/TCG", "Kernel panic"):
            self.assertIn(words, said.getvalue())

    def test_rig_that_freezes_again_is_an_error(self):
        host = FreezingRig()
        host._run_once = lambda *_: host.freeze()
        with contextlib.redirect_stderr(io.StringIO()), self.assertRaises(rig.Frozen):
            host.run("true")
        self.assertEqual(host.tries, 2)

    def test_what_is_missing_skips_with_the_reason(self):
        # No program is on this path but Python's own.
        done = subprocess.run([sys.executable, os.path.abspath(__file__)], capture_output=True,
                              env={**os.environ, "PATH": "/nowhere"}, check=False, timeout=60)
        self.assertEqual(done.returncode, 77, done)
        self.assertIn(b"skipped: not here: qemu-system-x86_64", done.stdout)


if __name__ == "__main__":
    rig.run_tests("__main__")
