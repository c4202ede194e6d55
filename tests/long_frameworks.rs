//! The promise to frameworks: real job queues over three servers execute every job exactly once, with
//! the preset that is named for them and Ringway's defaults; without it each of them either works or is
//! told which rule to add, and that rule is what it lacked. Each of them outlives its servers' deaths.
//! Libraries with state in Redis work as they are.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and print")]

mod support;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use support::{Process, Proxy, Redis, interval, poll, scratch, until};

/// Jobs of a run with a preset.
const JOBS: usize = 1000;
/// Jobs of a run that may be refused.
const FEW_JOBS: usize = 60;
/// Jobs of a run that are sent and executed while shards die.
const JOBS_AMID_DEATHS: usize = 400;
/// Jobs that a death may find under way, which a framework may lose or execute again.
const UNDER_WAY_MAX: usize = 10;
/// A run of any of them, with twenty times what it takes on an idle machine.
const RUN_TIME_MAX: Duration = Duration::from_secs(150);
/// Rules that are pasted one after the other before a framework must work.
const ROUNDS_MAX: usize = 5;

/// What a driver is to do.
struct Work<'a> {
    /// Jobs that are executed once each, with results.
    jobs: usize,
    /// Those before them, while shards die.
    amid_deaths: usize,
    /// `commands.shard_errors`
    shard_errors: &'a str,
}

impl Work<'_> {
    /// Nobody dies.
    const fn quiet(jobs: usize) -> Self {
        Self { jobs, amid_deaths: 0, shard_errors: "reply" }
    }
}

/// What a driver left behind.
struct Run {
    fine: bool,
    /// All that it and its workers printed.
    output: String,
    /// The numbers of executed jobs, a line each.
    executed: String,
}

/// The frameworks, installed by the first test that needs them.
fn installed() -> &'static Path {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("frameworks");
        let done = Command::new("sh").arg("tests/frameworks/setup.sh").arg(&directory).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&[done.stdout, done.stderr].concat()));
        directory
    })
}

/// What runs `tests/frameworks/FILE`.
fn interpreter(file: &str) -> PathBuf {
    match file.rsplit_once('.').unwrap() {
        ("arq_driver", _) => installed().join("python-arq/bin/python"),
        (_, "py") => installed().join("python/bin/python"),
        (_, "mjs") => "node".into(),
        (_, "rb") => "ruby".into(),
        (_, "php") => "php".into(),
        _ => panic!("{file}"),
    }
}

/// Runs a driver to its end, or until `watch`, who is shown the list of executed jobs, has seen enough.
fn drive(file: &str, proxy: &Proxy, work: &Work<'_>, mut watch: impl FnMut(&Path) -> bool) -> Run {
    let directory = scratch("frameworks");
    let (output, executed) = (directory.join("output"), directory.join("executed"));
    let program = interpreter(file);
    let mut driver = Process::start(&program, |command| {
        let log = fs::File::create(&output).unwrap();
        command.arg(Path::new("tests/frameworks").join(file));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.env("REDIS_PORT", proxy.address().port().to_string());
        command.env("JOBS", work.jobs.to_string()).env("JOBS_AMID_DEATHS", work.amid_deaths.to_string());
        command
            .env("SHARD_ERRORS", work.shard_errors)
            .env("EXECUTED", &executed)
            .env("MODULES", installed().join("node"));
        command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUNBUFFERED", "1").env("PYTHONFAULTHANDLER", "1");
        // Its workers are of its group, and end with it.
        command.process_group(0);
    });
    let status = poll(RUN_TIME_MAX, || driver.ended().map(Some).or_else(|| watch(&executed).then_some(None)));
    if status.is_none() {
        // Python's drivers tell where they hang.
        driver.signal("ABRT");
        _ = driver.wait(Duration::from_secs(2));
    }
    let group = format!("kill -KILL -{}", driver.id());
    // Nobody is left of a group that has ended.
    let _ = Command::new("sh").args(["-c", &group]).stderr(Stdio::null()).status().unwrap();
    driver.kill();
    let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let run = Run {
        fine: matches!(status, Some(Some(status)) if status.success()),
        output: read(&output),
        executed: read(&executed),
    };
    fs::remove_dir_all(directory).unwrap();
    run
}

