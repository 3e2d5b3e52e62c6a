"""What the guests do. The same bytes and the same busybox commands on both machines."""

import hashlib
import random

STDIN_MIB = 32
GZIP_MIB = 16
FORKS = 200
LOOPS = 20_000
LOOP_SUM = sum(i * 3 % 7 for i in range(LOOPS))

# Each part prints its result, then its name as a mark; the host notes when the mark comes.
SCRIPT = f"""set -e
echo @begin
tee /tmp/in | sha256sum
echo @sha256
head -c {GZIP_MIB << 20} /tmp/in | gzip -c | wc -c
echo @gzip
i=0; while [ $i -lt {FORKS} ]; do /bin/true; i=$((i+1)); done
echo @fork
i=0; s=0; while [ $i -lt {LOOPS} ]; do s=$((s+i*3%7)); i=$((i+1)); done; echo $s
echo @loop
"""

PARTS = {
    "@sha256": f"sha256sum of {STDIN_MIB} MiB from stdin",
    "@gzip": f"gzip of {GZIP_MIB} MiB",
    "@fork": f"{FORKS} times fork, exec, wait",
    "@loop": f"shell loop, {LOOPS} rounds",
}


def make_stdin():
    """Text-like: words of a small vocabulary, so that gzip has something to do."""
    generator = random.Random(2)
    words = [generator.randbytes(generator.randint(1, 9)).hex().encode() for _ in range(5000)]
    block = b" ".join(generator.choices(words, k=200_000))
    return (block * ((STDIN_MIB << 20) // len(block) + 1))[:STDIN_MIB << 20]


def check(stdout, stdin):
    """Raises when the guest computed something else than the host does."""
    lines = stdout.decode().split("\n")
    digest = hashlib.sha256(stdin).hexdigest()
    if not lines[1].startswith(digest):
        raise RuntimeError(f"wrong SHA-256 from the guest: {lines[1]}, not {digest}")
    if str(LOOP_SUM) not in lines:
        raise RuntimeError(f"the shell loop did not give {LOOP_SUM}: {lines[-4:]}")


class Stopwatch:
    """Reads its clocks when a mark appears in the output."""

    def __init__(self, clocks):
        self.clocks, self.tail, self.at = clocks, b"", {}

    def __call__(self, pid, data):
        self.tail += data
        *lines, self.tail = self.tail.split(b"\n")
        for line in lines:
            if line.startswith(b"@"):
                self.at[line.decode()] = self.clocks(pid)

    def durations(self):
        """What each clock advanced during each part, by mark."""
        marks = list(self.at.items())
        return {mark: [b - a for a, b in zip(before, now)]
                for (_, before), (mark, now) in zip(marks, marks[1:])}
