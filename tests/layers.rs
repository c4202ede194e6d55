//! The order of the modules, and the purity of the pure ones: `src/lib.rs` lists the modules from the
//! top down, a module names only those on lines beneath its own, and what is pure does no I/O.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

use std::fs;
use std::path::{Path, PathBuf};

const PURE: [&str; 6] = ["engine", "route", "advice", "topology", "command", "resp"];
/// What a pure file never names: words, and first segments of paths in `std`.
const IO_WORDS: [&str; 5] = ["tokio", "tracing", "socket2", "Instant", "SystemTime"];
const IO_STD: [&str; 5] = ["net", "fs", "thread", "process", "env"];

/// What stands behind `root::` in `text`, each with its position: `a` and `b` of `root::{a::x, b}`.
fn named<'a>(text: &'a str, root: &str) -> Vec<(usize, &'a str)> {
    let word = |at: usize| {
        let end = text[at..].find(|c: char| !c.is_alphanumeric() && c != '_').map_or(text.len(), |end| at + end);
        (at, &text[at..end])
    };
    let path = format!("{root}::");
    let starts = text
        .match_indices(&path)
        .filter(|(at, _)| !text[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'));
    starts
        .flat_map(|(at, _)| {
            let at = at + path.len();
            if !text[at..].starts_with('{') {
                return vec![word(at)];
            }
            let (mut depth, mut found) = (0, Vec::new());
            for (offset, c) in text[at..].char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 1 && matches!(c, '{' | ',') {
                    let next = at + offset + 1;
                    found.push(word(next + text[next..].len() - text[next..].trim_start().len()));
                }
                if depth == 0 {
                    break;
                }
            }
            found
        })
        .filter(|(_, word)| !word.is_empty())
        .collect()
}

/// What is wrong with a file of the module `module`, `depth` directories deep, as `line: rule`.
fn violations(order: &[String], module: &str, depth: usize, text: &str) -> Vec<String> {
    let place = |name: &str| order.iter().position(|known| known == name);
    let mut found = Vec::new();
    let mut report = |at: usize, rule: String| found.push(format!("{}: {rule}", text[..at].matches('\n').count() + 1));
    // As many steps up as the file is deep lead to the crate, too.
    let siblings = named(text, &vec!["super"; depth].join("::"));
    for (at, name) in named(text, "crate").into_iter().chain(siblings) {
        match (place(module), place(name)) {
            (Some(own), Some(other)) if other < own => {
                report(at, format!("`{module}` names `{name}`, which stands above it in src/lib.rs"));
            }
            (None, _) => report(at, format!("`{module}` is not in src/lib.rs")),
            _ => {}
        }
    }
    if PURE.contains(&module) {
        let code = code(text);
        for word in IO_WORDS {
            let ends = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
            let whole =
                |at: &usize| ends(code[..*at].chars().next_back()) && ends(code[at + word.len()..].chars().next());
            code.match_indices(word)
                .map(|(at, _)| at)
                .filter(whole)
                .for_each(|at| report(at, format!("`{module}` is pure and names `{word}`")));
        }
        let std = named(&code, "std").into_iter().filter(|(_, name)| IO_STD.contains(name));
        std.for_each(|(at, name)| report(at, format!("`{module}` is pure and names `std::{name}`")));
        let config = named(&code, "crate").into_iter().filter(|(_, name)| *name == "config");
        config.for_each(|(at, _)| report(at, format!("`{module}` is pure and reads the configuration")));
    }
    found
}

/// The text with its comments blanked out, each byte in its place.
fn code(text: &str) -> String {
    let blank = |line: &str| match line.find("//") {
        Some(at) => line[..at].to_owned() + &" ".repeat(line.len() - at),
        None => line.to_owned(),
    };
    text.split('\n').map(blank).collect::<Vec<_>>().join("\n")
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
            false => {}
        }
    }
}

/// The modules of `src/lib.rs`, from the top down.
fn order(lib: &str) -> Vec<String> {
    let module = |line: &str| Some(line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';')?.to_owned());
    lib.lines().filter_map(module).collect()
}

#[test]
fn modules_name_only_what_is_beneath_them_and_pure_ones_do_no_io() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let order = order(&fs::read_to_string(src.join("lib.rs")).unwrap());
    assert!(PURE.iter().all(|pure| order.iter().any(|module| module == pure)), "{order:?}");
    let (mut files, mut wrong) = (Vec::new(), Vec::new());
    sources(&src, &mut files);
    for file in &files {
        let path = file.strip_prefix(&src).unwrap();
        let parts: Vec<_> = path.iter().map(|part| part.to_str().unwrap().trim_end_matches(".rs")).collect();
        if parts == ["lib"] || parts == ["main"] {
            continue;
        }
        let text = fs::read_to_string(file).unwrap();
        wrong.extend(
            violations(&order, parts[0], parts.len(), &text)
                .iter()
                .map(|what| format!("src/{}:{what}", path.display())),
        );
    }
    println!("{} files of {} modules", files.len(), order.len());
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn planted_violations_are_found() {
    let order = order("pub mod cli;\n\npub mod engine;\npub mod resp;\nmod metrics;\n");
    let check = |module: &str, text: &str, expected: &[&str]| {
        assert_eq!(violations(&order, module, 1, text), expected, "{text}");
    };
    let above = |line: usize, name: &str| format!("{line}: `resp` names `{name}`, which stands above it in src/lib.rs");
    check("cli", "use crate::engine::Engine;\nuse crate::{metrics, resp};\nuse tokio::net;\nuse std::fs;", &[]);
    check(
        "resp",
        "use crate::resp::Args;\nuse crate::metrics;\n// Instant, tokio\nfn f(x: io::Error, InstantX: u8) {}",
        &[],
    );
    check("resp", "\nuse crate::engine::Out;", &[&above(2, "engine")]);
    check("resp", "use crate::{\n    metrics::{self, Cell},\n    cli,\n};", &[&above(3, "cli")]);
    check(
        "resp",
        "fn f() {\n    crate::engine::labels();\n    super::cli::main();\n}",
        &[&above(2, "engine"), &above(3, "cli")],
    );
    assert_eq!(violations(&order, "resp", 2, "use super::super::cli;"), [above(1, "cli")]);
    check("resp", "use std::{io, net::IpAddr};", &["1: `resp` is pure and names `std::net`"]);
    check("resp", "\nuse std::time::{Duration, Instant};", &["2: `resp` is pure and names `Instant`"]);
    check("engine", "fn f() { tracing::info!(\"x\") }", &["1: `engine` is pure and names `tracing`"]);
    check("engine", "use crate::config::Config;", &["1: `engine` is pure and reads the configuration"]);
    check("stray", "use crate::resp;", &["1: `stray` is not in src/lib.rs"]);
}
