"""The checker must notice what it is there for: outputs with planted faults, and lists that differ."""

import textwrap
import unittest
import unittest.mock

import lane
import lists
import output
import run
import suite

# As the suite prints it, colours included.
GREEN, RED = "\x1b[0;32;49mok\x1b[0m", "\x1b[0;31;49merr\x1b[0m"
WHOLE = f"""\
Starting test server at port 21079
[ready]: 18299
[{GREEN}]: first test (0 ms)
[{GREEN}]: second (of two) tests (12 ms)
[\x1b[0;36;49mignore\x1b[0m]: third: Tag: needs:debug denied
[{GREEN}]: first test (3 ms)
[1/1 \x1b[0;33;49mdone\x1b[0m]: unit/dump (15 seconds)

                   The End

"""


def verdicts(text: str) -> dict[str, str]:
    return {test: verdict for test, (verdict, _) in output.parse(text, "unit/dump").tests.items()}


class Output(unittest.TestCase):
    def test_each_test_that_passed_is_found_once_and_ignored_ones_are_not(self):
        self.assertEqual(verdicts(WHOLE), {
            "first test": "passed", "second (of two) tests": "passed", "first test #2": "passed"})
        self.assertTrue(output.parse(WHOLE, "unit/dump").whole())

    def test_a_failed_test_has_its_detail(self):
        text = WHOLE.replace(f"[{GREEN}]: second (of two) tests (12 ms)", textwrap.dedent(f"""\
            [{RED}]: second (of two) tests in tests/unit/dump.tcl
            Expected '[ok]: x' to match
              '0'"""))
        report = output.parse(text, "unit/dump")
        self.assertEqual(report.tests["second (of two) tests"], ("failed", "Expected '[ok]: x' to match '0'"))
        self.assertEqual(report.failures(), ["second (of two) tests"])

    def test_a_failure_repeated_in_the_summary_counts_once(self):
        line = f"[{RED}]: lost in tests/unit/dump.tcl\nwhy\n"
        self.assertEqual(verdicts(f"{line}[1/1 done]: unit/dump\n\n   The End\n\n*** {line}"), {"lost": "failed"})

    def test_a_test_without_a_line_is_missing(self):
        self.assertNotIn("second (of two) tests", verdicts(WHOLE.replace("second (of two)", "another")))

    def test_a_hung_test_is_named(self):
        text = WHOLE.split("[1/1")[0] + textwrap.dedent("""\
            [\x1b[0;31;49mTIMEOUT\x1b[0m]: clients state report follows.
            sock55d0 => (IN PROGRESS) third one

                               The End
            """)
        report = output.parse(text, "unit/dump")
        self.assertEqual(report.tests["third one"][0], "hung")
        self.assertFalse(report.whole())

    def test_a_hang_between_tests_is_outside(self):
        report = output.parse("sock55d0 => (OK) last one\n", "unit/dump")
        self.assertEqual((report.tests, len(report.outside)), ({}, 1))

    def test_an_error_between_tests_is_no_test_and_leaves_the_file_unfinished(self):
        report = output.parse(f"[{RED}]: ading reply\nI/O error reading reply\n{WHOLE}", "unit/dump")
        self.assertEqual(report.outside, ["ading reply"])
        self.assertFalse(report.whole())

    def test_an_aborted_file_is_not_whole(self):
        text = WHOLE.split("[1/1")[0] + "[exception]: Executing test client: I/O error reading reply.\n"
        report = output.parse(text, "unit/dump")
        self.assertFalse(report.done)
        self.assertEqual(len(report.outside), 1)

    def test_a_skipped_test_keeps_its_place_among_its_namesakes(self):
        self.assertEqual(verdicts("[skip]: twice\n[ok]: twice (1 ms)\n"), {"twice #2": "passed"})
        self.assertEqual(output.plain_name("twice #2"), "twice")


class Rounds(unittest.TestCase):
    """A file is run again without what failed until it has come to its end."""

    def result(self, *texts: str) -> tuple[lane.Result, list[list[str]]]:
        skips: list[list[str]] = []
        remaining = list(texts)

        def once(_self, unit, _setting, _plain, _only, skipped, _round, _result):
            skips.append(list(skipped))
            return output.parse(remaining.pop(0), unit)

        with unittest.mock.patch.object(lane.Lane, "_once", once):
            return lane.Lane(suite.ROOT, suite.ROOT).file("unit/x", lane.SETTINGS["a"], False), skips

    def test_what_stands_behind_a_hang_still_runs(self):
        result, skips = self.result(
            "[ok]: one (1 ms)\nsock1 => (IN PROGRESS) two\n",
            "[ok]: one (1 ms)\n[skip]: two\n[ok]: three (1 ms)\n[1/1 done]: unit/x\n",
        )
        self.assertEqual({test: verdict for test, (verdict, _) in result.tests.items()},
                         {"one": "passed", "two": "hung", "three": "passed"})
        self.assertEqual(skips, [[], ["two"]])

    def test_the_first_verdict_counts(self):
        result, _ = self.result(
            "[err]: one in tests/unit/x.tcl\nbad\n[exception]: gone\n", "[skip]: one\n[1/1 done]: unit/x\n")
        self.assertEqual(result.tests["one"][0], "failed")

    def test_an_abort_that_no_failure_explains_ends_the_rounds(self):
        result, skips = self.result("[ok]: one (1 ms)\n[exception]: gone\n")
        self.assertEqual((len(skips), result.outside), (1, ["gone"]))


