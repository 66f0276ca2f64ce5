//! When a member has been without a leader for too long: streams that asked for one end (`hasleader`, as Kubernetes
//! sets it on every watch).

use std::time::Duration;

use tokio::sync::watch;

/// Election time-outs without a leader before streams end: new ones are refused at once, but to end those that run
/// costs their clients more (etcd: three).
const TIMEOUTS: u32 = 3;

/// Done when there has been no leader (0) for three election time-outs without a break, or the member is gone.
pub(crate) async fn leaderless(mut leader: watch::Receiver<u64>, election_timeout: Duration) {
    loop {
        if leader.wait_for(|leader| *leader == 0).await.is_err() {
            return;
        }
        let back = leader.wait_for(|leader| *leader != 0);
        match tokio::time::timeout(election_timeout * TIMEOUTS, back).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn only_three_time_outs_without_a_break_count() {
        let (sender, receiver) = watch::channel(7);
        let mut lost = std::pin::pin!(leaderless(receiver, SECOND));
        tokio::time::advance(10 * SECOND).await;
        assert!(poll!(&mut lost).is_pending(), "there is a leader");
        sender.send_replace(0);
        assert!(poll!(&mut lost).is_pending());
        tokio::time::advance(2 * SECOND).await;
        assert!(poll!(&mut lost).is_pending(), "not yet");
        sender.send_replace(8);
        assert!(poll!(&mut lost).is_pending());
        tokio::time::advance(2 * SECOND).await;
        sender.send_replace(0);
        assert!(poll!(&mut lost).is_pending(), "a new leader begins the count anew");
        tokio::time::advance(2 * SECOND).await;
        assert!(poll!(&mut lost).is_pending());
        tokio::time::advance(SECOND).await;
        assert!(poll!(&mut lost).is_ready());
    }
}
