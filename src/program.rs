//! Command line to exit code. The only file that names anyhow.
//!
//! All of the program is here and the binary only calls it: the code of an asynchronous function is
//! made in the crate that runs it, which would be nearly all of the library once more in the binary.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::{Apply, Cli, Command, LedgerCommand, Settings};
use crate::commands::{self, EditRequest};
use crate::config::{self, Config, ConfigError};
use crate::demo;
use crate::failure::{Failure, chain, exit};
use crate::protocol::TopicPartition;
use crate::service;
use crate::telemetry;

/// Does what the command line says. The exit code is that of README.md's table.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("icestream: {}", describe(&error));
            ExitCode::from(code(&error))
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Run { settings, until_caught_up } => {
            let config = load(&settings)?;
            telemetry::logs::init(&config.log).context("cannot set up logging")?;
            block_on(run(config, until_caught_up))
        }
        Command::Check { settings } => {
            block_on(commands::check(read(&settings), &mut std::io::stdout()))
        }
        Command::Verify { settings, rows, json } => {
            let config = load(&settings)?;
            block_on(commands::verify(&config, rows, json, &mut std::io::stdout()))
        }
        Command::Ledger { command } => ledger(command),
        Command::Checkpoints { settings, json } => {
            let config = load(&settings)?;
            block_on(commands::checkpoints(&config, json, &mut std::io::stdout()))
        }
        Command::Orphans { settings, older_than, delete, json } => {
            let config = load(&settings)?;
            let out = &mut std::io::stdout();
            block_on(commands::orphans(&config, older_than, delete, json, out))
        }
        Command::Health { url } => block_on(commands::health(&url, &mut std::io::stdout())),
        Command::Demo(args) => match demo::run(&args) {
            Ok(()) => Ok(exit::DONE),
            Err(error) => {
                eprintln!("icestream: {}", chain(&error));
                Ok(error.exit_code())
            }
        },
    }
}

fn ledger(command: LedgerCommand) -> anyhow::Result<u8> {
    match command {
        LedgerCommand::Show { settings, json } => {
            let config = load(&settings)?;
            block_on(commands::ledger_show(&config, json, &mut std::io::stdout()))
        }
        LedgerCommand::At(asked) => {
            let config = load(&asked.settings)?;
            let topic = asked.topic.unwrap_or_else(|| config.kafka.topic.clone());
            let tp = TopicPartition::new(topic, asked.partition);
            let (offset, json) = (asked.offset, asked.json);
            block_on(commands::ledger_at(&config, tp, offset, json, &mut std::io::stdout()))
        }
        LedgerCommand::Rewind { settings, to_snapshot, at, discard_newer_ledger, apply } => {
            let discard_newer = discard_newer_ledger;
            edit(&settings, &EditRequest::Rewind { to_snapshot, at, discard_newer }, &apply)
        }
        LedgerCommand::Reset { settings, topic, at, log_was_cut, apply } => {
            edit(&settings, &EditRequest::Reset { topic, at, cut: log_was_cut }, &apply)
        }
        LedgerCommand::Skip { settings, at, apply } => {
            edit(&settings, &EditRequest::Skip { at }, &apply)
        }
        LedgerCommand::Adopt { settings, apply } => {
            let config = load(&settings)?;
            let Apply { yes, json } = apply;
            block_on(commands::adopt(&config, yes, json, &mut std::io::stdout()))
        }
    }
}

fn edit(settings: &Settings, request: &EditRequest, apply: &Apply) -> anyhow::Result<u8> {
    let config = load(settings)?;
    let Apply { yes, json } = *apply;
    block_on(commands::ledger_edit(&config, request, yes, json, &mut std::io::stdout()))
}

fn load(settings: &Settings) -> anyhow::Result<Config> {
    read(settings).map_err(|error| Failure::Config(error).into())
}

fn read(settings: &Settings) -> Result<Config, ConfigError> {
    config::load(
        settings.env_file.as_deref(),
        settings.config.as_deref(),
        config::process_environment(),
    )
}

fn block_on(command: impl Future<Output = Result<u8, Failure>>) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let code = runtime.block_on(command)?;
    // Blocking work still under way (a hung catalog, say) must not hold the process.
    runtime.shutdown_background();
    Ok(code)
}

async fn run(config: Config, until_caught_up: bool) -> Result<u8, Failure> {
    let (stop, stopped) = watch::channel(false);
    let signals = || -> std::io::Result<_> {
        Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    };
    let (mut terminate, mut interrupt) =
        signals().map_err(|e| Failure::Internal(format!("cannot listen for signals: {e}")))?;
    tokio::spawn(async move {
        for count in 1.. {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if count > 1 {
                end_at_once();
            }
            tracing::info!("signal: sealing and committing; a second one ends at once");
            stop.send_replace(true);
        }
    });
    service::run(config, until_caught_up, stopped).await?;
    Ok(exit::DONE)
}

#[allow(
    clippy::disallowed_methods,
    reason = "a second signal ends at once; being killed at any line is as correct"
)]
fn end_at_once() -> ! {
    std::process::exit(i32::from(exit::INTERRUPTED))
}

fn describe(error: &anyhow::Error) -> String {
    chain(error.as_ref())
}

fn code(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<Failure>().map_or(exit::FAILED, Failure::exit_code)
}
