"""virtio-net with the stock kernel's driver, on the user network and on taps.

The process moves into network and mount namespaces of its own: its loopback, its interfaces, its
/etc/resolv.conf. What needs them is skipped where that is not permitted.

Environment as for run_test.py, TRAPEZE_NET_PEER (the program, see programs/), TRAPEZE_TEST_NET_MIB
(size of downloads; 64), TRAPEZE_TEST_OPTIONS (options of `trapeze run` besides).
"""

import ctypes
import functools
import hashlib
import http.server
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import unittest

from run_test import LIMIT, PROGRAM, GuestCase, Outcome, trapeze

PEER = os.environ.get("TRAPEZE_NET_PEER", "build/tests/guest/net_peer")
DOWNLOAD_MIB = int(os.environ.get("TRAPEZE_TEST_NET_MIB", "64"))
OPTIONS = os.environ.get("TRAPEZE_TEST_OPTIONS", "").split()
HOST = "192.0.2.1"  # an address of this host that is no loopback address
HTTP_PORT, PEER_PORT = 8080, 5555
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
LIBC = ctypes.CDLL(None, use_errno=True)
# The kit has no place for the program: it comes on stdin.
INSTALL = "dd of=/tmp/peer bs={size} count=1 iflag=fullblock 2>/dev/null; chmod +x /tmp/peer; "


def host(command, check=True):
    return subprocess.run(["sh", "-c", command], check=check, capture_output=True, timeout=LIMIT)


