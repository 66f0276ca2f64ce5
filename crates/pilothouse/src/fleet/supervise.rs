//! The task behind each cluster: starts its processes, publishes where connections go, starts again what died, and only
//! that.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use gke::exposure::Endpoint;
use pki::{Requester, Signer, SignerClient};
use tokio::io::AsyncReadExt;
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{error, info, warn};

use crate::channel::{self, stream};
use crate::edge::front_end::{self, Site};
use crate::edge::{self, Delivery};
use crate::fleet::addresses::{Listeners, MemberListeners};
use crate::fleet::cluster::{Access, Cluster, Command, NewKeys, State, instance_name};
use crate::fleet::message::{FromInstance, FromSigner, ToInstance, ToSigner, UsedIdentity};
use crate::fleet::outside::Outside;
use crate::fleet::process::Process;
use crate::fleet::questions::NodeQuestion;
use crate::fleet::report::InstanceStatus;
use crate::fleet::slot::{Cause, Slot, state_after};
use crate::fleet::starting::{SIGNER, access, addresses, admit, spawn, start_message};
use crate::fleet::{Fleet, in_process, key, outside, user_files};
use crate::{failure, identity_server};

/// From the end of a channel to the end of the process that held it.
const EXIT_TIMEOUT: Duration = Duration::from_millis(200);
/// An instance syncs its store before it ends.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts the edge and the supervising task.
pub(crate) fn start(fleet: &Arc<Fleet>, cluster: &Arc<Cluster>, listeners: Listeners) {
    let inbox = cluster.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(inbox) = inbox else { return };
    for (endpoint, listener) in [(Endpoint::External, listeners.api), (Endpoint::Internal, listeners.internal)] {
        let (gate, delivery) = (Arc::clone(&cluster.gate), cluster.delivery.subscribe());
        tokio::spawn(async move {
            if let Err(error) = edge::serve(listener, endpoint, gate, delivery).await {
                error!(endpoint = endpoint.name(), %error, "the edge stopped");
            }
        });
    }
    serve_name(fleet, cluster, listeners.dns);
    let (fleet, cluster) = (Arc::clone(fleet), Arc::clone(cluster));
    if fleet.in_process() {
        tokio::spawn(in_process::run(fleet, cluster, listeners.members, inbox));
    } else {
        tokio::spawn(Supervisor::new(fleet, cluster, listeners.members).run(inbox));
    }
}

/// Starts the front end of the cluster's DNS endpoint.
fn serve_name(fleet: &Fleet, cluster: &Cluster, listener: std::net::TcpListener) {
    let spec = cluster.spec();
    let site = Site {
        name: fleet.dns_name(cluster),
        resource: format!("projects/{}/locations/{}/clusters/{}", spec.project, spec.location, spec.name),
        internal: cluster.addresses.internal,
        gate: Arc::clone(&cluster.gate),
        signer: cluster.signer.subscribe(),
        tokens: Arc::clone(&fleet.tokens),
        root: Arc::clone(&fleet.root),
        shown: Arc::clone(&cluster.front_end_shown),
        clock: fleet.clock.clone(),
        entropy: fleet.entropy.clone(),
    };
    let mut state = cluster.state.subscribe();
    tokio::spawn(async move {
        let stopped = async {
            let _ = state.wait_for(|state| matches!(state, State::Stopped)).await;
        };
        if let Err(error) = front_end::serve(site, listener, stopped).await {
            error!("the front end stopped: {error:#}");
        }
    });
}

/// The processes of a cluster: a signer and its instances. Each is started again by itself: the others go on.
struct Supervisor {
    fleet: Arc<Fleet>,
    cluster: Arc<Cluster>,
    signer: Slot,
    instances: Vec<InstanceSlot>,
    /// The fleet's own way to the signer, for the user's certificates.
    door: Option<SignerClient>,
    /// That of the instances' metadata servers.
    metadata_door: Option<SignerClient>,
    /// An instance stopped answering, or answers again.
    heard: Arc<Notify>,
}

/// The place of an instance, and its member's sockets.
struct InstanceSlot {
    slot: Slot,
    sockets: MemberListeners,
}

/// What the supervisor waits for.
enum Event {
    Told(Option<Command>),
    SignerEnded,
    InstanceEnded(usize),
    Heard,
}

