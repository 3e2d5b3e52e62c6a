"""Facts about the host, without which a figure says nothing, and whether it is quiet."""

import os
import platform
import time

QUIET_SHARE = 0.2   # of one core, used by others
WAIT_S = 8          # for a quiet moment


def busy_seconds():
    """CPU time that somebody used, on all CPUs; what the host's own hypervisor took is in it."""
    with open("/proc/stat", encoding="utf-8") as stat:
        return busy_of(stat.readline()) / os.sysconf("SC_CLK_TCK")


def busy_of(line):
    """user, nice, system, irq, softirq and steal of /proc/stat's first line, in ticks."""
    ticks = [int(field) for field in line.split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4]  # not idle, not iowait


def own_seconds():
    return sum(os.times()[:4])


class Disturbance:
    """How much CPU time others used meanwhile, as a share of one core."""

    def __init__(self):
        self.start, self.busy, self.own = time.monotonic(), busy_seconds(), own_seconds()

    def share(self):
        took = time.monotonic() - self.start
        return max(0.0, busy_seconds() - self.busy - (own_seconds() - self.own)) / took


def wait_until_quiet(limit_s=WAIT_S):
    deadline = time.monotonic() + limit_s
    while True:
        disturbance = Disturbance()
        time.sleep(0.5)
        if disturbance.share() <= QUIET_SHARE or time.monotonic() >= deadline:
            return


def quietest(measure, attempts=2, disturbance=Disturbance, wait=wait_until_quiet):
    """(result, disturbance) of the attempt that others disturbed least. The choice never looks at
    the result."""
    best = None
    for _ in range(attempts):
        wait()
        others = disturbance()
        result = measure()
        share = others.share()
        if best is None or share < best[1]:
            best = (result, share)
        if share <= QUIET_SHARE:
            break
    return best


def cpu_model():
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        for line in info:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "unknown"


def is_virtual_machine():
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        return any(line.startswith("flags") and " hypervisor" in line for line in info)


def facts():
    with open("/proc/meminfo", encoding="utf-8") as info:
        memory_kib = int(info.readline().split()[1])
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": memory_kib >> 10,
        "virtual_machine": is_virtual_machine(),
        "kernel": platform.release(),
        "load_average": os.getloadavg(),
    }
