"""Disks and images as roots, with the stock kernel's drivers: what a guest writes is what the host
finds, also when the machine dies or the host's disk is full.

Environment as for run_test.py.
"""

import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import run_test
from run_test import LIMIT, OWN_ERROR, PROGRAM, GuestCase, Outcome, run, trapeze

MIB = 1 << 20
MKFS = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}


def find_tool(name):
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin")
    if path is None:
        raise unittest.SkipTest(f"there is no {name} here")
    return path


def digest_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class DiskCase(GuestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="trapeze-block-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)

    def image(self, name="disk.img", size=64 * MIB, content=None):
        with open(self.path(name), "wb") as file:
            file.truncate(size)
            if content:
                file.write(content)
        return self.path(name)

    def run_with(self, disks, script, stdin=b"", options=()):
        for disk in [disks] if isinstance(disks, str) else disks:
            options = [*options, "--disk", disk]
        return run("sh", "-c", script, options=options, stdin=stdin)

    def host(self, *command, status=0):
        done = subprocess.run([find_tool(command[0]), *command[1:]], capture_output=True,
                              timeout=LIMIT, check=False)
        self.assertEqual(done.returncode, status, done)
        return done.stdout


class FileSystem(DiskCase):
    """Made, filled, checked, and read again byte for byte."""

    FILL = ("mkdir /m && mount -t {0} /dev/vda /m && cat > /m/data && "
            "mkdir /m/many && for i in $(seq 1 200); do echo $i > /m/many/$i; done && "
            "rm /m/many/7 && mv /m/many/8 /m/renamed && umount /m")
    CHECK = ("mkdir /m && mount -t {0} /dev/vda /m && sha256sum < /m/data && ls /m/many | wc -l && "
             "cat /m/renamed /m/many/200")

    def make_fill_check(self, system, *disk_options):
        find_tool(MKFS[system][0])
        image = self.image(size=320 * MIB)
        self.host(*MKFS[system], image)
        data = random.Random(1).randbytes(24 * MIB)
        disk = ",".join([image, *disk_options])
        self.expect(self.run_with(disk, self.FILL.format(system), stdin=data), 0, b"", "")
        outcome = self.run_with(disk, self.CHECK.format(system))
        expected = f"{hashlib.sha256(data).hexdigest()}  -\n198\n8\n200\n".encode()
        self.expect(outcome, 0, expected, "")
        return image, data

    def test_ext4(self):
        image, data = self.make_fill_check("ext4")
        self.host("e2fsck", "-fn", image)
        self.assertTrue(self.host("debugfs", "-R", "cat /data", image) == data)

    def test_ext4_with_several_queues_on_threads(self):
        self.make_fill_check("ext4", "queues=4", "io=threads")

    def test_xfs(self):
        image, _ = self.make_fill_check("xfs")
        self.host("xfs_repair", "-n", image)

    def test_file_system_made_in_the_guest(self):
        image = self.image(size=32 * MIB)
        self.expect(self.run_with(image, "mke2fs /dev/vda >/dev/null 2>&1 && mkdir /m && "
                                  "mount -t ext2 /dev/vda /m && echo kept > /m/file"), 0, b"", "")
        # Nobody unmounted it: the end of the machine left it clean all the same.
        self.host("e2fsck", "-fn", image)
        self.assertEqual(self.host("debugfs", "-R", "cat /file", image), b"kept\n")


class Disk(DiskCase):
    def test_bytes_go_both_ways(self):
        content = random.Random(2).randbytes(MIB)
        image = self.image(size=4 * MIB, content=content)
        outcome = self.run_with(image, "sha256sum < /dev/vda; cat > /tmp/in; "
                                "dd if=/tmp/in of=/dev/vda bs=4k seek=256 conv=fsync 2>/dev/null",
                                stdin=content[::-1])
        digest = hashlib.sha256(content + bytes(3 * MIB)).hexdigest()
        self.expect(outcome, 0, f"{digest}  -\n".encode(), "")
        with open(image, "rb") as file:
            self.assertTrue(file.read(2 * MIB) == content + content[::-1])

    def test_what_the_guest_is_told(self):
        image = self.image(size=3 * MIB + 512)
        outcome = self.run_with(
            [f"{image},serial=number-1,queues=3,ro", self.image("two.img")],
            "cd /sys/block; cat vda/serial; echo; cat vda/size vda/ro; ls vda/mq | wc -l; "
            "cat vdb/size vdb/queue/write_cache vdb/ro; "
            "dd if=/dev/zero of=/dev/vda bs=512 count=1 2>/dev/null || echo refused",
            options=["--cpus", "4"])
        self.expect(outcome, 0, b"number-1\n6145\n1\n3\n131072\nwrite back\n0\nrefused\n", "")

    def test_many_disks_on_few_threads(self):
        disks = [self.image(f"{i}.img", MIB, bytes([65 + i]) * 512) for i in range(10)]
        outcome = self.run_with(disks, "for d in /dev/vd?; do head -c 1 $d; done",
                                options=["--iothreads", "2"])
        self.expect(outcome, 0, b"ABCDEFGHIJ", "")

    def test_discard_gives_the_hosts_storage_back(self):
        image = self.image(content=random.Random(3).randbytes(16 * MIB))
        before = os.stat(image).st_blocks
        self.expect(self.run_with(image, "blkdiscard -o 4194304 -l 8388608 /dev/vda"), 0, b"", "")
        self.assertLessEqual(os.stat(image).st_blocks, before - 8 * MIB // 512)

    def test_limits_slow_it_down(self):
        image = self.image()
        script = ("t0=$(cut -d' ' -f1 /proc/uptime); "
                  "dd if=/dev/vda of=/dev/null bs={0} count={1} iflag=direct 2>/dev/null; "
                  "t1=$(cut -d' ' -f1 /proc/uptime); echo $t0 $t1")
        for limit, size, count, least in (("iops=50", "4k", 200, 2.9), ("bw=4M", "64k", 256, 2.9)):
            with self.subTest(limit):
                outcome = self.run_with(f"{image},{limit}", script.format(size, count))
                begin, end = map(float, outcome.stdout.split())
                self.assertGreater(end - begin, least)
                self.assertLess(end - begin, 30)


class Overlay(DiskCase):
    CHANGE = "dd if=/dev/urandom of=/tmp/r bs=1k count=999 2>/dev/null; " \
             "dd if=/tmp/r of=/dev/vda bs=1k seek=777 conv=fsync 2>/dev/null; sha256sum < /dev/vda"

    def test_temporary_overlay_leaves_no_trace(self):
        image = self.image(size=6 * MIB, content=random.Random(4).randbytes(4 * MIB))
        before = digest_of(image), os.stat(image).st_mtime_ns
        outcome = self.run_with(f"{image},overlay=tmp", self.CHANGE)
        self.expect(outcome, 0, stderr="")
        self.assertNotEqual(outcome.stdout.split()[0].decode(), before[0])
        self.assertEqual((digest_of(image), os.stat(image).st_mtime_ns), before)
        self.assertEqual(os.listdir(self.folder), ["disk.img"])

    def test_kept_overlay_is_there_next_time(self):
        image = self.image(size=6 * MIB, content=random.Random(5).randbytes(4 * MIB))
        before = digest_of(image)
        disk = f"{image},overlay={self.path('over')}"
        first = self.run_with(disk, self.CHANGE)
        self.expect(first, 0, stderr="")
        self.expect(self.run_with(disk, "sha256sum < /dev/vda"), 0, first.stdout, "")
        self.assertEqual(digest_of(image), before)
        os.utime(image)
        self.expect_own_error(self.run_with(disk, "true"), self.path("over"), "changed")

    def test_overlay_on_a_huge_base_costs_nothing_at_start(self):
        image = self.image(size=1 << 42)
        begin = time.monotonic()
        outcome = self.run_with(f"{image},overlay={self.path('over')}",
                                "dd if=/dev/zero of=/dev/vda bs=4k seek=1000000000 count=1 "
                                "conv=fsync 2>/dev/null; cat /sys/block/vda/size")
        self.expect(outcome, 0, b"8589934592\n", "")
        self.assertLess(os.stat(self.path("over")).st_blocks * 512, MIB)
        self.assertLess(time.monotonic() - begin, LIMIT / 2)


class Crash(DiskCase):
    """kill -9 of the machine in the middle of synced writes: what was reported is there."""

    SCRIPT = ("dd if=/dev/urandom of=/dev/vda bs=4k seek=9000 count=8 2>/dev/null & "
              "i=0; while true; do i=$((i+1)); printf 'record %06d\\n' $i > /tmp/r; "
              "dd if=/tmp/r of=/dev/vda bs=512 seek=$i conv=fsync,sync 2>/dev/null && "
              "echo $i; done")

    def kill_in_the_middle(self, disk, records=40):
        process = subprocess.Popen(
            [PROGRAM, "run", "--disk", disk, "--", "sh", "-c", self.SCRIPT],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        reported = 0
        try:
            for line in process.stdout:
                reported = int(line)
                if reported >= records:
                    break
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            rest = process.stdout.read()
            process.stdout.close()
        complete = rest[:rest.rfind(b"\n") + 1].split()
        reported = int(complete[-1]) if complete else reported
        self.assertGreaterEqual(reported, records)
        return reported

    def check(self, content, reported):
        for i in range(1, reported + 1):
            record = content[512 * i:512 * i + 14]
            self.assertEqual(record, b"record %06d\n" % i)

    def test_raw_image(self):
        image = self.image()
        reported = self.kill_in_the_middle(image)
        with open(image, "rb") as file:
            self.check(file.read(MIB), reported)

    def test_kept_overlay(self):
        image = self.image()
        disk = f"{image},overlay={self.path('over')}"
        reported = self.kill_in_the_middle(disk)
        outcome = self.run_with(disk, "head -c 1048576 /dev/vda")
        self.expect(outcome, 0, stderr="")
        self.check(outcome.stdout, reported)
        # And once more, on an overlay that has a map already.
        reported = self.kill_in_the_middle(disk, records=60)
        self.check(self.run_with(disk, "head -c 1048576 /dev/vda").stdout, reported)


class HostFault(DiskCase):
    def run_limited(self, disk, script, limit):
        """With a limit on the size of files, which acts as a full disk does. It holds for the files
        in memory that the engine makes, too, so it must not be small."""
        command = [PROGRAM, "run", "--disk", disk, "--", "sh", "-c", script]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT, check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        return Outcome(done.returncode, done.stdout, done.stderr.decode(errors="replace"))

    def test_guest_sees_an_io_error_and_lives(self):
        image = self.image(size=2048 * MIB)
        outcome = self.run_limited(
            image, "dd if=/dev/zero of=/dev/vda bs=1M seek=1020 count=32 conv=fsync 2>/dev/null || "
            "echo failed; dd if=/dev/zero of=/dev/vda bs=1M count=2 conv=fsync 2>/dev/null && "
            "echo alive", 1024 * MIB)
        self.expect(outcome, 0, b"failed\nalive\n")
        self.assertIn(f"{image}: File too large (the guest sees an I/O error)", outcome.stderr)
        self.assertLess(outcome.stderr.count("\n"), 20)

    def test_full_file_system_under_an_overlay(self):
        if os.geteuid() != 0:
            self.skipTest("only root mounts")
        small = self.path("small")
        os.mkdir(small)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small],
                              capture_output=True, check=False)
        if done.returncode != 0:
            self.skipTest("mounting is not permitted here")
        self.addCleanup(subprocess.run, ["umount", small], check=True)
        outcome = self.run_with(
            f"{self.image()},overlay={small}/over",
            "dd if=/dev/zero of=/dev/vda bs=1M count=32 conv=fsync 2>/dev/null || echo failed; "
            "head -c 1000 /dev/vda | wc -c")
        self.expect(outcome, 0, b"failed\n1000\n")
        self.assertIn("No space left on device", outcome.stderr)


class RootImage(DiskCase):
    def tree(self):
        tree = self.path("tree")
        for name in ("bin", "dev", "proc", "sys", "tmp", "run", "etc", "home"):
            os.makedirs(os.path.join(tree, name))
        shutil.copy(find_tool("busybox"), os.path.join(tree, "bin/busybox"))
        for name in ("sh", "cat", "ls", "touch", "pwd", "rm"):
            os.symlink("busybox", os.path.join(tree, "bin", name))
        with open(os.path.join(tree, "etc/motd"), "w", encoding="ascii") as file:
            file.write("from the image\n")
        return tree

    def make(self, system):
        image = self.path("root." + system)
        if system == "squashfs":
            self.host("mksquashfs", self.tree(), image, "-quiet", "-no-progress")
        elif system == "erofs":
            self.host("mkfs.erofs", image, self.tree())
        else:
            self.host("mkfs.ext4", "-q", "-d", self.tree(), image, "32M")
        return image

    WRITE = "cat /etc/motd; pwd; echo new > /etc/new && cat /etc/new; ls -d /bin/busybox /init"

    def run_root(self, root, script):
        return run("sh", "-c", script, options=["--rootfs", root])

    def check_throw_away(self, system):
        image = self.make(system)
        before = digest_of(image)
        outcome = self.run_root(image, self.WRITE)
        self.assertEqual(outcome.stdout, b"from the image\n/\nnew\n/bin/busybox\n", outcome)
        self.assertEqual(digest_of(image), before)
        outcome = self.run_root(f"{image},ro", "touch /etc/x; touch /tmp/x && echo scratch")
        self.assertEqual(outcome.stdout, b"scratch\n", outcome)
        self.assertIn("Read-only file system", outcome.stderr)
        return image

    def test_ext4(self):
        image = self.check_throw_away("ext4")
        self.expect(self.run_root(f"{image},rw", "echo kept > /etc/kept"), 0, b"", "")
        self.host("e2fsck", "-fn", image)
        self.expect(self.run_root(image, "cat /etc/kept; rm /etc/kept"), 0, b"kept\n", "")
        over = f"{image},overlay={self.path('over')}"
        self.expect(self.run_root(over, "echo more >> /etc/kept"), 0, b"", "")
        self.expect(self.run_root(over, "cat /etc/kept"), 0, b"kept\nmore\n", "")

    def test_squashfs(self):
        image = self.check_throw_away("squashfs")
        self.expect_own_error(self.run_root(f"{image},rw", "true"), "squashfs", "written")

    def test_erofs(self):
        self.check_throw_away("erofs")

    def test_root_is_the_first_disk(self):
        outcome = run("sh", "-c", "cat /sys/block/vdb/size", options=[
            "--disk", self.image(size=MIB), "--rootfs", self.make("squashfs")])
        self.expect(outcome, 0, b"2048\n", "")

    def test_what_is_no_root(self):
        self.expect_own_error(self.run_root(self.image(), "true"), "disk.img", "file system")
        self.expect_own_error(self.run_root("/nowhere", "true"), "/nowhere", "No such file")
        partitions = self.image("mbr", content=bytes(510) + b"\x55\xaa")
        self.expect_own_error(self.run_root(partitions, "true"), "partitions")

    def test_broken_root_ends_with_a_reason(self):
        image = self.image("broken", content=bytes(1024 + 56) + b"\x53\xef" + bytes(100))
        self.expect_own_error(self.run_root(image, "true"), "cannot mount the root")

    def test_program_that_the_image_lacks(self):
        image = self.make("squashfs")
        outcome = run("no-such-program", options=["--rootfs", image])
        self.assertEqual(outcome.status, run_test.NOT_FOUND, outcome)


class Fio(DiskCase):
    """fio writes, reads again and verifies checksums, from an image made of the host's programs."""

    JOB = ("fio --name=job --filename=/dev/vdb --direct=1 --ioengine=libaio --size=24m "
           "--verify=crc32c --verify_fatal=1 --output-format=terse --minimal ")

    def root_with_fio(self):
        fio = find_tool("fio")
        tree = self.path("tree")
        for name in ("dev", "proc", "sys", "tmp", "root", "usr/bin"):
            os.makedirs(os.path.join(tree, name))
        listing = subprocess.run(["ldd", fio], capture_output=True, text=True, check=True).stdout
        libraries = [word for word in listing.split() if word.startswith("/")]
        for path in libraries:
            target = os.path.join(tree, path.lstrip("/"))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy(os.path.realpath(path), target)
        shutil.copy(fio, os.path.join(tree, "usr/bin/fio"))
        image = self.path("fio.squashfs")
        self.host("mksquashfs", tree, image, "-quiet", "-no-progress", "-comp", "gzip")
        return image

    def test_verified(self):
        root = self.root_with_fio()
        for disk, options in (("", "--rw=randwrite --bs=4k --iodepth=32"),
                              (",queues=2,overlay=tmp",
                               "--rw=randwrite --bsrange=512-64k --iodepth=16"),
                              (f",io=threads,overlay={self.path('over')}",
                               "--rw=randrw --bsrange=512-32k --iodepth=8 --fsync=64")):
            with self.subTest(disk):
                outcome = run(*self.JOB.split(), *options.split(), options=[
                    "--rootfs", root, "--disk", self.image(size=32 * MIB) + disk, "--cpus", "2"])
                self.assertEqual(outcome.status, 0, outcome)
                self.assertEqual(outcome.stdout.split(b";")[4], b"0", outcome)  # the error field


class BadDisk(DiskCase):
    """A message that names the thing and says what to do, status 125, nothing half-created."""

    def test_options(self):
        image = self.image()
        table = [
            ("/nowhere", "/nowhere"), (self.folder, "folder"), ("", "path"),
            ("/dev/null", "neither"), (f"{image},bogus", "bogus"), (f"{image},bogus=1", "bogus"),
            (f"{image},ro,overlay=tmp", "exclude"), (f"{image},overlay=", "overlay="),
            (f"{image},overlay=/nowhere/x", "/nowhere/x"), (f"{image},overlay={image}", image),
            (f"{image},queues=0", "queues=0"), (f"{image},queues=33", "queues=33"),
            (f"{image},serial=" + "x" * 21, "20"), (f"{image},bw=fast", "bw=fast"),
            (f"{image},iops=0", "iops=0"), (f"{image},iops=5:0", "iops=5:0"),
            (f"{image},io=dma", "io=dma"), (f"{image},format=qcow2", "qemu-img"),
            (self.image("odd", 1000), "sectors"), (self.image("empty", 0), "empty"),
            (self.image("qcow", 4096, b"QFI\xfb"), "qcow2")]
        before = sorted(os.listdir(self.folder))
        for disk, word in table:
            with self.subTest(disk):
                self.expect_own_error(self.run_with(disk, "true"), "--disk", word)
        self.assertEqual(sorted(os.listdir(self.folder)), before)
        self.expect_own_error(run("true", options=["--iothreads", "2"]), "--iothreads")

    def test_nothing_is_left_when_the_start_fails_later(self):
        disk = f"{self.image()},overlay={self.path('over')}"
        outcome = trapeze("run", "--disk", disk, "--kernel", "/dev/null", "--", "true")
        self.expect_own_error(outcome, "/dev/null")
        self.assertEqual(os.listdir(self.folder), ["disk.img"])

    def test_too_many(self):
        image = self.image()
        self.expect_own_error(self.run_with([f"{image},ro"] * 40, "true"), "40 disks")

    def test_one_writer_or_many_readers(self):
        image = self.image()
        self.expect_own_error(self.run_with([image, image], "true"), image, "in use")
        process = subprocess.Popen(
            [PROGRAM, "run", "--disk", image, "--", "sh", "-c", "echo up; cat"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.assertEqual(process.stdout.readline(), b"up\n")
        for options in ("", ",ro", ",overlay=tmp"):
            with self.subTest(options):
                self.expect_own_error(self.run_with(image + options, "true"), image, "in use")
        process.communicate(timeout=LIMIT)
        self.assertEqual(process.returncode, 0)
        self.expect(self.run_with([f"{image},ro", f"{image},overlay=tmp"], "true"), 0)


if __name__ == "__main__":
    unittest.main()
