"""What /proc and the kernel's clocks say about a running process."""

import re
import time
from dataclasses import dataclass

PROCESS_CPU_CLOCK = 2  # CPUCLOCK_SCHED: user and system time of all threads, in nanoseconds


def cpu_seconds(pid):
    """CPU time that the process has used so far; as clock_getcpuclockid(3) finds its clock."""
    return time.clock_gettime((~pid << 3) | PROCESS_CPU_CLOCK)


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except OSError:  # it has ended
        return []


def name_of(pid):
    try:
        with open(f"/proc/{pid}/comm", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def family(pid):
    """The process, its children and theirs, and the kernel's threads that serve it (vhost)."""
    found, rest = [], [pid]
    while rest:
        found.append(rest.pop())
        rest += children(found[-1])
    kernel = 2  # kthreadd
    return found + [one for one in children(kernel) if name_of(one) == f"vhost-{pid}"]


@dataclass
class Mapping:
    start: int
    size: int
    name: str
    resident: int = 0  # proportional: a page that is mapped twice, as translated code is, counts once
    is_writable: bool = True


def mappings(pid):
    found = []
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as smaps:
        for line in smaps:
            head = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+ *(.*)", line)
            if head:
                start, end = int(head[1], 16), int(head[2], 16)
                found.append(Mapping(start, end - start, head[4], is_writable="w" in head[3]))
            elif line.startswith("Pss:"):
                found[-1].resident = int(line.split()[1]) * 1024
    return found


@dataclass
class Memory:
    resident: int  # all of the process
    guest: int     # of that, guest RAM: the pages that the guest or its loader touched
    parts: list    # (bytes, name) of everything else, largest first

    @property
    def beyond_guest(self):
        return self.resident - self.guest


def adjacent(found, wanted_bytes):
    """Each run of adjacent writable mappings of that size that begins with an anonymous one."""
    for first, mapping in enumerate(found):
        size, end = 0, mapping.start
        for last in range(first, len(found)):
            if found[last].start != end or not found[last].is_writable:
                break
            size, end = size + found[last].size, end + found[last].size
            if size == wanted_bytes and not mapping.name.startswith("/"):
                yield found[first:last + 1]
            if size >= wanted_bytes:
                break


def memory(pid, guest_bytes):
    """Tells guest RAM by its size: one mapping or else, for files of the kit may be mapped into it,
    mappings without a gap that together have exactly that many bytes."""
    found = mappings(pid)
    runs = list(adjacent(found, guest_bytes))
    runs = [run for run in runs if len(run) == 1] or runs
    if len(runs) != 1:
        raise LookupError(f"{len(runs)} mappings have the size of guest memory, expected one")
    parts = {}
    for mapping in found:
        if mapping in runs[0]:
            continue
        name = mapping.name or f"anonymous, {mapping.size >> 10} KiB at {mapping.start:#x}"
        parts[name] = parts.get(name, 0) + mapping.resident
    return Memory(sum(m.resident for m in found), sum(m.resident for m in runs[0]),
                  sorted(((size, name) for name, size in parts.items()), reverse=True))
