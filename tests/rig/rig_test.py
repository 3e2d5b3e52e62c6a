"""The rig itself: what goes in comes out, and a run ends whatever happens inside.

These are in `make test`; kvm_test.py has what runs on its /dev/kvm.
"""

import os
import subprocess
import sys
import time
import unittest

import rig


class RigTest(unittest.TestCase):
    def test_files_streams_and_status_come_through(self):
        host = rig.Rig()
        host.add_text("/data/in", "a\0b\r\n")
        result = host.run("cat /data/in; echo no >&2; cp /data/in $RESULTS/copy; ls /dev/kvm; exit 7")
        self.assertEqual(result.status, 7, result)
        self.assertEqual(result.stdout, b"a\0b\r\n/dev/kvm\n")
        self.assertEqual(result.stderr, b"no\n")
        self.assertEqual(result.files["copy"], b"a\0b\r\n")

    def test_script_that_hangs_is_ended_inside(self):
        result = rig.Rig().run("echo before; sleep 1000", limit_s=2)
        self.assertEqual((result.status, result.stdout), (137, b"before\n"))

    def test_rig_that_hangs_is_ended_outside(self):
        # Ten seconds in all, and a script that may take longer.
        before, rig.BOOT_SECONDS = rig.BOOT_SECONDS, 10 - 1000
        start = time.monotonic()
        try:
            with self.assertRaisesRegex(rig.RigError, "did not end within"):
                rig.Rig().run("sleep 2000", limit_s=1000)
        finally:
            rig.BOOT_SECONDS = before
        self.assertLess(time.monotonic() - start, 60 * rig.FACTOR)

    def test_what_is_missing_skips_with_the_reason(self):
        # No program is on this path but Python's own.
        done = subprocess.run([sys.executable, os.path.abspath(__file__)], capture_output=True,
                              env={**os.environ, "PATH": "/nowhere"}, check=False, timeout=60)
        self.assertEqual(done.returncode, 77, done)
        self.assertIn(b"skipped: not here: qemu-system-x86_64", done.stdout)


if __name__ == "__main__":
    rig.run_tests("__main__")
