//! The configuration: every example loads, and every mistake is one line that says what is right.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use ringway::config::{Config, Keyless, LogFormat, ReadyQuorum};
use ringway::topology::{KeyHash, Kind, Topology};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn parse(text: &str) -> Config {
    Config::parse(Path::new("x.toml"), text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

const BACKEND: &str = "[[backend]]\nname = \"a\"\naddress = \"127.0.0.1:7001\"\n";

#[test]
fn every_example_loads() {
    let mut files = vec![root().join("config/ringway.toml")];
    for entry in std::fs::read_dir(root().join("config/examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    assert!(files.len() >= 7, "{files:?}");
    for file in files {
        let config = Config::load(&file).unwrap_or_else(|error| panic!("{error}"));
        Topology::build(&config.topology_spec(), 1).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert_eq!(config.warnings(), Vec::<String>::new(), "{}", file.display());
    }
}

#[test]
fn the_commented_default_is_the_default() {
    let config = Config::load(&root().join("config/ringway.toml")).unwrap();
    let three = "[placement]\nhome = \"a\"\n[admin]\nlisten = \"127.0.0.1:9379\"\n".to_owned()
        + BACKEND
        + &BACKEND.replace("\"a\"", "\"b\"").replace("7001", "7002")
        + &BACKEND.replace("\"a\"", "\"c\"").replace("7001", "7003");
    let mut bare = parse(&three);
    bare.file.clone_from(&config.file);
    assert_eq!(format!("{config:#?}"), format!("{bare:#?}"));
}

#[test]
fn the_commented_default_names_every_field() {
    let text = std::fs::read_to_string(root().join("config/ringway.toml")).unwrap();
    let source = std::fs::read_to_string(root().join("src/config.rs")).unwrap();
    let structs = source.split("\nimpl ").next().unwrap();
    let fields = structs.lines().filter_map(|line| line.strip_prefix("    pub ")?.split(':').next());
    for field in fields.filter(|field| !["file", "tls"].contains(field)) {
        let mentions = [format!("{field} ="), format!("[{field}]"), format!(".{field}]")];
        assert!(mentions.iter().any(|mention| text.contains(mention)), "config/ringway.toml lacks {field}");
    }
}

#[test]
fn values_arrive() {
    let config = parse(&format!(
        "[proxy]\nlisten = [\"[::1]:0\", \"unix:/tmp/x.sock\"]\nthreads = 0\n\
         [admin]\nready_quorum = 1\n\
         [commands]\nkeyless = {{ \"FT.SEARCH\" = \"a\" }}\nkeyless_scripts = \"refuse\"\n\
         [limits]\nclient_output_bytes_max = 65536\nbackend_buffer_bytes_max = \"2MiB\"\n\
         [timeouts]\nrequest = \"1500ms\"\nclient_idle = \"5m\"\n\
         [placement]\nkind = \"modula\"\nhash = \"crc32a\"\nhash_tag = \"<>\"\n\
         [log]\nformat = \"json\"\n{BACKEND}password = \"hunter2\"\n"
    ));
    let listen: Vec<String> = config.proxy.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["[::1]:0", "unix:/tmp/x.sock"]);
    assert_eq!(config.admin.ready_quorum, ReadyQuorum::AtLeast(1));
    assert_eq!(config.commands.keyless["FT.SEARCH"], Keyless::Shard("a".to_owned()));
    assert_eq!(config.commands.keyless_scripts, Keyless::Refuse);
    assert_eq!(config.limits.client_output_bytes_max, 65_536);
    assert_eq!(config.limits.backend_buffer_bytes_max, 2 << 20);
    assert_eq!(config.timeouts.request, Duration::from_millis(1500));
    assert_eq!(config.timeouts.client_idle, Duration::from_secs(300));
    let kind = Kind::Modula { hash: KeyHash::Crc32a, hash_tag: Some(*b"<>") };
    assert_eq!(config.topology_spec().kind, kind);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.backend[0].password.as_ref().unwrap().reveal(), "hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn presets_are_rules_behind_those_of_the_file() {
    let config =
        parse(&format!("[placement]\npresets = [\"rq\", \"bullmq\"]\n[[colocate]]\npattern = \"q:*\"\n{BACKEND}"));
    let patterns: Vec<String> = config.topology_spec().colocate.into_iter().map(|rule| rule.pattern).collect();
    assert_eq!(patterns, ["q:*", "rq:*", "bull:{*}:*"]);
    for (name, rules) in Config::presets() {
        let config = parse(&format!("[placement]\npresets = [\"{name}\"]\n{BACKEND}"));
        assert_eq!(config.topology_spec().colocate, rules, "{name}");
        Topology::build(&config.topology_spec(), 1).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    wrong(
        "[placement]\npresets = [\"rq\", \"rails\"]",
        "x.toml:5: placement.presets[1]: must be one of \"bee-queue\", \"bullmq\", \"celery\", \"resque\", \"rq\", \
         \"sidekiq\", \"streaq\", is \"rails\"",
    );
    wrong(
        "[placement]\npresets = [\"rq\", \"rq\"]",
        "x.toml:5: placement.presets[1]: must be named once, \"rq\" stands there twice",
    );
}

#[test]
fn passwords_come_from_files_beside_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("p"), "hunter2\n").unwrap();
    let file = dir.path().join("x.toml");
    std::fs::write(&file, format!("{BACKEND}password_file = \"p\"\n")).unwrap();
    let config = Config::load(&file).unwrap();
    assert_eq!(config.backend[0].password.as_ref().unwrap().reveal(), "hunter2");
}

#[test]
fn warnings_name_what_is_perhaps_not_meant() {
    let check = |text: &str, warning: &str| {
        let warnings = parse(text).warnings();
        assert!(warnings.len() == 1 && warnings[0].starts_with(warning), "{warnings:?}");
    };
    let open = format!("[proxy]\nlisten = [\"0.0.0.0:7379\"]\n{BACKEND}");
    check(&open, "proxy.listen: 0.0.0.0:7379 is reachable from other machines and there is no [[user]]");
    let admin = format!("[admin]\nlisten = \"10.0.0.1:9379\"\n{BACKEND}");
    check(&admin, "admin.listen: 10.0.0.1:9379 is reachable from other machines");
    let unequal = format!("{BACKEND}weight = 10\n{}", BACKEND.replace("\"a\"", "\"b\"").replace("7001", "7002"));
    check(&unequal, "backend.weight: weights of 1 to 10 are very unequal");
    let user = format!("[commands]\nadmin = true\n[[user]]\nname = \"u\"\npassword = \"p\"\n{BACKEND}");
    check(&user, "commands.admin: has no effect");
    let rules = |head: &str, patterns: &[&str]| {
        let rules: Vec<String> = patterns.iter().map(|one| format!("[[colocate]]\npattern = {one:?}\n")).collect();
        format!("{head}{}{BACKEND}", rules.concat())
    };
    check(
        &rules("", &["a:*", "b:*", "a:*"]),
        "colocate[2].pattern: \"a:*\" has no effect, because colocate[0] (\"a:*\") matches all of its keys",
    );
    check(
        &rules("", &["a:*", "a:{*}:*"]),
        "colocate[1].pattern: \"a:{*}:*\" has no effect, because colocate[0] (\"a:*\") matches all of its keys",
    );
    check(
        &rules("", &["{tag}:*"]),
        "colocate[0].pattern: \"{tag}:*\" has no effect, because its keys have a hash tag of their own",
    );
    let tags = "[placement]\nkind = \"ketama\"\nhash_tag = \"<>\"\n";
    check(&rules(tags, &["<tag>:*", "{tag}:*"]), "colocate[0].pattern: \"<tag>:*\" has no effect");
    for fine in [
        rules("", &["a:{*}:*", "a:*"]),
        rules("", &["{tag:*"]),
        rules("[placement]\nkind = \"ketama\"\n", &["{tag}:*"]),
        // A rule of one's own may stand for a preset's.
        rules("[placement]\npresets = [\"rq\"]\n", &["rq:*"]),
    ] {
        assert_eq!(parse(&fine).warnings(), Vec::<String>::new(), "{fine}");
    }
}

/// `text` behind one good backend (lines 1 to 3) is refused with exactly this line.
#[track_caller]
fn wrong(text: &str, line: &str) {
    let error = Config::parse(Path::new("x.toml"), &format!("{BACKEND}{text}")).unwrap_err().to_string();
    assert_eq!(error, line);
}

/// `text` alone is refused with exactly this line.
#[track_caller]
fn wrong_alone(text: &str, line: &str) {
    let error = Config::parse(Path::new("x.toml"), text).unwrap_err().to_string();
    assert_eq!(error, line);
}

const SECOND: &str = "[[backend]]\nname = \"b\"\naddress = \"127.0.0.1:7002\"\n";

#[test]
fn mistakes_in_backends() {
    wrong_alone("", "x.toml: backend: is missing: add a [[backend]] with name and address");
    wrong_alone("[[backend]]\naddress = \"a:1\"", "x.toml:1: backend[0].name: is missing");
    wrong("[[backend]]\nname = \"b\"", "x.toml:4: backend[1].address: is missing");
    wrong("weight = 0", "x.toml:4: backend[0].weight: must be 1 to 1000, is 0");
    wrong("weight = 1001", "x.toml:4: backend[0].weight: must be 1 to 1000, is 1001");
    wrong("weight = -1", "x.toml:4: backend[0].weight: must be a whole number of 0 or more, is integer -1");
    wrong("weight = \"2\"", "x.toml:4: backend[0].weight: must be a whole number of 0 or more, is string \"2\"");
    wrong("wieght = 2", "x.toml:4: backend[0].wieght: is unknown, did you mean weight?");
    wrong(BACKEND, "x.toml:5: backend[1].name: must be unique, \"a\" is the name of backend[0] too");
    wrong(
        &SECOND.replace("7002", "7001"),
        "x.toml:6: backend[1].address: must be unique, 127.0.0.1:7001 is the address of backend[0] too",
    );
    wrong(
        &SECOND.replace("7002", "7379"),
        "x.toml:6: backend[1].address: must not be the proxy itself, 127.0.0.1:7379 is in proxy.listen",
    );
    wrong(
        &SECOND.replace("127.0.0.1:7002", "127.0.0.1"),
        "x.toml:6: backend[1].address: must be \"host:port\" or \"unix:/path\", is \"127.0.0.1\"",
    );
    wrong(
        &SECOND.replace("7002", "0"),
        "x.toml:6: backend[1].address: must have a port of 1 to 65535, is \"127.0.0.1:0\"",
    );
    wrong(
        &SECOND.replace("127.0.0.1:7002", "::1:7002"),
        "x.toml:6: backend[1].address: must have brackets around an IPv6 address, is \"::1:7002\"",
    );
    wrong(
        &SECOND.replace("7002", "70000"),
        "x.toml:6: backend[1].address: must have a port of 1 to 65535, is \"127.0.0.1:70000\"",
    );
    // There may be a password in one: it is not repeated.
    wrong(
        &SECOND.replace("127.0.0.1", "redis://:hunter2@127.0.0.1"),
        "x.toml:6: backend[1].address: must be \"host:port\" or \"unix:/path\" without \"redis://\"",
    );
    wrong(
        &SECOND.replace("127.0.0.1", "tls://127.0.0.1"),
        "x.toml:6: backend[1].address: must be \"host:port\" or \"unix:/path\" without \"tls://\": \
         TLS is not supported yet",
    );
    wrong(
        &SECOND.replace("127.0.0.1", "u:hunter2@127.0.0.1"),
        "x.toml:6: backend[1].address: must be \"host:port\" or \"unix:/path\": a user and a password have fields \
         of their own",
    );
    wrong(
        &SECOND.replace("127.0.0.1:7002", "unix:redis.sock"),
        "x.toml:6: backend[1].address: must be an absolute path after \"unix:\", is \"unix:redis.sock\"",
    );
    wrong(
        &SECOND.replace("\"127.0.0.1:7002\"", "7002"),
        "x.toml:6: backend[1].address: must be \"host:port\" or \"unix:/path\", is 7002",
    );
    wrong(
        &SECOND.replace("\"b\"", "\"\""),
        "x.toml:5: backend[1].name: must be 1 to 64 visible ASCII characters without quotes, is \"\"",
    );
    wrong(
        &SECOND.replace("\"b\"", "\"home\""),
        "x.toml:5: backend[1].name: must not be \"home\", which means the home shard in rules: choose another name",
    );
    wrong(
        &SECOND.replace("\"b\"", "\"refuse\""),
        "x.toml:5: backend[1].name: must not be \"refuse\", which means no shard in rules: choose another name",
    );
    wrong("weight = 99999999999", "x.toml:4: backend[0].weight: must be 1 to 1000, is 99999999999");
    wrong(
        &format!("{SECOND}weight = 400"),
        "x.toml:7: backend[1].weight: must be smaller: all weights together may be 400 \
         (64000 points on the ring), are 401",
    );
    wrong(
        "tls = { ca = \"ca.pem\" }",
        "x.toml:4: backend[0].tls: TLS is not supported yet: remove it, or put a TLS tunnel in between",
    );
    wrong("[tls]\ncert = \"x\"", "x.toml:4: tls: TLS is not supported yet: remove it, or put a TLS tunnel in between");
}

#[test]
fn mistakes_in_passwords_do_not_show_them() {
    wrong("password = 12345", "x.toml:4: backend[0].password: must be text in quotes");
    wrong("password = [\"hunter2\"]", "x.toml:4: backend[0].password: must be text in quotes");
    wrong("password = \"\"", "x.toml:4: backend[0].password: must not be an empty password");
    wrong("passwort = \"hunter2\"", "x.toml:4: backend[0].passwort: is unknown, did you mean password?");
    wrong("username = \"u\"", "x.toml:4: backend[0].username: needs password, password_env or password_file beside it");
    wrong(
        "password = \"hunter2\"\npassword_env = \"X\"",
        "x.toml:5: backend[0].password_env: must be the only one: give password, password_env or password_file",
    );
    wrong(
        "password_env = \"RINGWAY_NOT_SET\"",
        "x.toml:4: backend[0].password_env: must name an environment variable that is set, \"RINGWAY_NOT_SET\" is not",
    );
    wrong(
        "password_file = \"/nowhere/p\"",
        "x.toml:4: backend[0].password_file: cannot be read: /nowhere/p: No such file or directory (os error 2)",
    );
    let loose = Config::parse(Path::new("x.toml"), &format!("{BACKEND}password = hunter2")).unwrap_err();
    assert!(loose.to_string().starts_with("x.toml:4: "), "{loose}");
    assert!(!loose.to_string().contains("hunter2"), "{loose}");
}

#[test]
fn mistakes_in_the_proxy_and_admin() {
    wrong("[proxy]\nlisten = []", "x.toml:5: proxy.listen: must name at least one address, such as \"127.0.0.1:7379\"");
    wrong("[proxy]\nlisten = \"a:1\"", "x.toml:5: proxy.listen: must be a list in [ ], is string \"a:1\"");
    wrong(
        "[proxy]\nlisten = [\n  \"127.0.0.1:1\",\n  \"127.0.0.1\",\n]",
        "x.toml:7: proxy.listen[1]: must be \"host:port\" or \"unix:/path\", is \"127.0.0.1\"",
    );
    wrong(
        "[proxy]\nlisten = [\"127.0.0.1:1\", \"0.0.0.0:1\"]",
        "x.toml:5: proxy.listen[1]: must be an address of its own, 0.0.0.0:1 is listen[0] too",
    );
    wrong(
        "[admin]\nlisten = \"127.0.0.1:7379\"",
        "x.toml:5: admin.listen: must be an address of its own, 127.0.0.1:7379 is in proxy.listen too",
    );
    wrong("[proxy]\nthreads = 257", "x.toml:5: proxy.threads: must be 0 to 256, is 257");
    wrong("[proxy]\nbacklog = 0", "x.toml:5: proxy.backlog: must be 1 to 65535, is 0");
    wrong("[proxy]\nbacklog = 99999999999", "x.toml:5: proxy.backlog: must be 1 to 65535, is 99999999999");
    wrong(
        "[proxy]\nlisten = [\"127.0.0.1:70000\"]",
        "x.toml:5: proxy.listen[0]: must have a port of 0 to 65535, is \"127.0.0.1:70000\"",
    );
    wrong("[admin]\nlisten = \"9379\"", "x.toml:5: admin.listen: must be \"host:port\", is \"9379\"");
    wrong("[admin]\nlisten = 9379", "x.toml:5: admin.listen: must be \"host:port\", is 9379");
    wrong("[admin]\nlisten = \"http://h:1\"", "x.toml:5: admin.listen: must be \"host:port\" without \"http://\"");
    wrong("[proxy]\nreuse_port = 1", "x.toml:5: proxy.reuse_port: must be true or false, is integer 1");
    wrong("[porxy]\nthreads = 1", "x.toml:4: porxy: is unknown, did you mean proxy?");
    wrong(
        "[servers]\nthreads = 1",
        "x.toml:4: servers: is unknown, known are proxy, admin, backend, placement, colocate, commands, \
         limits, timeouts, tls, user, log",
    );
    // Two changes make any word of three letters.
    wrong(
        "[foo]",
        "x.toml:4: foo: is unknown, known are proxy, admin, backend, placement, colocate, commands, \
         limits, timeouts, tls, user, log",
    );
    wrong("[[backends]]", "x.toml:4: backends[0]: is unknown, did you mean backend?");
    wrong("[logs]", "x.toml:4: logs: is unknown, did you mean log?");
    wrong("[admin]\nready_quorum = 2", "x.toml:5: admin.ready_quorum: must be 1 to 1, is 2");
    wrong("[admin]\nready_quorum = 99999999999", "x.toml:5: admin.ready_quorum: must be 1 to 1, is 99999999999");
    wrong(
        "[admin]\nready_quorum = \"most\"",
        "x.toml:5: admin.ready_quorum: must be \"all\", \"majority\", or a number of backends, is \"most\"",
    );
}

#[test]
fn mistakes_in_placement_and_rules() {
    wrong("[placement]\nhome = \"z\"", "x.toml:5: placement.home: must be the name of a backend (a), is \"z\"");
    wrong("[placement]\nversion = 2", "x.toml:5: placement.version: must be 1, the only version, is 2");
    wrong(
        "[placement]\nkind = \"random\"",
        "x.toml:5: placement.kind: must be one of \"slots\", \"ketama\", \"modula\", is \"random\"",
    );
    wrong(
        "[placement]\nkind = \"ketama\"\nhash = \"hsieh\"",
        "x.toml:6: placement.hash: must be one of \"one_at_a_time\", \"md5\", \"crc16\", \"crc32\", \"crc32a\", \
         \"fnv1_64\", \"fnv1a_64\", \"fnv1_32\", \"fnv1a_32\", \"murmur\", is \"hsieh\"",
    );
    wrong(
        "[placement]\nhash = \"md5\"",
        "x.toml:5: placement.hash: belongs to kind = \"ketama\" or \"modula\", kind is \"slots\"",
    );
    wrong(
        "[placement]\nhash_tag = \"<>\"",
        "x.toml:5: placement.hash_tag: belongs to kind = \"ketama\" or \"modula\": kind is \"slots\", which always \
         has \"{}\"",
    );
    wrong(
        "[placement]\nkind = 1",
        "x.toml:5: placement.kind: must be one of \"slots\", \"ketama\", \"modula\", is integer 1",
    );
    wrong(
        "[placement]\nversion = 99999999999",
        "x.toml:5: placement.version: must be 1, the only version, is 99999999999",
    );
    wrong(
        "[placement]\nkind = \"modula\"\nhash_tag = \"{\"",
        "x.toml:6: placement.hash_tag: must be two ASCII characters such as \"{}\", is \"{\"",
    );
    wrong("[[colocate]]\nshard = \"a\"", "x.toml:4: colocate[0].pattern: is missing");
    wrong("[[colocate]]\npattern = \"\"", "x.toml:5: colocate[0].pattern: must not be empty");
    wrong(
        "[[colocate]]\npattern = \"a{*}b{*}\"",
        "x.toml:5: colocate[0].pattern: has {*} more than once: only one part of a key can be its tag",
    );
    wrong(
        "[[colocate]]\npattern = \"*:lock\"",
        "x.toml:5: colocate[0].pattern: has nothing before its first *: begin with a literal, use {*}, \
         or pin it with `shard`",
    );
    wrong(
        "[[colocate]]\npattern = 'x\\'",
        "x.toml:5: colocate[0].pattern: ends with a \\ that escapes nothing: write \\\\ for the byte itself",
    );
    wrong(
        "[[colocate]]\npattern = \"a*\"\n[[colocate]]\npattern = \"b*\"\nshard = \"z\"",
        "x.toml:8: colocate[1].shard: must be the name of a backend (a), is \"z\"",
    );
}

#[test]
fn mistakes_in_commands_limits_and_timeouts() {
    wrong(
        "[commands]\ncross_shard = \"allow\"",
        "x.toml:5: commands.cross_shard: must be one of \"gather\", \"refuse\", is \"allow\"",
    );
    wrong(
        "[commands]\nshard_errors = \"drop\"",
        "x.toml:5: commands.shard_errors: must be one of \"reply\", \"close\", is \"drop\"",
    );
    wrong(
        "[commands]\ncross_shard_transactions = \"gather\"",
        "x.toml:5: commands.cross_shard_transactions: must be one of \"prepared\", \"refuse\", is \"gather\"",
    );
    wrong(
        "[commands]\ncross_shard = true",
        "x.toml:5: commands.cross_shard: must be one of \"gather\", \"refuse\", is boolean true",
    );
    wrong(
        "[commands]\ncross_shard_transactions = 1",
        "x.toml:5: commands.cross_shard_transactions: must be one of \"prepared\", \"refuse\", is integer 1",
    );
    wrong(
        "[commands]\nkeyless_scripts = 1",
        "x.toml:5: commands.keyless_scripts: must be \"home\", \"refuse\" or the name of a backend, is 1",
    );
    wrong(
        "[commands]\nkeyless = { \"get\" = \"home\" }",
        "x.toml:5: commands.keyless.get: must be a command that Redis 7.0 does not have, such as \"FT.SEARCH\": \
         GET goes where its keys are",
    );
    wrong(
        "[commands.keyless]\n\"CLIENT LIST\" = \"refuse\"",
        "x.toml:5: commands.keyless.CLIENT LIST: must be a command that Redis 7.0 does not have, such as \
         \"FT.SEARCH\": what becomes of CLIENT LIST is settled",
    );
    wrong("[limits]\ntransaction_leases_max = 0", "x.toml:5: limits.transaction_leases_max: must be 1 to 10000, is 0");
    wrong(
        "[commands]\nkeyless_scripts = \"z\"",
        "x.toml:5: commands.keyless_scripts: must be \"home\", \"refuse\" or the name of a backend (a), is \"z\"",
    );
    wrong(
        "[commands.keyless]\n\"FT.SEARCH\" = \"z\"",
        "x.toml:5: commands.keyless.FT.SEARCH: must be \"home\", \"refuse\" or the name of a backend (a), is \"z\"",
    );
    wrong(
        "[commands]\ndeny = [\"KEYS\", \"\"]",
        "x.toml:5: commands.deny[1]: must be the name of a command, such as \"KEYS\", is \"\"",
    );
    wrong(
        "[commands]\ndeny = [\"KEYS\", \"CONFIG SETT\"]",
        "x.toml:5: commands.deny[1]: must be a command that Redis 7.0 has, such as \"KEYS\", is \"CONFIG SETT\"",
    );
    wrong("[limits]\nclients_max = 0", "x.toml:5: limits.clients_max: must be 1 to 1000000, is 0");
    for most in ["4294967296", "99999999999999999999", "340282366920938463463374607431768211455"] {
        wrong(
            &format!("[limits]\nclients_max = {most}"),
            &format!("x.toml:5: limits.clients_max: must be 1 to 1000000, is {most}"),
        );
    }
    wrong(
        "[limits]\nrequest_bytes_max = \"99999999999GiB\"",
        "x.toml:5: limits.request_bytes_max: must be 1048576 to 4294967295 bytes, is \"99999999999GiB\"",
    );
    wrong(
        "[limits]\nbackend_buffer_bytes_max = \"4MB\"",
        "x.toml:5: limits.backend_buffer_bytes_max: must be a number of bytes, such as 65536 or \"4MiB\", is \"4MB\"",
    );
    wrong(
        "[limits]\nquery_buffer_bytes_max = \"1MiB\"",
        "x.toml:5: limits.query_buffer_bytes_max: must be at least request_bytes_max (\"512MiB\" by default), \
         is \"1MiB\"",
    );
    // Of two that contradict each other, the one that is written down.
    wrong(
        "[limits]\nclient_output_bytes_max = \"2GiB\"",
        "x.toml:5: limits.client_output_bytes_max: must be at most client_output_hard_bytes_max (\"1GiB\" by \
         default), is \"2GiB\"",
    );
    wrong(
        "[limits]\nsubscriber_output_hard_bytes_max = 65536\nsubscriber_output_soft_bytes_max = \"1MiB\"",
        "x.toml:5: limits.subscriber_output_hard_bytes_max: must be at least subscriber_output_soft_bytes_max \
         (\"1MiB\"), is 65536",
    );
    wrong(
        "[timeouts]\nrequest = 5",
        "x.toml:5: timeouts.request: must be a duration in quotes, such as \"500ms\", \"5s\", \"2m\" or \"0\", is 5",
    );
    wrong(
        "[timeouts]\nrequest = \"5\"",
        "x.toml:5: timeouts.request: must be a duration in quotes, such as \"500ms\", \"5s\", \"2m\" or \"0\", is \"5\"",
    );
    for wrote in ["0", "0ms", "999999999999h", "99999999999999999999s", "86400001ms"] {
        wrong(
            &format!("[timeouts]\nrequest = \"{wrote}\""),
            &format!("x.toml:5: timeouts.request: must be more than 0 and at most 24h, is \"{wrote}\""),
        );
    }
    wrong("[timeouts]\nclient_idle = \"8761h\"", "x.toml:5: timeouts.client_idle: must be at most 8760h, is \"8761h\"");
    wrong("[timeouts]\nshutdown = \"25h\"", "x.toml:5: timeouts.shutdown: must be at most 24h, is \"25h\"");
    wrong(
        "[timeouts]\nreconnect_min = \"2s\"",
        "x.toml:5: timeouts.reconnect_min: must be at most reconnect_max (\"500ms\" by default), is \"2s\"",
    );
}

#[test]
fn mistakes_in_users_log_and_text() {
    wrong(
        "[[user]]\nname = \"u\"",
        "x.toml:4: user[0].password: is missing: give password, password_env or password_file",
    );
    wrong(
        "[[user]]\nname = \"u\"\npassword = \"p\"\n[[user]]\nname = \"u\"\npassword = \"p\"",
        "x.toml:8: user[1].name: must be unique, \"u\" is the name of user[0] too",
    );
    wrong(
        "[[user]]\nname = \"a b\"\npassword = \"p\"",
        "x.toml:5: user[0].name: must be a name without spaces, is \"a b\"",
    );
    wrong(
        "[log]\nlevel = \"loud\"",
        "x.toml:5: log.level: must be one of \"error\", \"warn\", \"info\", \"debug\", \"trace\", is \"loud\"",
    );
    wrong("[log", "x.toml:4: unclosed table, expected `]`");
    for (level, is) in [("1", "integer 1"), ("true", "boolean true"), ("[\"info\"]", "sequence"), ("{}", "map")] {
        wrong(
            &format!("[log]\nlevel = {level}"),
            &format!(
                "x.toml:5: log.level: must be one of \"error\", \"warn\", \"info\", \"debug\", \"trace\", is {is}"
            ),
        );
    }
    wrong("[log]\nformat = 1", "x.toml:5: log.format: must be one of \"text\", \"json\", is integer 1");
    let missing = Config::load(Path::new("nowhere.toml")).unwrap_err().to_string();
    assert_eq!(missing, "nowhere.toml: cannot be read: No such file or directory (os error 2)");
}

#[test]
fn quotes_that_are_missing() {
    let check = |text: &str, place: &str| {
        wrong(text, &format!("x.toml:{place}: is no number, true or false: text must be in quotes"));
    };
    check("[log]\nlevel = info", "5: log.level");
    check("[log]\nlevel = trace", "5: log.level");
    check("[admin]\nlisten = 127.0.0.1:9379", "5: admin.listen");
    check("[proxy]\nlisten = [\n  localhost:7379,\n]", "6: proxy.listen[0]");
    check("[timeouts]\nrequest = 5s", "5: timeouts.request");
    check("password = hunter2", "4: backend[0].password");
}

#[test]
fn what_is_written_twice_or_in_the_wrong_brackets() {
    wrong("weight = 1\nweight = 2", "x.toml:5: backend[0].weight: is there already: leave one of the two");
    wrong(
        &format!("{SECOND}password = \"hunter2\"\npassword = \"hunter3\""),
        "x.toml:8: backend[1].password: is there already: leave one of the two",
    );
    wrong("[proxy]\nthreads = 1\nthreads = 2", "x.toml:6: proxy.threads: is there already: leave one of the two");
    wrong(
        "[commands]\nkeyless = { \"A\" = \"home\", \"A\" = \"home\" }",
        "x.toml:5: commands.keyless.A: is there already: leave one of the two",
    );
    wrong(
        "[log]\nlevel = \"info\"\n[admin]\n[log]",
        "x.toml:7: log: is there already: put all of its fields into one [log]",
    );
    wrong("[backend]\nname = \"b\"", "x.toml:4: backend: must be written as [[backend]], in two brackets");
    wrong_alone("[backend]\nname = \"b\"", "x.toml:1: backend: must be written as [[backend]], in two brackets");
    wrong("[user]\nname = \"b\"", "x.toml:4: user: must be written as [[user]], in two brackets");
    wrong("[[proxy]]\nthreads = 1", "x.toml:4: proxy: must be written as [proxy], once and in one bracket");
    wrong_alone("proxy = []", "x.toml:1: proxy: must be written as [proxy], once and in one bracket");
}

/// Every line of the commented default, written once more behind itself.
#[test]
fn whatever_is_written_twice_is_named() {
    let text = std::fs::read_to_string(root().join("config/ringway.toml")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with(['#', '['])) {
        let twice = [&lines[..=at], &lines[at..]].concat().join("\n");
        let error = Config::parse(Path::new("x.toml"), &twice).unwrap_err().to_string();
        let key = line.split(' ').next().unwrap();
        let place = format!("x.toml:{}: ", at + 2);
        let named =
            error.starts_with(&place) && error.ends_with(&format!(".{key}: is there already: leave one of the two"));
        assert!(named, "{error}");
    }
}
