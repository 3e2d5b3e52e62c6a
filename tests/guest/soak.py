"""A soak: fork- and exec-heavy work in a guest of 2 vCPUs, round for round under the translator and
the interpreter, until the time is over. Both must print the same, and nothing may be left over.

    python3 tests/guest/soak.py build/trapeze --minutes 30
"""

import argparse
import subprocess
import sys
import time

# $1 seeds the round. Two workers at a time make, compress, hash, sort and compare files; what they
# print depends on the seed alone.
WORK = r"""
cd /tmp && mkdir -p soak && cd soak
worker() {
  i=0
  while [ $i -lt "$2" ]; do
    n=$(( ($1 * 7919 + i * 104729) % 9000 + 500 ))
    seq $n | awk -v s=$n '{ print ($1 * 1103515245 + s) % 65521, $1 }' >f$1.$i
    sort -n f$1.$i | gzip -c >z$1.$i
    gunzip -c z$1.$i | sha256sum | cut -c1-16
    (sort f$1.$i | uniq | wc -l; cat f$1.$i | md5sum) | tr '\n' ' '
    for w in a b c d e f g h; do echo $w$n | sed s/$w/x/; done | sort -u | wc -l
    [ "$(gunzip -c z$1.$i | wc -l)" = "$n" ] || echo "LOST $n"
    rm f$1.$i z$1.$i
    i=$((i + 1))
  done
}
worker "${1}1" "$2" >out1 & worker "${1}2" "$2" >out2 & wait
cat out1 out2; ls | wc -l
"""


def run(program, executor, seed, turns, limit):
    begin = time.monotonic()
    done = subprocess.run(
        [program, "run", "--accel", "soft", "--soft-exec", executor, "--cpus", "2", "--", "sh", "-c",
         WORK, "soak", str(seed), str(turns)], capture_output=True, timeout=limit, check=False)
    if done.returncode != 0 or b"LOST" in done.stdout:
        sys.exit(f"round {seed}, {executor}: status {done.returncode}\n"
                 f"{done.stdout.decode(errors='replace')}{done.stderr.decode(errors='replace')}")
    return done.stdout, time.monotonic() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--turns", type=int, default=40, help="of each worker in a round")
    options = parser.parse_args()
    end = time.monotonic() + options.minutes * 60
    seed = 0
    while seed == 0 or time.monotonic() < end:
        seed += 1
        translated, quick = run(options.program, "translator", seed, options.turns, 1800)
        interpreted, slow = run(options.program, "interpreter", seed, options.turns, 1800)
        if translated != interpreted:
            sys.exit(f"round {seed} differs.\ntranslator:\n{translated.decode(errors='replace')}\n"
                     f"interpreter:\n{interpreted.decode(errors='replace')}")
        lines = len(translated.splitlines())
        print(f"round {seed}: {lines} lines alike; translator {quick:.1f} s, interpreter {slow:.1f} s",
              flush=True)


if __name__ == "__main__":
    main()
