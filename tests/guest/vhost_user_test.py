"""Devices of other processes (vhost-user): qemu-storage-daemon's disks and virtiofsd's folders, also
when the process dies in the middle.

Environment as for run_test.py.
"""

import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
import unittest

from block_test import MIB, DiskCase, find_tool
from run_test import LIMIT, PROGRAM, trapeze, run

VIRTIOFSD = "/usr/lib/qemu/virtiofsd"


class VhostUserCase(DiskCase):
    def start(self, *command, listens):
        """Starts a back end and waits until it listens."""
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE)
        self.addCleanup(self.finish, process)
        end = time.monotonic() + LIMIT
        while f" {listens}\n" not in self.sockets():
            self.assertIsNone(process.poll(), command)
            self.assertLess(time.monotonic(), end, f"nobody listens on {listens}")
            time.sleep(0.02)
        return process

    @staticmethod
    def sockets():
        with open("/proc/net/unix", encoding="ascii") as file:
            return file.read()

    @staticmethod
    def finish(process):
        process.kill()
        process.wait()
        process.stderr.close()

    def serve_disk(self, image, kind="raw", name="disk.sock", queues=1):
        path = self.path(name)
        if os.path.exists(path):
            os.unlink(path)
        daemon = find_tool("qemu-storage-daemon")
        process = self.start(
            daemon, "--blockdev", f"driver=file,node-name=file,filename={image}",
            "--blockdev", f"driver={kind},node-name=disk,file=file",
            "--export", "type=vhost-user-blk,id=export,node-name=disk,writable=on,"
            f"num-queues={queues},addr.type=unix,addr.path={path}", listens=path)
        return path, process


