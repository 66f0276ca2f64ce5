//! Events for `kubectl describe`: written beside the work, repeated ones counted, floods dropped.

use std::collections::BTreeMap;
use std::time::Duration;

use base::Clock;
use controllers::Event;
use machinery::{GroupVersionResource, Value, json};
use tokio::sync::mpsc;

use crate::api::{Api, Request, collection_path, object_path};

/// Waiting events; more are dropped.
const QUEUE_MAX: usize = 2048;
/// Events of one source about one object at once; then one every [`REFILL`], as upstream's spam filter.
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(300);
/// Remembered events, for counting repetitions.
const REMEMBERED_MAX: usize = 4096;

/// Takes events of one component. Clones share one writer.
#[derive(Clone)]
pub(crate) struct Recorder(mpsc::Sender<Event>);

impl Recorder {
    /// Starts the writer of a component (`source.component`).
    pub(crate) fn start(api: Api, component: &str, host: &str, clock: Clock) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let writer = Writer {
            api,
            component: component.to_owned(),
            host: host.to_owned(),
            clock,
            known: BTreeMap::new(),
            spent: BTreeMap::new(),
        };
        tokio::spawn(writer.run(receiver));
        Self(sender)
    }

    /// Queues an event; drops it when too many wait.
    pub(crate) fn record(&self, event: Event) {
        if self.0.try_send(event).is_err() {
            tracing::debug!("an event was dropped: too many wait");
        }
    }
}

struct Writer {
    api: Api,
    component: String,
    host: String,
    clock: Clock,
    /// (uid, reason, message) → name of the Event and how often.
    known: BTreeMap<(String, String, String), (String, u32)>,
    /// uid → events spent, and when the last refill was.
    spent: BTreeMap<String, (u32, Duration)>,
}

impl Writer {
    async fn run(mut self, mut receiver: mpsc::Receiver<Event>) {
        while let Some(event) = receiver.recv().await {
            if self.allowed(event.regarding.str_at(&["uid"])) {
                self.write(event).await;
            }
        }
    }

    fn allowed(&mut self, uid: &str) -> bool {
        let now = self.clock.monotonic();
        if self.spent.len() >= REMEMBERED_MAX {
            self.spent.clear();
        }
        let (spent, since) = self.spent.entry(uid.to_owned()).or_insert((0, now));
        let refilled = (now.saturating_sub(*since).as_secs() / REFILL.as_secs()) as u32;
        if refilled > 0 {
            *spent = spent.saturating_sub(refilled);
            *since = now;
        }
        *spent += 1;
        *spent <= BURST
    }

    async fn write(&mut self, event: Event) {
        let events = GroupVersionResource::new("", "v1", "events");
        let about = |key: &str| event.regarding.str_at(&[key]).to_owned();
        let namespace = Some(about("namespace")).filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned());
        let now = self.clock.now();
        let id = (about("uid"), event.reason.to_owned(), event.message.clone());
        if let Some((name, count)) = self.known.get_mut(&id) {
            *count += 1;
            let patch = json!({"count": *count, "lastTimestamp": now.rfc3339()});
            let path = object_path(&events, &namespace, name, "");
            if self.api.call(Request::new("PATCH", path, Some(patch))).await.is_ok() {
                return;
            }
        }
        let name = format!("{}.{:x}", about("name"), now.unix_nanos());
        let mut source = json!({"component": self.component});
        if !self.host.is_empty() {
            source.set("host", self.host.as_str());
        }
        let object = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "reason": event.reason, "message": event.message, "count": 1,
            "type": if event.warning { "Warning" } else { "Normal" },
            "firstTimestamp": now.rfc3339(), "lastTimestamp": now.rfc3339(),
            "reportingComponent": self.component, "reportingInstance": self.host,
        });
        let object = with(object, "involvedObject", event.regarding);
        let object = with(object, "source", source);
        let path = collection_path(&events, &namespace);
        match self.api.call(Request::new("POST", path, Some(object))).await {
            Ok(_) => {
                if self.known.len() >= REMEMBERED_MAX {
                    self.known.clear();
                }
                self.known.insert(id, (name, 1));
            }
            Err(error) => tracing::debug!(%error, "an event was not written"),
        }
    }
}

fn with(mut object: Value, key: &str, value: Value) -> Value {
    object.set(key, value);
    object
}
