"""A host with hardware virtualization, on a machine that has none.

Boots the kit's kernel as a host under QEMU's TCG, which emulates AMD SVM with nested paging, so that
it has a real kvm_amd and a real /dev/kvm. Files go in with the initramfs, a shell script runs there,
and what it printed, its exit status and what it left in $RESULTS come back over a virtio-serial port.
A run always ends: the script has a limit inside, QEMU has one outside.

Needs Debian packages only: qemu-system-x86 and what `trapeze kit build` needs. Environment:
TRAPEZE_KIT (a guest kit), TRAPEZE_RIG_CACHE (where unpacked modules stay), TRAPEZE_RIG_FACTOR
(multiplies every time limit).

As a program: rig.py [--program PATH]... [--file SRC:DST]... [--modules A,B] [--limit S] -- COMMAND
"""

import argparse
import glob
import io
import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import unittest
from dataclasses import dataclass, field

FACTOR = float(os.environ.get("TRAPEZE_RIG_FACTOR", "1"))
BASE_MODULES = ("virtio_pci", "virtio_console", "kvm_amd")
VHOST_MODULES = ("vhost_net", "vhost_vsock", "tun")
VFIO_MODULES = ("vfio_pci", "vfio_iommu_type1")
UNPACKED = ("arch/x86/kvm", "virt", "drivers/virtio", "drivers/vhost", "drivers/vfio",
            "drivers/char/virtio_console.ko", "drivers/net/tun.ko", "drivers/net/tap.ko",
            "net/vmw_vsock")
BOOT_SECONDS = 90  # of the rig's own kernel; seen: 4
# No mitigations: they cost TCG time and protect nobody here. The TSC is one clock for all. The check of
# the timer panics when a busy machine lets its ticks come late.
KERNEL_ARGUMENTS = ("console=ttyS0 loglevel=4 panic=-1 tsc=reliable no_timer_check mitigations=off "
                    "apparmor=0")
BEGUN = "rig: script begins"

INIT = """#!/bin/busybox sh
export TRAPEZE_RIG=1 PATH=/bin:/sbin:/usr/bin:/usr/sbin RESULTS=/results HOME=/tmp
/bin/busybox mkdir -p /proc /sys /dev /tmp /results /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t debugfs debug /sys/kernel/debug; mkdir -p /dev/shm /dev/pts; mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
while read -r module options; do insmod "/modules/$module" $options || echo "insmod $module failed"
done < /modules/order
echo "rig: script begins"
cd /
timeout -s KILL "$(cat /limit)" sh /script > /results/stdout 2> /results/stderr < /dev/null
echo $? > /results/status
echo "rig: script ended"
dmesg > /results/dmesg
tar c -C /results . > /dev/vport0p1
echo "rig: done"
poweroff -f
"""


class RigError(Exception):
    pass


class RigMissing(RigError):
    """Something that the rig is made of is not on this machine: a test is skipped then."""


@dataclass
class Result:
    status: int
    stdout: bytes
    stderr: bytes
    files: dict = field(default_factory=dict)
    console: str = ""

    def __repr__(self):
        return (f"status {self.status}\nstdout: {self.stdout[-3000:].decode(errors='replace')}\n"
                f"stderr: {self.stderr[-3000:].decode(errors='replace')}\n"
                f"console: {self.console[-1000:]}")


def tsc_argument():
    """TCG's TSC is that of this machine. A busy one disturbs the rig's calibration so much that its
    clock, and with it every time limit inside, ran 3.6 times too fast."""
    try:
        found = re.search(r"^bogomips\s*: ([0-9.]+)$", read("/proc/cpuinfo").decode(), re.MULTILINE)
        return f" tsc_early_khz={round(float(found[1]) * 500)}" if found else ""
    except OSError:
        return ""


class Cpio:
    """An initramfs archive, format "newc"."""

    def __init__(self):
        self.parts, self.known = [], set()

    def _add(self, path, mode, content=b"", device=(0, 0)):
        name = path.encode() + b"\0"
        fields = (len(self.known) + 1, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name), 0)
        head = b"070701" + b"".join(b"%08x" % value for value in fields) + name
        self.parts += [head, bytes(-len(head) % 4), content, bytes(-len(content) % 4)]
        self.known.add(path)

    def directory(self, path):
        if path in ("", ".") or path in self.known:
            return
        self.directory(os.path.dirname(path))
        self._add(path, stat.S_IFDIR | 0o755)

    def file(self, path, content, permissions=0o755):
        path = path.lstrip("/")
        if path in self.known:
            return
        self.directory(os.path.dirname(path))
        self._add(path, stat.S_IFREG | permissions, content)

    def character_device(self, path, major, minor):
        self.directory(os.path.dirname(path))
        self._add(path, stat.S_IFCHR | 0o600, device=(major, minor))

    def finish(self):
        self._add("TRAILER!!!", 0)
        return b"".join(self.parts)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def shared_libraries(program):
    """What a dynamically linked program needs; nothing for a static one."""
    listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return sorted(set(re.findall(r"(/\S+) \(0x", listing)))