class StorageDaemon(VhostUserCase):
    FILL = ("mkdir /m && mount -t ext4 /dev/vda /m && cat > /m/data && mkdir /m/many && "
            "for i in $(seq 1 100); do echo $i > /m/many/$i; done && umount /m")
    CHECK = ("mkdir /m && mount -t ext4 /dev/vda /m && sha256sum < /m/data && ls /m/many | wc -l && "
             "cat /m/many/100")

    def fill_and_check(self, image, kind, queues=1):
        """The daemon outlives a machine: both runs use the same one."""
        data = random.Random(1).randbytes(12 * MIB)
        path, process = self.serve_disk(image, kind, queues=queues)
        options = ["--cpus", str(queues), "--vhost-user", f"blk:{path},queues={queues}"]
        self.expect(run("sh", "-c", self.FILL, options=options, stdin=data), 0, b"", "")
        outcome = run("sh", "-c", self.CHECK, options=options)
        expected = f"{hashlib.sha256(data).hexdigest()}  -\n100\n100\n".encode()
        self.expect(outcome, 0, expected, "")
        process.terminate()
        process.wait(timeout=LIMIT)
        return data

    def test_raw_image(self):
        image = self.image(size=96 * MIB)
        self.host("mkfs.ext4", "-q", "-F", image)
        data = self.fill_and_check(image, "raw", queues=2)
        self.host("e2fsck", "-fn", image)
        self.assertTrue(self.host("debugfs", "-R", "cat /data", image) == data)

    def test_qcow2_image(self):
        raw = self.image("raw.img", size=96 * MIB)
        self.host("mkfs.ext4", "-q", "-F", raw)
        image = self.path("disk.qcow2")
        self.host("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image)
        data = self.fill_and_check(image, "qcow2")
        self.host("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw)
        self.host("e2fsck", "-fn", raw)
        self.assertTrue(self.host("debugfs", "-R", "cat /data", raw) == data)

    def test_disk_beside_one_of_our_own(self):
        path, _ = self.serve_disk(self.image("theirs.img", MIB, b"theirs"))
        ours = self.image("ours.img", 2 * MIB, b"ours")
        outcome = run("sh", "-c", "head -c 4 /dev/vda; head -c 6 /dev/vdb; cat /sys/block/vdb/size",
                      options=["--vhost-user", f"blk:{path}", "--disk", ours])
        self.expect(outcome, 0, b"ourstheirs2048\n", "")

    WRITES = ("i=0; while [ $i -lt {0} ]; do i=$((i+1)); printf 'record %06d\\n' $i > /tmp/r; "
              "dd if=/tmp/r of=/dev/vda bs=512 seek=$i conv=fsync,sync 2>/dev/null || exit 3; "
              "echo $i; done")

    def start_writes(self, path, count, options=""):
        process = subprocess.Popen(
            [PROGRAM, "run", "--vhost-user", f"blk:{path}{options}", "--", "sh", "-c",
             self.WRITES.format(count)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(self.finish, process)
        self.addCleanup(process.stdout.close)
        return process

    def test_daemon_that_is_killed_and_started_again_costs_no_write(self):
        image = self.image()
        path, daemon = self.serve_disk(image)
        process = self.start_writes(path, 120)
        for line in process.stdout:
            if int(line) in (30, 70):
                daemon.kill()
                daemon.wait()
                time.sleep(0.5)
                path, daemon = self.serve_disk(image)
        self.assertEqual(process.wait(timeout=LIMIT), 0)
        messages = process.stderr.read().decode()
        self.assertEqual(messages.count("the back end is gone"), 2, messages)
        self.assertEqual(messages.count("there again"), 2, messages)
        with open(image, "rb") as file:
            content = file.read(MIB)
        for i in range(1, 121):
            self.assertEqual(content[512 * i:512 * i + 14], b"record %06d\n" % i)

    def test_guest_sees_errors_when_the_daemon_stays_away(self):
        path, daemon = self.serve_disk(self.image())
        process = self.start_writes(path, 1000, ",reconnect=1")
        for line in process.stdout:
            if int(line) == 10:
                daemon.kill()
                daemon.wait()
        self.assertEqual(process.wait(timeout=LIMIT), 3)


class FileSystemDaemon(VhostUserCase):
    def test_source_tree_is_copied_in_the_guest(self):
        if not os.path.exists(VIRTIOFSD):
            self.skipTest(f"there is no {VIRTIOFSD} here")
        if os.geteuid() != 0:
            self.skipTest("virtiofsd needs root")
        shared = self.path("shared")
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "src")
        shutil.copytree(source, os.path.join(shared, "src"))
        path = self.path("fs.sock")
        self.start(VIRTIOFSD, f"--socket-path={path}", "-o", f"source={shared}", "-o",
                   "sandbox=chroot", listens=path)
        outcome = run("sh", "-c", "mkdir /m && mount -t virtiofs tree /m && cp -r /m/src /m/copy && "
                      "rm /m/copy/CMakeLists.txt && find /m/copy -type f | wc -l && umount /m",
                      options=["--vhost-user", f"fs:{path},tag=tree"])
        count = sum(len(files) for _, _, files in os.walk(os.path.join(shared, "src")))
        self.expect(outcome, 0, f"{count - 1}\n".encode(), "")
        done = subprocess.run(["diff", "-r", os.path.join(shared, "src"),
                               os.path.join(shared, "copy")],
                              capture_output=True, timeout=LIMIT, check=False)
        self.assertEqual(done.stdout.decode(), f"Only in {shared}/src: CMakeLists.txt\n")


class BadBackEnd(VhostUserCase):
    def expect_refusal(self, option, *words):
        outcome = trapeze("run", "--vhost-user", option, "--", "true")
        self.expect_own_error(outcome, "--vhost-user", *words)

    def test_bad_options(self):
        for option, word in (("blk:", "path"), ("disk:/x", "blk:SOCKET"), ("/x", "blk:SOCKET"),
                             ("blk:/x,queues=0", "queues=0"), ("blk:/x,reconnect=-1", "reconnect"),
                             ("blk:/x,tag=a", "tag"), ("fs:/x", "tag=NAME"),
                             ("fs:/x,tag=" + "x" * 37, "36 bytes"), ("net:/x,mac=1", "mac=1"),
                             ("blk:/nowhere/socket", "No such file"),
                             ("blk:/tmp/" + "x" * 200, "107 bytes")):
            with self.subTest(option):
                self.expect_refusal(option, word)

    def answer_with(self, data):
        path = self.path("bad.sock")
        if os.path.exists(path):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(path)
        listener.listen()

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                if data is not None:
                    connection.sendall(data)
                try:
                    connection.recv(1000)
                except ConnectionResetError:
                    pass  # it has left with something unread

        thread = threading.Thread(target=serve)
        thread.start()
        self.addCleanup(thread.join)
        return path

    def test_what_answers_is_no_back_end(self):
        self.expect_refusal(f"blk:{self.answer_with(b'HTTP/1.1 400 Bad Request')}",
                            "does not speak vhost-user")
        self.expect_refusal(f"blk:{self.answer_with(None)}", "GET_FEATURES", "5000 ms")

    def test_nobody_listens(self):
        path = self.path("stale.sock")
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(path)
        stale.close()
        self.expect_refusal(f"blk:{path}", "nobody listens")

    def test_more_queues_than_there_are(self):
        path, _ = self.serve_disk(self.image())
        self.expect_refusal(f"blk:{path},queues=4", "1 queues, and 4 are needed")


if __name__ == "__main__":
    unittest.main()
