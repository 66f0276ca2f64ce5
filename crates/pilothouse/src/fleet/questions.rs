//! What the fleet's metadata servers ask an instance about its nodes and their pods. Each question has a stream of its own:
//! answers are lines of JSON, and whoever cannot answer closes it.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::UnixStream;

use crate::channel::{self, stream};
use crate::fleet::cluster::{Cluster, Command};
use crate::fleet::message::Secret;

/// An instance that is started again answers within this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries to ask one that does not run.
const RETRY: Duration = Duration::from_millis(100);

/// A question.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub(crate) enum NodeQuestion {
    /// Is this pod on a node of the instance (or on this one)? Answered by lines of [`PodNews`]: what is, once the nodes know
    /// their pods, and whatever comes after it until the pod is gone.
    Pod { namespace: String, name: String, node: Option<String> },
    /// A token of the pod's account, asked for by the node: [`TokenNews`].
    Token { node: String, namespace: String, name: String, uid: String, audience: String },
    /// Which Google account is a service account annotated with? Its email, or null.
    Account { namespace: String, account: String },
    /// The credential that the node's machine was made with: [`BootstrapCredential`].
    Bootstrap { shielded: bool },
}

/// Where a pod stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub(crate) enum PodNews {
    Here(PodFacts),
    /// It is not there, or no longer; nothing follows.
    Gone,
}

/// What a metadata server must know of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodFacts {
    pub(crate) node: String,
    pub(crate) uid: String,
    pub(crate) account: String,
    pub(crate) host_network: bool,
    /// Has it a network yet?
    pub(crate) started: bool,
}

/// A pod's token, or what the API server said to the node.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum TokenNews {
    Token(Secret),
    Refused(String),
}

/// Certificate and key, PEM.
#[derive(Serialize, Deserialize)]
pub(crate) struct BootstrapCredential {
    pub(crate) certificate: String,
    pub(crate) key: Secret,
}

/// The lines of an answer.
pub(crate) struct Answer(Lines<BufReader<UnixStream>>);

impl Answer {
    /// The next line; none when the other side closed the stream.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Option<T> {
        let line = self.0.next_line().await.ok().flatten()?;
        serde_json::from_str(&line).ok()
    }
}

impl Cluster {
    /// Asks the instance at a place, if it runs.
    ///
    /// # Errors
    /// When the cluster was stopped, or descriptors run out.
    pub(crate) async fn question(&self, place: usize, question: NodeQuestion) -> Result<Answer> {
        let (ours, theirs) = channel::stream_pair()?;
        self.tell(Command::Ask { place, question, end: theirs }).await.context("the cluster was stopped")?;
        Ok(Answer(BufReader::new(stream(ours)?).lines()))
    }

    /// The one answer to a question; an instance that is being started is waited for.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, place: usize, question: &NodeQuestion) -> Result<T> {
        let asking = async {
            loop {
                if let Some(answer) = self.question(place, question.clone()).await?.next().await {
                    return anyhow::Ok(answer);
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        tokio::time::timeout(ANSWER_TIMEOUT, asking).await.context("the instance does not answer")?
    }
}
