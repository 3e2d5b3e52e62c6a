"""Trapeze on a real /dev/kvm, in the rig: each class is one boot of the rig.

Environment: TRAPEZE (the program), TRAPEZE_KVM_LIVE (tests/rig/live), TRAPEZE_KIT, TRAPEZE_IMAGES (test
images, for MainJob), and rig.py's.
"""

import json
import os
import re
import subprocess
import sys
import unittest

import rig

TRAPEZE = os.environ.get("TRAPEZE", "build/trapeze")
IS_LONG = os.environ.get("TRAPEZE_RIG_LONG") is not None
LIVE = os.environ.get("TRAPEZE_KVM_LIVE", "build/tests/rig/live/kvm_live")
IMAGES = os.environ.get("TRAPEZE_IMAGES", "build/tests/images")
PEER = os.environ.get("TRAPEZE_VSOCK_PEER", "build/tests/guest/vsock_peer")
OWN_ERROR = 125

# One guest's worth of work whose output says what the guest is, and nothing of the time.
WORK = ("uname -srm; nproc; seq 1 3000 | sha256sum; echo hello >/tmp/f; cat /tmp/f; "
        "awk 'BEGIN { printf \"%.12f\\n\", atan2(1, 1) * 4 }'; "
        "modprobe virtio_rng; head -c 64 /dev/hwrng | wc -c; exit 7")


class Case:
    """What one `trapeze run` in the rig left."""

    def __init__(self, result, name):
        assert f"{name}.status" in result.files, f"{name} did not come to its end: {result}"
        self.status = int(result.files[f"{name}.status"])
        self.out = result.files[f"{name}.out"]
        self.err = result.files[f"{name}.err"].decode(errors="replace")
        self.stats = {}
        for line in self.err.splitlines():
            words = line.split(" ")
            if len(words) == 2 and words[1].isdigit():
                self.stats[words[0]] = int(words[1])

    def exits_but_serial(self):
        return self.stats["exit.all"] - sum(self.stats.get(f"io.{port:#x}", 0)
                                            for port in range(0x3f8, 0x400))

    def __repr__(self):
        return f"status {self.status}\n{self.out[-2000:]}\n{self.err[-3000:]}"


def case(name, command):
    return (f"echo {name} >&2; ( {command} ) >$RESULTS/{name}.out 2>$RESULTS/{name}.err; "
            f"echo $? >$RESULTS/{name}.status\n")


def run(name, options, command, accel="kvm", stdin="/dev/null"):
    quoted = command.replace("'", "'\\''")
    return case(name, f"trapeze run --accel {accel} --timeout $GUEST_SECONDS --stats {options} "
                f"-- sh -c '{quoted}' <{stdin}")


class Memory:
    """What a process has for itself, by its smaps: unique resident bytes by what they are."""

    def __init__(self, smaps):
        self.by_name = {}
        self.guest = 0
        # Guest RAM lies between two guards of 2 GiB (memory/guest_memory.h).
        areas, guards = [], []
        for line in smaps.splitlines():
            head = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+ *(.*)", line)
            if head:
                start, end = int(head[1], 16), int(head[2], 16)
                areas.append([start, head[4] or "anonymous", 0])
                if head[3] == "---p" and end - start >= 2 << 30:
                    guards.append(start)
            elif value := re.match(r"Private_(?:Clean|Dirty): +(\d+) kB", line):
                areas[-1][2] += int(value[1]) << 10
        for start, name, size in areas:
            if guards and min(guards) <= start <= max(guards):
                self.guest += size
            elif size:
                self.by_name[name] = self.by_name.get(name, 0) + size
        self.own = sum(self.by_name.values())

    def __repr__(self):
        lines = sorted(self.by_name.items(), key=lambda item: -item[1])
        return "\n".join([f"{self.own >> 10} KiB beyond {self.guest >> 10} KiB of guest RAM",
                          *(f"{size >> 10:6} {name}" for name, size in lines)])


def boot(script, limit_s, programs=(), **options):
    host = rig.Rig()
    for program in programs:
        path, target = program if isinstance(program, tuple) else (program, program)
        host.add_program(os.path.realpath(path), target)
    host.add_program(TRAPEZE, "/usr/bin/trapeze")
    host.add_program(LIVE, "/usr/bin/kvm_live")
    host.add_kit()
    return host.run("export TRAPEZE_KIT=/kit\n" + script, limit_s=limit_s, **options)


