//! Runs what a connection starts: at once, on the connection's own task, and only what has to wait on a task of its own.
//!
//! A read of a key is answered before its request's task could have been scheduled, and its answer leaves together with those
//! of the requests that came in the same packet.

use std::pin::Pin;
use std::task::{Context, Waker};

use hyper::rt::Executor;

/// Polls each future once where it is started; what is not done then is spawned. Must be used within a Tokio runtime.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Eager;

impl<F> Executor<F> for Eager
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let mut future: Pin<Box<F>> = Box::pin(future);
        // A task polls what it is given before it sleeps, so nobody misses the wake-ups that nobody gets here.
        if future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            drop(tokio::spawn(future));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_need_not_wait_is_done_at_once_and_the_rest_later() {
        let done = Arc::new(AtomicUsize::new(0));
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        let (told, tell) = tokio::sync::oneshot::channel::<()>();
        let count = done.clone();
        Eager.execute(async move { count.store(1, Ordering::Relaxed) });
        assert_eq!(done.load(Ordering::Relaxed), 1);
        let count = done.clone();
        Eager.execute(async move {
            let _ = released.await;
            count.store(2, Ordering::Relaxed);
            let _ = told.send(());
        });
        assert_eq!(done.load(Ordering::Relaxed), 1);
        release.send(()).expect("somebody waits");
        tell.await.expect("it ends");
        assert_eq!(done.load(Ordering::Relaxed), 2);
    }
}