class Lists(unittest.TestCase):
    EXPECTED = textwrap.dedent("""\
        # Title
        ## Swapped databases
        > SWAPDB: an error that says so
        > (COMMANDS.md 8).

        | File | Test | Settings |
        |---|---|---|
        | unit/multi | WATCH a \\| b | ac |
        """)

    def test_expected_failures_carry_their_sentence(self):
        sentence = "SWAPDB: an error that says so (COMMANDS.md 8)."
        self.assertEqual(lists.read_expected(self.EXPECTED), {
            "a": {("unit/multi", "WATCH a | b"): sentence}, "c": {("unit/multi", "WATCH a | b"): sentence}})

    def test_a_test_without_a_sentence_is_refused(self):
        with self.assertRaisesRegex(lists.Malformed, "line 6: no sentence"):
            lists.read_expected("".join(self.EXPECTED.splitlines(True)[:2] + self.EXPECTED.splitlines(True)[4:]))

    def test_a_test_listed_twice_is_refused(self):
        with self.assertRaisesRegex(lists.Malformed, "listed twice"):
            lists.read_expected(self.EXPECTED + "| unit/multi | WATCH a \\| b | b |\n| unit/multi | WATCH a \\| b | b |\n")

    def test_the_denominator_is_read_as_it_was_written(self):
        tests = {"a": [("unit/x", "one"), ("unit/x", "two #2")], "b": [("unit/x", "two #2")], "c": []}
        text = lists.write_denominator("0" * 64, tests, "note")
        self.assertEqual(lists.read_denominator(text), ("0" * 64, {"a": tests["a"], "b": tests["b"]}))
        with self.assertRaisesRegex(lists.Malformed, "line 1"):
            lists.read_denominator("a unit/x name\n")

    def test_differences_are_seen_in_both_directions(self):
        one, two, three, four = (("unit/x", name) for name in ("one", "two", "three", "four"))
        found = lists.differences({one, two}, {two, three, four}, {one, two, three})
        self.assertEqual(list(found.values()), [[one], [three], [four]])


class Again(unittest.TestCase):
    """What a test that differs is judged by: where it is run, and whether plain Redis or Ringway passes there."""

    def fails(self, **passes: tuple[bool, bool]) -> bool:
        def submit(_unit, _setting, plain, only):
            passed = passes["alone" if only else "file"][0 if plain else 1]
            tests = {"t": (output.PASSED if passed else "failed", "")}
            return unittest.mock.Mock(result=lambda: unittest.mock.Mock(tests=tests))

        return run.fails_again(unittest.mock.Mock(submit=submit), ("unit", "t"), None)[0]

    def test_what_ringway_alone_fails_in_both_is_a_failure(self):
        self.assertTrue(self.fails(alone=(True, False), file=(True, False)))
        self.assertTrue(self.fails(alone=(True, False), file=(False, False)))
        self.assertTrue(self.fails(alone=(False, False), file=(True, False)))

    def test_what_passes_in_one_of_them_is_none(self):
        self.assertFalse(self.fails(alone=(True, True)))
        self.assertFalse(self.fails(alone=(True, False), file=(True, True)))
        self.assertFalse(self.fails(alone=(False, False), file=(False, False)))


class Sources(unittest.TestCase):
    def test_one_line_entries_become_sources(self):
        text = "# deb http://a b c\ndeb [arch=amd64] http://deb.debian.org/debian bookworm main\ndeb-src http://x y main\n"
        self.assertEqual(suite.as_sources("debian.list", text),
                         "deb-src [arch=amd64] http://deb.debian.org/debian bookworm main\n")

    def test_deb822_stanzas_become_sources(self):
        text = ("Types: deb\n# a comment\nURIs: http://deb.debian.org/debian\nSuites: bookworm\nComponents: main\n\n"
                "Types: deb-src\nURIs: http://elsewhere\nSuites: x\nComponents: main\n")
        self.assertEqual(suite.as_sources("debian.sources", text),
                         "Types: deb-src\nURIs: http://deb.debian.org/debian\nSuites: bookworm\nComponents: main\n\n")

    def test_other_files_are_none(self):
        self.assertEqual(suite.as_sources("x.list.disabled", "deb http://a b main\n"), "")


if __name__ == "__main__":
    unittest.main()