class Live(unittest.TestCase):
    """The unit tests of accel/kvm that need a vCPU."""

    def test_live(self):
        self.run_there("kvm_live", 120)

    @unittest.skipUnless(IS_LONG, "rig-long does that")
    def test_many_kicks_on_two_cpus(self):
        # No more than this: QEMU 7.2 can freeze with two when a VM comes or goes and KVM patches the kernel's code.
        self.run_there("TRAPEZE_RIG_LONG=1 kvm_live --gtest_filter=Live.no_kick_is_lost", 900, cpus=2)

    def run_there(self, script, limit_s, **options):
        result = boot(script, limit_s, **options)
        print(result.stdout.decode())
        self.assertEqual(result.status, 0, result)
        self.assertIn(b"[  PASSED  ]", result.stdout)


class Guests(unittest.TestCase):
    """A stock kernel with the kit's initramfs."""

    @classmethod
    def setUpClass(cls):
        script = run("one", "", WORK)
        script += run("split", "--cpus 2 --irqchip split", WORK)
        busy = "i=0; while [ $i -lt 50 ]; do head -c 64 /dev/hwrng; i=$((i+1)); done | wc -c; seq 1 20000"
        script += run("quiet", "", "modprobe virtio_rng; true")
        script += run("busy", "", "modprobe virtio_rng; " + busy)
        script += ("trapeze run --accel kvm --memory 128M -- sh -c 'echo up; sleep 1000' >/tmp/up & pid=$!\n"
                   "until grep -q up /tmp/up; do kill -0 $pid || exit 1; sleep 0.2; done; sleep 1\n"
                   "cat /proc/$pid/smaps >$RESULTS/smaps; kill $pid; wait $pid\n")
        script += case("auto", "trapeze run --verbose --cpus 2 --timeout $GUEST_SECONDS --timeline - -- nproc")
        cls.result = boot(script, 240)

    def test_output_is_that_of_the_software_engine(self):
        for name, cpus in (("one", 1), ("split", 2)):
            soft = subprocess.run([TRAPEZE, "run", "--accel", "soft", "--cpus", str(cpus), "--",
                                   "sh", "-c", WORK], stdin=subprocess.DEVNULL,
                                  capture_output=True, check=False, timeout=600)
            kvm = Case(self.result, name)
            self.assertEqual((kvm.status, kvm.out), (soft.returncode, soft.stdout), kvm)
            self.assertEqual(kvm.status, 7)

    def test_exits_are_listed_by_reason(self):
        kvm = Case(self.result, "one")
        self.assertEqual(kvm.stats["exit.all"], kvm.stats["exit.io"] + kvm.stats["exit.mmio"], kvm)
        self.assertLess(kvm.stats["exit.all"], 4000, kvm)

    def test_console_and_rng_cost_no_exit(self):
        """50 reads of the random number generator and 100 kB of output: the doorbells are
        eventfds, so there are no more exits than without them, but for timekeeping."""
        quiet, busy = Case(self.result, "quiet"), Case(self.result, "busy")
        self.assertEqual(busy.status, 0, busy)
        self.assertTrue(busy.out.startswith(b"3200\n1\n2\n"), busy)
        # Kernels complain of stalls on the serial port when this machine is busy.
        self.assertLess(busy.exits_but_serial() - quiet.exits_but_serial(), 40, (quiet, busy))

    def test_memory_beyond_the_guests(self):
        """Alone on its host: nobody shares the program and its libraries."""
        memory = Memory(self.result.files["smaps"].decode())
        print(memory)
        self.assertGreater(memory.guest, 20 << 20, memory)
        self.assertLessEqual(memory.own, 5 << 20, memory)

    def test_auto_takes_kvm_and_says_so(self):
        auto = Case(self.result, "auto")
        self.assertEqual(auto.status, 0, auto)
        self.assertTrue(auto.out.startswith(b"2\n"), auto)
        self.assertIn("accelerator: kvm: hardware virtualization (AMD-V)", auto.err)
        self.assertIn(b'"accel": "kvm"', auto.out)


