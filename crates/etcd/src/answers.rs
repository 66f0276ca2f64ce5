//! The way of answers and of changes from the state thread to the tasks that wait for them.
//!
//! Waking a task of another thread is a system call, and what wakes alone is written alone. All that one turn has to say is
//! handed over at once, to a task of the clients' runtime that gives it out: the connections then write what belongs together
//! in one piece.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::hub::Ready;
use crate::shared::Answer;

/// Who waits, each with its answer.
pub(crate) type Answers = Vec<(oneshot::Sender<Answer>, Answer)>;

/// What one turn has to say.
#[derive(Default)]
pub(crate) struct News {
    /// To who asked.
    pub(crate) answers: Answers,
    /// Streams of watches that have something to say now.
    pub(crate) watches: Vec<Arc<Ready>>,
}

/// Where the state thread leaves news.
#[derive(Default)]
pub(crate) struct Delivery {
    courier: Mutex<Option<mpsc::UnboundedSender<News>>>,
}

/// Gives news out; made by [`Delivery::courier`].
pub(crate) struct Courier(mpsc::UnboundedReceiver<News>);

impl Delivery {
    /// Gives `news` out; without a courier, one by one.
    pub(crate) fn send(&self, news: News) {
        let mut left = news;
        if left.answers.len() + left.watches.len() > 1
            && let Some(courier) = &*self.courier.lock().unwrap_or_else(PoisonError::into_inner)
        {
            match courier.send(std::mem::take(&mut left)) {
                Ok(()) => return,
                Err(mpsc::error::SendError(back)) => left = back,
            }
        }
        left.give_out();
    }

    /// Whoever runs what this returns gives news out from now on, until it is dropped or the next is made.
    pub(crate) fn courier(&self) -> Courier {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.courier.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        Courier(receiver)
    }
}

impl Courier {
    /// Gives news out until the member is gone.
    pub(crate) async fn run(mut self) {
        while let Some(news) = self.0.recv().await {
            news.give_out();
        }
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        // What is sent from now on comes back to its sender; what is here already must not be lost.
        self.0.close();
        while let Ok(news) = self.0.try_recv() {
            news.give_out();
        }
    }
}

impl News {
    fn give_out(self) {
        for (reply, answer) in self.answers {
            // Whoever asked may have gone.
            let _ = reply.send(answer);
        }
        self.watches.iter().for_each(|ready| ready.wake());
    }
}

#[cfg(test)]
mod tests {
    use mvcc::Response;

    use super::*;

    fn waiting(count: i64) -> (News, Vec<oneshot::Receiver<Answer>>) {
        let (answers, receivers) = (0..count)
            .map(|revision| {
                let (reply, answer) = oneshot::channel();
                ((reply, Ok(Response::Done { revision })), answer)
            })
            .unzip();
        (News { answers, watches: Vec::new() }, receivers)
    }

    async fn all_answered(receivers: Vec<oneshot::Receiver<Answer>>) {
        for (n, receiver) in receivers.into_iter().enumerate() {
            let answer = receiver.await.expect("an answer").expect("done");
            assert!(matches!(answer, Response::Done { revision } if revision == n as i64));
        }
    }

    #[tokio::test]
    async fn everybody_is_answered_with_a_courier_without_one_and_after_its_end() {
        let delivery = Delivery::default();
        let (news, receivers) = waiting(3);
        delivery.send(news);
        all_answered(receivers).await;
        let courier = tokio::spawn(delivery.courier().run());
        for count in [1, 3] {
            let (news, receivers) = waiting(count);
            delivery.send(news);
            all_answered(receivers).await;
        }
        courier.abort();
        assert!(courier.await.is_err_and(|error| error.is_cancelled()));
        let (news, receivers) = waiting(3);
        delivery.send(news);
        all_answered(receivers).await;
    }

    #[tokio::test]
    async fn a_courier_that_ends_gives_out_what_it_has() {
        let delivery = Delivery::default();
        let courier = delivery.courier();
        let (news, receivers) = waiting(3);
        delivery.send(news);
        drop(courier);
        all_answered(receivers).await;
    }
}
