"""virtio-balloon with the stock kernel's driver: what the guest gives back, measured in the host's
memory of the process.

Environment as for run_test.py, and TRAPEZE_TEST_OPTIONS (options of `trapeze run` besides).
"""

import sys
import time
import unittest

from manage_test import ManageCase
from run_test import LIMIT

MIB = 1 << 20


class Balloon(ManageCase):
    def start(self, *options):
        self.detach("b", "sleep", "10000", options=("--memory", "512M", *options))
        self.pid = self.listed()[0]["pid"]

    def rss(self):
        """Bytes of the process that are in the host's memory and no file's."""
        with open(f"/proc/{self.pid}/status", encoding="utf-8") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["RssAnon"].split()[0]) * 1024

    def figures(self, *size):
        outcome = self.trapeze("balloon", "b", *size)
        self.expect(outcome, 0, stderr="")
        return {name: int(value) for name, value in
                (line.split() for line in outcome.stdout.decode().splitlines())}

    def wait_for_size(self, size):
        self.wait_for(lambda: self.figures()["actual_bytes"] == size)

    def script(self, text):
        outcome = self.exec("b", "sh", "-c", text)
        self.expect(outcome, 0)
        return outcome.stdout

    def fill(self, mebibytes):
        """So much of a random piece in /tmp/x; is_intact() looks for its end."""
        self.script("head -c 1048576 /dev/urandom > /tmp/piece; "
                    f"for i in $(seq {mebibytes}); do cat /tmp/piece; done > /tmp/x")

    def is_intact(self, mebibytes):
        return self.script("stat -c %s /tmp/x; dd if=/tmp/x bs=1048576 "
                           f"skip={mebibytes - 1} 2>/dev/null | cmp - /tmp/piece && echo same"
                           ).split() == [str(mebibytes * MIB).encode(), b"same"]

    def test_freed_memory_goes_back_by_itself(self):
        self.start("--balloon")
        self.wait_for(lambda: self.figures().get("guest_total_bytes"))
        self.fill(200)
        full = self.rss()
        self.assertGreater(full, 200 * MIB)
        self.script("rm /tmp/x")
        self.wait_for(lambda: self.rss() < full - 150 * MIB)
        self.assertGreater(self.figures()["reported_bytes"], 150 * MIB)
        # And it can be used again, and has what is written to it.
        self.fill(200)
        self.assertTrue(self.is_intact(200))

    def test_inflate_and_deflate(self):
        self.start("--balloon")
        self.wait_for(lambda: self.figures().get("guest_free_bytes"))
        before = self.figures()
        self.assertEqual((before["target_bytes"], before["actual_bytes"]), (0, 0))
        self.figures("256M")
        self.wait_for_size(256 * MIB)
        inflated = self.figures()
        self.assertLess(inflated["guest_free_bytes"], before["guest_free_bytes"] - 200 * MIB)
        self.assertGreaterEqual(inflated["inflated_pages"], 256 * MIB // 4096)
        self.assertLess(self.rss(), 256 * MIB)
        self.figures("0")
        self.wait_for_size(0)
        self.assertGreater(self.figures()["guest_free_bytes"], before["guest_free_bytes"] - 50 * MIB)
        self.fill(200)
        self.assertTrue(self.is_intact(200))

    def test_size_at_the_start(self):
        self.start("--balloon", "128M")
        self.wait_for_size(128 * MIB)

    def test_guest_that_needs_memory_takes_it_out(self):
        self.start("--balloon", "400M")
        self.wait_for_size(400 * MIB)
        # More than is left: the guest's kernel lets air out instead of killing.
        self.fill(150)
        self.assertTrue(self.is_intact(150))
        self.assertLess(self.figures()["actual_bytes"], 400 * MIB)

    def test_programs_keep_working_while_memory_comes_and_goes(self):
        """Page tables, code and data in pages that were zero a moment ago."""
        self.start("--balloon", "--cpus", "2")
        worker = self.popen("exec", "b", "--", "sh", "-c",
                            "for i in $(seq 40); do seq 20000 | gzip | gunzip | md5sum; done | uniq -c")
        worker_end = time.monotonic() + LIMIT
        sizes = ["350M", "0", "300M", "100M", "400M", "0"]
        while worker.poll() is None and time.monotonic() < worker_end:
            self.figures(sizes[0])
            sizes.append(sizes.pop(0))
            time.sleep(0.2)
        self.assertEqual(worker.wait(timeout=LIMIT), 0)

    def test_bad_sizes(self):
        self.expect_own_error(self.trapeze("run", "--balloon", "much", "--", "true"), "--balloon much")
        self.expect_own_error(
            self.trapeze("run", "--memory", "128M", "--balloon", "128M", "--", "true"), "balloon")
        self.start("--balloon")
        self.expect_own_error(self.trapeze("balloon", "b", "512M"), "balloon of 512 MiB")
        self.expect_own_error(self.trapeze("balloon", "b", "x"), "not a size")
        self.assertEqual(self.figures()["target_bytes"], 0)

    def test_machine_without_one(self):
        self.start()
        self.expect_own_error(self.trapeze("balloon", "b"), "--balloon")


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-v", *sys.argv[1:]])
