//! Pilothouse: a local Google Kubernetes Engine control plane. This crate is wiring: command line, fleet, edge, control.
//!
//! ```text
//! up ─► cloud process: cloud, fleet, edge, control API ──channels──► signer and instance of each cluster
//! ```

mod api_server;
mod channel;
mod cli;
mod commands;
mod config;
mod confine;
mod control;
mod edge;
mod failure;
mod fleet;
mod identity_server;
mod instance;
mod layout;
mod metadata;
mod sandbox;
mod signer;
mod system;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tracing_subscriber::EnvFilter;

use cli::{Cli, Command};
use confine::Role;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Worker threads of a server process: enough for two busy cores, few enough to stay small.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let first = std::env::args_os().nth(1);
    // The store reads its own flags: the description of all our commands need not be in its memory.
    let result = if Path::new(&name).file_stem().is_some_and(|n| n == "etcd") {
        etcd(arguments.collect())
    } else if first.is_some_and(|word| word == "etcd") {
        etcd(arguments.skip(1).collect())
    } else {
        run(Cli::parse().command)
    };
    match result {
        Ok(text) => finish(&text),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "pilothouse: {}", failure::line(&error));
            ExitCode::FAILURE
        }
    }
}

/// Prints what a command has to say; a reader that went away is no error.
fn finish(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

fn run(command: Command) -> Result<String> {
    match command {
        Command::Up(args) => commands::up::run(&args),
        Command::Status(args) => client(commands::status::run(&args)),
        Command::Inspect(args) => client(commands::status::inspect(&args)),
        Command::RotateKeys(args) => client(commands::status::rotate_keys(&args)),
        Command::Env(args) => client(commands::env::run(&args)),
        Command::Token(args) => client(commands::token::run(&args)),
        Command::Explain(cli::Explain::CanI(args)) => client(commands::explain::can_i(&args)),
        Command::Logs(args) => commands::logs::run(&args).map(|()| String::new()),
        Command::Down(args) => commands::stop::down(&args),
        Command::Reset(args) => commands::stop::reset(&args),
        Command::Etcd { args } => etcd(args),
        Command::Apiserver(args) => {
            confine::keep_from_others();
            server(async move { api_server::run(&args).await })
        }
        Command::Cloud(args) => {
            name_process();
            let prepared = sandbox::prepare(&args);
            server(async move { sandbox::run(prepared).await })
        }
        Command::Signer(args) => {
            name_process();
            let confined = confine::confine(Role::Signer, &args.data_dir);
            client(signer::run(&args, &confined.report)).map(|()| String::new())
        }
        Command::Instance(args) => {
            name_process();
            let confined = confine::confine(Role::Instance, &args.data_dir);
            server(async move { instance::run(&args, &confined.report).await })
        }
    }
}

/// The fleet starts it from an open file, whose number would be its name.
fn name_process() {
    let _ = rustix::thread::set_name(c"pilothouse");
}

/// A process that mostly waits needs one thread.
fn client<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    log_to_stderr();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn server(work: impl Future<Output = Result<()>> + Send + 'static) -> Result<String> {
    log_to_stderr();
    serve(work)
}

/// The work is a task like all that it starts: done by the main thread it would wait for one of the others to wake it, and wake
/// another for each connection that it passes on.
fn serve(work: impl Future<Output = Result<()>> + Send + 'static) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
    match runtime.block_on(runtime.spawn(work)) {
        Ok(done) => done.map(|()| String::new()),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// A store alone has its state thread too: on two processors a second thread for the network would only take turns with the
/// first, and pay for waking it.
fn serve_store(work: impl Future<Output = Result<()>>) -> Result<String> {
    let workers = std::thread::available_parallelism().map_or(1, |processors| processors.get() / 2);
    if workers > 1 {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
        return runtime.block_on(work).map(|()| String::new());
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work).map(|()| String::new())
}

fn etcd(arguments: Vec<OsString>) -> Result<String> {
    confine::keep_from_others();
    let environment = |name: &str| std::env::var(name).ok();
    let command = match etcd::command(arguments, environment) {
        Ok(command) => command,
        Err(refusal) => {
            let _ = writeln!(std::io::stderr(), "{}", refusal.text);
            std::process::exit(refusal.code);
        }
    };
    if let etcd::Command::Print(text) = &command {
        return Ok(format!("{text}\n"));
    }
    match command.logging() {
        Some(logging) => logging.begin()?,
        None => log_to_stderr(),
    }
    let ended_by = std::sync::OnceLock::new();
    let done = serve_store(async {
        let shutdown = async {
            let _ = ended_by.set(commands::up::termination().await);
        };
        Ok(etcd::run_command(command, system::clock(), system::entropy(), shutdown).await?)
    })?;
    match ended_by.get() {
        // As etcd, once everything is put away: whoever waits for the process learns what ended it. A container's first
        // process cannot be ended so.
        Some(signal) if std::process::id() != 1 => signal_hook::low_level::emulate_default_handler(*signal)?,
        _ => {}
    }
    Ok(done)
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // The log may lie on a full disk: a line that cannot be written must not panic whoever wrote it.
        .log_internal_errors(false)
        .try_init();
}
