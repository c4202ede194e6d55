//! The command line: what `ringway` is asked to do, and how it says that it could not.
//!
//! Exit codes: 0 it went well, 1 it ran and failed, 2 the usage or the configuration is wrong. An
//! error is one line on standard error.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;

use crate::config::{Config, LogFormat, LogLevel};
use crate::topology::Topology;
use crate::{demo, server};

mod advise;
mod check;
mod locate;

#[derive(Debug, Parser)]
#[command(
    name = "ringway",
    version,
    about = "One address in front of many plain Redis servers",
    long_about = "Ringway is a transparent sharding proxy for Redis. Applications connect to it as to one \
                  Redis; it spreads their keys over any number of plain servers behind it.",
    after_help = "Exit codes: 0 fine, 1 it ran and failed, 2 wrong usage or configuration.\n\
                  Try it without any configuration: ringway demo",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the proxy
    #[command(long_about = "Runs the proxy until SIGTERM or SIGINT. Logs go to standard error, one line an event; \
                      the line \"listening\" says that clients can connect, and where.")]
    Run(File),
    /// Say what a configuration means, without connecting
    #[command(long_about = "Reads a configuration and prints its shards, their addresses and shares of the keys, and \
                      warnings about what is allowed but perhaps not meant. Opens no socket, so it can be run \
                      anywhere, before a deployment for example. Exit code 2 if the configuration is wrong.")]
    Check(File),
    /// Say where keys live, and why
    #[command(
        long_about = "Prints for each key the part that is hashed (its tag), its slot, its shard with the \
                      address, and why. Opens no socket; the keys need not exist.",
        after_long_help = "Example: ringway locate -c config/ringway.toml user:42 'cart:{42}:items'"
    )]
    Locate {
        #[command(flatten)]
        file: File,
        /// Keys, as their bytes are
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<OsString>,
    },
    /// Say which keys of a running proxy's clients belong together
    #[command(
        long_about = "Asks a running proxy which requests it refused, or carried out at a price, because their keys are \
                      on several shards, and prints the [[colocate]] rules that would have kept those keys \
                      together, ready to paste. In front of a single backend, where all goes well, it tells what \
                      would not behind several: run Ringway before your only Redis for a day, then ask. The proxy \
                      is asked on its admin port if the configuration has one, else as a client.",
        after_long_help = "Examples:\n  ringway advise -c ringway.toml\n  ringway advise http://127.0.0.1:9379\n  \
                           ringway advise redis://user:password@127.0.0.1:7379"
    )]
    Advise {
        /// The configuration of the running proxy
        #[arg(short = 'c', long = "config", value_name = "FILE")]
        config: Option<PathBuf>,
        /// http://HOST:PORT, its admin port, or redis://[[USER:]PASSWORD@]HOST:PORT, where clients connect
        #[arg(value_name = "ADDRESS", conflicts_with = "config")]
        address: Option<String>,
    },
    /// Start Redis servers and the proxy over them, to try it out
    #[command(
        long_about = "Starts real redis-server processes on free ports of this machine, without persistence, and \
                      the proxy over them. All of it is gone when the demo ends: on Ctrl-C, or when COMMAND \
                      has ended. COMMAND finds the proxy's address in REDIS_URL, and its exit code is the \
                      demo's.",
        after_long_help = "Examples:\n  ringway demo\n  ringway demo --shards 5 -- redis-benchmark -p 7379 -q\n  \
                           ringway demo -- sh -c 'redis-cli -u $REDIS_URL info'"
    )]
    Demo {
        /// Number of redis-server processes, 1 to 50
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=50))]
        shards: u16,
        /// Port of the proxy [default: 7379, or a free one if that is taken]
        #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
        port: Option<u16>,
        /// A command to run against the proxy, after --
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
}

#[derive(Debug, Args)]
struct File {
    /// The configuration, a TOML file
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: PathBuf,
}

const FAILED: u8 = 1;
const WRONG: u8 = 2;

/// Does what the process' arguments say.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match cli.verb {
        Verb::Run(file) => match load(&file.config) {
            Ok((config, _)) => run(&config),
            Err(code) => code,
        },
        Verb::Check(file) => match load(&file.config) {
            Ok((config, topology)) => written(check::report(&config, &topology)),
            Err(code) => code,
        },
        Verb::Locate { file, keys } => match load(&file.config) {
            Ok((_, topology)) => written(locate::report(&topology, &keys)),
            Err(code) => code,
        },
        Verb::Advise { config, address } => advise(config.as_deref(), address.as_deref()),
        Verb::Demo { shards, port, command } => match demo::run(shards, port, &command) {
            Ok(code) => ExitCode::from(code),
            Err(error) => fail(FAILED, format_args!("{error:#}")),
        },
    }
}

/// The configuration, and the topology that it describes.
fn load(file: &Path) -> Result<(Config, Topology), ExitCode> {
    let config = Config::load(file).map_err(|error| fail(WRONG, format_args!("{error}")))?;
    let topology = Topology::build(&config.topology_spec(), 1)
        .map_err(|error| fail(WRONG, format_args!("{}: {error}", file.display())))?;
    Ok((config, topology))
}

fn run(config: &Config) -> ExitCode {
    logs(config.log.level, config.log.format);
    for warning in config.warnings() {
        tracing::warn!(file = %config.file.display(), "{warning}");
    }
    match server::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, format_args!("{error:#}")),
    }
}

fn advise(config: Option<&Path>, address: Option<&str>) -> ExitCode {
    let place = match (config, address) {
        (Some(file), _) => match load(file) {
            Ok((config, _)) => advise::Place::of(&config),
            Err(code) => return code,
        },
        (None, Some(address)) => address.parse(),
        (None, None) => {
            Err(format!("which proxy? Say -c FILE, its configuration, or its address: {}", advise::ADDRESS))
        }
    };
    match place.map(|place| advise::ask(&place)) {
        Err(wrong) => fail(WRONG, format_args!("{wrong}")),
        Ok(Err(error)) => fail(FAILED, format_args!("{error:#}")),
        Ok(Ok(text)) => written(io::stdout().write_all(text.as_bytes())),
    }
}

/// Sends events to standard error, in color only where somebody looks.
fn logs(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let subscriber = tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr);
    match format {
        LogFormat::Text => {
            subscriber.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init();
        }
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
}

/// Help as clap writes it; a mistake in one line.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody reads any more: there is nobody to tell.
            error.print().ok();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            fail(WRONG, format_args!("what shall it do? Say run, check, locate, advise, demo, or --help"))
        }
        _ => {
            let text = error.to_string();
            let end = text.find("\n\nUsage").or_else(|| text.find("\n\nFor more"));
            let line = text[..end.unwrap_or(text.len())].split_whitespace().collect::<Vec<_>>().join(" ");
            let line = line.strip_prefix("error: ").unwrap_or(&line);
            fail(WRONG, format_args!("{line} (--help says more)"))
        }
    }
}

fn written(result: io::Result<()>) -> ExitCode {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(FAILED, format_args!("cannot write: {error}")),
        _ => ExitCode::SUCCESS,
    }
}

fn fail(code: u8, text: fmt::Arguments<'_>) -> ExitCode {
    // With standard error closed the exit code still tells.
    writeln!(io::stderr(), "ringway: {text}").ok();
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
