"""A soak: fork- and exec-heavy work and compilations in a guest of 2 vCPUs, round for round under the
translator and the interpreter, until the time is over. Both must print the same, and nothing may be left
over. The compiler is this host's, through --rootfs /; without one that half is left out.

    python3 tests/guest/soak.py build/trapeze --minutes 30
"""

import argparse
import shutil
import subprocess
import sys
import time

# $1 seeds the round, $2 says how often. What they print depends on these alone.
# Two workers at a time make, compress, hash, sort and compare files.
FILES = r"""
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

# Two compilers at a time, programs of their own making; the programs and what they print must be alike.
COMPILE = r"""
mkdir -p /tmp/soak && cd /tmp/soak
worker() {
  i=0
  while [ $i -lt "$2" ]; do
    awk -v s="$1$i" 'BEGIN {
      srand(s); n = 40
      print "#include <stdio.h>\n#include <string.h>\n#include <math.h>"
      for (f = 0; f < n; ++f) {
        print "static double f" f "(double x, unsigned k) { unsigned a[16]; memset(a, k, sizeof a);"
        print "  for (unsigned i = 0; i < 64; ++i) { a[i % 16] = a[(i * " int(rand() * 16) ") % 16] * " \
              int(rand() * 1000003) "u + i; x = x * " rand() " + sqrt(fabs(x) + a[i % 16] % 97); }"
        print "  return x + a[k % 16]; }"
      }
      print "int main(void) { double x = 1; unsigned k = 1;"
      for (f = 0; f < n; ++f) print "x = f" f "(x, k); k = k * 3 + (unsigned)fmod(x, 1000);"
      print "printf(\"%.17g %u\\n\", x, k); return 0; }" }' >$1.$i.c
    cc -O$((i % 3)) -o $1.$i $1.$i.c -lm || echo "LOST"
    ./$1.$i
    sha256sum <$1.$i | cut -c1-16
    i=$((i + 1))
  done
}
worker "${1}1" "$2" >out1 & worker "${1}2" "$2" >out2 & wait
cat out1 out2; ls | wc -l
"""
WORKS = {
    "files": {"script": FILES, "options": [], "turns": 40},
    "compile": {"script": COMPILE, "options": ["--rootfs", "/", "--memory", "512M"], "turns": 3},
}


def run(program, executor, work, seed, limit):
    begin = time.monotonic()
    done = subprocess.run(
        [program, "run", "--accel", "soft", "--soft-exec", executor, "--cpus", "2", *work["options"], "--",
         "sh", "-c", work["script"], "soak", str(seed), str(work["turns"])],
        capture_output=True, timeout=limit, check=False)
    if done.returncode != 0 or b"LOST" in done.stdout:
        sys.exit(f"round {seed}, {executor}: status {done.returncode}\n"
                 f"{done.stdout.decode(errors='replace')}{done.stderr.decode(errors='replace')}")
    return done.stdout, time.monotonic() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program")
    parser.add_argument("--minutes", type=float, default=30)
    options = parser.parse_args()
    works = dict(WORKS)
    if shutil.which("cc") is None:
        print("no compiler here (cc): files only", flush=True)
        del works["compile"]
    end = time.monotonic() + options.minutes * 60
    seed = 0
    while seed == 0 or time.monotonic() < end:
        seed += 1
        for name, work in works.items():
            translated, quick = run(options.program, "translator", work, seed, 1800)
            interpreted, slow = run(options.program, "interpreter", work, seed, 1800)
            if translated != interpreted:
                sys.exit(f"round {seed} of {name} differs.\n"
                         f"translator:\n{translated.decode(errors='replace')}\n"
                         f"interpreter:\n{interpreted.decode(errors='replace')}")
            print(f"round {seed}, {name}: {len(translated.splitlines())} lines alike; "
                  f"translator {quick:.1f} s, interpreter {slow:.1f} s", flush=True)


if __name__ == "__main__":
    main()