impl Supervisor {
    fn new(fleet: Arc<Fleet>, cluster: Arc<Cluster>, members: Vec<MemberListeners>) -> Self {
        let instances = members.into_iter().map(|sockets| InstanceSlot { slot: Slot::default(), sockets }).collect();
        Self {
            fleet,
            cluster,
            signer: Slot::default(),
            instances,
            door: None,
            metadata_door: None,
            heard: Arc::default(),
        }
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        loop {
            let event = if self.is_complete() {
                self.events(&mut inbox).await
            } else {
                match self.complete_unless_stopped(&mut inbox).await {
                    Some(done) => Event::Told(Some(Command::Stop(done))),
                    None => continue,
                }
            };
            match event {
                Event::SignerEnded => self.signer_failed("it ended".to_owned(), Cause::Passing),
                Event::InstanceEnded(place) => self.instance_failed(place, "it ended".to_owned(), Cause::Passing),
                Event::Heard => {
                    self.deliver();
                    self.report();
                }
                Event::Told(Some(Command::Nodes)) => self.tell_nodes().await,
                Event::Told(Some(Command::Keys(keys))) => self.tell_keys(keys).await,
                Event::Told(Some(Command::Report(answer))) => self.ask_instances(answer),
                Event::Told(Some(Command::Ask { place, question, end })) => self.ask_instance(place, question, end),
                Event::Told(Some(Command::Access(done))) => {
                    self.tell_access().await;
                    let _ = done.send(());
                }
                Event::Told(Some(Command::Stop(done))) => {
                    self.stop().await;
                    let _ = done.send(());
                    return;
                }
                Event::Told(None) => return,
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.signer.process.is_some() && self.instances.iter().all(|instance| instance.slot.process.is_some())
    }

    async fn events(&mut self, inbox: &mut mpsc::Receiver<Command>) -> Event {
        tokio::select! {
            command = inbox.recv() => Event::Told(command),
            () = self.signer.ended() => Event::SignerEnded,
            place = any_ended(&mut self.instances) => Event::InstanceEnded(place),
            () = self.heard.notified() => Event::Heard,
        }
    }

    /// Tells each instance which nodes it carries.
    async fn tell_nodes(&self) {
        for (place, instance) in self.instances.iter().enumerate() {
            if let Some(process) = &instance.slot.process {
                let (nodes, machines) = (self.cluster.nodes_of(place), self.cluster.machines());
                let _ = process.channel.send(&ToInstance::Nodes { nodes, machines }, &[]).await;
            }
        }
    }

    /// Hands new data keys to the processes that run. One that is started later gets its key with its start.
    async fn tell_keys(&self, keys: NewKeys) {
        if let (Some(data_key), Some(signer)) = (keys.signer, &self.signer.process) {
            let _ = signer.channel.send(&ToSigner::Key { data_key }, &[]).await;
        }
        for (data_key, instance) in keys.instances.into_iter().zip(&self.instances) {
            if let (Some(data_key), Some(process)) = (data_key, &instance.slot.process) {
                let _ = process.channel.send(&ToInstance::Key { data_key }, &[]).await;
            }
        }
    }

    /// Has each instance that runs say which certificates it shows; whoever asked waits, not the supervisor.
    fn ask_instances(&self, answer: oneshot::Sender<Vec<UsedIdentity>>) {
        let running = self.instances.iter().filter_map(|instance| instance.slot.process.as_ref());
        let channels: Vec<_> = running.map(|process| Arc::clone(&process.channel)).collect();
        tokio::spawn(async move {
            let ask = channels.into_iter().map(async |channel| -> Result<Vec<UsedIdentity>> {
                let (ours, theirs) = channel::stream_pair()?;
                channel.send(&ToInstance::Report, &[theirs]).await?;
                let mut text = Vec::new();
                stream(ours)?.read_to_end(&mut text).await?;
                Ok(serde_json::from_slice(&text)?)
            });
            let reports = futures_util::future::join_all(ask).await;
            let _ = answer.send(reports.into_iter().filter_map(Result::ok).flatten().collect());
        });
    }

    /// Hands a question on; where no instance runs, the stream's end is closed.
    fn ask_instance(&self, place: usize, question: NodeQuestion, end: OwnedFd) {
        let process = self.instances.get(place).and_then(|instance| instance.slot.process.as_ref());
        if let Some(channel) = process.map(|process| Arc::clone(&process.channel)) {
            tokio::spawn(async move {
                let _ = channel.send(&ToInstance::Ask { question }, &[end]).await;
            });
        }
    }

    /// Tells each instance the rules of access.
    async fn tell_access(&self) {
        for process in self.instances.iter().filter_map(|instance| instance.slot.process.as_ref()) {
            let settings = self.cluster.access_settings();
            let _ = process.channel.send(&ToInstance::Access { settings }, &[]).await;
        }
    }

    /// Starts what is missing. A wish to stop breaks it off; other nodes are those that the instances start with.
    async fn complete_unless_stopped(&mut self, inbox: &mut mpsc::Receiver<Command>) -> Option<oneshot::Sender<()>> {
        let (mut nodes_changed, mut new_keys, mut access_changed) = (false, Vec::new(), Vec::new());
        let stopped = {
            let work = self.complete();
            tokio::pin!(work);
            loop {
                tokio::select! {
                    () = &mut work => break None,
                    command = inbox.recv() => match command {
                        Some(Command::Stop(done)) => break Some(done),
                        Some(Command::Nodes) => nodes_changed = true,
                        Some(Command::Keys(keys)) => new_keys.push(keys),
                        // Whoever asked hears nothing, and says so.
                        Some(Command::Report(_) | Command::Ask { .. }) => {}
                        Some(Command::Access(done)) => access_changed.push(done),
                        None => std::future::pending().await,
                    },
                }
            }
        };
        if stopped.is_none() {
            if nodes_changed {
                self.tell_nodes().await;
            }
            for keys in new_keys {
                self.tell_keys(keys).await;
            }
        }
        if !access_changed.is_empty() && stopped.is_none() {
            self.tell_access().await;
        }
        for done in access_changed {
            let _ = done.send(());
        }
        stopped
    }

    /// The instances that do not run and are due next, and in what time.
    fn due(&self) -> (Vec<usize>, Duration) {
        let missing = || self.instances.iter().enumerate().filter(|(_, instance)| instance.slot.process.is_none());
        let soonest = missing().map(|(_, instance)| instance.slot.delay()).min().unwrap_or_default();
        let due = missing().filter(|(_, instance)| instance.slot.delay() == soonest).map(|(place, _)| place);
        (due.collect(), soonest)
    }

    /// One try to have all processes; what fails is noted and tried again, later each time.
    async fn complete(&mut self) {
        if self.signer.has_ended() {
            self.signer_failed("it ended".to_owned(), Cause::Passing);
        }
        let signer_missing = self.signer.process.is_none();
        let (due, soonest) = self.due();
        let delay = if signer_missing { self.signer.delay() } else { soonest };
        if !delay.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                // While one waits to be started again, others may end.
                () = self.signer.ended() => return self.signer_failed("it ended".to_owned(), Cause::Passing),
                place = any_ended(&mut self.instances) => {
                    return self.instance_failed(place, "it ended".to_owned(), Cause::Passing);
                }
            }
        }
        // All at once: a new process takes its time.
        let signer = match signer_missing.then(|| spawn(&self.fleet, &self.cluster, None)).transpose() {
            Ok(signer) => signer,
            Err(cause) => return self.signer_failed(failure::line(&cause), Cause::Lasting),
        };
        let mut instances = Vec::new();
        for place in due {
            match spawn(&self.fleet, &self.cluster, Some(place)) {
                Ok(process) => instances.push((place, process)),
                Err(cause) => return self.instance_failed(place, failure::line(&cause), Cause::Lasting),
            }
        }
        if let Some(mut signer) = signer {
            if let Err(error) = self.start_signer(&signer).await {
                return self.signer_failed(failure::line(&error), cause_of_end(&mut signer).await);
            }
            self.signer.started(signer, self.fleet.clock.monotonic());
        }
        self.bring_in(instances).await;
        self.report();
    }

