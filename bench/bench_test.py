"""What the benchmark computes from its samples."""

import mmap
import os
import unittest

import process
import workloads
from report import Figure, show_samples


class FigureTest(unittest.TestCase):
    def test_ratio_of_medians_is_held_against_its_maximum(self):
        figure = Figure("boot", "s", ours=[9, 4, 5], peer=[1, 1, 7], max_ratio=5)
        self.assertEqual(figure.ratio, 5)
        self.assertTrue(figure.is_met)
        figure.ours.append(100)
        self.assertFalse(figure.is_met)

    def test_what_was_not_measured_is_not_met(self):
        self.assertFalse(Figure("idle", "%", max_ours=1).is_met)
        self.assertFalse(Figure("boot", "s", ours=[1], max_ratio=4).is_met)

    def test_nothing_required_has_no_verdict(self):
        self.assertIsNone(Figure("fork", "s", ours=[1], peer=[2]).is_met)

    def test_several_samples_show_their_spread(self):
        self.assertEqual(show_samples([3.0, 1.0, 2.0]), "2.00 (1.00-3.00)")


class StopwatchTest(unittest.TestCase):
    def test_marks_are_found_across_chunks_and_nowhere_else(self):
        times = iter([(10, 1), (13, 2), (20, 4)])
        watch = workloads.Stopwatch(lambda pid: next(times))
        for chunk in (b"@beg", b"in\n12 @gzip\n@gz", b"ip\n", b"x\n@fork\n"):
            watch(0, chunk)
        self.assertEqual(watch.durations(), {"@gzip": [3, 1], "@fork": [7, 2]})


class ProcessTest(unittest.TestCase):
    SIZE = 1237 * mmap.PAGESIZE  # a size that no other mapping has

    def test_guest_memory_counts_apart(self):
        guest = mmap.mmap(-1, self.SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        before = process.memory(os.getpid(), self.SIZE)
        guest.write(b"x" * (10 * mmap.PAGESIZE))
        after = process.memory(os.getpid(), self.SIZE)
        self.assertEqual(after.guest - before.guest, 10 * mmap.PAGESIZE)
        self.assertEqual(sum(size for size, _ in after.parts), after.beyond_guest)

    def test_without_such_a_mapping_nothing_is_guessed(self):
        with self.assertRaises(LookupError):
            process.memory(os.getpid(), self.SIZE + mmap.PAGESIZE)

    def test_cpu_clock_is_that_of_the_process(self):
        self.assertAlmostEqual(process.cpu_seconds(os.getpid()), sum(os.times()[:2]), delta=0.5)


if __name__ == "__main__":
    unittest.main()
