"""Facts about the host, without which a figure says nothing."""

import os
import platform


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