    /// Starts instances side by side: the first ones of a regional cluster need each other to begin.
    async fn bring_in(&mut self, instances: Vec<(usize, Process)>) {
        let start = instances.iter().map(|(place, process)| self.start_instance(*place, process));
        let started = futures_util::future::join_all(start).await;
        for ((place, mut process), result) in instances.into_iter().zip(started) {
            match result {
                Ok(access) => {
                    // One that is alone is waited for, whatever it does.
                    if self.instances.len() > 1 {
                        process.hearing.watch(&process.channel, Arc::clone(&self.heard));
                    }
                    self.instances[place].slot.started(process, self.fleet.clock.monotonic());
                    self.report();
                    self.deliver();
                    self.cluster.state.send_replace(State::Running(access));
                }
                // An instance gives up too when the signer was killed under it.
                Err(error) if self.signer.has_ended() => {
                    self.instance_failed(place, failure::line(&error), Cause::Passing);
                }
                Err(error) => {
                    let cause = cause_of_end(&mut process).await;
                    self.instance_failed(place, failure::line(&error), cause);
                }
            }
        }
    }

    /// Connections go to the instances that run and answer; where none answers, to all that run.
    fn deliver(&self) {
        let running: Vec<_> = self.instances.iter().filter_map(|instance| instance.slot.process.as_ref()).collect();
        let any = running.iter().any(|process| process.hearing.answers());
        let ready = running.iter().filter(|process| process.hearing.answers() || !any);
        let ready = ready.map(|process| Delivery::Process(Arc::clone(&process.channel))).collect();
        self.cluster.delivery.send_replace(ready);
    }