class MainJob(unittest.TestCase):
    """tests/guest/run_test.py inside the rig, with both kinds of irqchip: what `make test` has time for.
    MainJobLong has all of it."""

    def run_there(self, irqchip, cases, limit_s):
        host = rig.Rig()
        host.add_python()
        host.add_program(TRAPEZE, "/usr/bin/trapeze.real")
        host.add_kit()
        host.add_file(os.path.join(host.kit, "vmlinuz"), "/kit/vmlinuz")
        for name in os.listdir(IMAGES):
            if name.endswith(".elf"):
                host.add_file(os.path.join(IMAGES, name), "/images/" + name)
        host.add_file(os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                   "../guest/run_test.py"), "/run_test.py")
        # Every run of the tests with KVM, whatever options they give.
        host.add_text("/usr/bin/trapeze", "#!/bin/sh\ncase \"$*\" in *--accel*|[!r]*|run\\ --help) "
                      "exec trapeze.real \"$@\";; run*) ;; *) exec trapeze.real \"$@\";; esac\n"
                      f"shift; exec trapeze.real run --accel kvm --irqchip {irqchip} \"$@\"\n")
        result = host.run("export TRAPEZE=/usr/bin/trapeze TRAPEZE_KIT=/kit TRAPEZE_IMAGES=/images "
                          "TRAPEZE_TEST_STDIN_MIB=1 TRAPEZE_TEST_SECONDS=$GUEST_SECONDS\n"
                          f"python3 /run_test.py -v {cases} 2>&1", limit_s=limit_s)
        print(result.stdout.decode(errors="replace")[-8000:])
        self.assertEqual(result.status, 0, result)
        self.assertNotIn(b"Ran 0 tests", result.stdout)

    def test_kernel_irqchip(self):
        self.run_there("kernel", "Terminal Failure.test_kernel_panic "
                       "Command.test_large_stdin_comes_back_on_both_streams "
                       "OwnKernel.test_multiboot_pvh_and_long_mode_images OwnKernel.test_reset "
                       "OwnKernel.test_hang_and_spin_end_by_the_timeout", 200)

    def test_split_irqchip(self):
        self.run_there("split", "Command.test_large_stdin_arrives_complete "
                       "Command.test_status_of_a_signal Failure.test_reset_by_the_command "
                       "OwnKernel.test_multiboot_pvh_and_long_mode_images "
                       "OwnKernel.test_triple_fault OwnKernel.test_power_off", 200)


class MainJobLong(MainJob):
    """All cases of all classes: takes long, so it is in a target of its own."""

    test_kernel_irqchip = test_split_irqchip = None


for irqchip_kind in ("kernel", "split"):
    for case_class, seconds in (("Command", 1200), ("Failure", 300), ("Terminal", 200),
                                ("OwnKernel", 600), ("BadInput", 600)):
        setattr(MainJobLong, f"test_{case_class.lower()}_with_{irqchip_kind}_irqchip",
                lambda self, a=irqchip_kind, b=case_class, c=seconds: self.run_there(a, b, c))


