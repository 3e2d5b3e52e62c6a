"""What goes into the rig: an initramfs, the modules of its kernel, programs with their libraries."""

import glob
import os
import re
import stat
import subprocess
import tempfile
import zlib

from emulator import RigError

UNPACKED = ("arch/x86/kvm", "virt", "drivers/virtio", "drivers/vhost", "drivers/vfio",
            "drivers/char/virtio_console.ko", "drivers/net/tun.ko", "drivers/net/tap.ko",
            "net/vmw_vsock", "drivers/block/brd.ko")


class RigMissing(RigError):
    """Something that the rig is made of is not on this machine: a test is skipped then."""


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
        self.folder = os.path.join(cache, f"{release}-{zlib.crc32(repr(UNPACKED).encode()):08x}")
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


def find_busybox():
    for path in ("/usr/bin/busybox", "/bin/busybox"):
        if os.path.exists(path) and not shared_libraries(path):
            return path
    raise RigMissing("a static busybox (install busybox-static)")