    /// Whether enough instances run for the store to have a quorum.
    fn has_quorum(&self) -> bool {
        let running = self.instances.iter().filter(|instance| instance.slot.process.is_some()).count();
        running > self.instances.len() / 2
    }

    fn signer_failed(&mut self, why: String, cause: Cause) {
        let name = &self.cluster.spec().name;
        error!(cluster = name, "the signer is gone, and is started again: {why}");
        self.signer.failed(why.clone(), self.fleet.clock.monotonic());
        if !self.has_quorum() {
            self.cluster.state.send_replace(state_after(cause, &self.signer, why));
        }
        self.report();
    }

    fn instance_failed(&mut self, place: usize, why: String, cause: Cause) {
        let (name, instance) = (&self.cluster.spec().name, instance_name(place));
        error!(cluster = name, instance, "an instance is gone, and is started again: {why}");
        let slot = &mut self.instances[place].slot;
        slot.failed(why.clone(), self.fleet.clock.monotonic());
        let state = state_after(cause, slot, why);
        self.deliver();
        if !self.has_quorum() {
            self.cluster.state.send_replace(state);
        }
        self.report();
    }

    /// Starts the signer's work and opens the doors to it: the fleet's own, and that of an instance that runs already.
    async fn start_signer(&mut self, signer: &Process) -> Result<()> {
        let id = &self.cluster.spec().id;
        let data_dir = self.fleet.layout().cluster(id).join(SIGNER);
        admit(&self.fleet, &self.cluster, SIGNER).await?;
        let data_key = key::unwrap(&data_dir, id, SIGNER, &self.fleet.platform)?;
        let outside = Outside::of(&self.cluster);
        let mut files = Vec::new();
        if outside.is_some() {
            let (ours, theirs) = channel::stream_pair()?;
            outside::serve(&self.fleet, &self.cluster, stream(ours)?);
            files.push(theirs);
        }
        let start = ToSigner::Start { cluster: id.clone(), data_dir, data_key, outside };
        signer.channel.send(&start, &files).await?;
        match signer.channel.receive().await?.map(|(message, _)| message) {
            Some(FromSigner::Ready { gave_up }) => signer.says(gave_up),
            Some(FromSigner::Failed { message }) => bail!("signer: {message}"),
            None => bail!("the signer ended at once; see its log in {}", self.fleet.layout().logs().display()),
        }
        let ours = stream(connect(signer, Requester::Fleet).await?)?;
        match &self.door {
            Some(door) => door.reconnect(ours),
            None => {
                let door = self.door.insert(SignerClient::new(ours));
                self.cluster.signer.send_replace(Some(Signer::Socket(door.clone())));
            }
        }
        let for_metadata = stream(connect(signer, Requester::Metadata).await?)?;
        match &self.metadata_door {
            Some(door) => door.reconnect(for_metadata),
            None => {
                let door = self.metadata_door.insert(SignerClient::new(for_metadata));
                self.cluster.metadata_signer.send_replace(Some(Signer::Socket(door.clone())));
            }
        }
        for instance in self.instances.iter().filter_map(|instance| instance.slot.process.as_ref()) {
            let to_signer = connect(signer, Requester::Instance).await?;
            instance.channel.send(&ToInstance::Signer, &[to_signer]).await?;
            info!(cluster = self.cluster.spec().name, signer = signer.pid, "the signer is back");
        }
        Ok(())
    }

