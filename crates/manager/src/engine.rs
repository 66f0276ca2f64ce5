//! The one owner of the world: takes in news, asks controllers and scheduler what to do, and sends others to do it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use base::Clock;
use controllers::scheduler::Scheduler;
use controllers::{ALL, Action, Change, Context, ResourceType, Settings, World};
use machinery::{CompactString, GroupResource, ObjectKey, Status, Value, meta};
use tokio::sync::mpsc;

use crate::api::{Api, collection_path};
use crate::informer::{self, News};
use crate::perform::{Door, Written};
use crate::queue::{Job, Queue};

/// What the engine hears.
pub(crate) enum Input {
    News(GroupResource, News),
    Written(Written),
    Done(Job, Result<(), Status>),
    Placed(ObjectKey, Result<(), Status>),
    Types(Vec<ResourceType>),
    Leading { controllers: bool, scheduler: bool },
}

/// Inputs waiting for the engine.
const INPUTS_MAX: usize = 4096;
/// Inputs taken in before controllers are asked again.
const BATCH: usize = 1024;
/// Plans being performed at once.
const PLANS_MAX: usize = 128;
/// Pods being bound at once.
const BINDINGS_MAX: usize = 64;
/// Uids of deleted objects remembered, so that late answers do not bring them back.
const DELETED_MAX: usize = 65_536;
/// A list that does not come by then is not waited for.
const SYNC_PATIENCE: Duration = Duration::from_secs(5);

/// Resources nobody here needs to watch.
const UNWATCHED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];

pub(crate) struct Engine {
    clock: Clock,
    world: World,
    queue: Queue,
    scheduler: Scheduler,
    placing: usize,
    doors: BTreeMap<&'static str, Door>,
    scheduler_door: Door,
    /// The identity that lists and watches.
    reader: Api,
    types: BTreeMap<GroupResource, ResourceType>,
    informers: BTreeMap<GroupResource, tokio::task::JoinHandle<()>>,
    unsynced: BTreeSet<GroupResource>,
    started: Duration,
    deleted: VecDeque<CompactString>,
    deleted_set: BTreeSet<CompactString>,
    leads: (bool, bool),
    sender: mpsc::Sender<Input>,
    receiver: mpsc::Receiver<Input>,
}

impl Engine {
    pub(crate) fn new(
        clock: Clock,
        settings: Settings,
        seed: u64,
        doors: BTreeMap<&'static str, Door>,
        scheduler_door: Door,
        reader: Api,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(INPUTS_MAX);
        let started = clock.monotonic();
        Self {
            clock,
            world: World::new(settings),
            queue: Queue::default(),
            scheduler: Scheduler::new("default-scheduler", seed),
            placing: 0,
            doors,
            scheduler_door,
            reader,
            types: BTreeMap::new(),
            informers: BTreeMap::new(),
            unsynced: BTreeSet::new(),
            started,
            deleted: VecDeque::new(),
            deleted_set: BTreeSet::new(),
            leads: (false, false),
            sender,
            receiver,
        }
    }

    /// Where inputs go.
    pub(crate) fn sender(&self) -> mpsc::Sender<Input> {
        self.sender.clone()
    }

    /// Runs until the future is dropped.
    pub(crate) async fn run(mut self) {
        loop {
            let now = self.clock.monotonic();
            let ready = self.is_ready(now);
            if ready {
                self.start_jobs(now);
                self.place_pods();
            }
            let wait = self.wait(now, ready);
            let input = tokio::select! {
                input = self.receiver.recv() => input,
                () = sleep(wait) => None,
            };
            if let Some(input) = input {
                self.take(input);
                for _ in 0..BATCH {
                    let Ok(input) = self.receiver.try_recv() else { break };
                    self.take(input);
                }
            }
        }
    }

    /// Nothing is decided before everything was listed.
    fn is_ready(&self, now: Duration) -> bool {
        !self.types.is_empty() && (self.unsynced.is_empty() || now > self.started + SYNC_PATIENCE)
    }