class Vhost(unittest.TestCase):
    """A card on a tap of the rig, whose frames the rig's kernel moves, and a vsock, whose packets it moves."""

    # Both ways through the same connection's worth of bytes, and the sums of what came.
    GUEST = ("wget -q -O /tmp/down http://10.77.0.1:8080/down && sha256sum </tmp/down && "
             "nc 10.77.0.1 5000 </tmp/down && ip link show eth0 >/dev/null && echo sent")
    # The program comes on stdin. Both ways at the same time: once the guest connects, once the host, to another
    # life of the driver. It is in use until the guest's kernel has heard that the first connection has ended.
    SOCKETS = ("cat >/tmp/peer; chmod +x /tmp/peer; head -c 2000003 /dev/urandom >/tmp/up; sha256sum </tmp/up; "
               "/tmp/peer call 5000 </tmp/up | sha256sum; driver=vmw_vsock_virtio_transport; "
               "until rmmod $driver; do sleep 0.1; done; modprobe $driver && "
               "/tmp/peer answer 6000 </tmp/up | sha256sum")
    HOST = ("vsock_peer answer 5000 </www/down | sha256sum >$RESULTS/answered\n"
            + case("taken", "trapeze run --vsock vhost,cid=77 -- true")
            + case("named", "trapeze run --vsock vhost,cid=78 --name n -- true")
            + case("agent", "vsock_peer call 1000 77 </dev/null")
            + "until vsock_peer call 6000 77 </www/down >/tmp/called; do sleep 0.2; done\n"
            "sha256sum </tmp/called >$RESULTS/called\n")
    # From each CPU, which have a pair of queues each; and whether the second pair had something to tell.
    PAIRS = ("for cpu in 1 2; do taskset $cpu wget -q -O - http://10.79.0.1:8080/down | sha256sum; done; "
             "awk '/virtio[0-9]+-(in|out)put.1/ { count += $2 + $3 } END { print(count > 0) }' /proc/interrupts")
    WATCHER = "echo up; until [ $(cat /sys/class/net/eth0/carrier) = 0 ]; do sleep 0.1; done; echo down"

    @classmethod
    def setUpClass(cls):
        # nc ends with its stdin, and the other side's with it.
        script = ("ip link set lo up; tunctl -t tap0; ip addr add 10.77.0.1/24 dev tap0; ip link set tap0 up\n"
                  "mkdir /www; head -c 2097152 /dev/urandom >/www/down; httpd -p 8080 -h /www\n"
                  "sha256sum </www/down >$RESULTS/sum; sleep 1000 | nc -l -p 5000 | sha256sum >$RESULTS/sent &\n"
                  "(until ps | grep '[[]vhost-' >$RESULTS/thread; do sleep 0.2; done) &\n")
        script += run("tap", "--verbose --net tap=tap0,ip=10.77.0.2/24", cls.GUEST)
        script += ("/sbin/ip tuntap add dev tap2 mode tap multi_queue; ip addr add 10.79.0.1/24 dev tap2\n"
                   "ip link set tap2 up; (until ps | grep '[[]vhost-' >$RESULTS/threads && "
                   "[ $(wc -l <$RESULTS/threads) = 2 ]; do sleep 0.2; done) &\n")
        script += run("pairs", "--verbose --cpus 2 --net tap=tap2,queues=2,ip=10.79.0.2/24", cls.PAIRS)
        script += f"({cls.HOST}) &\n"
        script += run("vsock", "--vsock vhost,cid=77", cls.SOCKETS, stdin="/usr/bin/vsock_peer")
        script += case("doctor", "trapeze doctor --json")
        script += "for i in $(seq 1 50); do [ -s $RESULTS/sent -a -s $RESULTS/called ] && break; sleep 0.2; done\n"
        # By its path: the shell's own knows no taps.
        script += ("tunctl -t tap1; ip link set tap1 up\n"
                   "(until grep up $RESULTS/gone.out; do sleep 0.2; done; /sbin/ip link del tap1) >&2 &\n")
        script += run("gone", "--net tap=tap1,ip=10.78.0.2/24", cls.WATCHER)
        cls.result = boot(script, 220, programs=["/sbin/ip", (PEER, "/usr/bin/vsock_peer")], modules=rig.VHOST_MODULES)

    def test_data_comes_whole_in_both_directions(self):
        tap, total = Case(self.result, "tap"), self.result.files["sum"]
        self.assertEqual((tap.status, tap.out), (0, total + b"sent\n"), tap)
        self.assertEqual(self.result.files["sent"], total, tap)

    def test_the_kernel_moves_the_frames_and_we_say_so(self):
        self.assertIn("tap0: with vhost-net", Case(self.result, "tap").err)
        self.assertIn(b"vhost-", self.result.files["thread"])

    def test_pairs_of_queues_have_a_thread_of_the_kernel_each(self):
        pairs, total = Case(self.result, "pairs"), self.result.files["sum"]
        self.assertEqual((pairs.status, pairs.out), (0, total + total + b"1\n"), pairs)
        self.assertIn("tap2: with vhost-net", pairs.err)
        self.assertEqual(self.result.files["threads"].count(b"vhost-"), 2)

    def test_interface_that_is_removed_is_a_link_that_is_down(self):
        gone = Case(self.result, "gone")
        self.assertEqual((gone.status, gone.out), (0, b"up\ndown\n"), gone)
        self.assertIn("the interface tap1 is gone", gone.err)

    def test_sockets_bring_data_whole_in_both_directions(self):
        vsock, down = Case(self.result, "vsock"), self.result.files["sum"]
        self.assertEqual(vsock.status, 0, vsock)
        up, *arrived = vsock.out.splitlines(keepends=True)
        self.assertEqual(arrived, [down, down], vsock)
        for name in ("answered", "called"):
            self.assertEqual(self.result.files[name], up, vsock)

    def test_agent_cannot_be_reached_by_sockets(self):
        agent = Case(self.result, "agent")
        self.assertEqual(agent.status, 1, agent)
        self.assertIn("connect: Connection reset", agent.err)

    def test_cid_of_another_machine_is_refused(self):
        for name, word in (("taken", "another machine of this host has CID 77; choose another one with cid=N"),
                           ("named", "trapeze exec needs the vsock")):
            refused = Case(self.result, name)
            self.assertEqual(refused.status, OWN_ERROR, refused)
            self.assertIn(word, refused.err)

    def test_doctor_finds_the_device(self):
        facts = json.loads(Case(self.result, "doctor").out)
        self.assertEqual(facts["checks"]["vhost_vsock"]["state"], "good")
        self.assertEqual(facts["checks"]["vhost_net"]["state"], "good")
        self.assertEqual(facts["checks"]["tun"]["state"], "good")


