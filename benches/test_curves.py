"""The pure parts of the curves: python3 -m unittest discover -s benches"""

import unittest

import curves
import one_client
import paced
import rig
from curves import CURVES, PARTS
from figures import Sample


class Curves(unittest.TestCase):
    def test_every_part_has_a_title_and_every_curve_a_name_of_its_own(self):
        self.assertEqual({curve.part for curve in CURVES}, set(PARTS))
        self.assertEqual(len({curve.name for curve in CURVES}), len(CURVES))

    def test_points_differ(self):
        for curve in CURVES:
            differing = {(point.row, point.setup, point.fetched) for point in curve.points}
            self.assertEqual(len(differing), len(curve.points))

    def test_files_of_ringways_that_stand_at_once_differ(self):
        setups = {point.setup for curve in CURVES for point in curve.points}
        self.assertEqual(len({setup.name for setup in setups}), len(setups))

    def test_only_the_last_rule_fits(self):
        text = curves.rules(3, "key:{*}").settings
        self.assertEqual(text.count("[[colocate]]"), 3)
        self.assertTrue(text.endswith('pattern = "app1:{*}:*"\n[[colocate]]\npattern = "key:{*}"\n'))
        self.assertEqual(curves.rules(0).settings, "")

    def test_a_section_sets_each_point_beside_the_first(self):
        [curve] = [curve for curve in CURVES if curve.name == "protocol, GET P16"]
        samples = [Sample("pinned", 0, curve.name, name, 1_000, 5_000.0, 0.5, 1.5, cpu, None)
                   for name, cpu in (("RESP2", 500_000), ("RESP3", 550_000))]
        calls = {(curve.name, name): 0.5 for name in ("RESP2", "RESP3")}
        found = curves.section("protocol", [curve], curves.Measured(samples, calls, 0.1))
        self.assertEqual(found.bars, [
            'protocol, GET P16: CPU per request at most 1.05 of that at "RESP2": NOT: "RESP3" 1.100'])
        self.assertIn("| GET P16: RESP3 | 0.55 (0.55–0.55) | 1.10 (1.10–1.10) | 0.50 | 5.00 (5.00–5.00) |", found.text)


class Paced(unittest.TestCase):
    def test_replies_in_pieces(self):
        self.assertEqual(paced.replies(b"$1\r\nx\r\n$1\r", b"$1\r\nx\r\n"), (1, b"$1\r"))
        for wrong in (b"", b"$-1\r\n", b"$1\r\nx\r\n-ERR"):
            with self.subTest(wrong), self.assertRaises(rig.Broken):
                paced.replies(wrong, b"$1\r\nx\r\n")

    def test_what_is_added_is_judged_beside_nutcracker(self):
        found = {name: [{"p50": 10.0 + added, "added": added, "p99": 9.0, "late": 1.0}]
                 for name, added in (("direct", 0.0), ("haproxy", 5.0), ("nutcracker", 20.0), ("ringway", 15.0))}
        self.assertEqual(paced.render(found, 20, 0.1).bars, [
            "5,000 requests/s: p50 added over direct at most 0.9 of nutcracker's: holds (largest 0.750, GET)"])


class OneClient(unittest.TestCase):
    def test_bars(self):
        cases = [one_client.case(warm, reads) for warm in (False, True) for reads in one_client.READS]
        found = {case: {name: [1.0] for name in one_client.TARGETS} for case in cases}
        found["cold, 1 read of each"]["cluster"] = [2.0]
        self.assertEqual(one_client.render(found, {"ringway": [3, 4, 3]}).bars, [
            "one client, 20 kB: time at most 1.05 of nutcracker's: holds (largest 1.000, cold, 100 reads of each)",
            "one client, 20 kB: time at most 0.4 of a cluster's: NOT: cold, 1 read of each 0.500",
        ])


if __name__ == "__main__":
    unittest.main()