/// What is wrong with the list of executed jobs, when not each of `0..jobs` is in it once.
fn exactly_once(executed: &str, jobs: usize) -> Result<(), String> {
    let mut times: HashMap<&str, usize> = HashMap::new();
    executed.lines().for_each(|line| *times.entry(line).or_default() += 1);
    for number in 0..jobs {
        match times.remove(number.to_string().as_str()) {
            Some(1) => {}
            Some(times) => return Err(format!("job {number} was executed {times} times")),
            None => return Err(format!("job {number} was lost")),
        }
    }
    match times.into_keys().next() {
        Some(stray) => Err(format!("nobody sent the job {stray:?}")),
        None => Ok(()),
    }
}

/// That a run ended well, each job was executed once, and Redis counted the same.
fn check(file: &str, run: &Run, proxy: &Proxy, jobs: usize) {
    assert!(run.fine, "{file} failed:\n{}", run.output);
    exactly_once(&run.executed, jobs).unwrap_or_else(|wrong| panic!("{file}: {wrong}\n{}", run.output));
    let mut client = proxy.client();
    for number in 0..jobs {
        assert_eq!(client.call(&["GET", &format!("executed:{number}")]).text(), "1", "{file}: job {number}");
    }
}

fn presets(preset: Option<&str>) -> String {
    preset.map(|preset| format!("[placement]\npresets = [\"{preset}\"]\n")).unwrap_or_default()
}

/// A thousand jobs with the preset and nothing else.
fn every_job_runs_once(file: &str, preset: Option<&str>) {
    let servers = support::shards(3);
    let proxy = Proxy::over(&servers).extra(&presets(preset)).start();
    let start = Instant::now();
    let run = drive(file, &proxy, &Work::quiet(JOBS), |_| false);
    let seconds = start.elapsed().as_secs_f64();
    check(file, &run, &proxy, JOBS);
    let keys: Vec<i64> = servers.iter().map(|server| server.client().call(&["DBSIZE"]).int()).collect();
    assert!(keys.iter().all(|keys| *keys > 0), "{file}: keys on the servers: {keys:?}");
    let count = |kind| proxy.metric_of("ringway_cross_shard_total", kind);
    let (refused, gathered, prepared) =
        (count("kind=\"refused\""), count("kind=\"gathered\""), count("kind=\"prepared\""));
    assert_eq!(refused, 0.0, "{file}:\n{}", proxy.page("/advise"));
    println!(
        "{file}: {JOBS} jobs once each in {seconds:.1} s; keys {keys:?}; transactions over shards {prepared}, gathered \
         {gathered}"
    );
}

/// Without a preset: it works, or its errors name a rule, and with the rules that are advised it works.
fn works_or_is_told_what_to_add(file: &str, needs_rules: bool) {
    let mut rules = String::new();
    for round in 0..ROUNDS_MAX {
        let servers = support::shards(3);
        let proxy = Proxy::over(&servers).extra(&rules).start();
        let refused = || proxy.metric_of("ringway_cross_shard_total", "kind=\"refused\"") > 0.0;
        // Once it was refused something it may go on for a moment, to be refused the rest of it.
        let mut since = None;
        let run = drive(file, &proxy, &Work::quiet(FEW_JOBS), |_| {
            since = since.or_else(|| refused().then(Instant::now));
            since.is_some_and(|since: Instant| since.elapsed() > Duration::from_secs(4))
        });
        if !refused() {
            check(file, &run, &proxy, FEW_JOBS);
            assert_eq!(round > 0, needs_rules, "{file} needed {round} rounds of rules:\n{rules}");
            println!("{file}: works without a preset after {round} rounds of advice");
            return;
        }
        let wanted = ["or add [placement] presets = [", "or add [[colocate]] "];
        assert!(wanted.iter().any(|text| run.output.contains(text)), "{file}: no rule in\n{}", run.output);
        let page =
            poll(support::PATIENCE, || Some(proxy.page("/advise")).filter(|page| page.contains("\n[[colocate]]\n")));
        let page = page.unwrap_or_else(|| panic!("{file}: no rule in\n{}", proxy.page("/advise")));
        // Rules count in their order: the newer ones know of the older ones.
        rules = format!("{}\n{rules}", page.split_once("\r\n\r\n").unwrap().1);
    }
    panic!("{file} still does not work with\n{rules}");
}

