//! Runs a member by itself: `cargo run -p etcd --example member -- --data-dir D …`, with etcd's own flags.

use std::io::Read as _;
use std::time::{Duration, Instant, SystemTime};

use base::{Clock, ClockSource, Entropy, Timestamp};
use tokio::signal::unix::{SignalKind, signal};

struct SystemClock(Instant);

impl ClockSource for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "an example has no binary above it that owns the clock")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp::EPOCH + since
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

#[tokio::main]
#[expect(clippy::disallowed_methods, reason = "as above")]
async fn main() {
    let clock = Clock::new(SystemClock(Instant::now()));
    // The kernel's own: the crypto library's generator takes tens of milliseconds to seed itself.
    let source = std::fs::File::open("/dev/urandom").expect("the system has randomness");
    let entropy = Entropy::new(move |buffer| (&source).read_exact(buffer).expect("the system has randomness"));
    let command = match etcd::command(std::env::args_os().skip(1).collect(), |name| std::env::var(name).ok()) {
        Ok(command) => command,
        Err(refusal) => fail(refusal.code, &refusal.text),
    };
    if let etcd::Command::Print(text) = &command {
        return write(std::io::stdout(), text);
    }
    if let Some(Err(error)) = command.logging().map(|logging| logging.begin()) {
        fail(1, &error.to_string());
    }
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be waited for");
    let mut interrupt = signal(SignalKind::interrupt()).expect("signals can be waited for");
    let shutdown = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    if let Err(error) = etcd::run_command(command, clock, entropy, shutdown).await {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        fail(1, &format!("{error}{cause}"));
    }
}

fn write(mut to: impl std::io::Write, text: &str) {
    let _ = writeln!(to, "{text}");
}

fn fail(code: i32, text: &str) -> ! {
    write(std::io::stderr(), text);
    std::process::exit(code)
}