    fn wait(&self, now: Duration, ready: bool) -> Option<Duration> {
        if !ready {
            return (!self.types.is_empty()).then(|| (self.started + SYNC_PATIENCE).saturating_sub(now));
        }
        let jobs = self.queue.next().filter(|_| self.queue.running() < PLANS_MAX);
        let jobs = jobs.map(|at| at.saturating_sub(now));
        let wall = self.clock.now();
        let pods = self.scheduler.next_wake().filter(|_| self.leads.1).map(|at| at.since(wall));
        [jobs, pods].into_iter().flatten().min()
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::News(resource, news) => self.take_news(&resource, news),
            Input::Written(Written::Object(resource, object)) => self.apply(&resource, object),
            Input::Written(Written::Gone(resource, key, uid)) => self.remove(&resource, &key, &uid),
            Input::Written(Written::Nothing) => {}
            Input::Done(job, outcome) => {
                if let Err(status) = &outcome {
                    tracing::debug!(controller = ALL[job.0].name, key = %job.1, error = %status, "will be tried again");
                }
                self.queue.done(job, outcome.err(), self.clock.monotonic());
            }
            Input::Placed(pod, outcome) => {
                self.placing -= 1;
                if let Err(status) = outcome {
                    tracing::debug!(%pod, error = %status, "binding failed");
                    self.scheduler.bind_failed(&pod, self.clock.now());
                }
            }
            Input::Types(types) => self.take_types(types),
            Input::Leading { controllers, scheduler } => {
                let gained = controllers && !self.leads.0;
                self.leads = (controllers, scheduler);
                if !controllers {
                    self.queue = Queue::default();
                }
                if gained {
                    self.look_at_everything();
                }
            }
        }
    }

    fn take_news(&mut self, resource: &GroupResource, news: News) {
        match news {
            News::Applied(object) => self.apply(resource, object),
            News::Deleted(object) => self.remove(resource, &meta::key(&object), meta::uid(&object)),
            News::Listed(objects, revision) => {
                if let Some(found) = self.types.get(resource) {
                    self.world.define(found.clone());
                }
                self.unsynced.remove(resource);
                let listed: BTreeSet<ObjectKey> = objects.iter().map(|o| meta::key(o)).collect();
                let revision = revision.parse::<u64>().unwrap_or(u64::MAX);
                for key in self.world.keys(resource).into_iter().filter(|k| !listed.contains(k)) {
                    let held = self.world.lookup(&controllers::Key { resource: resource.clone(), object: key.clone() });
                    let Some((held, uid)) = held.map(|o| (meta::resource_version(o), meta::uid(o).to_owned())) else {
                        continue;
                    };
                    if held.parse::<u64>().is_ok_and(|at| at <= revision) {
                        self.remove(resource, &key, &uid);
                    }
                }
                objects.into_iter().for_each(|o| self.apply(resource, o));
            }
        }
    }

    fn apply(&mut self, resource: &GroupResource, object: Arc<Value>) {
        if self.deleted_set.contains(meta::uid(&object)) {
            return;
        }
        if let Some(change) = self.world.apply(resource, object) {
            self.dispatch(&change);
        }
    }

    fn remove(&mut self, resource: &GroupResource, key: &ObjectKey, uid: &str) {
        let named = controllers::Key { resource: resource.clone(), object: key.clone() };
        if !self.world.lookup(&named).is_some_and(|held| meta::uid(held) == uid || uid.is_empty()) {
            return;
        }
        if let Some(change) = self.world.remove(resource, key) {
            let uid = change.old.as_ref().map_or_else(CompactString::default, |o| meta::uid(o).into());
            if self.deleted_set.insert(uid.clone()) {
                self.deleted.push_back(uid);
            }
            while self.deleted.len() > DELETED_MAX {
                if let Some(oldest) = self.deleted.pop_front() {
                    self.deleted_set.remove(&oldest);
                }
            }
            self.dispatch(&change);
        }
    }

    fn dispatch(&mut self, change: &Change) {
        self.scheduler.observe(change);
        if change.resource.resource == "customresourcedefinitions" {
            self.rediscover();
        }
        if self.leads.0 {
            self.enqueue(change);
        }
    }

    fn enqueue(&mut self, change: &Change) {
        let now = self.clock.monotonic();
        for (index, controller) in ALL.iter().enumerate() {
            let at = now + Duration::from_millis(controller.settle_ms);
            for watch in controller.watches {
                if watch.resource.is_none_or(|r| controllers::world::is(&change.resource, r)) {
                    for key in (watch.keys)(&self.world, change) {
                        self.queue.add((index, key), at);
                    }
                }
            }
        }
    }

    fn look_at_everything(&mut self) {
        let resources: Vec<GroupResource> = self.types.keys().cloned().collect();
        for resource in resources {
            for key in self.world.keys(&resource) {
                let named = controllers::Key { resource: resource.clone(), object: key };
                let new = self.world.lookup(&named).cloned();
                self.enqueue(&Change { resource: resource.clone(), old: None, new });
            }
        }
    }

    fn start_jobs(&mut self, now: Duration) {
        while self.leads.0 && self.queue.running() < PLANS_MAX {
            let Some(job) = self.queue.pop(now) else { break };
            let controller = ALL[job.0];
            let context = Context { world: &self.world, now: self.clock.now(), failure: self.queue.failure(&job) };
            // One reconcile may panic without taking the process down.
            let plan = catch_unwind(AssertUnwindSafe(|| (controller.reconcile)(&context, &job.1)));
            let Ok(mut plan) = plan else {
                tracing::error!(controller = controller.name, key = %job.1, "reconcile panicked");
                self.queue.done(job, Some(Status::internal("reconcile panicked")), now);
                continue;
            };
            plan.retain(|action| match action {
                Action::Requeue { after } => {
                    self.queue.add(job.clone(), now + *after);
                    false
                }
                _ => true,
            });
            if plan.is_empty() {
                self.queue.done(job, None, now);
                continue;
            }
            let Some(door) = self.doors.get(controller.name).cloned() else {
                self.queue.done(job, None, now);
                continue;
            };
            let sender = self.sender.clone();
            tokio::spawn(async move {
                let outcome = door.perform(plan, sender.clone()).await;
                let _ = sender.send(Input::Done(job, outcome)).await;
            });
        }
    }

    fn place_pods(&mut self) {
        if !self.leads.1 || self.placing >= BINDINGS_MAX {
            return;
        }
        for decision in self.scheduler.decide(self.clock.now(), BINDINGS_MAX - self.placing) {
            self.placing += 1;
            let (door, sender) = (self.scheduler_door.clone(), self.sender.clone());
            tokio::spawn(async move {
                let outcome = door.perform(decision.actions, sender.clone()).await;
                let _ = sender.send(Input::Placed(decision.pod, outcome)).await;
            });
        }
    }

    fn rediscover(&self) {
        let (reader, sender) = (self.reader.clone(), self.sender.clone());
        tokio::spawn(async move {
            // The server serves a new definition a moment after it is stored.
            tokio::time::sleep(Duration::from_millis(100)).await;
            match crate::discovery::discover(&reader).await {
                Ok(types) => drop(sender.send(Input::Types(types)).await),
                Err(error) => tracing::debug!(%error, "discovery"),
            }
        });
    }

    fn take_types(&mut self, types: Vec<ResourceType>) {
        let first = self.types.is_empty();
        let now: BTreeSet<GroupResource> = types.iter().map(|t| t.resource.group_resource()).collect();
        let gone: Vec<GroupResource> = self.types.keys().filter(|r| !now.contains(r)).cloned().collect();
        for resource in gone {
            self.types.remove(&resource);
            if let Some(task) = self.informers.remove(&resource) {
                task.abort();
            }
            self.world.undefine(&resource);
            self.unsynced.remove(&resource);
        }
        for found in types {
            let resource = found.resource.group_resource();
            let changed = self.types.get(&resource) != Some(&found);
            self.types.insert(resource.clone(), found.clone());
            let watched = !UNWATCHED.contains(&(resource.group.as_str(), resource.resource.as_str()));
            if !(found.collectable && watched) {
                self.world.define(found);
                continue;
            }
            if !changed {
                continue;
            }
            if let Some(task) = self.informers.remove(&resource) {
                task.abort();
            }
            if first {
                self.unsynced.insert(resource.clone());
            }
            let path = collection_path(&found.resource, "");
            let named = resource.clone();
            let wrap = move |news| Input::News(named.clone(), news);
            let task = informer::run(self.reader.clone(), path, String::new(), self.sender.clone(), wrap);
            self.informers.insert(resource, tokio::spawn(task));
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.informers.values().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
