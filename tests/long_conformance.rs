//! Redis' own test suite passes through Ringway, but for what `tests/conformance/expected.md` lists and explains.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

use std::process::Command;

#[test]
fn redis_own_suite_fails_exactly_where_the_list_says() {
    let mut run = Command::new("python3");
    run.arg("tests/conformance/run.py").env("RINGWAY", env!("CARGO_BIN_EXE_ringway"));
    let status = run.status().unwrap();
    assert!(status.success(), "the run and the list differ, or something broke: see above");
}
