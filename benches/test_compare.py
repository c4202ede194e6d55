"""The pure parts of the benchmarks: python3 -m unittest discover -s benches"""

import dataclasses
import unittest

import counts
import figures
import rig
from figures import ROWS, Row, Sample

HEAD = ('"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms",'
        '"p99_latency_ms","max_latency_ms"\n')


def taken(proxy: str, turn: int, cpu_ns: int | None, pinning: str = "pinned", row: str = "GET P1") -> Sample:
    return Sample(pinning, turn, row, proxy, 1_000, 50_000.0, 0.5, 1.5, cpu_ns, None if cpu_ns is None else 2_048)


class Rows(unittest.TestCase):
    def test_names_are_unique(self):
        self.assertEqual(len({row.name for row in ROWS}), len(ROWS))

    def test_requests_are_whole_pipelines_and_every_client_gets_one(self):
        for row in ROWS:
            for unit in (1, 500, 30_000):
                with self.subTest(row=row.name, unit=unit):
                    count = row.requests(unit)
                    self.assertEqual(count % row.pipeline, 0)
                    self.assertGreaterEqual(count // row.pipeline, 50)

    def test_words(self):
        key, value = "key:__rand_int__", "xxx"
        for row, words in (
            (Row("", "get"), ["get", key]),
            (Row("", "set"), ["set", key, value]),
            (Row("", "mget", keys=2), ["mget", key, key]),
            (Row("", "mset", keys=2), ["mset", key, value, key, value]),
        ):
            self.assertEqual(row.words(), words)

    def test_large_values_have_keys_of_their_own(self):
        row = Row("", "set", size=figures.LARGE)
        self.assertEqual(row.words()[1:], ["big:__rand_int__", "x" * 20_000])
        self.assertEqual(row.keyspace, figures.LARGE_KEYS)

    def test_keys_are_as_long_as_said(self):
        for size in (12, 13, 16, 100, 1024):
            self.assertEqual(len(Row("", "get", key_bytes=size).prefix) + figures.NUMBER_BYTES, size)

    def test_every_client_of_a_row_asks(self):
        self.assertEqual(Row("", "get", pipeline=16, clients=500).requests(1), 500 * 16)


class Kernel(unittest.TestCase):
    def test_what_is_left_of_a_ratio_is_the_kernels(self):
        samples = [dataclasses.replace(taken("ringway", 0, 80), user=1, kernel=3),
                   dataclasses.replace(taken("nutcracker", 0, 100), user=2, kernel=2)]
        table = figures.kernel_table(samples, ["GET P1"], ["nutcracker", "ringway"])
        self.assertIn("| GET P1 | 50% | 75% | 0.60 |", table)


class Parsing(unittest.TestCase):
    def test_csv(self):
        text = HEAD + '"get key:__rand_int__","1052631.62","0.485","0.096","0.343","0.999","1.335","1.559"\n'
        self.assertEqual(figures.parse_csv(text), (1052631.62, 0.343, 1.335))

    def test_csv_without_figures(self):
        with self.assertRaisesRegex(ValueError, "no figures"):
            figures.parse_csv("Error from server: ERR\n")

    def test_strace_with_and_without_errors(self):
        rule = "------ ----------- ----------- --------- --------- ----------------\n"
        calls = " 60.00    0.000060           1        60           read\n"
        for last in ("100.00    0.000100           1       100           total\n",
                     "100.00    0.000100           1       100         7 total\n"):
            self.assertEqual(figures.parse_syscalls(rule + calls + rule + last), 100)

    def test_callgrind(self):
        self.assertEqual(figures.parse_instructions("events: Ir\nfn=(1) main\n16 3\n\ntotals: 123456\n"), 123456)

    def test_info(self):
        text = "# Stats\r\nkeyspace_hits:12\r\n\r\ncmdstat_get:calls=3,usec=1\r\n"
        self.assertEqual(figures.parse_info(text), {"keyspace_hits": "12", "cmdstat_get": "calls=3,usec=1"})


class Figures(unittest.TestCase):
    def test_cpu_is_seconds_per_million(self):
        self.assertAlmostEqual(taken("a", 0, 7_400_000).cpu, 7.4)
        self.assertIsNone(taken("direct", 0, None).cpu)

    def test_order_turns_round(self):
        self.assertEqual([figures.order(["a", "b"], turn) for turn in range(3)], [["a", "b"], ["b", "a"], ["a", "b"]])

    def test_a_rank_is_a_value_that_occurred(self):
        for values, wanted in (([7.0], 7.0), ([1.0, 9.0], 9.0), ([float(i) for i in range(200, 0, -1)], 198.0)):
            self.assertEqual(figures.rank(values, 0.99), wanted)

    def test_numbers_keep_three_digits(self):
        for value, text in ((0.189, "0.19"), (7.4, "7.40"), (16.04, "16.0"), (190.4, "190"), (1251.2, "1,251")):
            self.assertEqual(figures.number(value), text)

    def test_ratios_pair_the_samples_of_a_round(self):
        samples = [taken("ringway", 0, 100), taken("haproxy", 0, 50), taken("haproxy", 1, 200),
                   taken("ringway", 1, 100), taken("ringway", 2, 100), taken("haproxy", 0, 10, pinning="unpinned")]
        self.assertEqual(figures.ratios(samples, "ringway", "haproxy"), [2.0, 0.5])

    def test_a_verdict_names_what_does_not_hold(self):
        for y, held in ((0.75, "holds (largest 0.750, y)"), (0.752, "NOT: y 0.752")):
            self.assertEqual(figures.verdict("at most {} of x", {"x": 0.5, "y": y}, 0.75), f"at most 0.75 of x: {held}")

    def test_verdicts_are_by_the_medians_of_what_was_measured(self):
        samples = [taken("nutcracker", turn, 100) for turn in range(3)]
        samples += [taken("ringway", turn, cpu) for turn, cpu in enumerate((10, 76, 900))]
        self.assertEqual(figures.verdicts(samples, {"GET P16": 0.2}), [
            "pinned, GET P1, SET P1: CPU per request at most 0.75 of nutcracker's: NOT: GET P1 0.760",
            "pinned, every row: CPU per request at most 1 of nutcracker's: holds (largest 0.760, GET P1)",
            "system calls per request at most 0.21: holds (largest 0.200, GET P16)",
        ])

    def test_verdicts_need_both_parties(self):
        self.assertEqual(figures.verdicts([taken("nutcracker", 0, 1)], {}), [])

    def test_every_bar_speaks_of_rows_that_exist(self):
        for bar in figures.BARS:
            self.assertLessEqual(set(bar.rows), set(figures.EVERY))
        self.assertLessEqual(set(figures.SYSCALL_BARS), set(figures.EVERY))

    def test_tables_have_a_column_for_each_that_took_part(self):
        samples = [taken("direct", 0, None), taken("haproxy", 0, 900_000), taken("ringway", 0, 450_000)]
        names = ["direct", "haproxy", "ringway"]
        self.assertEqual(
            figures.cpu_table(samples, ["GET P1"], names).splitlines(),
            ["|  | haproxy | ringway | ringway / haproxy |", "| --- | ---: | ---: | ---: |",
             "| GET P1 | 0.90 (0.90–0.90) | 0.45 (0.45–0.45) | 0.50 (0.50–0.50) |"])
        self.assertIn("| GET P1 | 50.0 (50.0–50.0); 0.50 / 1.50 |",
                      figures.speed_table(samples, ["GET P1"], ["direct"]))
        self.assertIn("| GET P1 | 2.00 | 2.00 |", figures.memory_table(samples, ["GET P1"], names))


class Counts(unittest.TestCase):
    def test_only_what_grew_beyond_its_tolerance_is_wrong(self):
        kept = {"engine": {"a": 100.0, "b": 100.0, "c": 100.0}}
        lines, wrong = counts.compared(kept, {"engine": {"a": 101.9, "b": 102.1, "c": 50.0, "d": 1.0}})
        self.assertEqual(len(lines), 4)
        self.assertEqual(wrong, ["engine, b: 100 before, 102 now", "engine, d: not in COUNTS.json"])


class Requests(unittest.TestCase):
    def test_a_request_is_an_array_of_bulks(self):
        self.assertEqual(rig.request("SET", b"k\r\n", 12), b"*3\r\n$3\r\nSET\r\n$3\r\nk\r\n\r\n$2\r\n12\r\n")

    def test_free_ports_differ(self):
        self.assertEqual(len(set(rig.free_ports(8))), 8)


if __name__ == "__main__":
    unittest.main()