@functools.cache
def enter_namespaces():
    """False when that is not permitted. Once for the process, before it has threads."""
    user, group = os.geteuid(), os.getegid()
    if LIBC.unshare(CLONE_NEWNET | CLONE_NEWNS) != 0:
        if LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS) != 0:
            return False
        for name, line in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"),
                           ("gid_map", f"0 {group} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(line)
    LIBC.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    host("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6", check=False)
    host(f"ip link set lo up && ip addr add {HOST}/32 dev lo")
    resolver = tempfile.NamedTemporaryFile("w", prefix="trapeze-net-", delete=False)
    resolver.write("nameserver 127.0.0.1\n")
    resolver.close()
    os.chmod(resolver.name, 0o644)
    LIBC.mount(resolver.name.encode(), os.path.realpath("/etc/resolv.conf").encode(), None,
               MS_BIND, None)
    os.unlink(resolver.name)
    return True


class Files(http.server.BaseHTTPRequestHandler):
    """/N: N MiB of the same bytes each time."""

    BLOCK = random.Random(1).randbytes(1 << 20)

    def do_GET(self):  # pylint: disable=invalid-name
        count = int(self.path.strip("/"))
        self.send_response(200)
        self.send_header("Content-Length", str(count << 20))
        self.end_headers()
        for _ in range(count):
            self.wfile.write(self.BLOCK)

    def log_message(self, *_):  # pylint: disable=arguments-differ
        pass

    @classmethod
    def digest(cls, count):
        digest = hashlib.sha256()
        for _ in range(count):
            digest.update(cls.BLOCK)
        return digest.hexdigest()


class NetCase(GuestCase):
    @classmethod
    def setUpClass(cls):
        if not enter_namespaces():
            raise unittest.SkipTest("network namespaces are not permitted here")
        cls.servers = []
        for address in (HOST, "127.0.0.1"):
            server = http.server.ThreadingHTTPServer((address, HTTP_PORT), Files)
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
            cls.addClassCleanup(server.server_close)
            cls.addClassCleanup(server.shutdown)
        peer = subprocess.Popen([PEER, "serve", "0.0.0.0", str(PEER_PORT)], stdout=subprocess.PIPE)
        cls.addClassCleanup(peer.wait)
        cls.addClassCleanup(peer.kill)
        peer.stdout.readline()
        peer.stdout.close()
        with open(PEER, "rb") as file:
            cls.program = file.read()

    def guest(self, net, script, *options, peer=False):
        """Runs a script in a guest with that card; with `peer`, the program is /tmp/peer there."""
        stdin = self.program if peer else b""
        script = (INSTALL.format(size=len(stdin)) if peer else "") + script
        return trapeze("run", "--net", net, *options, *OPTIONS, "--", "sh", "-c", script,
                       stdin=stdin)

    def start(self, net, script, *options, peer=False):
        script = (INSTALL.format(size=len(self.program)) if peer else "") + script
        process = subprocess.Popen(
            [PROGRAM, "run", "--net", net, *options, *OPTIONS, "--", "sh", "-c", script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for stream in (process.stdin, process.stdout, process.stderr):
            self.addCleanup(stream.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        if peer:
            process.stdin.write(self.program)
            process.stdin.flush()
        return process

    @staticmethod
    def end(process):
        stdout, stderr = process.communicate(timeout=LIMIT)
        return Outcome(process.returncode, stdout, stderr.decode(errors="replace"))

    def expect_download(self, net, address, *options, count=DOWNLOAD_MIB):
        outcome = self.guest(net, f"wget -q -O- http://{address}:{HTTP_PORT}/{count} | sha256sum",
                             *options)
        self.expect(outcome, 0, f"{Files.digest(count)}  -\n".encode(), "")

    def expect_traffic(self, net, address, *options):
        """Both directions, one and several streams, and datagrams."""
        place = f"{address} {PEER_PORT}"
        outcome = self.guest(
            net, f"/tmp/peer send {place} 1 && /tmp/peer receive {place} 1 && "
                 f"/tmp/peer send {place} 1 4 && /tmp/peer receive {place} 1 4 && "
                 f"/tmp/peer ping {place} 1 && /tmp/peer udp {place} 50 1400 && "
                 f"/tmp/peer udp {place} 10 20000", *options, peer=True)
        self.expect(outcome, 0)
        lines = [line.split() for line in outcome.stdout.decode().splitlines()]
        self.assertEqual([line[0] for line in lines],
                         ["send", "receive", "send", "receive", "ping", "udp", "udp"], outcome)
        for line in lines[:4]:
            self.assertGreater(int(line[1]), 1 << 20, outcome)
        self.assertEqual(lines[5:], [["udp", "50", "0"], ["udp", "10", "0"]], outcome)


class NameServer:
    """Answers every question for an A record with HOST."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 53))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                query, sender = self.socket.recvfrom(512)
            except OSError:
                return
            end = query.index(b"\0", 12) + 5
            is_address = query[end - 4:end - 2] == b"\0\1"
            head = query[:2] + struct.pack(">HHHHH", 0x8180, 1, int(is_address), 0, 0)
            record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(HOST)
            self.socket.sendto(head + query[12:end] + (record if is_address else b""), sender)

    def close(self):
        self.socket.close()


class User(NetCase):
    """--net user: what a guest can reach."""

    def test_address_route_and_name_server_are_there_at_once(self):
        outcome = self.guest("user", "ip -4 -o addr show eth0; ip route; cat /etc/resolv.conf; "
                                     "cat /sys/class/net/eth0/mtu")
        self.expect(outcome, 0, stderr="")
        text = outcome.stdout.decode()
        for word in ("inet 10.0.2.15/24", "default via 10.0.2.2 dev eth0", "nameserver 10.0.2.3",
                     "32768"):
            self.assertIn(word, text)

    def test_chosen_network_mac_and_mtu(self):
        outcome = self.guest("user,net=10.7.5.0,mac=02:00:00:AB:cd:01,mtu=1500",
                             "ip addr show eth0; ip route; cat /etc/resolv.conf")
        self.expect(outcome, 0, stderr="")
        text = outcome.stdout.decode()
        for word in ("inet 10.7.5.15/24", "default via 10.7.5.2", "nameserver 10.7.5.3",
                     "02:00:00:ab:cd:01", "mtu 1500"):
            self.assertIn(word, text)

    def test_dhcp(self):
        outcome = self.guest("user", "ip addr flush dev eth0; udhcpc -i eth0 -n -q -f -s /init 2>&1; "
                                     "ip -4 -o addr show eth0")
        self.expect(outcome, 0)
        self.assertIn(b"lease of 10.0.2.15 obtained from 10.0.2.2", outcome.stdout)
        self.assertIn(b"inet 10.0.2.15/24", outcome.stdout)

    def test_download_with_checksum(self):
        self.expect_download("user", HOST)
        self.expect_download("user,mtu=1500", HOST, count=8)

    def test_traffic_in_both_directions(self):
        self.expect_traffic("user", HOST, "--cpus", "2")

    def test_names_are_asked_of_the_hosts_name_server(self):
        server = NameServer()
        self.addCleanup(server.close)
        outcome = self.guest("user", f"wget -q -O- http://files.example.org:{HTTP_PORT}/1 | "
                                     "sha256sum; nslookup -type=a example.com")
        self.expect(outcome, 0)
        self.assertIn(Files.digest(1).encode(), outcome.stdout)
        self.assertIn(f"Address: {HOST}".encode(), outcome.stdout)

    def test_loopback_of_the_host_is_out_of_reach_unless_wanted(self):
        script = f"wget -q -O- http://10.0.2.2:{HTTP_PORT}/1 2>&1 | sha256sum"
        outcome = self.guest("user", script)
        self.expect(outcome, 0)
        self.assertNotIn(Files.digest(1).encode(), outcome.stdout)
        self.expect(self.guest("user,host-loopback=on", script), 0,
                    f"{Files.digest(1)}  -\n".encode(), "")

    def test_ping(self):
        self.expect(self.guest("user", "ping -c 2 -W 5 10.0.2.2 >/dev/null"), 0, b"", "")
        raw = socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP
        try:
            socket.socket(*raw).close()
        except PermissionError:
            self.skipTest("this host lets us send no pings")
        self.expect(self.guest("user", f"ping -c 2 -W 5 {HOST} >/dev/null"), 0, b"", "")

    def test_port_that_nobody_listens_on_is_refused(self):
        outcome = self.guest("user", f"wget -q -O- http://{HOST}:9 2>&1; echo $?")
        self.assertIn(b"refused", outcome.stdout, outcome)

    def test_many_connections_at_once(self):
        outcome = self.guest("user", f"for i in $(seq 60); do /tmp/peer udp {HOST} {PEER_PORT} 3 100 & "
                                     "done | grep -c 'udp 3 0'; "
                                     f"/tmp/peer send {HOST} {PEER_PORT} 1 60 | cut -d' ' -f1",
                             peer=True)
        self.expect(outcome, 0, b"60\nsend\n", "")

    def test_bandwidth_limit(self):
        begin = time.monotonic()
        self.expect_download("user,rx-bw=4M", HOST, count=12)
        self.assertGreater(time.monotonic() - begin, 1.9)

    def test_no_card_no_driver(self):
        outcome = trapeze("run", *OPTIONS, "--", "sh", "-c", "lsmod; ls /sys/class/net")
        self.expect(outcome, 0)
        self.assertNotIn(b"virtio_net", outcome.stdout)
        self.assertNotIn(b"eth0", outcome.stdout)

    def test_killed_helper_is_a_link_that_is_down(self):
        process = self.start("user", "echo up; while [ $(cat /sys/class/net/eth0/carrier) = 1 ]; "
                                     "do ping -c 1 -W 1 10.0.2.2 >/dev/null; done; echo down")
        self.assertEqual(process.stdout.readline(), b"up\n")
        children = host(f"pgrep -P {process.pid}").stdout.split()
        self.assertEqual(len(children), 1)
        os.kill(int(children[0]), signal.SIGKILL)
        outcome = self.end(process)
        self.expect(outcome, 0, b"down\n")
        self.assertIn("no network any more", outcome.stderr)

    def test_helper_ends_with_the_machine(self):
        process = self.start("user", "echo up; sleep 1000")
        process.stdout.readline()
        child = int(host(f"pgrep -P {process.pid}").stdout)
        process.kill()
        process.wait()
        for _ in range(100):
            if not os.path.exists(f"/proc/{child}"):
                return
            with open(f"/proc/{child}/stat", encoding="ascii") as file:
                if file.read().split()[2] == "Z":
                    return
            time.sleep(0.1)
        self.fail("the helper is still there")

    def test_root_images_get_a_name_server_too(self):
        if shutil.which("mksquashfs") is None:
            self.skipTest("there is no mksquashfs here")
        for name, make in (("file", lambda path: open(path, "w", encoding="ascii").close()),
                           ("link", lambda path: os.symlink("../run/stub/resolv.conf", path)),
                           ("none", lambda path: None)):
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                tree = os.path.join(folder, "tree")
                for directory in ("bin", "dev", "proc", "sys", "tmp", "run", "etc"):
                    os.makedirs(os.path.join(tree, directory))
                shutil.copy(shutil.which("busybox"), os.path.join(tree, "bin/busybox"))
                for applet in ("sh", "cat"):
                    os.symlink("busybox", os.path.join(tree, "bin", applet))
                make(os.path.join(tree, "etc/resolv.conf"))
                image = os.path.join(folder, "image")
                host(f"mksquashfs {tree} {image} -quiet -no-progress")
                outcome = self.guest("user", "cat /etc/resolv.conf", "--rootfs", image)
                self.expect(outcome, 0, b"nameserver 10.0.2.3\n", "")


class Publish(NetCase):
    """Ports of the host that lead into the guest."""

    @staticmethod
    def free_port(kind=socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    def fetch(self, address, port, process):
        """The guest's service may not be there yet."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            self.assertIsNone(process.poll())
            try:
                with socket.create_connection((address, port), timeout=5) as connection:
                    connection.sendall(b"GET /f HTTP/1.0\r\n\r\n")
                    answer = b""
                    while part := connection.recv(65536):
                        answer += part
                if answer:
                    return answer
            except OSError:
                pass
            time.sleep(0.2)
        self.fail("no answer")

    def test_connections_from_this_host_and_from_others(self):
        local, everywhere = self.free_port(), self.free_port()
        process = self.start("user", "mkdir /w; head -c 300000 /dev/zero > /w/f; "
                                     "httpd -f -p 80 -h /w",
                             "--publish", f"{local}:80", "--publish", f"0.0.0.0:{everywhere}:80")
        self.assertTrue(self.fetch("127.0.0.1", local, process).endswith(bytes(300000)))
        self.assertTrue(self.fetch(HOST, everywhere, process).endswith(bytes(300000)))
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection((HOST, local), timeout=5)

    def test_datagrams(self):
        port = self.free_port(socket.SOCK_DGRAM)
        process = self.start("user", "exec /tmp/peer udp-serve 53 5", "--publish", f"{port}:53/udp",
                             peer=True)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(LIMIT)
            client.connect(("127.0.0.1", port))
            for i in range(5):
                client.send(b"datagram %d" % i)
                self.assertEqual(client.recv(100), b"datagram %d" % i)
        self.expect(self.end(process), 0)

    def test_port_in_use_is_named_and_nothing_is_started(self):
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            port = holder.getsockname()[1]
            outcome = self.guest("user", "true", "--publish", f"{self.free_port()}:1", "--publish",
                                 f"{port}:80")
        self.expect_own_error(outcome, str(port), "127.0.0.1", "Address already in use")


class Tap(NetCase):
    """--net tap, in a network namespace with the tap and this process in it."""

    NET = "tap=tapg,ip=10.77.0.2/24,gateway=10.77.0.1"
    SERVER = "10.77.0.1"

    def setUp(self):
        self.make_tap()

    def make_tap(self, flags="", mtu=1500):
        if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
            self.skipTest("no /dev/net/tun here")
        host("ip link del tapg", check=False)
        made = host(f"ip tuntap add dev tapg mode tap {flags} && ip link set tapg mtu {mtu} up && "
                    f"ip addr add {self.SERVER}/24 dev tapg", check=False)
        if made.returncode != 0:
            self.skipTest(f"no tap here: {made.stderr.decode()}")
        self.addCleanup(host, "ip link del tapg", check=False)

    def test_address_and_ping(self):
        outcome = self.guest(self.NET + ",dns=192.0.2.53",
                             "ip -4 -o addr show eth0; ip route; cat /etc/resolv.conf; "
                             f"ping -c 2 {self.SERVER}")
        self.expect(outcome, 0, stderr="")
        text = outcome.stdout.decode()
        for word in ("inet 10.77.0.2/24", "default via 10.77.0.1", "nameserver 192.0.2.53",
                     "2 packets received"):
            self.assertIn(word, text)

    def test_download_with_checksum(self):
        self.expect_download(self.NET, HOST)

    def test_traffic_in_both_directions(self):
        self.expect_traffic(self.NET, self.SERVER)

    def test_offloads_are_used(self):
        script = "grep . /sys/class/net/eth0/mtu; cat /sys/bus/virtio/devices/virtio*/features"
        outcome = self.guest(self.NET, script)
        features = [line for line in outcome.stdout.decode().split() if len(line) == 64]
        self.assertTrue(any(all(line[bit] == "1" for bit in (0, 1, 7, 8, 11, 12, 15))
                            for line in features), outcome)

    def test_several_queues(self):
        self.make_tap("multi_queue")
        outcome = self.guest(self.NET + ",queues=2", "ls -d /sys/class/net/eth0/queues/[rt]x-1; "
                             f"wget -q -O- http://{HOST}:{HTTP_PORT}/8 | sha256sum", "--cpus", "2")
        self.expect(outcome, 0, ("/sys/class/net/eth0/queues/rx-1\n/sys/class/net/eth0/queues/tx-1\n"
                                 f"{Files.digest(8)}  -\n").encode(), "")
        self.expect_traffic(self.NET + ",queues=2", self.SERVER, "--cpus", "2")

    def test_large_mtu(self):
        self.make_tap(mtu=9000)
        outcome = self.guest(self.NET, f"cat /sys/class/net/eth0/mtu; ping -c 1 -s 8900 {self.SERVER}")
        self.expect(outcome, 0)
        self.assertTrue(outcome.stdout.startswith(b"9000\n"), outcome)

    def test_dhcp(self):
        with tempfile.TemporaryDirectory() as folder:
            config = os.path.join(folder, "conf")
            with open(config, "w", encoding="ascii") as file:
                file.write(f"start 10.77.0.50\nend 10.77.0.60\ninterface tapg\npidfile {folder}/pid\n"
                           f"lease_file {folder}/leases\noption subnet 255.255.255.0\n"
                           f"option router {self.SERVER}\noption dns 10.77.0.3\n")
            with open(os.path.join(folder, "leases"), "w", encoding="ascii"):
                pass
            server = subprocess.Popen(["busybox", "udhcpd", "-f", config],
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.addCleanup(server.wait)
            self.addCleanup(server.kill)
            outcome = self.guest("tap=tapg", "ip -4 -o addr show eth0; ip route; "
                                             "cat /etc/resolv.conf")
        self.expect(outcome, 0)
        for word in (b"inet 10.77.0.", b"default via 10.77.0.1", b"nameserver 10.77.0.3"):
            self.assertIn(word, outcome.stdout, outcome)

    def test_tap_that_is_removed_costs_the_link_only(self):
        process = self.start(self.NET, "echo up; while [ $(cat /sys/class/net/eth0/carrier) = 1 ]; "
                                       f"do ping -c 1 -W 1 {self.SERVER} >/dev/null; done; "
                                       f"ping -c 1 -W 1 {self.SERVER} >/dev/null; echo down")
        self.assertEqual(process.stdout.readline(), b"up\n")
        host("ip link del tapg")
        outcome = self.end(process)
        self.expect(outcome, 0, b"down\n")
        self.assertIn("tapg is gone", outcome.stderr)

    def test_two_cards(self):
        outcome = trapeze("run", "--net", "user", "--net", self.NET, *OPTIONS, "--", "sh", "-c",
                          f"ping -c 1 {self.SERVER} && ping -c 1 10.0.2.3 && ls /sys/class/net")
        self.expect(outcome, 0)
        self.assertTrue(outcome.stdout.endswith(b"eth0\neth1\nlo\n"), outcome)

    def test_limits(self):
        begin = time.monotonic()
        self.expect_download(self.NET + ",rx-bw=4M", HOST, count=12)
        self.assertGreater(time.monotonic() - begin, 1.9)
        outcome = self.guest(self.NET + ",tx-bw=4M",
                             f"/tmp/peer send {self.SERVER} {PEER_PORT} 3", peer=True)
        self.expect(outcome, 0)
        _, sent, took = outcome.stdout.split()
        self.assertLess(int(sent) / (int(took) / 1e9), 8e6)


class Iperf(Tap):
    """iperf3 itself, in an image, against the host's."""

    def test_iperf3(self):
        for tool in ("iperf3", "mksquashfs"):
            if shutil.which(tool) is None:
                self.skipTest(f"there is no {tool} here")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        tree, image = os.path.join(folder.name, "tree"), os.path.join(folder.name, "image")
        for directory in ("dev", "proc", "sys", "tmp", "run", "etc", "usr/bin"):
            os.makedirs(os.path.join(tree, directory))
        needed = host("ldd $(which iperf3) | grep -o '/[^ ]*'").stdout.decode().split()
        for path in [shutil.which("iperf3"), *needed]:
            os.makedirs(tree + os.path.dirname(path), exist_ok=True)
            shutil.copy(path, tree + path)
        host(f"mksquashfs {tree} {image} -quiet -no-progress")
        server = subprocess.Popen(["iperf3", "-s", "-B", self.SERVER], stdout=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        time.sleep(1)
        for options in (["-t", "2"], ["-t", "2", "-R"], ["-t", "2", "-u", "-b", "20M", "-l", "1400"]):
            with self.subTest(options):
                outcome = trapeze("run", "--net", self.NET, "--rootfs", image, *OPTIONS, "--",
                                  shutil.which("iperf3"), "-c", self.SERVER, *options)
                self.expect(outcome, 0)
                self.assertIn(b"iperf Done", outcome.stdout)

    # The rest of Tap runs as Tap.
    for name in [name for name in dir(Tap) if name.startswith("test_")]:
        locals()[name] = None
    del name


class BadNet(GuestCase):
    """A message that says which and why, status 125."""

    def refuse(self, *words, options=(), net=None):
        card = [] if net is None else ["--net", net]
        with self.subTest(net=net, options=options):
            outcome = trapeze("run", *card, *options, *OPTIONS, "--", "true")
            self.expect_own_error(outcome, *words)

    def test_options(self):
        for net, word in (("bogus", "user or tap"), ("user,bogus", "bogus"), ("user,x=1", "x"),
                          ("user,mac=1", "mac=1"), ("user,mac=01:00:00:00:00:01", "group"),
                          ("user,mac=00:00:00:00:00:00", "mac="), ("user,mtu=10", "mtu=10"),
                          ("user,mac=02:00:00:00:00:0g", "mac="), ("user,mtu=70000", "mtu=70000"),
                          ("user,mtu=abc", "mtu=abc"), ("user,net=10.0.2.1", "net=10.0.2.1"),
                          ("user,net=127.0.0.0", "net=127"), ("user,queues=2", "queues"),
                          ("user,host-loopback=maybe", "maybe"), ("tap=", "name"),
                          ("tap=x,queues=0", "queues=0"), ("tap=x,queues=17", "16"),
                          ("tap=x,ip=1.2.3.4", "ip=1.2.3.4"), ("tap=x,ip=1.2.3.4/33", "/33"),
                          ("tap=x,gateway=1.1.1.1", "need ip="), ("tap=x,dns=a", "dns=a"),
                          ("tap=x,bw=fast", "bw=fast"), ("tap=x,tx-ops=0", "tx-ops=0"),
                          ("tap=x,host-loopback=on", "host-loopback")):
            self.refuse("--net", word, net=net)
        for text, word in (("80", "PORT:GUESTPORT"), ("0:80", "PORT"), ("70000:80", "PORT"),
                           ("1:2:3", "IPv4"), ("80:80/sctp", "sctp"), (":80", "PORT"),
                           ("::80", "IPv4"), ("80:", "PORT")):
            self.refuse("--publish", word, net="user", options=("--publish", text))
        self.refuse("--publish 80:80", "--net user", options=("--publish", "80:80"))

    def test_taps(self):
        self.refuse("--net tap=nothere", "no interface nothere", "ip tuntap add", net="tap=nothere")
        self.refuse("lo is no tap interface", net="tap=lo")
        self.refuse("15 characters", net="tap=a-name-that-is-too-long")

    def test_too_many_cards(self):
        self.refuse("at most 8", options=["--net", "user"] * 9)


if __name__ == "__main__":
    unittest.main()