class Modules:
    """The kernel modules of the kit's kernel, unpacked from its package once."""

    def __init__(self, package, release):
        cache = os.environ.get("TRAPEZE_RIG_CACHE") or os.path.join(tempfile.gettempdir(),
                                                                    f"trapeze-rig-{os.getuid()}")
        self.folder = os.path.join(cache, release)
        if not os.path.isdir(self.folder):
            self._unpack(package, release)
        self.files = {}
        for path in glob.glob(os.path.join(self.folder, "**/*.ko"), recursive=True):
            self.files[os.path.basename(path)[:-3].replace("-", "_")] = path

    def _unpack(self, package, release):
        name, version = package.split(" ")
        os.makedirs(os.path.dirname(self.folder), exist_ok=True)
        with tempfile.TemporaryDirectory(dir=os.path.dirname(self.folder)) as folder:
            deb = self._find_package(name, version, folder)
            patterns = [f"./lib/modules/{release}/kernel/{part}*" for part in UNPACKED]
            with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb],
                                  stdout=subprocess.PIPE) as unpacked:
                subprocess.run(["tar", "x", "-C", folder, "--wildcards", *patterns],
                               stdin=unpacked.stdout, check=False, stderr=subprocess.DEVNULL)
            os.rename(os.path.join(folder, "lib/modules", release), self.folder)

    @staticmethod
    def _find_package(name, version, folder):
        """From the cache of `trapeze kit build`, else from the archive."""
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        known = os.path.join(cache, "trapeze/debs",
                             f"{name}_{version.replace(':', '%3a')}_amd64.deb")
        if os.path.exists(known):
            return known
        try:
            subprocess.run(["apt-get", "download", "-q", f"{name}={version}"], cwd=folder, check=True,
                           stdout=subprocess.DEVNULL)
            return glob.glob(os.path.join(folder, f"{name}_*.deb"))[0]
        except (OSError, subprocess.CalledProcessError, IndexError) as error:
            raise RigMissing(f"the package {name} {version}, for its kernel modules: {error}") from None

    def order(self, wanted):
        """The wanted modules and what they depend on, in loading order. Built-in ones are no file."""
        done = []

        def visit(name):
            if name in done or name not in self.files:
                return
            depends = re.search(rb"\0depends=([^\0]*)\0", b"\0" + read(self.files[name]))
            for needed in filter(None, depends.group(1).decode().split(",") if depends else []):
                visit(needed.replace("-", "_"))
            done.append(name)

        for name in wanted:
            visit(name)
        return done


