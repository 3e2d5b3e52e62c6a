"""Folders of the host in a guest, with the stock kernel's driver: what one side does to files is what
the other finds, and nothing outside the folder is reached.

Environment as for run_test.py.
"""

import os
import random
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest

from run_test import KIT, LIMIT, PROGRAM, GuestCase, Outcome, run

SOURCES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def tree_of(root, with_nanoseconds=True):
    """Everything about a tree that a copy must keep; busybox's cp drops parts of seconds, and times of
    links."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            content = None
            if stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            time_ns = info.st_mtime_ns
            if not with_nanoseconds:
                time_ns = 0 if stat.S_ISLNK(info.st_mode) else time_ns // 10**9
            found[os.path.relpath(path, root)] = (info.st_mode, time_ns, content)
    return found


class ShareCase(GuestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="trapeze-share-")
        self.addCleanup(folder.cleanup)
        self.folder = os.path.join(folder.name, "shared")
        os.mkdir(self.folder)
        os.chmod(folder.name, 0o755)

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def write(self, name, content=b"", mode=0o644):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "wb") as file:
            file.write(content)
        os.chmod(self.path(name), mode)

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def in_share(self, script, suffix="", options=(), stdin=b""):
        """A shell in the guest, in the shared folder /s."""
        return run("sh", "-c", script, stdin=stdin, options=[
            "--share", f"{self.folder}:/s{suffix}", "--workdir", "/s", *options])

    def python(self, script, options=()):
        """The host's Python in the guest, in the shared folder."""
        return run(sys.executable, "-c", textwrap.dedent(script), options=[
            "--rootfs", "/", "--share", f"{self.folder}:/s", "--workdir", "/s", "--memory", "1G",
            *options])


