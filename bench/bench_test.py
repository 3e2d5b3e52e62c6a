"""What the benchmark computes from its samples."""

import mmap
import os
import signal
import subprocess
import threading
import unittest
import xml.etree.ElementTree

import chart
import guests
import host
import pairs
import process
import rows
import run
import workloads
from report import Figure, show_samples
from turns import Turns


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


class Program:
    """Plays the guest program, on a machine where a unit takes 10 ms and the clocks say so."""

    UNIT_S = 0.01

    def __init__(self):
        self.now, self.orders = 100.0, []
        self.others_s, self.others = 0.0, iter(())  # in all; in the next runs

    def clocks(self, _pid):
        return rows.Clocks(self.now, self.now / 2, self.now / 2 + self.others_s)

    def answer(self, order):
        self.orders.append(order)
        word, _, rest = order.partition(" ")
        if word == "run":
            self.now += int(rest) * self.UNIT_S
            self.others_s += next(self.others, 0.0)
            return f"done x {int(rest) * 5} abc 700"
        return {"prepare": "ready x", "finish": "finished x"}[word]

    def talk(self, dialogue):
        """In pieces that do not end where lines do."""
        order = dialogue(1, b"servi") + dialogue(1, b"ng\n")
        while order != b"quit\n":
            line = self.answer(order.decode().rstrip("\n")).encode() + b"\n"
            order = dialogue(1, line[:3]) + dialogue(1, line[3:])


class Logged:
    def __init__(self, turn, name, log):
        self.turn, self.name, self.log = turn, name, log

    def __enter__(self):
        self.turn.__enter__()
        self.log.append(self.name)

    def __exit__(self, *error):
        self.turn.__exit__(*error)