class Rig:
    def __init__(self, kit=None):
        self.kit = kit or os.environ.get("TRAPEZE_KIT") or os.path.expanduser(
            "~/.local/share/trapeze/kit/default")
        if shutil.which("qemu-system-x86_64") is None:
            raise RigMissing("qemu-system-x86_64 (install qemu-system-x86)")
        try:
            with open(os.path.join(self.kit, "kit.json"), encoding="utf-8") as file:
                manifest = json.load(file)
        except OSError as error:
            raise RigMissing(f"a guest kit (trapeze kit build): {error}") from None
        find_busybox()
        self.kernel = os.path.join(self.kit, manifest["bzimage"])
        self.modules = Modules(manifest["kernel_package"], manifest["kernel_release"])
        self.files = {}

    def add_file(self, source, target):
        self.files[target] = source

    def add_text(self, target, text):
        self.files[target] = text.encode()

    def add_program(self, path, target=None):
        """A program of this machine, with its shared libraries."""
        self.files[target or "/usr/bin/" + os.path.basename(path)] = path
        for library in shared_libraries(path):
            self.files[library] = library

    def add_python(self):
        """This machine's Python, for scripts in the rig."""
        self.add_program(os.path.realpath(sys.executable), "/usr/bin/python3")
        library = os.path.dirname(os.__file__)
        for folder, folders, names in os.walk(library):
            folders[:] = [name for name in folders if name not in
                          ("test", "__pycache__", "dist-packages", "site-packages", "idlelib",
                           "tkinter", "lib2to3", "ensurepip", "pydoc_data")
                          and not name.startswith("config-")]
            for name in names:
                path = os.path.join(folder, name)
                self.files[path] = path
                if name.endswith(".so"):
                    for needed in shared_libraries(path):
                        self.files[needed] = needed

    def add_kit(self, target="/kit"):
        for name in ("kit.json", "initrd", "vmlinux"):
            self.files[f"{target}/{name}"] = os.path.join(self.kit, name)
        self.files[f"{target}/vmlinuz"] = b"not needed"

    def _initramfs(self, script, limit, modules, options):
        archive = Cpio()
        archive.character_device("dev/console", 5, 1)
        archive.file("init", INIT.encode())
        archive.file("bin/busybox", read(find_busybox()))
        order = self.modules.order((*BASE_MODULES, *modules))
        for name in order:
            archive.file(f"modules/{name}.ko", read(self.modules.files[name]))
        lines = [f"{name}.ko {options.get(name, '')}".rstrip() for name in order]
        archive.file("modules/order", ("\n".join(lines) + "\n").encode())
        archive.file("script", script.encode())
        archive.file("limit", str(limit).encode())
        for target, source in self.files.items():
            archive.file(target, source if isinstance(source, bytes) else read(source))
        return archive.finish()

    def run(self, script, limit_s=60, modules=(), options=None, cpus=2, memory_mib=3072):
        """`options`: of kernel modules, e.g. {"kvm_amd": "npt=0"}. Raises RigError when the rig
        itself fails; a script that fails or runs out of time (137) is a Result."""
        limit = max(1, int(limit_s * FACTOR))
        with tempfile.TemporaryDirectory(prefix="trapeze-rig-") as folder:
            initrd, console, results = (os.path.join(folder, name)
                                        for name in ("initrd", "console", "results"))
            with open(initrd, "wb") as file:
                file.write(self._initramfs(script, limit, modules, options or {}))
            command = [
                "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-machine",
                "q35", "-smp", str(cpus), "-m", str(memory_mib), "-nodefaults", "-display", "none",
                "-no-reboot", "-kernel", self.kernel, "-initrd", initrd, "-append",
                KERNEL_ARGUMENTS + tsc_argument(), "-serial", f"file:{console}", "-device",
                "virtio-serial-pci,disable-legacy=on", "-chardev", f"file,id=r,path={results}",
                "-device", "virtserialport,chardev=r"]
            try:
                self._run_qemu(command, BOOT_SECONDS * FACTOR + limit, console)
                return self._read_results(results, console)
            except RigError:
                # A host kernel that died of the machine's load before anything was tested.
                if BEGUN in tail(console, 1000):
                    raise
            self._run_qemu(command, BOOT_SECONDS * FACTOR + limit, console)
            return self._read_results(results, console)

    @staticmethod
    def _run_qemu(command, limit, console):
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, start_new_session=True) as qemu:
            try:
                said, _ = qemu.communicate(timeout=limit)
            except BaseException as error:  # also Ctrl-C: nothing stays behind
                os.killpg(qemu.pid, signal.SIGKILL)
                qemu.communicate()
                if isinstance(error, subprocess.TimeoutExpired):
                    raise RigError(f"the rig did not end within {limit:g} s; its console:\n"
                                   + tail(console)) from None
                raise
            if qemu.returncode != 0:
                raise RigError(f"qemu ended with status {qemu.returncode}: {said.decode()}")

    @staticmethod
    def _read_results(path, console):
        try:
            with tarfile.open(fileobj=io.BytesIO(read(path))) as archive:
                files = {member.name.removeprefix("./"): archive.extractfile(member).read()
                         for member in archive if member.isfile()}
            return Result(int(files.pop("status")), files.pop("stdout"), files.pop("stderr"), files,
                          tail(console))
        except (tarfile.TarError, KeyError, OSError) as error:
            raise RigError(f"no results came from the rig ({error}); its console:\n"
                           + tail(console)) from None


def find_busybox():
    for path in ("/usr/bin/busybox", "/bin/busybox"):
        if os.path.exists(path) and not shared_libraries(path):
            return path
    raise RigMissing("a static busybox (install busybox-static)")


def run_tests(module_name):
    """unittest.main(), but what is missing on this machine skips: status 77 for CTest."""
    try:
        Rig()
    except RigMissing as missing:
        print(f"skipped: not here: {missing}")
        sys.exit(77)
    unittest.main(module=module_name, argv=[sys.argv[0], *sys.argv[1:]], verbosity=2)


def tail(path, count=60):
    try:
        return "\n".join(read(path).decode(errors="replace").splitlines()[-count:])
    except OSError:
        return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", action="append", default=[], help="to /usr/bin, with libraries")
    parser.add_argument("--file", action="append", default=[], metavar="SRC:DST")
    parser.add_argument("--modules", default="", help="besides kvm_amd, comma-separated")
    parser.add_argument("--kvm-amd", default="", help="module options, e.g. npt=0")
    parser.add_argument("--limit", type=float, default=60, help="seconds for the command")
    parser.add_argument("--with-kit", action="store_true", help="the guest kit, in /kit")
    parser.add_argument("--results", help="folder for the files left in $RESULTS")
    parser.add_argument("command", nargs="+", help="after --; one word is a shell script")
    arguments = parser.parse_args()
    rig = Rig()
    for path in arguments.program:
        rig.add_program(path)
    for pair in arguments.file:
        rig.add_file(*pair.split(":", 1))
    if arguments.with_kit:
        rig.add_kit()
    words = arguments.command
    try:
        result = rig.run(words[0] if len(words) == 1 else shlex.join(words), arguments.limit,
                         tuple(filter(None, arguments.modules.split(","))),
                         {"kvm_amd": arguments.kvm_amd})
    except RigError as error:
        print(f"rig: {error}", file=sys.stderr)
        return 125
    sys.stdout.buffer.write(result.stdout)
    sys.stdout.flush()
    sys.stderr.buffer.write(result.stderr)
    for name, content in result.files.items() if arguments.results else ():
        os.makedirs(arguments.results, exist_ok=True)
        with open(os.path.join(arguments.results, name.replace("/", "_")), "wb") as file:
            file.write(content)
    return result.status


if __name__ == "__main__":
    sys.exit(main())