class Share(ShareCase):
    def test_bytes_go_both_ways(self):
        data = random.Random(3).randbytes(9 << 20)
        self.write("in", data)
        self.expect(self.in_share("cp in out && cat >> out && cmp in out 2>&1; sha256sum < in"
                                  " > sum", stdin=b"more"), 0)
        self.assertTrue(self.read("out") == data + b"more")

    def test_source_tree_is_copied_byte_for_byte(self):
        shutil.copytree(os.path.join(SOURCES, "src"), self.path("in"), symlinks=True)
        os.symlink("virtio/fs", self.path("in", "link"))
        os.symlink("/nowhere/at/all", self.path("in", "dangling"))
        os.chmod(self.path("in", "CMakeLists.txt"), 0o751)
        self.expect(self.in_share("cp -a in out && mkdir packed && tar cf - in | tar xf - -C packed"
                                  " && diff -r --no-dereference in out >/dev/null 2>&1; "
                                  "find in | wc -l"), 0)
        self.assertTrue(tree_of(self.path("in"), False) == tree_of(self.path("out"), False))
        packed = tree_of(self.path("packed", "in"))
        self.assertEqual({name: item[2] for name, item in packed.items()},
                         {name: item[2] for name, item in tree_of(self.path("in")).items()})

    def test_names_links_and_folders(self):
        self.write("a/b/file", b"content")
        self.expect(self.in_share(
            "ln a/b/file hard && ln -s a/b/file soft && cat soft && echo more >> hard && "
            "mv a/b/file 'a/new name' && rm -f soft && mkdir -p x/y/z && rmdir x/y/z && "
            "cat 'a/new name' && mkfifo pipe && (echo through > pipe & cat pipe) && "
            "! mknod disk b 8 0 2>/dev/null && stat -c %h hard"), 0,
            b"contentcontentmore\nthrough\n2\n", "")
        self.assertEqual(self.read("a/new name"), b"contentmore\n")
        self.assertEqual(sorted(os.listdir(self.folder)), ["a", "hard", "pipe", "x"])

    def test_permissions(self):
        self.write("f", b"x", 0o640)
        outcome = self.in_share(
            "stat -c %a f; chmod 4711 f; stat -c %a f; umask 027; touch g; mkdir d; stat -c %a g d;"
            "chmod 1777 d; touch -d @1000000000 g; stat -c %Y g; : > /tmp/x; stat -c %a /s")
        # No set-user-ID bit, with which a guest could make its host's user run something.
        self.expect(outcome, 0, b"640\n711\n640\n750\n1000000000\n%o\n" %
                    (os.stat(self.folder).st_mode & 0o7777), "")
        self.assertEqual(os.stat(self.path("f")).st_mode & 0o7777, 0o711)
        self.assertEqual(os.stat(self.path("d")).st_mode & 0o7777, 0o1777)
        self.assertEqual(os.stat(self.path("g")).st_mtime, 1000000000)

    def test_owners(self):
        if os.geteuid() != 0:
            self.skipTest("owners are kept for root only")
        self.write("f", b"x", 0o600)
        os.chown(self.path("f"), 1234, 4321)
        outcome = self.in_share("stat -c %u:%g f; touch g; chown 77:88 g; stat -c %u:%g g")
        self.expect(outcome, 0, b"1234:4321\n77:88\n", "")
        self.assertEqual(os.stat(self.path("g")).st_uid, 77)

    def test_links_out_of_the_folder_lead_into_the_guest(self):
        os.symlink("/etc/hostname", self.path("absolute"))
        os.symlink("../../../../../../etc/hostname", self.path("relative"))
        os.symlink("/proc/self/root/etc/hostname", self.path("magic"))
        with open(os.path.join(self.folder, "..", "secret"), "w", encoding="ascii") as file:
            file.write("secret")
        outcome = self.in_share("cat absolute relative magic; cat ../secret /s/../secret 2>/dev/null;"
                                "ls -a .. | grep secret; echo changed > absolute; cat /etc/hostname")
        self.expect(outcome, 0, b"trapeze\ntrapeze\ntrapeze\nchanged\n", "")
        with open("/etc/hostname", "rb") as file:
            self.assertNotEqual(file.read(), b"changed\n")

    def test_read_only(self):
        self.write("f", b"content")
        outcome = self.in_share("cat f; echo x > f; rm f; touch g; mkdir d; mount -o remount,rw /s "
                                "2>/dev/null; echo x > f; rm -f f; true", suffix=":ro")
        self.assertEqual(outcome.stdout, b"content", outcome)
        self.assertEqual(outcome.status, 0, outcome)
        self.assertIn("Read-only file system", outcome.stderr)
        self.assertEqual(tree_of(self.folder).keys(), {"f"})
        self.assertEqual(self.read("f"), b"content")

    def test_several_folders(self):
        for name in ("one", "two", "three"):
            self.write(f"{name}/file", name.encode())
        options = []
        for name in ("one", "two", "three"):
            options += ["--share", f"{self.path(name)}:/mnt/deep/{name}"]
        outcome = run("sh", "-c", "cat /mnt/deep/*/file; cp /mnt/deep/one/file /mnt/deep/two/new",
                      options=options)
        self.expect(outcome, 0, b"onethreetwo", "")
        self.assertEqual(self.read("two/new"), b"one")

    def test_files_are_read_in_long_requests(self):
        outcome = self.in_share("cat /sys/class/bdi/*/read_ahead_kb | grep -c 1024", options=["--rootfs", "/"])
        self.expect(outcome, 0, b"2\n", "")

    def test_what_the_host_changes_is_seen(self):
        self.write("f", b"old")
        process = subprocess.Popen(
            [PROGRAM, "run", "--share", f"{self.folder}:/s", "--", "sh", "-c",
             "cat /s/f; echo; read x; cat /s/f /s/new; ls /s"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.assertEqual(process.stdout.readline(), b"old\n")
        self.write("f.tmp", b"replaced ")
        os.rename(self.path("f.tmp"), self.path("f"))
        self.write("new", b"new\n")
        time.sleep(1.2)  # what the guest was told holds for a second
        rest, _ = process.communicate(b"\n", timeout=LIMIT)
        self.assertEqual(rest, b"replaced new\nf\nnew\n")

    def test_ten_thousand_files(self):
        outcome = self.in_share(
            "mkdir d; i=0; while [ $i -lt 2500 ]; do : > d/$i; : > d/a$i; ln -s x d/b$i; mkdir d/c$i; "
            "i=$((i+1)); done; ls d | wc -l; rm -rf d; ls -A")
        self.expect(outcome, 0, b"10000\n", "")

    def test_own_kernel_command_line_mounts_by_tag(self):
        self.write("f", b"by tag\n")
        outcome = run("sh", "-c", "mkdir /m && mount -t virtiofs share0 /m && cat /m/f",
                      options=["--share", f"{self.folder}:/s"])
        self.expect(outcome, 0, b"by tag\n", "")


class Semantics(ShareCase):
    """What programs count on, from a guest's Python."""

    def test_deleted_files_live_on_while_open(self):
        self.expect(self.python("""
            import os
            f = open("f", "w+b"); f.write(b"still "); f.flush()
            os.unlink("f"); f.write(b"here"); f.flush()
            assert not os.path.exists("f")
            assert os.fstat(f.fileno()).st_nlink == 0
            f.seek(0); assert f.read() == b"still here"
            again = open(f"/proc/self/fd/{f.fileno()}", "rb"); assert again.read() == b"still here"
            g = open("g", "w+b"); g.write(b"old"); g.flush()
            open("new", "wb").write(b"new"); os.rename("new", "g")
            g.seek(0); assert g.read() == b"old"
            assert open("g", "rb").read() == b"new"
            """), 0, b"", "")
        self.assertEqual(os.listdir(self.folder), ["g"])

    def test_memory_mappings(self):
        self.write("f", b"0" * 100000)
        self.expect(self.python("""
            import mmap, os
            with open("f", "r+b") as f:
                m = mmap.mmap(f.fileno(), 0)
                assert m[5000:5004] == b"0000"
                m[70000:70005] = b"abcde"
                f.seek(70000); assert f.read(5) == b"abcde"
                f.seek(10); f.write(b"written"); f.flush()
                assert m[10:17] == b"written"
                m.flush(); m.close()
            p = mmap.mmap(os.open("f", os.O_RDONLY), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
            assert p[70000:70005] == b"abcde"
            """), 0, b"", "")
        content = self.read("f")
        self.assertEqual((content[10:17], content[70000:70005]), (b"written", b"abcde"))

    def test_locks(self):
        self.write("f", b"x" * 100)
        self.expect(self.python("""
            import fcntl, os
            def blocked(kind, *place):
                if (pid := os.fork()) == 0:
                    f = open("f", "r+b")
                    try: kind(f, fcntl.LOCK_EX | fcntl.LOCK_NB, *place)
                    except OSError: os._exit(1)
                    os._exit(0)
                return os.waitpid(pid, 0)[1] != 0
            f = open("f", "r+b")
            fcntl.flock(f, fcntl.LOCK_EX); assert blocked(fcntl.flock)
            fcntl.flock(f, fcntl.LOCK_SH); assert blocked(fcntl.flock)
            fcntl.flock(f, fcntl.LOCK_UN); assert not blocked(fcntl.flock)
            fcntl.lockf(f, fcntl.LOCK_EX, 10, 20)
            assert blocked(fcntl.lockf, 10, 25) and not blocked(fcntl.lockf, 10, 40)
            fcntl.lockf(f, fcntl.LOCK_UN, 10, 20); assert not blocked(fcntl.lockf, 10, 25)
            """), 0, b"", "")

    def test_extended_attributes(self):
        self.write("f")
        try:
            os.setxattr(self.path("f"), "user.host", b"from the host")
        except OSError:
            self.skipTest("no user attributes here")
        self.expect(self.python("""
            import os
            assert os.getxattr("f", "user.host") == b"from the host"
            os.setxattr("f", "user.guest", b"from the guest")
            os.setxattr("f", "user.gone", b"x"); os.removexattr("f", "user.gone")
            assert sorted(os.listxattr("f")) == ["user.guest", "user.host"]
            for name in ("trusted.overlay.opaque", "security.capability"):
                try: os.setxattr("f", name, b"x" * 20)
                except OSError: pass
                else: raise SystemExit(name)
            """), 0, b"", "")
        self.assertEqual(sorted(os.listxattr(self.path("f"))), ["user.guest", "user.host"])
        self.assertEqual(os.getxattr(self.path("f"), "user.guest"), b"from the guest")

    def test_opens_appends_holes_and_sync(self):
        self.expect(self.python("""
            import os
            fd = os.open("f", os.O_CREAT | os.O_EXCL | os.O_RDWR)
            try: os.open("f", os.O_CREAT | os.O_EXCL | os.O_RDWR)
            except FileExistsError: pass
            else: raise SystemExit("O_EXCL")
            os.posix_fallocate(fd, 0, 1 << 16)
            os.pwrite(fd, b"end", 1 << 20)
            assert os.lseek(fd, 1 << 17, os.SEEK_DATA) == 1 << 20
            os.ftruncate(fd, 10); os.fsync(fd); os.fdatasync(fd)
            a = os.open("f", os.O_WRONLY | os.O_APPEND); os.write(a, b"+1"); os.write(a, b"+2")
            assert os.stat("f").st_size == 14
            g = os.open("g", os.O_CREAT | os.O_RDWR)
            assert os.copy_file_range(fd, g, 4, 10, 0) == 4
            os.open("f", os.O_WRONLY | os.O_TRUNC)
            assert os.fstat(fd).st_size == 0
            d = os.open(".", os.O_RDONLY); os.fsync(d); os.sync()
            """), 0, b"", "")
        self.assertEqual((self.read("f"), self.read("g")), (b"", b"+1+2"))

    def test_listing_while_files_come_and_go(self):
        for i in range(500):
            self.write(f"keep{i}")
        self.expect(self.python("""
            import os
            seen = []
            with os.scandir(".") as entries:
                for i, entry in enumerate(entries):
                    seen.append(entry.name)
                    if i < 200: open(f"new{i}", "w").close()
                    if i < 100: os.unlink(f"new{i}")
            kept = [name for name in seen if name.startswith("keep")]
            assert len(kept) == 500 and len(set(kept)) == 500, len(kept)
            """), 0, b"", "")


class RootFolder(ShareCase):
    def in_root(self, script, suffix="", options=()):
        return run("sh", "-c", script, options=["--rootfs", "/" + suffix, *options])

    def test_true(self):
        self.expect(run("true", options=["--rootfs", "/"]), 0, b"", "")

    def test_the_hosts_programs_run_and_what_they_write_is_forgotten(self):
        with open("/etc/os-release", "rb") as file:
            release = file.read()
        name = f"/etc/trapeze-test-{os.getpid()}"
        outcome = self.in_root(f"cat /etc/os-release; echo x > {name} && cat {name}; "
                               "rm /etc/os-release; test -e /etc/os-release || echo gone; uname -n")
        self.expect(outcome, 0, release + b"x\ngone\ntrapeze\n", "")
        self.assertFalse(os.path.exists(name))
        self.assertTrue(os.path.exists("/etc/os-release"))

    def test_the_guest_sees_its_own_kernel(self):
        outcome = self.in_root("cat /proc/cmdline; ls /sys/bus/virtio/devices | wc -l; ls /dev/kvm")
        self.assertIn(b"trapeze.root=rootfs:virtiofs:layer", outcome.stdout)
        self.assertNotEqual(outcome.status, 0)

    def test_written_to_when_asked(self):
        root = self.path("root")
        for name in ("bin", "dev", "proc", "sys", "tmp", "root"):
            os.makedirs(os.path.join(root, name))
        shutil.copy(shutil.which("busybox"), os.path.join(root, "bin", "busybox"))
        os.symlink("busybox", os.path.join(root, "bin", "sh"))
        script = "echo new > /new; busybox ls /; busybox touch /tmp/x && echo scratch"
        listing = b"bin\ndev\nnew\nproc\nroot\nsys\ntmp\nscratch\n"
        def with_root(suffix):
            return run("sh", "-c", script, options=["--rootfs", root + suffix])
        self.expect(with_root(""), 0, listing, "")
        self.assertFalse(os.path.exists(os.path.join(root, "new")))
        outcome = with_root(",ro")
        self.assertIn("Read-only file system", outcome.stderr)
        self.assertEqual(outcome.stdout[-8:], b"scratch\n", outcome)
        self.assertFalse(os.path.exists(os.path.join(root, "new")))
        for suffix in (",rw", ":rw"):
            self.expect(with_root(suffix), 0, listing, "")
            self.assertTrue(os.path.exists(os.path.join(root, "new")))
            os.unlink(os.path.join(root, "new"))

    def test_a_shared_folder_inside(self):
        self.write("f", b"from the host")
        outcome = self.in_root("cat /srv/shared/f; echo kept > /srv/shared/new; echo lost > /srv/x",
                               options=["--share", f"{self.folder}:/srv/shared"])
        self.expect(outcome, 0, b"from the host", "")
        self.assertEqual(self.read("new"), b"kept\n")
        self.assertFalse(os.path.exists("/srv/x"))

    def test_a_copy_is_exact(self):
        shutil.copytree(os.path.join(SOURCES, "src", "virtio"), self.path("in"), symlinks=True)
        os.symlink("nowhere", self.path("in", "dangling"))
        outcome = self.in_root("cp -a in out && diff -r --no-dereference in out", options=[
            "--share", f"{self.folder}:/s", "--workdir", "/s"])
        self.expect(outcome, 0, b"", "")
        self.assertTrue(tree_of(self.path("in")) == tree_of(self.path("out")))

    def test_a_program_is_built(self):
        if shutil.which("cc") is None:
            self.skipTest("no compiler here")
        self.write("hello.c", b'#include <stdio.h>\nint main(void) { puts("hello"); return 7; }\n')
        self.write("Makefile", b"hello: hello.c\n\tcc -o hello hello.c\ntest: hello\n\t./hello\n")
        with_share = ["--share", f"{self.folder}:/s", "--memory", "1G"]
        outcome = self.in_root("make -C /s hello >/dev/null && /s/hello", options=with_share)
        self.expect(outcome, 7, b"hello\n", "")
        # What the guest has built is the host's to run.
        done = subprocess.run([self.path("hello")], capture_output=True, check=False)
        self.assertEqual((done.returncode, done.stdout), (7, b"hello\n"))
        # And with the folder as it lies in the root: what is built is forgotten.
        os.unlink(self.path("hello"))
        outcome = self.in_root(f"make -s -C {self.folder} test", options=["--memory", "1G"])
        self.assertEqual((outcome.status, outcome.stdout), (2, b"hello\n"), outcome)
        self.assertFalse(os.path.exists(self.path("hello")))

    def test_git_on_a_shared_folder(self):
        if shutil.which("git") is None:
            self.skipTest("no git here")
        git = "git -c user.name=t -c user.email=t@localhost -c init.defaultBranch=main"
        self.write("work/a", b"one\n")
        outcome = self.in_root(
            f"cd /s/work && {git} init -q . && {git} add -A && {git} commit -qm first && "
            f"echo two >> a && {git} commit -qam second && {git} clone -q . ../copy && "
            f"{git} gc -q && {git} fsck && {git} status --short && {git} log --oneline | wc -l",
            options=["--share", f"{self.folder}:/s", "--memory", "1G"])
        self.expect(outcome, 0, b"2\n")
        host = ["git", "-c", "safe.directory=*", "-C", self.path("copy")]
        subprocess.run([*host, "fsck", "--strict"], check=True, capture_output=True)
        done = subprocess.run([*host, "status", "--short"], check=True, capture_output=True)
        self.assertEqual(done.stdout, b"")
        self.assertEqual(self.read("copy/a"), b"one\ntwo\n")

    def test_a_folder_on_overlayfs(self):
        """As in a container: files get other places, and births, when they are first written to."""
        if os.geteuid() != 0:
            self.skipTest("only root mounts")
        for name in ("lower", "upper", "work", "merged"):
            os.mkdir(self.path(name))
        shutil.copytree(os.path.join(SOURCES, "src", "virtio"), self.path("lower", "virtio"))
        layers = ",".join(f"{name}dir={self.path(name)}" for name in ("lower", "upper", "work"))
        done = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers,
                               self.path("merged")], capture_output=True, check=False)
        if done.returncode != 0:
            self.skipTest("mounting is not permitted here")
        self.addCleanup(subprocess.run, ["umount", self.path("merged")], check=True)
        outcome = self.in_root(
            "exec 3<>device.h; echo '// x' >> device.h; tail -n 1 <&3; tail -n 1 device.h;"
            "mv features.h f.h; sed -i 1d f.h; mkdir new; pwd; chmod 600 metrics.h; ln metrics.h m;"
            "stat -c '%a %h' m; find . | wc -l; rm -rf fs; pwd; rm -rf /s/virtio; ls /s",
            options=["--share", f"{self.path('merged')}:/s", "--workdir", "/s/virtio"])
        count = sum(len(folders) + len(files) for _, folders, files in
                    os.walk(self.path("lower", "virtio")))
        self.expect(outcome, 0, b"// x\n// x\n/s/virtio\n600 2\n%d\n/s/virtio\n" % (count + 3), "")
        self.assertEqual(os.listdir(self.path("merged")), [])

    def test_dpkg_on_a_shared_folder(self):
        if shutil.which("dpkg") is None or os.geteuid() != 0:
            self.skipTest("needs dpkg and root")
        outcome = self.in_root("""set -e
            mkdir -p pkg/DEBIAN pkg/usr/share/x root/var/lib/dpkg/info root/var/lib/dpkg/updates
            printf 'Package: x\\nVersion: 1\\nArchitecture: all\\nMaintainer: t\\nDescription: t\\n' \\
              > pkg/DEBIAN/control
            echo installed > pkg/usr/share/x/file
            : > root/var/lib/dpkg/status
            dpkg-deb -b pkg x.deb >/dev/null
            dpkg --root=/s/root -i x.deb >/dev/null
            dpkg --root=/s/root -s x | grep Status""",
            options=["--share", f"{self.folder}:/s", "--workdir", "/s", "--memory", "1G"])
        self.expect(outcome, 0, b"Status: install ok installed\n")
        self.assertEqual(self.read("root/usr/share/x/file"), b"installed\n")