/// Kinds of errors that workers may meet while a shard is away, beside the answers to what libraries ask
/// anyway: a subcommand of a newer Redis (ERR), a script or a group that is there or not (NOSCRIPT, other).
const DEFINED: &[&str] =
    &["SHARDDOWN", "SHARDLOST", "SHARDTIMEOUT", "SHARDPARTIAL", "LOADING", "EXECABORT", "ERR", "NOSCRIPT", "other"];

/// Each server dies for a second while jobs are sent and run, and comes back with what it acknowledged:
/// senders meet what is defined and nothing else, every job that was sent is executed (a framework may
/// lose those that were under way, and is sent them again), and afterwards all is as before, to the
/// results of further jobs. Workers that end are started again, as by whoever runs them.
fn it_outlives_its_shards(file: &str, preset: Option<&str>, shard_errors: &str) {
    let mut servers: Vec<Redis> = (0..3).map(|_| Redis::durable()).collect();
    let toml = presets(preset) + &format!("[commands]\nshard_errors = \"{shard_errors}\"\n");
    let proxy = Proxy::over(&servers).extra(&toml).expect_log("backend").start();
    let mut deaths = 0;
    let work = Work { jobs: FEW_JOBS, amid_deaths: JOBS_AMID_DEATHS, shard_errors };
    let run = drive(file, &proxy, &work, |executed| {
        let count = fs::read_to_string(executed).unwrap_or_default().lines().count();
        if deaths < servers.len() && count >= (deaths + 1) * JOBS_AMID_DEATHS / 5 {
            servers[deaths].kill();
            interval(Duration::from_secs(1));
            servers[deaths].restart();
            deaths += 1;
            if deaths == servers.len() {
                until("all shards are back", || proxy.metric("ringway_backend_up") == 3.0);
                fs::write(executed.with_extension("deaths-over"), "").unwrap();
            }
        }
        false
    });
    let is_later = |line: &&str| line.parse::<usize>().is_ok_and(|number| number >= FEW_JOBS);
    let (amid_deaths, after): (Vec<&str>, Vec<&str>) = run.executed.lines().partition(is_later);
    let after = Run { fine: run.fine, output: run.output.clone(), executed: after.join("\n") };
    check(file, &after, &proxy, FEW_JOBS);
    let times = |job: &str| amid_deaths.iter().filter(|executed| **executed == job).count();
    let missing = (FEW_JOBS..FEW_JOBS + JOBS_AMID_DEATHS).find(|job| times(&job.to_string()) == 0);
    assert_eq!((deaths, missing), (servers.len(), None), "{file}:\n{}", run.output);
    // Who was sent again and executed once had gone; who was late was executed twice.
    let again = run.output.lines().filter_map(|line| line.strip_prefix("amid deaths: sent again "));
    let again: BTreeSet<&str> = again.flat_map(str::split_whitespace).collect();
    let gone = again.iter().filter(|job| times(job) == 1).count();
    let doubled = |job: &String| times(job) > 1 && !again.contains(job.as_str());
    let doubled = (FEW_JOBS..FEW_JOBS + JOBS_AMID_DEATHS).map(|job| job.to_string()).filter(doubled).count();
    let most = deaths * UNDER_WAY_MAX;
    assert!(gone <= most && doubled <= most, "{file}: {gone} lost, {doubled} executed twice\n{}", run.output);
    let page = proxy.page("/metrics");
    let kinds = page.lines().filter_map(|line| line.strip_prefix("ringway_replies_error_total{kind=\""));
    let met = kinds.filter(|line| !line.ends_with(" 0")).map(|line| line.split('"').next().unwrap());
    let met = met.collect::<Vec<_>>();
    assert!(met.iter().all(|kind| DEFINED.contains(kind)) && met.contains(&"SHARDDOWN"), "{file} met {met:?}");
    let ended = run.output.matches("amid deaths: a worker ended").count();
    println!(
        "{file}: {deaths} deaths; {gone} jobs went with them, {doubled} ran twice; workers started again {ended} times; met {met:?}"
    );
}

