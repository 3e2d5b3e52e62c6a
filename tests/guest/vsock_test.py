"""virtio-vsock with the stock kernel's driver: over unix sockets (Firecracker's CONNECT protocol), and with the
host's AF_VSOCK where there is a /dev/vhost-vsock (tests/rig has one).

Environment as for run_test.py, TRAPEZE_VSOCK_PEER (the program, see programs/), and
TRAPEZE_TEST_OPTIONS (options of `trapeze run` besides).
"""

import os
import random
import resource
import socket
import subprocess
import tempfile
import threading
import unittest

from run_test import LIMIT, PROGRAM, GuestCase, trapeze

PEER = os.environ.get("TRAPEZE_VSOCK_PEER", "build/tests/guest/vsock_peer")
PORT = 5000
COUNT = 1000
# The kit has no place for the program: it comes on stdin, followed by what the program reads.
INSTALL = ("dd of=/tmp/peer bs={size} count=1 iflag=fullblock 2>/dev/null && chmod +x /tmp/peer && "
           "exec /tmp/peer {arguments}")


def receive_line(connection):
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            break
        line += byte
    return line


class VsockCase(GuestCase):
    def setUp(self):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        folder = tempfile.TemporaryDirectory(prefix="trapeze-vsock-")
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "v.sock")
        with open(PEER, "rb") as file:
            self.program = file.read()

    def start(self, *arguments, vsock=None, **streams):
        script = INSTALL.format(size=len(self.program), arguments=" ".join(map(str, arguments)))
        options = os.environ.get("TRAPEZE_TEST_OPTIONS", "").split()
        process = subprocess.Popen(
            [PROGRAM, "run", "--vsock", vsock or self.path, *options, "--", "sh", "-c", script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, **streams)
        self.addCleanup(process.stdin.close)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        process.stdin.write(self.program)
        process.stdin.flush()
        return process

    def connect(self, port=PORT):
        connection = socket.socket(socket.AF_UNIX)
        self.addCleanup(connection.close)
        connection.settimeout(LIMIT)
        connection.connect(self.path)
        connection.sendall(b"CONNECT %d\n" % port)
        return connection

    def listen(self, handle, port=PORT):
        """handle(connection) on a thread for each connection of the guest."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{self.path}_{port}")
        listener.listen(1024)

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

        self.addCleanup(listener.close)
        self.addCleanup(listener.shutdown, socket.SHUT_RDWR)
        threading.Thread(target=serve, daemon=True).start()

    @staticmethod
    def end_of(connection):
        try:
            return connection.recv(100)
        except ConnectionResetError:  # what was sent had not been read
            return b""

    @staticmethod
    def echo(connection):
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)


class Vsock(VsockCase):
    def test_a_thousand_connections_from_the_host(self):
        process = self.start("echo", PORT, COUNT + 1)
        self.assertEqual(process.stdout.readline(), b"listening\n")
        refused = self.connect(PORT + 1)
        self.assertEqual(self.end_of(refused), b"")
        connections = [self.connect() for _ in range(COUNT)]
        ports = [receive_line(connection) for connection in connections]
        self.assertTrue(all(port.startswith(b"OK ") for port in ports), ports)
        self.assertEqual(len(set(ports)), COUNT)
        for i, connection in enumerate(connections):
            connection.sendall(b"message %d\n" % i)
        for i, connection in enumerate(connections):
            self.assertEqual(receive_line(connection), b"message %d\n" % i)
            connection.close()
        self.bulk(self.connect())
        self.assertEqual(process.wait(timeout=LIMIT), 0)
        self.assertFalse(os.path.exists(self.path))

    def bulk(self, connection):
        """Both directions at once, more than any buffer on the way holds."""
        data = random.Random(1).randbytes(2 << 20)
        # Data right behind the order belongs to the guest.
        self.assertTrue(receive_line(connection).startswith(b"OK "))
        sender = threading.Thread(target=lambda: (connection.sendall(data),
                                                  connection.shutdown(socket.SHUT_WR)))
        sender.start()
        received = b""
        while part := connection.recv(1 << 16):
            received += part
        sender.join()
        self.assertTrue(received == data, f"{len(received)} of {len(data)} bytes")

    def test_a_thousand_connections_from_the_guest(self):
        self.listen(self.echo)
        process = self.start("storm", PORT, COUNT)
        stdout, _ = process.communicate(timeout=LIMIT)
        self.assertEqual((process.returncode, stdout), (0, b"%d\n" % COUNT))

    def test_guest_sends_its_stdin_and_gets_an_answer(self):
        data = random.Random(2).randbytes(3 << 20)
        seen = []

        def answer(connection):
            with connection:
                received = b""
                while part := connection.recv(1 << 16):
                    received += part
                seen.append(received)
                connection.sendall(b"got %d\n" % len(received))

        self.listen(answer)
        process = self.start("call", PORT)
        stdout, _ = process.communicate(data, timeout=LIMIT)
        self.assertEqual((process.returncode, stdout), (0, b"got %d\n" % len(data)))
        self.assertTrue(seen == [data])

    def fill_a_slow_reader(self):
        """A guest that ends when nothing goes to its reader any more; what makes that read, and whether it got all."""
        can_read = threading.Event()
        seen = []
        has_read = threading.Event()

        def take(connection):
            with connection:
                can_read.wait(LIMIT)
                received = b""
                while part := connection.recv(1 << 16):
                    received += part
                seen.append(received)
                has_read.set()

        self.listen(take)
        process = self.start("fill", PORT, stderr=subprocess.PIPE)
        self.addCleanup(process.stderr.close)
        sent = int(process.stdout.readline())
        self.assertGreater(sent, 256 << 10)
        pattern = (bytes(range(251)) * (sent // 251 + 1))[:sent]
        return process, can_read, lambda: has_read.wait(LIMIT) and seen[0] == pattern

    def test_bytes_for_a_slow_reader_outlive_the_machine(self):
        process, can_read, has_all = self.fill_a_slow_reader()
        with self.assertRaises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        can_read.set()
        self.assertEqual(process.wait(timeout=LIMIT), 0)
        self.assertTrue(has_all())

    def test_reader_that_takes_nothing_is_given_up(self):
        process, can_read, has_all = self.fill_a_slow_reader()
        self.assertEqual(process.wait(timeout=LIMIT), 0)
        can_read.set()
        self.assertFalse(has_all())
        self.assertRegex(process.stderr.read().decode(), r"\d+ bytes that the guest sent over vsock are lost")

    def test_signal_ends_the_wait_for_a_slow_reader(self):
        process, can_read, _ = self.fill_a_slow_reader()
        with self.assertRaises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.terminate()
        self.assertEqual(process.wait(timeout=1), 0)  # the command's: it had ended
        can_read.set()

    def test_port_that_nobody_listens_on_is_refused(self):
        process = self.start("call", PORT + 7)
        process.communicate(timeout=LIMIT)
        self.assertEqual(process.returncode, 1)

    def test_senseless_orders_are_closed_and_harm_nobody(self):
        process = self.start("echo", PORT, 1)
        self.assertEqual(process.stdout.readline(), b"listening\n")
        for order in (b"HELLO\n", b"CONNECT x\n", b"CONNECT -1\n", b"CONNECT 99999999999\n",
                      b"C" * 100, b"\n"):
            with self.subTest(order), socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(LIMIT)
                connection.connect(self.path)
                connection.sendall(order)
                self.assertEqual(self.end_of(connection), b"")
        silent = [socket.socket(socket.AF_UNIX) for _ in range(300)]
        for connection in silent:
            self.addCleanup(connection.close)
            connection.connect(self.path)
        connection = self.connect()
        self.assertTrue(receive_line(connection).startswith(b"OK "))
        connection.close()
        self.assertEqual(process.wait(timeout=LIMIT), 0)

    def test_bad_options(self):
        with open(self.path, "w", encoding="ascii"):
            pass
        for option, word in ((self.path, "exists already"), ("/nowhere/v", "/nowhere/v"),
                             ("/tmp/" + "x" * 200, "107 bytes"), ("v,cid=2", "cid=2"),
                             ("v,bogus", "bogus"), (",cid=5", "path"), ("vhost,cid=2", "cid=2"),
                             ("vhost,cid=4294967295", "4294967294"), ("vhost,bogus", "bogus")):
            with self.subTest(option):
                outcome = trapeze("run", "--vsock", option, "--", "true")
                self.expect_own_error(outcome, "--vsock", word)
        os.unlink(self.path)
        # What a killed machine leaves behind is taken over.
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(self.path)
        stale.close()
        self.expect(trapeze("run", "--vsock", f"{self.path},cid=77", "--", "true"), 0, b"", "")


VHOST = "/dev/vhost-vsock"
HAS_VHOST = os.access(VHOST, os.R_OK | os.W_OK)


class Vhost(VsockCase):
    """The other side is the host's kernel."""

    CID = 100_000 + os.getpid()

    def start_with_vhost(self, *arguments):
        return self.start(*arguments, vsock=f"vhost,cid={self.CID}")

    @unittest.skipIf(os.path.exists(VHOST), f"there is a {VHOST}")
    def test_host_without_the_module(self):
        self.expect_own_error(trapeze("run", "--vsock", "vhost", "--", "true"), "--vsock vhost", VHOST,
                              "modprobe vhost_vsock")

    def test_machine_with_a_name_needs_its_vsock_for_sessions(self):
        with tempfile.TemporaryDirectory() as runtime:
            env = {**os.environ, "XDG_RUNTIME_DIR": runtime}
            for options in (("--name", "one"), ("--detach",)):
                outcome = trapeze("run", "--vsock", "vhost", *options, "--", "true", env=env)
                self.expect_own_error(outcome, "--vsock vhost", "trapeze exec", "--vsock PATH")

    @unittest.skipUnless(HAS_VHOST, f"there is no {VHOST}, or none for this user")
    def test_guest_sends_its_stdin_and_gets_an_answer(self):
        data = random.Random(3).randbytes(3 << 20)
        with socket.socket(socket.AF_VSOCK) as listener:
            listener.settimeout(LIMIT)
            listener.bind((socket.VMADDR_CID_ANY, PORT))
            listener.listen()
            process = self.start_with_vhost("call", PORT)
            process.stdin.write(data)
            process.stdin.close()
            connection, (cid, _) = listener.accept()
        with connection:
            received = b""
            while part := connection.recv(1 << 16):
                received += part
            connection.sendall(b"got %d\n" % len(received))
        self.assertEqual(process.stdout.read(), b"got %d\n" % len(data))
        self.assertEqual((process.wait(timeout=LIMIT), cid), (0, self.CID))
        self.assertTrue(received == data)

    @unittest.skipUnless(HAS_VHOST, f"there is no {VHOST}, or none for this user")
    def test_host_connects_and_its_cid_is_taken(self):
        process = self.start_with_vhost("echo", PORT, 1)
        self.assertEqual(process.stdout.readline(), b"listening\n")
        outcome = trapeze("run", "--vsock", f"vhost,cid={self.CID}", "--", "true")
        self.expect_own_error(outcome, f"CID {self.CID}", "another machine", "cid=N")
        with socket.socket(socket.AF_VSOCK) as connection:
            connection.settimeout(LIMIT)
            connection.connect((self.CID, PORT))
            for size in (1, 100, 100_000):
                data = random.Random(size).randbytes(size)
                connection.sendall(data)
                received = b""
                while len(received) < size:
                    received += connection.recv(size)
                self.assertTrue(received == data)
        self.assertEqual(process.wait(timeout=LIMIT), 0)


if __name__ == "__main__":
    unittest.main()
