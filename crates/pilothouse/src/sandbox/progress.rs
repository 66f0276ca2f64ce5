//! Tells `up` how far the start is, over the channel that is this process' standard input; nobody listens when the
//! process was started by hand.

use std::os::fd::AsFd;
use std::time::Duration;

use base::Clock;
use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;
use tracing::info;

use crate::channel::Channel;
use crate::commands::up::Progress;

pub(super) struct Teller {
    channel: Option<Channel>,
    clock: Clock,
    last: Duration,
}

impl Teller {
    pub(super) fn new(clock: Clock) -> Self {
        let is_channel = socket_type(std::io::stdin().as_fd()).is_ok_and(|kind| kind == SocketType::SEQPACKET);
        let channel = if is_channel { Channel::from_stdin().ok() } else { None };
        let last = clock.monotonic();
        Self { channel, clock, last }
    }

    /// Something is done.
    pub(super) async fn step(&mut self, text: &str) {
        let now = self.clock.monotonic();
        let took = now.saturating_sub(self.last);
        self.last = now;
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        info!(ms, "{text}");
        self.send(&Progress::Step { text: text.to_owned(), ms }).await;
    }

    /// Everything runs, but for what is in trouble.
    pub(super) async fn ready(&mut self, text: String, trouble: Option<String>) {
        self.send(&Progress::Ready { text, trouble }).await;
    }

    pub(super) async fn failed(&mut self, cause: &anyhow::Error) {
        self.send(&Progress::Failed { message: crate::failure::line(cause) }).await;
    }

    async fn send(&mut self, progress: &Progress) {
        if let Some(channel) = &self.channel
            && channel.send(progress, &[]).await.is_err()
        {
            self.channel = None;
        }
    }
}