class BadInput(unittest.TestCase):
    """/dev/kvm as it should not be: no guest is booted."""

    @classmethod
    def setUpClass(cls):
        run_kvm = f"trapeze run --accel kvm --timeout $GUEST_SECONDS --kernel /kit/vmlinux"
        script = case("memory", run_kvm + " --memory 1024G")
        script += case("model", run_kvm + " --cpu x86-64-v2")
        script += case("doctor", "trapeze doctor")
        script += case("json", "trapeze doctor --json")
        script += case("bench", "trapeze doctor --bench")
        script += "mv /dev/kvm /dev/kvm.there\n"
        script += case("missing", run_kvm)
        script += "mknod /dev/kvm c 1 3\n"
        script += case("null", run_kvm)
        script += "rm /dev/kvm; mknod /dev/kvm c 10 250\n"
        script += case("unloaded", run_kvm)
        # Root may open anything; a user of the rig may not.
        script += "rm /dev/kvm; mv /dev/kvm.there /dev/kvm; chmod 600 /dev/kvm\n"
        script += "mkdir -p /etc; echo 'user:x:1000:1000::/tmp:/bin/sh' >/etc/passwd; chmod 777 /tmp\n"
        script += case("unreadable", f"su user -c 'TRAPEZE_KIT=/kit {run_kvm}'")
        cls.result = boot(script, 90)

    def expect(self, name, *words):
        outcome = Case(self.result, name)
        self.assertEqual(outcome.status, OWN_ERROR, outcome)
        for word in words:
            self.assertIn(word, outcome.err, outcome)

    def test_messages_name_cause_and_way_out(self):
        self.expect("missing", "/dev/kvm: No such file", "--accel soft")
        self.expect("null", "does not answer as KVM")
        self.expect("unloaded", "no KVM module is loaded")
        self.expect("unreadable", "/dev/kvm: Permission denied", "group", "--accel soft")

    def test_what_the_host_cannot_is_refused_with_its_limit(self):
        self.expect("memory", "--memory: 1048576 MiB")
        self.expect("model", "--cpu", "--accel soft")

    def test_doctor_tells_what_is_there(self):
        doctor = Case(self.result, "doctor")
        self.assertEqual(doctor.status, 0, doctor)
        self.assertIn(b"auto takes kvm: hardware virtualization (AMD-V)", doctor.out)
        facts = json.loads(Case(self.result, "json").out)
        self.assertEqual(facts["kvm"]["kind"], "hardware")
        self.assertEqual(facts["kvm"]["capabilities"]["IOEVENTFD"], 1)
        self.assertEqual(facts["checks"]["vhost_net"]["state"], "missing")
        self.assertIn("modprobe vhost_net", facts["checks"]["vhost_net"]["advice"])

    def test_doctor_measures(self):
        bench = Case(self.result, "bench")
        self.assertEqual(bench.status, 0, bench)
        self.assertRegex(bench.out.decode(), r"(?s)entry_exit +\d+ ns.*port_write +\d+ ns"
                         r".*mmio_write +\d+ ns.*doorbell +\d+ ns.*interrupt +\d+ ns")


if __name__ == "__main__":
    rig.run_tests("__main__")
