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
        "x.toml:5: placement.presets[1]: must be one of \"bee-queue\", \"bullmq\", \"celery\", \"rq\", \"sidekiq\", \
         is \"rails\"",
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
    wrong("[proxy]\nreuse_port = 1", "x.toml:5: proxy.reuse_port: must be true or false, is integer 1");
    wrong("[porxy]\nthreads = 1", "x.toml:4: porxy: is unknown, did you mean proxy?");
    wrong(
        "[servers]\nthreads = 1",
        "x.toml:4: servers: is unknown, known are proxy, admin, backend, placement, colocate, commands, \
         limits, timeouts, tls, user, log",
    );
    wrong("[admin]\nready_quorum = 2", "x.toml:5: admin.ready_quorum: must be 1 to 1, is 2");
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
        "x.toml:5: placement.hash_tag: must be \"{}\" for kind = \"slots\", is \"<>\"",
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
        "[commands]\ncross_shard_transactions = \"gather\"",
        "x.toml:5: commands.cross_shard_transactions: must be one of \"prepared\", \"refuse\", is \"gather\"",
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
    wrong(
        "[limits]\nbackend_buffer_bytes_max = \"4MB\"",
        "x.toml:5: limits.backend_buffer_bytes_max: must be a number of bytes, such as 65536 or \"4MiB\", is \"4MB\"",
    );
    wrong(
        "[limits]\nquery_buffer_bytes_max = \"1MiB\"",
        "x.toml:5: limits.query_buffer_bytes_max: must be 536870912 to 4294967295 bytes, is 1048576",
    );
    wrong(
        "[timeouts]\nrequest = 5",
        "x.toml:5: timeouts.request: must be a duration in quotes, such as \"500ms\", \"5s\", \"2m\" or \"0\", is 5",
    );
    wrong(
        "[timeouts]\nrequest = \"5\"",
        "x.toml:5: timeouts.request: must be a duration in quotes, such as \"500ms\", \"5s\", \"2m\" or \"0\", is \"5\"",
    );
    wrong("[timeouts]\nrequest = \"0\"", "x.toml:5: timeouts.request: must be more than 0 and at most 24h, is 0ns");
    wrong(
        "[timeouts]\nreconnect_min = \"2s\"",
        "x.toml:4: timeouts.reconnect_max: must be at least reconnect_min (2s), is 500ms",
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
    wrong("weight = 1\nweight = 2", "x.toml:5: duplicate key");
    let missing = Config::load(Path::new("nowhere.toml")).unwrap_err().to_string();
    assert_eq!(missing, "nowhere.toml: cannot be read: No such file or directory (os error 2)");
}
