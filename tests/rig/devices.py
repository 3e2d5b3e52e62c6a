"""The figures of disks, shared folders, networks and vsock: KVM against KVM, in the rig.

Inside run bench/block.py, fs.py, net.py and vsock.py as they are, with sizes that fit its speed. Each is
one boot of the rig. Images and folders lie on ext4 on a RAM disk. Times are by the rig's clock: hardware's
are other ones, but the machines can be compared.

  devices.py TRAPEZE FOLDER-OF-GUEST-PROGRAMS [--only block,fs,net,vsock] [--rounds N] [--trapeze-option X]
"""

import argparse
import json
import os
import shlex
import sys

import figures
import rig

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
sys.path.insert(0, os.path.join(ROOT, "bench"))
import pairs  # noqa: E402
import run  # noqa: E402

VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
PROGRAMS = ("disk_load", "fs_load", "net_peer")
DISK_MODULES, DISK_MIB = ("brd",), 320
# Of each section: what it is told besides.
SECTIONS = {
    "block": "--seconds 0.5 --image-mib 48 --folder /disk",
    # The rig's root cannot be pivoted away from, being an initramfs.
    "fs": "--files 300 --data-mib 16 --starts 0 --tree /tree --folder /disk "
          "--virtiofsd-option=-o --virtiofsd-option=sandbox=chroot",
    "net": "--seconds 2 --warm-up 1 --slow-host",
    "vsock": "--seconds 0.5",
}
SCRIPT = """
/sbin/mke2fs -q -F -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 /dev/ram0 &&
mkdir /disk && mount -t ext4 /dev/ram0 /disk || exit 1
cd /repo && python3 bench/{section}.py trapeze --accel kvm --kit /kit --memory 256 --output $RESULTS/samples {options}
"""
SECONDS = 600  # for what does not depend on the number of rounds: boots


def add_folder(host, source, target, suffix=""):
    for folder, folders, names in os.walk(source):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            if name.endswith(suffix):
                path = os.path.join(folder, name)
                host.add_file(path, os.path.join(target, os.path.relpath(path, source)))


def make_rig(trapeze, programs):
    # Made by this binary: with an older one's init the guests would not be as a user finds them.
    host = rig.Rig(run.find_kit(trapeze, os.environ.get("TRAPEZE_KIT")))
    figures.add_monitors(host, trapeze)
    host.add_python()
    host.add_program("/usr/sbin/mke2fs", "/sbin/mke2fs")
    host.add_text("/etc/mke2fs.conf", "[fs_types]\n ext4 = {\n features = has_journal,extent,64bit,dir_index\n }\n")
    host.add_text("/etc/resolv.conf", "nameserver 127.0.0.1\n")
    # busybox's shell would take its own ip, which knows no taps.
    host.add_program(os.path.realpath("/bin/sh"), "/bin/sh")
    host.add_program(os.path.realpath("/sbin/ip"), "/sbin/ip")
    if os.path.exists(VIRTIOFSD):
        host.add_program(VIRTIOFSD, VIRTIOFSD)
    for name in PROGRAMS:
        host.add_program(os.path.join(programs, name), f"/repo/build/tests/guest/{name}")
    add_folder(host, os.path.join(ROOT, "bench"), "/repo/bench", ".py")
    add_folder(host, os.path.join(ROOT, "tests/guest"), "/repo/tests/guest", ".py")
    add_folder(host, os.path.join(ROOT, "src/virtio"), "/tree")
    return host


def measure(host, section, arguments):
    """The section's samples, or None; what it said is printed."""
    options = [*SECTIONS[section].split(), "--rounds", str(arguments.rounds),
               *(f"--trapeze-option={option}" for option in arguments.trapeze_option)]
    if arguments.rows:
        options += ["--rows", arguments.rows]
    result = host.run(SCRIPT.format(section=section, options=shlex.join(options)),
                      limit_s=SECONDS + 200 * arguments.rounds, modules=(*rig.VHOST_MODULES, *DISK_MODULES),
                      options={"brd": f"rd_nr=1 rd_size={DISK_MIB << 10}"}, cpus=arguments.cpus)
    print(result.stdout.decode(), flush=True)
    if result.status != 0 or "samples" not in result.files:
        print(f"{section}: {result}", file=sys.stderr, flush=True)
        return None
    return json.loads(result.files["samples"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trapeze")
    parser.add_argument("programs")
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", help="of one section, comma-separated")
    parser.add_argument("--cpus", type=int, default=1, help="of the rig")
    parser.add_argument("--trapeze-option", action="append", default=[], metavar="--OPTION=VALUE")
    parser.add_argument("--output", default="build/rig-devices.json")
    arguments = parser.parse_args()
    host, found = make_rig(arguments.trapeze, arguments.programs), {}
    for section in arguments.only.split(","):
        found[section] = measure(host, section, arguments)
    with open(arguments.output, "w", encoding="utf-8") as file:
        json.dump(found, file, indent=2)
    measured = list(filter(None, found.values()))
    print("all sections:", pairs.summary([ratio for samples in measured
                                          for ratio in samples["speed_ratios"].values()]).strip())
    return 0 if len(measured) == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
