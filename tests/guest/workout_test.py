"""The same static program on the host and in guests of 1, 2 and 4 vCPUs prints the same, and bytes by
the hundred million go through a guest's gzip and sha256sum unharmed.

Environment: TRAPEZE, TRAPEZE_KIT as for run_test.py; TRAPEZE_WORKOUT, TRAPEZE_CODE32 (see programs/);
TRAPEZE_SOFT_EXEC (interpreter or translator; else what is the default).
"""

import hashlib
import os
import random
import subprocess
import unittest

PROGRAM = os.environ.get("TRAPEZE", "build/trapeze")
CODE32 = os.environ.get("TRAPEZE_CODE32", "build/tests/guest/code32")
WORKOUT = os.environ.get("TRAPEZE_WORKOUT", "build/tests/guest/workout")
EXECUTOR = os.environ.get("TRAPEZE_SOFT_EXEC")
LARGE_MIB = int(os.environ.get("TRAPEZE_TEST_LARGE_MIB", "32"))
LIMIT = float(os.environ.get("TRAPEZE_TEST_SECONDS", "300"))


def in_guest(script, stdin, *options):
    if EXECUTOR:
        options += ("--accel", "soft", "--soft-exec", EXECUTOR)
    return subprocess.run([PROGRAM, "run", *options, "--", "sh", "-c", script], input=stdin,
                          capture_output=True, timeout=LIMIT, check=False)


class Workout(unittest.TestCase):
    def check(self, cpus):
        with open(WORKOUT, "rb") as file:
            program = file.read()
        host = subprocess.run([WORKOUT], capture_output=True, timeout=LIMIT, check=True)
        guest = in_guest("cat >/tmp/workout && chmod +x /tmp/workout && exec /tmp/workout", program,
                         "--cpus", str(cpus))
        self.assertEqual((guest.returncode, guest.stdout.decode()), (0, host.stdout.decode()), guest)

    def test_one_vcpu(self):
        self.check(1)

    def test_two_vcpus(self):
        self.check(2)

    def test_four_vcpus(self):
        self.check(4)

    def test_a_32_bit_program(self):
        with open(CODE32, "rb") as file:
            program = file.read()
        script = "cat >/tmp/code32 && chmod +x /tmp/code32 && exec /tmp/code32"
        guest = in_guest(script, program)
        try:
            wanted = subprocess.run([CODE32], capture_output=True, timeout=LIMIT, check=True).stdout
        except OSError:  # the host's kernel runs none
            wanted = in_guest(script, program, "--accel", "soft", "--soft-exec",
                              "interpreter").stdout
        self.assertEqual((guest.returncode, guest.stdout), (0, wanted), guest)
        self.assertEqual(len(wanted.splitlines()), 4)

    def test_large_input_is_compressed_and_hashed(self):
        data = random.Random(1).randbytes(1 << 20) * LARGE_MIB
        guest = in_guest("gzip -1 | gunzip | sha256sum", data, "--cpus", "2")
        wanted = hashlib.sha256(data).hexdigest()
        self.assertEqual((guest.returncode, guest.stdout.decode().split()[:1]), (0, [wanted]),
                         guest.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
