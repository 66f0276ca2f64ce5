use super::*;

fn watcher(stream: u64, next: i64) -> (Watcher, mpsc::Receiver<pb::WatchResponse>) {
    let (queue, queued) = mpsc::channel(8);
    let watcher = Watcher {
        id: (stream, 7),
        next,
        progress: false,
        prev_kv: false,
        no_put: false,
        no_delete: false,
        last_header: None,
        queue,
        slow: Arc::default(),
    };
    (watcher, queued)
}

fn event(revision: i64, delete: bool) -> pb::Event {
    let kv = |revision| Some(pb::KeyValue { mod_revision: revision, ..Default::default() });
    pb::Event { r#type: delete.into(), kv: kv(revision), prev_kv: kv(1) }
}

fn answer(revision: i64, events: Vec<pb::Event>) -> pb::WatchResponse {
    let header = Some(pb::ResponseHeader { revision, ..Default::default() });
    pb::WatchResponse { header, events, ..Default::default() }
}

fn created(revision: i64) -> pb::WatchResponse {
    pb::WatchResponse { created: true, ..answer(revision, Vec::new()) }
}

/// Revisions that a watcher is told of.
fn told(watcher: &mut Watcher, from: &pb::WatchResponse) -> Option<Vec<i64>> {
    let answer = watcher.answer(from)?;
    assert_eq!(answer.watch_id, 7);
    Some(answer.events.iter().map(|event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision)).collect())
}

#[test]
fn a_watcher_is_told_each_event_once_and_all_of_a_revision() {
    let (mut watcher, _queued) = watcher(1, 0);
    assert_eq!(told(&mut watcher, &created(4)), Some(vec![]));
    assert_eq!(told(&mut watcher, &answer(4, vec![event(4, false)])), None, "older than the watch");
    let two = answer(6, vec![event(5, false), event(6, false), event(6, true)]);
    assert_eq!(told(&mut watcher, &two), Some(vec![5, 6, 6]));
    assert_eq!(told(&mut watcher, &two), None, "told already");
    assert_eq!(told(&mut watcher, &answer(9, Vec::new())), None, "it did not ask for progress");
    watcher.progress = true;
    assert_eq!(told(&mut watcher, &answer(9, Vec::new())), Some(vec![]));
}

#[test]
fn a_watcher_is_told_what_it_asked_for() {
    let (mut watcher, _queued) = watcher(1, 2);
    watcher.no_delete = true;
    assert_eq!(told(&mut watcher, &answer(2, vec![event(2, true)])), None);
    assert_eq!(told(&mut watcher, &answer(4, vec![event(3, false), event(4, true)])), Some(vec![3]));
    let last = watcher.last_header.map(|header| header.revision);
    assert_eq!((last, watcher.next), (Some(4), 5));
    let from = answer(5, vec![event(5, false)]);
    let without = watcher.answer(&from).expect("an answer").events[0].prev_kv.clone();
    watcher.prev_kv = true;
    watcher.next = 5;
    let with = watcher.answer(&from).expect("an answer").events[0].prev_kv.clone();
    assert!(without.is_none() && with.is_some());
    let gone = pb::WatchResponse { canceled: true, compact_revision: 8, ..answer(0, Vec::new()) };
    let gone = watcher.answer(&gone).expect("it has to know");
    assert!(gone.canceled && gone.compact_revision == 8);
}

struct Rig {
    ranges: Arc<Ranges>,
    range: Range,
}

impl Rig {
    /// Watches at an etcd that is not there: what it says, the test says.
    fn new() -> Self {
        let settings = super::super::upstream::Settings {
            tls: None,
            send_bytes_max: 0,
            receive_bytes_max: 0,
            ping_interval: Duration::ZERO,
            ping_timeout: Duration::ZERO,
            ping_while_idle: false,
        };
        let upstream =
            super::super::upstream::Upstream::new(&["127.0.0.1:1".to_owned()], settings).expect("an address");
        let kv = Kv::new(Arc::new(upstream), super::super::namespace::Namespace::default(), false);
        Self { ranges: Arc::new(Ranges::new(Arc::new(kv))), range: (Bytes::from_static(b"k"), Bytes::new()) }
    }

    fn add(&self, stream: u64, next: i64) -> mpsc::Receiver<pb::WatchResponse> {
        let (watcher, queued) = watcher(stream, next);
        self.ranges.add(self.range.clone(), watcher, &Caller::default());
        queued
    }

    /// Broadcasts, each with the streams of its watchers.
    fn shares(&self) -> Vec<(u64, Vec<u64>)> {
        let inner = lock(&self.ranges.inner);
        let broadcasts = inner.ranges.get(&self.range).into_iter().flatten();
        broadcasts.map(|one| (one.id, one.watchers.keys().map(|(stream, _)| *stream).collect())).collect()
    }

    fn say(&self, id: u64, answer: &pb::WatchResponse) -> usize {
        self.ranges.broadcast(&self.range, id, answer).len()
    }
}

#[tokio::test]
async fn watchers_share_what_has_not_passed_them_and_become_one_when_they_meet() {
    let rig = Rig::new();
    let _present = rig.add(1, 0);
    let mut also = rig.add(2, 0);
    let _past = rig.add(3, 2);
    assert_eq!(rig.shares(), [(0, vec![1, 2]), (2, vec![3])]);
    assert_eq!(rig.say(0, &created(9)), 2);
    assert!(also.try_recv().is_err(), "answers are sent by whoever broadcasts");
    let mut future = rig.add(4, 20);
    let said = future.try_recv().expect("the watch is there already");
    assert!(said.created && said.header.is_some_and(|header| header.revision == 20));
    assert_eq!(rig.shares(), [(0, vec![1, 2, 4]), (2, vec![3])]);
    assert_eq!(rig.ranges.sharing(), 2);
    rig.say(2, &created(9));
    assert!(!rig.ranges.is_moved(&rig.range, 2), "it is behind");
    rig.say(2, &answer(9, vec![event(5, false)]));
    assert!(!rig.ranges.is_moved(&rig.range, 2), "etcd states 9, but has told no more than 5");
    rig.say(2, &answer(9, vec![event(9, false)]));
    assert!(rig.ranges.is_moved(&rig.range, 2));
    rig.ranges.end(&rig.range, 2);
    assert_eq!(rig.shares(), [(0, vec![1, 2, 3, 4])]);
    assert_eq!(rig.say(0, &answer(10, vec![event(10, false)])), 3, "the one from 20 on waits");
    for stream in 1..=4 {
        rig.ranges.remove(&rig.range, (stream, 7));
    }
    assert!(lock(&rig.ranges.inner).ranges.is_empty());
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_sent_away() {
    let rig = Rig::new();
    let _one = rig.add(1, 0);
    rig.say(0, &created(1));
    let (slow, queued) = watcher(2, 5);
    let (told, queue) = (slow.slow.clone(), slow.queue.clone());
    while queue.try_send(pb::WatchResponse::default()).is_ok() {}
    rig.ranges.add(rig.range.clone(), slow, &Caller::default());
    told.notified().await;
    assert_eq!(rig.shares(), [(0, vec![1])]);
    drop(queued);
}