class Unprivileged(ShareCase):
    """The host's user is the guest's root."""

    NOBODY = 65534

    def as_nobody(self, *arguments):
        if os.geteuid() != 0:
            self.skipTest("only root becomes somebody else")
        def call(*command):
            return subprocess.run(command, capture_output=True, timeout=LIMIT, check=False, cwd="/",
                                  user=self.NOBODY, group=self.NOBODY, extra_groups=[],
                                  stdin=subprocess.DEVNULL)
        for path in (os.path.abspath(PROGRAM), os.path.join(KIT, "vmlinux")):
            if call("test", "-r", path).returncode != 0:
                self.skipTest(f"{path} is not readable for everybody")
        done = call(os.path.abspath(PROGRAM), "run", *arguments)
        return Outcome(done.returncode, done.stdout, done.stderr.decode(errors="replace"))

    def test_files_are_the_guest_roots(self):
        os.chown(self.folder, self.NOBODY, self.NOBODY)
        self.write("roots", b"private", 0o600)
        self.write("open", b"readable", 0o644)
        outcome = self.as_nobody(
            "--share", f"{self.folder}:/s", "--workdir", "/s", "--", "sh", "-c",
            "echo x > mine; chown 5:6 mine && stat -c %u:%g mine .; chmod 600 mine; cat open; echo;"
            "cat roots 2>/dev/null; echo y 2>/dev/null >> open; rm -f roots; mv open moved; ls")
        self.expect(outcome, 0, b"0:0\n0:0\nreadable\nmine\nmoved\n")
        info = os.stat(self.path("mine"))
        self.assertEqual((info.st_uid, info.st_gid, info.st_mode & 0o777),
                         (self.NOBODY, self.NOBODY, 0o600))
        self.assertEqual(self.read("moved"), b"readable")

    def test_the_hosts_root_as_root(self):
        outcome = self.as_nobody("--rootfs", "/", "--", "sh", "-c",
                                 "id -u; cat /etc/shadow 2>/dev/null; echo x > /etc/x && cat /etc/x")
        self.expect(outcome, 0, b"0\nx\n")


