//! The way of answers from the state thread to the tasks that wait for them.
//!
//! Waking a task of another thread is a system call. All answers of one turn are handed over at once, to a task of the
//! clients' runtime that gives them out: the connections then write what belongs together in one piece.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::shared::Answer;

/// Who waits, each with its answer.
pub(crate) type Answers = Vec<(oneshot::Sender<Answer>, Answer)>;

/// Where the state thread leaves answers.
#[derive(Default)]
pub(crate) struct Delivery {
    courier: Mutex<Option<mpsc::UnboundedSender<Answers>>>,
}

/// Gives answers out; made by [`Delivery::courier`].
pub(crate) struct Courier(mpsc::UnboundedReceiver<Answers>);

impl Delivery {
    /// Gives out `answers`; without a courier, one by one.
    pub(crate) fn send(&self, answers: Answers) {
        let mut left = answers;
        if left.len() > 1
            && let Some(courier) = &*self.courier.lock().unwrap_or_else(PoisonError::into_inner)
        {
            match courier.send(std::mem::take(&mut left)) {
                Ok(()) => return,
                Err(mpsc::error::SendError(back)) => left = back,
            }
        }
        give_out(left);
    }

    /// Whoever runs what this returns gives answers out from now on, until it is dropped or the next is made.
    pub(crate) fn courier(&self) -> Courier {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.courier.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        Courier(receiver)
    }
}

impl Courier {
    /// Gives answers out until the member is gone.
    pub(crate) async fn run(mut self) {
        while let Some(answers) = self.0.recv().await {
            give_out(answers);
        }
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        // What is sent from now on comes back to its sender; what is here already must not be lost.
        self.0.close();
        while let Ok(answers) = self.0.try_recv() {
            give_out(answers);
        }
    }
}

fn give_out(answers: Answers) {
    for (reply, answer) in answers {
        // Whoever asked may have gone.
        let _ = reply.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use mvcc::Response;

    use super::*;

    fn waiting(count: i64) -> (Answers, Vec<oneshot::Receiver<Answer>>) {
        (0..count)
            .map(|revision| {
                let (reply, answer) = oneshot::channel();
                ((reply, Ok(Response::Done { revision })), answer)
            })
            .unzip()
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
        let (answers, receivers) = waiting(3);
        delivery.send(answers);
        all_answered(receivers).await;
        let courier = tokio::spawn(delivery.courier().run());
        for count in [1, 3] {
            let (answers, receivers) = waiting(count);
            delivery.send(answers);
            all_answered(receivers).await;
        }
        courier.abort();
        assert!(courier.await.is_err_and(|error| error.is_cancelled()));
        let (answers, receivers) = waiting(3);
        delivery.send(answers);
        all_answered(receivers).await;
    }

    #[tokio::test]
    async fn a_courier_that_ends_gives_out_what_it_has() {
        let delivery = Delivery::default();
        let courier = delivery.courier();
        let (answers, receivers) = waiting(3);
        delivery.send(answers);
        drop(courier);
        all_answered(receivers).await;
    }
}