#[test]
fn planted_faults_are_found() {
    let good: String = (0..JOBS).map(|number| format!("{number}\n")).collect();
    assert_eq!(exactly_once(&good, JOBS), Ok(()));
    let wrong = |text: &str, what: &str| assert_eq!(exactly_once(text, JOBS), Err(what.to_owned()));
    wrong(&good.replace("\n500\n", "\n"), "job 500 was lost");
    wrong(&good.replace("\n500\n", "\n500\n500\n"), "job 500 was executed 2 times");
    wrong(&good.replace("\n500\n", "\n501\n"), "job 500 was lost");
    wrong(&format!("{good}1000\n"), "nobody sent the job \"1000\"");
    // Two that wrote at once.
    wrong(&good.replace("\n500\n", "500\n"), "job 499 was lost");
}

/// The tests of one framework: its driver, its preset, whether it needs rules to work at all, and what
/// its workers outlive best, an error or the end of their connection.
macro_rules! framework {
    ($name:ident, $file:literal, $preset:expr, $needs_rules:literal, $shard_errors:literal) => {
        mod $name {
            #[test]
            fn every_job_runs_once() {
                super::every_job_runs_once($file, $preset);
            }

            #[test]
            fn without_a_preset_it_works_or_is_told_what_to_add() {
                super::works_or_is_told_what_to_add($file, $needs_rules);
            }

            #[test]
            fn it_outlives_its_shards() {
                super::it_outlives_its_shards($file, $preset, $shard_errors);
            }
        }
    };
}

framework!(celery, "celery_driver.py", Some("celery"), true, "close");
framework!(rq, "rq_driver.py", Some("rq"), true, "close");
framework!(bullmq, "bullmq_driver.mjs", Some("bullmq"), true, "reply");
framework!(bull, "bull_driver.mjs", Some("bullmq"), true, "reply");
framework!(bee_queue, "bee_queue_driver.mjs", Some("bee-queue"), true, "reply");
framework!(sidekiq, "sidekiq_driver.rb", Some("sidekiq"), false, "reply");
framework!(arq, "arq_driver.py", None, false, "reply");
framework!(dramatiq, "dramatiq_driver.py", None, false, "reply");
framework!(huey, "huey_driver.py", None, false, "reply");
framework!(node_resque, "node_resque_driver.mjs", Some("resque"), true, "reply");
framework!(streaq, "streaq_driver.py", Some("streaq"), true, "reply");
framework!(taskiq, "taskiq_driver.py", None, false, "reply");

/// Libraries check their own answers.
fn library(file: &str) {
    let servers = support::shards(3);
    let proxy = Proxy::over(&servers).start();
    let run = drive(file, &proxy, &Work::quiet(0), |_| false);
    assert!(run.fine, "{file} failed:\n{}", run.output);
    let checks = run.output.lines().rev().find_map(|line| line.split_once(": checks ")?.1.parse::<usize>().ok());
    assert!(checks.is_some_and(|checks| checks > 10), "{file}:\n{}", run.output);
    print!("{}", run.output);
}

#[test]
fn libraries_for_python() {
    library("python_libraries.py");
}

#[test]
fn libraries_for_node() {
    library("node_libraries.mjs");
}

#[test]
fn libraries_for_php() {
    library("php_libraries.php");
}

#[test]
fn libraries_for_ruby() {
    library("ruby_libraries.rb");
}