    async fn start_instance(&self, place: usize, instance: &Process) -> Result<Access> {
        let (fleet, cluster) = (&self.fleet, &self.cluster);
        let (Some(signer), Some(door)) = (&self.signer.process, &self.door) else { bail!("there is no signer") };
        let to_signer = connect(signer, Requester::Instance).await?;
        let (to_identity, identity_end) = channel::stream_pair()?;
        let id = cluster.spec().id.clone();
        tokio::spawn(identity_server::serve(stream(identity_end)?, Arc::clone(&fleet.tokens), id));
        admit(fleet, cluster, &instance_name(place)).await?;
        let start = start_message(fleet, cluster, place).await?;
        let MemberListeners { client, peer } = self.instances[place].sockets.try_clone()?;
        let to_metadata = cluster.metadata_of(place)?.hand_out()?;
        let files = [to_signer, to_identity, client.into(), peer.into(), to_metadata];
        instance.channel.send(&ToInstance::Start(Box::new(start)), &files).await?;
        match instance.channel.receive().await?.map(|(message, _)| message) {
            Some(FromInstance::Ready { gave_up }) => instance.says(gave_up),
            Some(FromInstance::Failed { message }) => bail!(message),
            None => bail!("the instance ended at once; see its log in {}", fleet.layout().logs().display()),
        }
        let door = Signer::Socket(door.clone());
        let access = access(cluster, &door).await?;
        user_files::write(fleet.layout(), cluster.spec(), &access, &door).await?;
        info!(cluster = cluster.spec().name, instance = instance.pid, signer = signer.pid, "running");
        Ok(access)
    }

    /// Ends the instances, which sync, then the signer.
    async fn stop(&mut self) {
        self.cluster.delivery.send_replace(Vec::new());
        let name = &self.cluster.spec().name;
        let ends =
            self.instances.iter_mut().filter_map(|instance| instance.slot.process.as_mut()).map(async |process| {
                let _ = process.channel.send(&ToInstance::Stop, &[]).await;
                if tokio::time::timeout(STOP_TIMEOUT, process.child.wait()).await.is_err() {
                    warn!(cluster = name, pid = process.pid, "an instance does not stop; ending it");
                    let _ = process.child.kill().await;
                }
            });
        futures_util::future::join_all(ends).await;
        if let Some(signer) = &mut self.signer.process {
            let _ = signer.channel.send(&ToSigner::Stop, &[]).await;
            let _ = tokio::time::timeout(STOP_TIMEOUT, signer.child.wait()).await;
        }
    }

    /// What `status` tells of the processes.
    fn report(&self) {
        let directory = self.fleet.layout().cluster(&self.cluster.spec().id);
        let status = |name: &str, role: &str, slot: &Slot, addresses: Vec<String>| InstanceStatus {
            name: name.to_owned(),
            pid: slot.process.as_ref().map(|process| process.pid),
            role: role.to_owned(),
            data_dir: directory.join(name),
            addresses,
            metadata: None,
            restarts: slot.restarts,
            gave_up: slot.process.as_ref().map(Process::gave_up).unwrap_or_default(),
            trouble: slot.trouble.clone().or_else(|| slot.silence()),
        };
        let instance = |(place, instance): (usize, &InstanceSlot)| {
            let listening = addresses(&self.cluster, place).iter().map(SocketAddr::to_string).collect();
            let metadata = self.cluster.metadata_of(place).ok().map(|server| server.address().to_string());
            InstanceStatus { metadata, ..status(&instance_name(place), "control-plane", &instance.slot, listening) }
        };
        let mut all: Vec<InstanceStatus> = self.instances.iter().enumerate().map(instance).collect();
        all.push(status(SIGNER, "signer", &self.signer, Vec::new()));
        *self.cluster.instances.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }
}

/// The first of the running instances to end; never, while none runs.
async fn any_ended(instances: &mut [InstanceSlot]) -> usize {
    let ended = instances.iter_mut().map(|instance| Box::pin(instance.slot.ended()));
    futures_util::future::select_all(ended).await.1
}

/// Why a process did not start: a signal is told from a failure of its own.
async fn cause_of_end(process: &mut Process) -> Cause {
    let ended = tokio::time::timeout(EXIT_TIMEOUT, process.child.wait()).await;
    match ended {
        Ok(Ok(status)) if status.signal().is_some() => Cause::Passing,
        _ => Cause::Lasting,
    }
}

/// A stream to the signer for this requester.
async fn connect(signer: &Process, requester: Requester) -> Result<OwnedFd> {
    let (ours, theirs) = channel::stream_pair()?;
    signer.channel.send(&ToSigner::Connect { requester }, &[theirs]).await?;
    Ok(ours)
}
