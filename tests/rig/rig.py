"""A host with hardware virtualization, on a machine that has none.

Boots the kit's kernel as a host under QEMU's TCG, which emulates AMD SVM with nested paging, so that
it has a real kvm_amd and a real /dev/kvm. Files go in with the initramfs, a shell script runs there,
and what it printed, its exit status and what it left in $RESULTS come back over a virtio-serial port.
A run always ends (emulator.py): the script is ended at its limit, and says then what it was at; an
emulated host that gives no sign of life is looked into, ended and tried once more, because what stopped
there is not what runs on it. A second time is an error (a third, while it boots).

Needs Debian packages only: qemu-system-x86 and what `trapeze kit build` needs. Environment:
TRAPEZE_KIT (a guest kit), TRAPEZE_RIG_CACHE (where unpacked modules stay), TRAPEZE_RIG_FACTOR
(multiplies every time limit). Scripts have $GUEST_SECONDS, a limit for one guest that fits the machine's
speed: 120 on a quiet one.

As a program: rig.py [--program PATH]... [--file SRC:DST]... [--modules A,B] [--limit S] -- COMMAND
"""

import argparse
import io
import json
import os
import re
import shlex
import shutil
import sys
import tarfile
import tempfile
import unittest
from dataclasses import dataclass, field

from emulator import FACTOR, Emulator, Frozen, RigError, tail
from payload import Cpio, Modules, RigMissing, find_busybox, read, shared_libraries

BASE_MODULES = ("virtio_pci", "virtio_console", "kvm_amd")
VHOST_MODULES = ("vhost_net", "vhost_vsock", "tun")
VFIO_MODULES = ("vfio_pci", "vfio_iommu_type1")
BOOT_SECONDS = 40  # of the rig's own kernel; seen: 4 to 9
INIT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "init.sh")
# No mitigations: they cost TCG time and protect nobody here. The TSC is one clock for all. The check of
# the timer panics when a busy machine lets its ticks come late. Addresses without KASLR and the panic by an
# NMI are for emulator.py's post-mortem.
KERNEL_ARGUMENTS = ("console=ttyS0 loglevel=6 panic=-1 tsc=reliable no_timer_check mitigations=off "
                    "apparmor=0 nokaslr unknown_nmi_panic")


@dataclass
class Result:
    status: int
    stdout: bytes
    stderr: bytes
    files: dict = field(default_factory=dict)
    console: str = ""

    def __repr__(self):
        parts = {"stdout": self.stdout[-3000:], "stderr": self.stderr[-3000:],
                 "console": self.console[-1000:].encode(), "at its limit": self.files.get("hang", b"")}
        return f"status {self.status}\n" + "\n".join(
            f"{name}: {text.decode(errors='replace')}" for name, text in parts.items() if text)


def tsc_argument():
    """TCG's TSC is that of this machine. A busy one disturbs the rig's calibration so much that its
    clock, and with it every time limit inside, ran 3.6 times too fast."""
    try:
        found = re.search(r"^bogomips\s*: ([0-9.]+)$", read("/proc/cpuinfo").decode(), re.MULTILINE)
        return f" tsc_early_khz={round(float(found[1]) * 500)}" if found else ""
    except OSError:
        return ""


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

    def _initramfs(self, script, modules, options):
        archive = Cpio()
        archive.character_device("dev/console", 5, 1)
        archive.file("init", read(INIT))
        archive.file("bin/busybox", read(find_busybox()))
        order = self.modules.order((*BASE_MODULES, *modules))
        for name in order:
            archive.file(f"modules/{name}.ko", read(self.modules.files[name]))
        lines = [f"{name}.ko {options.get(name, '')}".rstrip() for name in order]
        archive.file("modules/order", ("\n".join(lines) + "\n").encode())
        archive.file("script", script.encode())
        for target, source in self.files.items():
            archive.file(target, source if isinstance(source, bytes) else read(source))
        return archive.finish()

    def run(self, script, limit_s=60, modules=(), options=None, cpus=1, memory_mib=3072):
        """`options`: of kernel modules, e.g. {"kvm_amd": "npt=0"}. Raises RigError when the rig
        itself fails; a script that fails or runs out of time (137) is a Result.

        One CPU, because QEMU 7.2 sometimes keeps the translation of a breakpoint that another CPU has just
        removed again, and that CPU never comes past it. The kernel patches its code so, also in schedule()
        with the first VM made and the last one gone: seen in 2 of 80 boots and 1 of 6 runs of kvm_live.
        With one CPU the guests are no slower. Two where CPUs of the rig shall interrupt each other."""
        with tempfile.TemporaryDirectory(prefix="trapeze-rig-") as folder:
            initrd = os.path.join(folder, "initrd")
            with open(initrd, "wb") as file:
                file.write(self._initramfs(script, modules, options or {}))
            command = [
                "qemu-system-x86_64", "-name", "rig,debug-threads=on", "-accel", "tcg,thread=multi", "-cpu", "max", "-machine",
                "q35", "-smp", str(cpus), "-m", str(memory_mib), "-nodefaults", "-display", "none",
                "-no-reboot", "-kernel", self.kernel, "-initrd", initrd, "-append",
                KERNEL_ARGUMENTS + tsc_argument()]
            for attempt in range(3):
                try:
                    return self._run_once(command, folder, limit_s * FACTOR)
                except Frozen as error:
                    # Twice, and once more where nothing was tested yet.
                    if attempt >= (2 if error.in_boot else 1):
                        raise
                    print(f"rig: {error}\nrig: it is tried again", file=sys.stderr, flush=True)
            raise AssertionError("unreachable")

    def _run_once(self, command, folder, limit):
        emulator = Emulator(command, folder, limit)
        emulator.run(BOOT_SECONDS * FACTOR)
        return self._read_results(emulator)

    @staticmethod
    def _read_results(emulator):
        try:
            with tarfile.open(fileobj=io.BytesIO(read(emulator.paths["results"]))) as archive:
                files = {member.name.removeprefix("./"): archive.extractfile(member).read()
                         for member in archive if member.isfile()}
            return Result(int(files.pop("status")), files.pop("stdout"), files.pop("stderr"), files,
                          tail(emulator.paths["console"]))
        except (tarfile.TarError, KeyError, OSError) as error:
            # A host kernel that dies before the script begins dies of this machine's load.
            text = f"no results came from the rig ({error}); {emulator.outputs()}"
            raise (Frozen(text, in_boot=True) if emulator.begun is None else RigError(text)) from None


def run_tests(module_name):
    """unittest.main(), but what is missing on this machine skips: status 77 for CTest."""
    try:
        Rig()
    except RigMissing as missing:
        print(f"skipped: not here: {missing}")
        sys.exit(77)
    unittest.main(module=module_name, argv=[sys.argv[0], *sys.argv[1:]], verbosity=2)


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