class RowsTest(unittest.TestCase):
    def test_a_row_is_repeated_until_it_takes_long_enough_and_measured_in_rounds(self):
        program = Program()
        dialogue = rows.Dialogue(rows.script(["x"], rows.machine_cpu, rows.wall), program.clocks)
        program.talk(dialogue)
        samples = dialogue.samples["x"]
        self.assertEqual(len(samples), rows.ROUNDS)
        self.assertAlmostEqual(samples[0].ns, Program.UNIT_S * 1e9 / 5, delta=1)
        self.assertEqual(samples[0].checksum, "abc")
        self.assertEqual(program.orders,
                         ["prepare x", "run 1", "run 15", *["run 15"] * rows.ROUNDS, "finish"])

    def test_each_clock_is_that_of_its_machine(self):
        answer = "done x 1 abc 700".split()
        before, after = rows.Clocks(1.0, 10.0, 0.0), rows.Clocks(3.0, 10.5, 0.0)
        self.assertEqual(rows.wall(answer, before, after), 2.0)
        self.assertEqual(rows.machine_cpu(answer, before, after), 0.5)
        self.assertAlmostEqual(rows.own_cpu(answer, before, after), 0.0007)

    def test_even_a_long_first_run_is_repeated_because_it_was_cold(self):
        program = Program()
        program.UNIT_S = 5.0
        program.talk(rows.Dialogue(rows.script(["x"], rows.machine_cpu, rows.wall), program.clocks))
        self.assertEqual(program.orders[:3], ["prepare x", "run 1", "run 2"])

    def test_what_others_used_is_told(self):
        program = Program()
        program.others = iter([0.0, 0.3, 0.0, 0.06])
        dialogue = rows.Dialogue(rows.script(["x"], rows.machine_cpu, rows.wall), program.clocks)
        program.talk(dialogue)
        self.assertAlmostEqual(dialogue.samples["x"][1].others, 0.06 / 0.15)

    def test_machines_alternate_from_measurement_to_measurement(self):
        log, turns = [], Turns(("a", "b"))

        def machine(name):
            program = Program()
            program.talk(rows.Dialogue(rows.script(["x"], rows.machine_cpu, rows.wall,
                                                   turn=Logged(turns.of(name), name, log)),
                                       program.clocks))

        threads = [threading.Thread(target=machine, args=(name,)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(log, ["a", "b"] * (rows.ROUNDS + 2))

    def test_units_grow_at_least_twofold_and_not_beyond_reason(self):
        self.assertEqual(rows.next_units(10, 0.14), 20)
        self.assertEqual(rows.next_units(10, 0.015), 100)
        self.assertEqual(rows.next_units(1, 0.0), rows.MAX_GROWTH)

    def test_a_failure_of_the_program_ends_the_talk(self):
        dialogue = rows.Dialogue(rows.script(["x"], rows.machine_cpu, rows.wall), Program().clocks)
        dialogue(1, b"serving\n")
        with self.assertRaisesRegex(RuntimeError, "failed x prepare"):
            dialogue(1, b"failed x prepare\n")

    @staticmethod
    def figure(name, native, ours, peer):
        figure = rows.RowFigure(name)
        for machine, values in zip(rows.MACHINES, (native, ours, peer)):
            figure.samples[machine] = [rows.Sample(value, 1, "abc") for value in values]
        return figure

    def test_ratios_are_those_of_pairs_and_means_those_of_their_rows(self):
        """In the first round the machine's clock was three times slower for all."""
        figures = [self.figure("alu", [3, 1, 1], [6, 2, 9], [18, 6, 6]),
                   self.figure("fork", [10], [80], [160])]
        self.assertEqual(figures[0].ratio("trapeze", "native"), 2)
        (_, *every), (_, *compute) = rows.means(figures)
        for found, wanted in zip(every + compute, (4, 96 ** 0.5, 6 ** 0.5, 2, 6, 3)):
            self.assertAlmostEqual(found, wanted)

    def test_what_was_not_measured_has_no_mean(self):
        figures = [self.figure("alu", [1], [2], [6]), self.figure("fork", [10], [], [160])]
        every, compute = rows.means(figures)
        self.assertEqual((every[1], compute[1]), (None, 2))
        self.assertIn("| fork, wait | 10 | - | 160 | - | 16.0 | - |", rows.markdown(figures))

    def test_requirements_wait_for_all_rows_and_name_the_slow_ones(self):
        figures = [self.figure(name, [1], [2], [9]) for name in rows.ROWS]
        self.assertEqual([is_met for _, _, is_met in rows.requirements(figures)], [True] * 3)
        figures[3] = self.figure(figures[3].name, [1], [3], [2])
        self.assertEqual([(found, is_met) for _, found, is_met in rows.requirements(figures)],
                         [("random", False), ("4.07", True), ("2.07", False)])
        self.assertEqual(rows.requirements(figures[1:]), [])

    def test_other_results_than_those_of_the_host_are_seen(self):
        figure = self.figure("alu", [1], [2], [6])
        figure.samples["trapeze"].append(rows.Sample(2, 1, "abd"))
        self.assertEqual(figure.checksums, {"abc", "abd"})


class TurnsTest(unittest.TestCase):
    def play(self, rounds):
        """`rounds`: how many turns each member takes before it leaves. Gives who had them."""
        turns, log = Turns(rounds), []

        def member(name, count):
            for _ in range(count):
                with turns.of(name):
                    log.append(name)
            turns.leave(name)

        threads = [threading.Thread(target=member, args=item) for item in rounds.items()]
        for thread in reversed(threads):
            thread.start()
        for thread in threads:
            thread.join(timeout=10)
            self.assertFalse(thread.is_alive())
        return "".join(log)

    def test_all_have_their_turns_in_order(self):
        self.assertEqual(self.play({"a": 3, "b": 3, "c": 3}), "abcabcabc")

    def test_who_leaves_is_not_waited_for(self):
        log = self.play({"a": 4, "b": 1, "c": 0})
        self.assertEqual((log.replace("b", ""), log.count("b")), ("aaaa", 1))

    def test_who_fails_in_its_turn_leaves_it_to_the_next(self):
        turns = Turns("ab")
        turns.arrived = {"a", "b"}
        turns.take("a")
        turns.leave("a")
        turns.give("a")
        turns.take("b")
        turns.give("b")
        turns.take("b")


class ChartTest(unittest.TestCase):
    def test_each_figure_has_its_dot_where_the_axis_says(self):
        figures = [RowsTest.figure("alu", [1], [10], [100]),
                   RowsTest.figure("fork", [1], [0.5], [])]
        root = xml.etree.ElementTree.fromstring(
            chart.draw(figures, rows.means(figures), "here & <there>"))
        space = "{http://www.w3.org/2000/svg}"
        at = {kind: [float(dot.get("cx")) for dot in root.iter(space + "circle")
                     if dot.get("class") == kind][1:] for kind in ("ours", "peer")}
        native, = [float(line.get("x1")) for line in root.iter(space + "line")
                   if line.get("class") == "native"]
        decade = at["ours"][0] - native
        self.assertGreater(decade, 50)
        self.assertAlmostEqual(at["peer"][0] - native, 2 * decade, delta=0.2)
        self.assertAlmostEqual(at["ours"][1] - native, decade * -0.30103, delta=0.2)
        width = float(root.get("width"))
        self.assertTrue(all(0 < x < width for dots in at.values() for x in dots))


class HostTest(unittest.TestCase):
    def test_waiting_is_not_busy_and_stolen_time_is(self):
        #                          user nice sys idle iowait irq softirq steal guest guest_nice
        self.assertEqual(host.busy_of("cpu 1 20 300 4000 50000 6 70 800 9 9\n"), 1197)

    def test_the_quietest_attempt_counts_whatever_its_result(self):
        shares = iter([0.9, 0.2])
        results = iter([1, 3])

        class Fake:
            def share(self):
                return next(shares)

        found = host.quietest(lambda: next(results), disturbance=Fake, wait=lambda: None)
        self.assertEqual(found, (3, 0.2))


class OptionsTest(unittest.TestCase):
    def test_groups_and_rows_are_told_apart(self):
        self.assertEqual(run.chosen("boot,pipe,alu"), (["rows", "boot"], ["alu", "pipe"]))
        self.assertEqual(run.chosen("idle"), (["idle"], []))
        self.assertEqual(run.chosen("rows"), (["rows"], list(rows.ROWS)))
        self.assertIsNone(run.chosen("boot,nonsense"))


class GuestsTest(unittest.TestCase):
    def guest(self, *answers):
        """One that has said so already, in pieces."""
        reader, far_writer = os.pipe()
        far_reader, writer = os.pipe()
        for fd in (reader, writer, far_reader):
            self.addCleanup(os.close, fd)
        for answer in answers:
            os.write(far_writer, answer)
        os.close(far_writer)
        guest = guests.Guest("x", [], reader, writer)
        cpu = iter([1.0, 5.0, 5.5])
        guest.cpu = lambda: next(cpu)
        return guest

    def test_a_sample_is_what_the_last_line_says_and_the_cpu_time_since_begin(self):
        sample = self.guest(b"begin ro", b"w\nend row 100 200", b"0000\ndone 0\n").measure("order")
        self.assertAlmostEqual(sample.amount_s, 50_000)
        self.assertAlmostEqual(sample.cpu_us, 5000)

    def test_a_line_that_fails_or_a_guest_that_ends_is_an_error(self):
        with self.assertRaisesRegex(RuntimeError, "x: done 3"):
            self.guest(b"done 3\n").tell("order")
        with self.assertRaisesRegex(RuntimeError, "x: it ended"):
            self.guest(b"half a li").tell("order")

    def test_the_peer_gets_our_kernel_arguments_but_those_for_our_init(self):
        guest = self.guest(b"console=ttyS0 trapeze.net=02:00,dhcp quiet\ndone 0\n")
        self.assertEqual(guests.kernel_arguments(guest), "console=ttyS0 quiet")


class PairsTest(unittest.TestCase):
    class Machine:
        def __init__(self, name, speeds, log):
            self.name, self.speeds, self.log = name, iter(speeds), log

        def measure(self, line):
            self.log.append(line)
            return guests.Sample(next(self.speeds), 10.0)

    def measured(self, ours, peers):
        log, samples = [], pairs.Samples()
        machines = [self.Machine("qemu", peers, log), self.Machine("trapeze", ours, log)]
        samples.measure(["x"], lambda row, machine: f"{row} on {machine.name}", machines, len(ours))
        return samples, log

    def test_machines_alternate_and_ratios_are_those_of_pairs(self):
        samples, log = self.measured([2, 30, 8], [1, 10, 2])
        self.assertEqual(log, ["x on qemu", "x on trapeze"] * 3)
        self.assertEqual(samples.ratio("x", "amount_s"), 3)
        self.assertEqual((samples.median("x", "trapeze", "amount_s"), samples.ratio("x", "cpu_us")), (8, 1))

    def test_a_row_in_larger_units_has_fewer_and_dearer_of_them(self):
        samples, _ = self.measured([2048], [1024])
        line = pairs.table(samples, {"x": "name"}, "kvm", lambda row: ("KiB/s", 1024)).split("\n")[1]
        self.assertEqual(line.split(), ["name", "2KiB/s", "1KiB/s", "2.00", "10,240.0", "10,240.0", "1.00"])

    def test_a_mean_needs_all_rows(self):
        self.assertIn("(higher is better): 2.00; smallest: 1.00", pairs.summary([1.0, 4.0]))
        self.assertEqual(pairs.summary([1.0, None]), "")


class ProcessTest(unittest.TestCase):
    def test_children_of_children_belong_to_the_family(self):
        with subprocess.Popen(["sh", "-c", "sleep 10 & echo $!; wait"], stdout=subprocess.PIPE) as shell:
            grandchild = int(shell.stdout.readline())
            self.assertTrue({os.getpid(), shell.pid, grandchild} <= set(process.family(os.getpid())))
            os.kill(grandchild, signal.SIGKILL)

    @staticmethod
    def free_size():
        """A size that no mapping has."""
        taken = {mapping.size for mapping in process.mappings(os.getpid())}
        return next(size for size in range(1237 * mmap.PAGESIZE, 1 << 40, mmap.PAGESIZE) if size not in taken)

    def test_guest_memory_counts_apart(self):
        size = self.free_size()
        # Executable, so that the kernel does not join it to a neighbour.
        guest = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
                          prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        before = process.memory(os.getpid(), size)
        guest.write(b"x" * (10 * mmap.PAGESIZE))
        after = process.memory(os.getpid(), size)
        self.assertEqual(after.guest - before.guest, 10 * mmap.PAGESIZE)
        self.assertEqual(sum(size for size, _ in after.parts), after.beyond_guest)

    def test_guest_memory_may_lie_in_several_mappings(self):
        _, low, kernel, high, other = found = [
            process.Mapping(0x1000, 0x1000, "", is_writable=False), process.Mapping(0x2000, 0x3000, ""),
            process.Mapping(0x5000, 0x1000, "/kit/vmlinux"), process.Mapping(0x6000, 0x4000, ""),
            process.Mapping(0xb000, 0x8000, "")]
        self.assertEqual(list(process.adjacent(found, 0x8000)), [[low, kernel, high], [other]])
        self.assertEqual(list(process.adjacent(found, 0x9000)), [])

    def test_without_such_a_mapping_nothing_is_guessed(self):
        with self.assertRaises(LookupError):
            process.memory(os.getpid(), sum(m.size for m in process.mappings(os.getpid())) + mmap.PAGESIZE)

    def test_cpu_clock_is_that_of_the_process(self):
        self.assertAlmostEqual(process.cpu_seconds(os.getpid()), sum(os.times()[:2]), delta=0.5)


if __name__ == "__main__":
    unittest.main()
