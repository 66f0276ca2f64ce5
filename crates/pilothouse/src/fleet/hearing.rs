//! Whether the instances of a cluster answer: one that is frozen, or lost in its work, gets no connections while others do. The kernel
//! tells of a process that ended, and of nothing else.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::channel::{Channel, stream, stream_pair};
use crate::fleet::message::ToInstance;

/// Between two questions.
const INTERVAL: Duration = Duration::from_secs(1);
/// An instance that has not answered by then is passed by until it does.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is known of one process.
#[derive(Clone)]
pub(crate) struct Hearing(Arc<AtomicBool>);

impl Default for Hearing {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Hearing {
    /// Did it answer when it was asked last?
    pub(crate) fn answers(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Asks again and again, for as long as the channel is somebody's, and notifies of each change.
    pub(crate) fn watch(&self, channel: &Arc<Channel>, changed: Arc<Notify>) {
        let (channel, hearing) = (Arc::downgrade(channel), self.clone());
        tokio::spawn(async move {
            let say = |answers: bool| {
                if hearing.0.swap(answers, Ordering::Relaxed) != answers {
                    changed.notify_one();
                }
            };
            loop {
                tokio::time::sleep(INTERVAL).await;
                // It must not keep the channel open: that is what ends the child of a fleet that is gone.
                let Some(channel) = channel.upgrade() else { return };
                let Ok(asked) = timeout(PATIENCE, ask(&channel)).await else {
                    say(false);
                    continue;
                };
                drop(channel);
                let Ok(mut answer) = asked.and_then(|end| Ok(stream(end)?)) else { return };
                let mut answered = async || answer.read(&mut [0]).await;
                if timeout(PATIENCE, answered()).await.is_err() {
                    say(false);
                    let _ = answered().await;
                }
                say(true);
            }
        });
    }
}

/// The end of a stream that the instance closes as soon as it hears of it.
async fn ask(channel: &Channel) -> Result<OwnedFd> {
    let (ours, theirs) = stream_pair()?;
    channel.send(&ToInstance::Hear, &[theirs]).await?;
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_told_and_so_is_that_it_answers_again() {
        let (ours, theirs) = crate::channel::pair().unwrap();
        let (fleet, instance) = (Arc::new(Channel::new(ours).unwrap()), Channel::new(theirs).unwrap());
        let (hearing, changed) = (Hearing::default(), Arc::new(Notify::new()));
        hearing.watch(&fleet, Arc::clone(&changed));
        assert!(hearing.answers());
        // Nobody reads the channel.
        changed.notified().await;
        assert!(!hearing.answers());
        let heard = instance.receive::<ToInstance>().await.unwrap().unwrap();
        assert!(matches!(heard.0, ToInstance::Hear));
        drop(heard);
        changed.notified().await;
        assert!(hearing.answers());
    }
}
