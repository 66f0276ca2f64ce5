//! Runs what the crate `controllers` decides: informers fill one world, work queues call controllers, actions go through
//! the API under each controller's own identity.
//!
//! ```text
//!  informers ──► engine (one task, owns World, Queue, Scheduler) ──► performers ──► Api ──► API server
//!                  ▲                                                     │
//!                  └────────────── answers to our own writes ◄───────────┘
//! ```
//!
//! [`run`] is the controller manager and scheduler of an instance, [`run_nodes`] the simulated kubelets.

pub mod api;
mod config;
mod discovery;
mod election;
mod engine;
mod events;
mod informer;
mod nodes;
mod perform;
mod queue;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use controllers::Settings;
use tokio::sync::{Semaphore, watch};

pub use api::{Api, HttpsClient, InProcess};
pub use config::{
    ApiFn, AttestFn, Bootstrap, MachineFn, MachineQuestion, MachineVerdict, ManagerConfig, NodeIdentity, NodeSpec,
    NodesConfig, SecretFn, SignFn, SignRequest, SignTokenFn,
};
pub use nodes::{NodePods, PodWatch, run_nodes};

use engine::{Engine, Input};
use events::Recorder;
use perform::Door;

/// Requests of controllers and scheduler in flight at once.
const REQUESTS_MAX: usize = 96;
/// How often discovery is tried until the server answers.
const DISCOVERY_RETRY: Duration = Duration::from_millis(20);

/// Why the manager could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A range is not one.
    #[error("the pod range {0:?} is not an IPv4 range")]
    PodRange(String),
    /// A node's server name or identity cannot be used.
    #[error("node {node}")]
    Node {
        /// Which.
        node: String,
        /// Why.
        #[source]
        source: machinery::Status,
    },
}

/// Runs controllers and scheduler until `shutdown` completes.
///
/// # Errors
/// When the configuration makes no sense; a server that is not there yet is waited for.
pub async fn run(config: ManagerConfig, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
    let pod_cidr = match &config.pod_cidr {
        Some(text) => Some(text.parse().map_err(|_| Error::PodRange(text.clone()))?),
        None => None,
    };
    let settings = Settings { root_ca_pem: config.root_ca_pem.as_str().into(), pod_cidr, node_prefix_length: 24 };
    let limit = Arc::new(Semaphore::new(REQUESTS_MAX));
    let door = |api: Api, component: &str| Door {
        events: Recorder::start(api.clone(), component, "", config.clock.clone()),
        api,
        limit: limit.clone(),
        sign: config.sign.clone(),
        machines: config.machines.clone(),
        sign_token: config.sign_token.clone(),
    };
    let mut doors = BTreeMap::new();
    for controller in controllers::ALL {
        doors.entry(controller.name).or_insert_with(|| {
            if controller.name.starts_with("system:") {
                return door((config.api)(controller.name, &["system:authenticated"]), controller.name);
            }
            let user = format!("system:serviceaccount:kube-system:{}", controller.name);
            let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"];
            let api = match controllers::WITHOUT_ACCOUNT.contains(&controller.name) {
                true => (config.api)("system:kube-controller-manager", &["system:authenticated"]),
                false => (config.api)(&user, &groups),
            };
            door(api, controller.name)
        });
    }
    let reader = (config.api)("system:kube-controller-manager", &["system:authenticated"]);
    let scheduler_api = (config.api)("system:kube-scheduler", &["system:authenticated"]);
    let scheduler_door = door(scheduler_api.clone(), "default-scheduler");
    let clock = config.clock.clone();
    let engine = Engine::new(clock.clone(), settings, config.seed, doors, scheduler_door, reader.clone());
    let sender = engine.sender();
    let starting = async {
        loop {
            match discovery::discover(&reader).await {
                Ok(types) if !types.is_empty() => {
                    let _ = sender.send(Input::Types(types)).await;
                    break;
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "waiting for the API server"),
            }
            tokio::time::sleep(DISCOVERY_RETRY).await;
        }
        lead(&config, &reader, &scheduler_api, &sender).await;
    };
    tokio::select! {
        () = engine.run() => {}
        () = starting => {}
        () = shutdown => {}
    }
    Ok(())
}

/// Tells the engine what it leads; never ends.
async fn lead(config: &ManagerConfig, manager: &Api, scheduler: &Api, sender: &tokio::sync::mpsc::Sender<Input>) {
    if !config.leader_election {
        let both = Input::Leading { controllers: config.controllers, scheduler: config.scheduler };
        let _ = sender.send(both).await;
        return std::future::pending().await;
    }
    let (manager_sender, mut manages) = watch::channel(false);
    let (scheduler_sender, mut schedules) = watch::channel(false);
    let run = |api: &Api, name, leading| {
        election::run(api.clone(), name, config.identity.clone(), config.clock.clone(), leading)
    };
    if config.controllers {
        tokio::spawn(run(manager, "kube-controller-manager", manager_sender.clone()));
    }
    if config.scheduler {
        tokio::spawn(run(scheduler, "kube-scheduler", scheduler_sender.clone()));
    }
    loop {
        let leading =
            Input::Leading { controllers: *manages.borrow_and_update(), scheduler: *schedules.borrow_and_update() };
        if sender.send(leading).await.is_err() {
            return;
        }
        tokio::select! {
            _ = manages.changed() => {}
            _ = schedules.changed() => {}
        }
    }
}
