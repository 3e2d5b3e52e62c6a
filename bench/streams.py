"""What bench/net.py and bench/vsock.py have in common: tests/guest/programs/net_peer.cpp on both sides."""

import contextlib
import subprocess

PORT = 5555
ORDERS = {"send": "guest to host", "receive": "host to guest", "send4": "guest to host, 4 streams",
          "receive4": "host to guest, 4 streams", "ping": "round trip"}


def unit_of(row):
    return ("/s", 1) if row.endswith("ping") else ("MiB/s", 1 << 20)


def add_options(parser):
    parser.add_argument("--seconds", type=float, default=2, help="for each row")
    parser.add_argument("--warm-up", type=float, default=0.2, help="seconds before each of them")


def line_of(order, address, options):
    """The guest's part."""
    order, streams = order.rstrip("4"), 4 if order.endswith("4") else 1
    program = f"/tmp/load {order} {address} {PORT}"
    if order == "ping":
        return f"{program} {options.warm_up} >/dev/null && echo begin && {program} {options.seconds}"
    # The same connections' first seconds: all have to be there, and full.
    return f"{program} {options.seconds} {streams} {options.warm_up}"


@contextlib.contextmanager
def server(program, address):
    """The host's part."""
    with subprocess.Popen([program, "serve", address, str(PORT)], stdout=subprocess.PIPE) as process:
        try:
            if not process.stdout.readline():
                raise RuntimeError(f"{program} does not serve {address}")
            yield
        finally:
            process.kill()
