"""virtio-pmem with the stock kernel's driver: a file of the host as memory of the guest, with ext4
mounted for direct access (DAX).

Environment as for run_test.py; mkfs.ext4, debugfs and e2fsck of e2fsprogs.
"""

import os
import random
import subprocess
import sys
import tempfile
import unittest

from run_test import GuestCase, run, trapeze

MIB = 1 << 20


class Pmem(GuestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="trapeze-pmem-")
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "memory")
        self.resize(64 * MIB)

    def resize(self, size):
        with open(self.path, "ab") as file:
            file.truncate(size)

    def make_ext4(self):
        subprocess.run(["mkfs.ext4", "-q", "-b", "4096", self.path], check=True)

    def read(self):
        with open(self.path, "rb") as file:
            return file.read()

    def guest(self, script, *options, pmem=None, stdin=b""):
        return run("sh", "-c", script, options=["--pmem", pmem or self.path, *options], stdin=stdin)

    def test_device_has_the_bytes_and_the_size_of_the_file(self):
        data = random.Random(1).randbytes(64 * MIB)
        with open(self.path, "wb") as file:
            file.write(data)
        outcome = self.guest("cat /sys/block/pmem0/size; cat /sys/block/pmem0/queue/dax; "
                             "cmp /dev/stdin /dev/pmem0 && echo same", stdin=data)
        self.expect(outcome, 0, f"{64 * MIB // 512}\n1\nsame\n".encode())

    def test_ext4_with_dax(self):
        self.make_ext4()
        outcome = self.guest(
            "mount -t ext4 -o dax=always /dev/pmem0 /mnt && grep -o dax=always /proc/mounts && "
            "seq 100000 > /mnt/numbers && md5sum < /mnt/numbers && mkdir /mnt/d && "
            "cp /mnt/numbers /mnt/d/copy && sync && umount /mnt && mount -o dax /dev/pmem0 /mnt && "
            "cmp /mnt/numbers /mnt/d/copy && echo equal")
        self.expect(outcome, 0)
        lines = outcome.stdout.split(b"\n")
        self.assertEqual((lines[0], lines[2]), (b"dax=always", b"equal"))
        subprocess.run(["e2fsck", "-fn", self.path], check=True, capture_output=True)
        done = subprocess.run(["debugfs", "-R", "cat numbers", self.path], check=True,
                              capture_output=True)
        self.assertEqual(done.stdout, b"".join(b"%d\n" % n for n in range(1, 100001)))

    def test_programs_run_from_it(self):
        """Code that is translated from file pages, and changed there."""
        self.make_ext4()
        outcome = self.guest(
            "mount -o dax=always /dev/pmem0 /mnt && cp /bin/busybox /mnt/busybox && "
            "for i in 1 2 3; do /mnt/busybox echo $i; done; rm /mnt/busybox; cp /bin/busybox /mnt/busybox; "
            "/mnt/busybox seq 3 | /mnt/busybox sort -r")
        self.expect(outcome, 0, b"1\n2\n3\n3\n2\n1\n")

    def test_what_was_synced_is_in_the_file_though_the_machine_dies(self):
        self.make_ext4()
        process = subprocess.Popen(
            [os.environ.get("TRAPEZE", "build/trapeze"), "run", "--pmem", self.path, "--", "sh", "-c",
             "mount -o dax=always /dev/pmem0 /mnt && echo precious > /mnt/f && sync /mnt/f && sync && "
             "echo synced && sleep 1000"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.addCleanup(process.stdout.close)
        self.assertEqual(process.stdout.readline(), b"synced\n")
        process.kill()
        process.wait()
        outcome = self.guest("mount -o dax=always /dev/pmem0 /mnt && cat /mnt/f")
        self.expect(outcome, 0, b"precious\n")

    def test_read_only_leaves_the_file_alone(self):
        self.make_ext4()
        before = self.read()
        outcome = self.guest("mount /dev/pmem0 /mnt && echo x > /mnt/x && sync && cat /mnt/x",
                             pmem=self.path + ",ro")
        self.expect(outcome, 0, b"x\n")
        self.assertTrue(self.read() == before, "the file has changed")

    def test_two_files_and_much_memory(self):
        second = self.path + "2"
        with open(second, "wb") as file:
            file.truncate(16 * MIB)
        outcome = self.guest("cat /sys/block/pmem0/size /sys/block/pmem1/size; "
                             "echo mark > /dev/pmem1; sync; free -m | awk '/Mem/{print ($2 > 3300)}'",
                             "--pmem", second, "--memory", "3500M", "--cpus", "2")
        self.expect(outcome, 0, b"131072\n32768\n1\n")
        with open(second, "rb") as file:
            self.assertEqual(file.read(5), b"mark\n")

    def test_disks_read_into_it(self):
        """Another device's transfers end in memory that is a file."""
        self.make_ext4()
        disk = self.path + ".disk"
        data = random.Random(3).randbytes(8 * MIB)
        with open(disk, "wb") as file:
            file.write(data)
        outcome = self.guest("mount -o dax=always /dev/pmem0 /mnt && "
                             "dd if=/dev/vda of=/mnt/d bs=1M iflag=direct 2>/dev/null && "
                             "cmp /mnt/d /dev/vda && echo same", "--disk", disk + ",ro")
        self.expect(outcome, 0, b"same\n")

    def test_bad_files(self):
        def refused(pmem, *words):
            self.expect_own_error(trapeze("run", "--pmem", pmem, "--", "true"), "--pmem", *words)

        refused("/nowhere", "/nowhere")
        refused(os.path.dirname(self.path), "folder")
        refused(self.path + ",rw", "only ro")
        with open(self.path, "wb"):
            pass
        refused(self.path, "is empty")
        self.resize(3 * MIB)
        refused(self.path, "multiple of 2 MiB")
        self.resize(4 * MIB)
        self.expect_own_error(
            trapeze("run", "--pmem", self.path, "--pmem", self.path, "--", "true"), "in use")


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-v", *sys.argv[1:]])