class BadShare(ShareCase):
    def check(self, option, *words, name="--share"):
        with self.subTest(option):
            options = []
            for text in [option] if isinstance(option, str) else option:
                options += [name, text]
            self.expect_own_error(run("true", options=options), name, *words)

    def test_options(self):
        inner = self.path("inner")
        os.mkdir(inner)
        self.write("file")
        os.symlink(inner, self.path("link"))
        here = self.folder
        before = tree_of(self.folder)
        self.check("/nowhere:/s", "/nowhere", "No such file")
        self.check(f"{here}/file:/s", "file", "Not a directory")
        self.check(here, "HOST:GUEST")
        self.check(f"{here}:relative", "absolute")
        self.check(f"{here}:/", "--rootfs")
        self.check(f"{here}:/a/../b", "..")
        self.check(":/s", "HOST:GUEST")
        self.check("/proc:/s", "/proc", "not shared")
        self.check([f"{here}:/s", f"{inner}:/t"], inner, "inside", "on the host")
        self.check([f"{inner}:/s", f"{here}:/t"], inner, "inside", "on the host")
        self.check([f"{inner}:/s", f"{self.path('link')}:/t"], "twice", "on the host")
        self.check([f"{here}:/s", "/usr:/s/"], "/s", "twice", "in the guest")
        self.check([f"{here}:/s", "/usr:/s/usr"], "/s/usr", "inside", "in the guest")
        self.check("/nowhere", "/nowhere", "No such file", name="--rootfs")
        self.check("/sys", "/sys", "not shared", name="--rootfs")
        self.check(f"{here},bogus", "bogus", name="--rootfs")
        self.assertEqual(tree_of(self.folder), before)

    def test_too_many(self):
        options = []
        for i in range(20):
            os.mkdir(self.path(str(i)))
            options.append(f"{self.path(str(i))}:/s/{i}")
        self.check(options, "20 shared folders")

    def test_a_place_that_cannot_be_mounted_on(self):
        self.expect_own_error(run("true", options=["--share", f"{self.folder}:/proc/nowhere"]),
                              "/proc/nowhere", "No such file")

    def run_with_open_files(self, limit, script):
        return subprocess.run(
            [PROGRAM, "run", "--share", f"{self.folder}:/s", "--", "sh", "-c", script], capture_output=True,
            timeout=LIMIT, check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)))

    def test_too_few_open_files(self):
        done = self.run_with_open_files(100, "true")
        self.assertEqual(done.returncode, 125, done)
        self.assertIn(b"ulimit", done.stderr)

    def test_few_open_files_are_enough_to_remove_many(self):
        done = self.run_with_open_files(330, "cd /s; for i in $(seq 1000); do echo x >f$i; done; rm f*; ls | wc -l")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"0\n", b""))


if __name__ == "__main__":
    unittest.main()
