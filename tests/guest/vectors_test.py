"""The CPU model x86-64-v3: a stock kernel finds AVX2 and the rest, and a program that is compiled for it
prints in guests what it prints on the host.

Environment: TRAPEZE, TRAPEZE_KIT as for run_test.py; TRAPEZE_VECTORS (see programs/).
"""

import os
import subprocess
import unittest

PROGRAM = os.environ.get("TRAPEZE", "build/trapeze")
VECTORS = os.environ.get("TRAPEZE_VECTORS", "build/tests/guest/vectors")
LIMIT = float(os.environ.get("TRAPEZE_TEST_SECONDS", "300"))
FLAGS = {"avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe", "xsave", "xsaveopt", "xsavec"}
SCRIPT = "cat >/tmp/vectors && chmod +x /tmp/vectors && exec /tmp/vectors"
SIGILL_STATUS = 128 + 4


def host_flags():
    with open("/proc/cpuinfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("flags"):
                return set(line.split(":")[1].split())
    return set()


def in_guest(script, stdin, *options):
    return subprocess.run([PROGRAM, "run", "--accel", "soft", *options, "--", "sh", "-c", script],
                          input=stdin, capture_output=True, timeout=LIMIT, check=False)


HOST_HAS_IT = FLAGS - {"xsaveopt", "xsavec"} <= host_flags()


@unittest.skipUnless(HOST_HAS_IT, "this host's CPU is not x86-64-v3")
class Vectors(unittest.TestCase):
    def check(self, *options):
        with open(VECTORS, "rb") as file:
            program = file.read()
        host = subprocess.run([VECTORS], capture_output=True, timeout=LIMIT, check=True)
        self.assertIn(b"of 4 processes of 4", host.stdout)
        guest = in_guest(SCRIPT, program, "--cpu", "x86-64-v3", *options)
        self.assertEqual((guest.returncode, guest.stdout.decode()), (0, host.stdout.decode()), guest)

    def test_the_kernel_finds_the_features(self):
        guest = in_guest("grep ^flags /proc/cpuinfo", b"", "--cpu", "x86-64-v3")
        self.assertEqual(guest.returncode, 0, guest)
        self.assertEqual(FLAGS - set(guest.stdout.decode().split()), set())

    def test_one_vcpu(self):
        self.check("--cpus", "1")

    def test_two_vcpus(self):
        self.check("--cpus", "2")

    def test_interpreter(self):
        self.check("--cpus", "1", "--soft-exec", "interpreter")

    def test_the_default_model_has_none_of_it(self):
        with open(VECTORS, "rb") as file:
            program = file.read()
        guest = in_guest(SCRIPT.replace("exec ", ""), program)
        self.assertEqual((guest.returncode, guest.stdout), (SIGILL_STATUS, b""), guest)


@unittest.skipIf(HOST_HAS_IT, "this host can run x86-64-v3")
class Refused(unittest.TestCase):
    def test_the_error_names_what_is_missing(self):
        guest = in_guest("true", b"", "--cpu", "x86-64-v3")
        self.assertEqual(guest.returncode, 125)
        self.assertIn(b"needs a host CPU with", guest.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
