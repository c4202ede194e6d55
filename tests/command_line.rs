//! The command line: what it prints, what it exits with, and that errors are one line.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `ringway`; its exit code, standard output and standard error.
fn ringway(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ringway"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[track_caller]
fn refused(args: &[&str], line: &str) {
    assert_eq!(ringway(args), (2, String::new(), format!("ringway: {line}\n")), "{args:?}");
}

#[test]
fn wrong_usage_is_one_line_and_exit_code_2() {
    refused(&[], "what shall it do? Say run, check, locate, advise, demo, or --help");
    refused(&["run"], "the following required arguments were not provided: --config <FILE> (--help says more)");
    refused(
        &["locate", "-c", "config/ringway.toml"],
        "the following required arguments were not provided: <KEY>... (--help says more)",
    );
    refused(&["chekc"], "unrecognized subcommand 'chekc' tip: a similar subcommand exists: 'check' (--help says more)");
    refused(
        &["advise", "127.0.0.1:9379"],
        "\"127.0.0.1:9379\" is no address: say http://HOST:PORT (admin port) or redis://HOST:PORT (where clients connect)",
    );
    refused(
        &["advise"],
        "which proxy? Say -c FILE, its configuration, or its address: http://HOST:PORT (admin port) or \
         redis://HOST:PORT (where clients connect)",
    );
    refused(&["demo", "--shards", "0"], "invalid value '0' for '--shards <N>': 0 is not in 1..=50 (--help says more)");
}

#[test]
fn a_wrong_configuration_is_one_line_and_exit_code_2() {
    let missing = "nowhere.toml: cannot be read: No such file or directory (os error 2)";
    for verb in ["run", "check"] {
        refused(&[verb, "-c", "nowhere.toml"], missing);
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.toml");
    std::fs::write(&file, "[[backend]]\nname = \"a\"\naddress = \"a:1\"\nweight = 0\n").unwrap();
    let file = file.to_str().unwrap();
    refused(&["locate", "-c", file, "k"], &format!("{file}:4: backend[0].weight: must be 1 to 1000, is 0"));
    let text = "[admin]\nlisten = \"unix:/tmp/admin.sock\"\n[[backend]]\nname = \"a\"\naddress = \"a:1\"\n";
    std::fs::write(file, text).unwrap();
    for verb in ["run", "check"] {
        let right = "admin.listen: must be \"host:port\", HTTP is served on TCP alone, is \"unix:/tmp/admin.sock\"";
        refused(&[verb, "-c", file], &format!("{file}:2: {right}"));
    }
}

#[test]
fn every_verb_has_help() {
    for args in [
        &["--help"][..],
        &["run", "--help"],
        &["check", "-h"],
        &["locate", "--help"],
        &["advise", "--help"],
        &["demo", "--help"],
    ] {
        let (code, out, err) = ringway(args);
        assert!(code == 0 && out.contains("Usage: ringway") && err.is_empty(), "{args:?}\n{out}{err}");
    }
}

#[test]
fn check_prints_shards_and_shares() {
    let (code, out, err) = ringway(&["check", "-c", "config/ringway.toml"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(
        out,
        "config/ringway.toml: fine\n\
         clients    127.0.0.1:7379\n\
         admin      http://127.0.0.1:9379/\n\
         placement  slots, version 1; 0 colocate rules\n\
         \n\
         shard    address         weight  slots  share\n\
         a        127.0.0.1:7001       1   5519  33.7%  home\n\
         b        127.0.0.1:7002       1   5176  31.6%\n\
         c        127.0.0.1:7003       1   5689  34.7%\n"
    );
}

#[test]
fn check_prints_warnings() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.toml");
    let text = "[proxy]\nlisten = [\"0.0.0.0:7379\"]\n[[backend]]\nname = \"a\"\naddress = \"a:1\"\n";
    std::fs::write(&file, text).unwrap();
    let (code, out, _) = ringway(&["check", "-c", file.to_str().unwrap()]);
    assert_eq!(code, 0);
    assert!(out.contains("\nwarning: proxy.listen: 0.0.0.0:7379 is reachable from other machines"), "{out}");
}

#[test]
fn locate_says_where_and_why() {
    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/colocate.toml").exists());
    let keys = ["user:42", "cart:{42}:x", "bull:mail:1", "rq:job:7", "lock:a"];
    let (code, out, err) = ringway(&[&["locate", "-c", "config/examples/colocate.toml"][..], &keys].concat());
    assert_eq!((code, err.as_str()), (0, ""));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines[0],
        "key=\"user:42\" tag=\"user:42\" slot=15880 shard=c address=127.0.0.1:7003 why=\"the whole key is hashed\""
    );
    assert!(lines[1].contains("tag=\"42\" slot=8000 ") && lines[1].ends_with("why=\"its hash tag\""));
    assert!(lines[2].contains("tag=\"mail\" ") && lines[2].ends_with(r#"why="the colocate rule \"bull:{*}:*\"""#));
    assert!(lines[3].contains("tag=\"rq:\" "));
    assert!(lines[4].contains("slot=- shard=a ") && lines[4].contains("pinned by the colocate rule"));
}
