//! Integrity events, shaped as Shielded VM's: `cloud_integrity.IntegrityEvent` in the log
//! `compute.googleapis.com/shielded_vm_integrity`, an early report of the program and a late one of the configuration.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use base::{Clock, Entropy};
use serde_json::{Value, json};

use super::{Digest, Starting};

/// Which half of the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The program: what a boot loader's measurement is (PCR 4).
    Early,
    /// The cluster's record: what its configuration is (PCR 5).
    Late,
}

/// How often a process was started, and what was refused last.
type Starts = (u64, Option<(Part, Digest)>);

pub(super) struct Events {
    path: PathBuf,
    project: String,
    clock: Clock,
    entropy: Entropy,
    /// Of each process. A start that is tried again and again says once what was refused.
    starts: Mutex<BTreeMap<String, Starts>>,
}

impl Events {
    pub(super) fn new(path: PathBuf, project: String, clock: Clock, entropy: Entropy) -> Self {
        Self { path, project, clock, entropy, starts: Mutex::default() }
    }

    /// Adds an event. A log that cannot be written to is told of in the fleet's.
    pub(super) fn write(&self, starting: Starting<'_>, part: Part, actual: &Digest, accepted: &[Digest], passed: bool) {
        let name = format!("{}-{}", &starting.cluster_id[..starting.cluster_id.len().min(16)], starting.process);
        let counter = {
            let mut starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
            let (count, refused) = starts.entry(name.clone()).or_default();
            let now = (!passed).then(|| (part, actual.clone()));
            if now.is_some() && *refused == now {
                return;
            }
            *count += u64::from(part == Part::Early);
            *refused = now;
            *count
        };
        let event = self.event(starting.location, &name, counter, part, (actual, accepted), passed);
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path);
        let written = file.and_then(|mut file| file.write_all(format!("{event}\n").as_bytes()));
        if let Err(error) = written {
            tracing::warn!(target: "boot", %error, %event, "{} cannot be written", self.path.display());
        }
    }

    fn event(
        &self,
        location: &str,
        instance: &str,
        counter: u64,
        part: Part,
        (actual, accepted): (&Digest, &[Digest]),
        passed: bool,
    ) -> Value {
        let (field, register) = match part {
            Part::Early => ("earlyBootReportEvent", "PCR_4"),
            Part::Late => ("lateBootReportEvent", "PCR_5"),
        };
        let measurement = |value: &Digest| json!({"pcrNum": register, "hashAlgo": "SHA256", "value": value});
        let report = json!({
            "policyEvaluationPassed": passed,
            "actualMeasurements": [measurement(actual)],
            "policyMeasurements": accepted.iter().map(measurement).collect::<Vec<_>>(),
        });
        json!({
            "insertId": self.entropy.uuid().simple().to_string(),
            "logName": format!("projects/{}/logs/compute.googleapis.com%2Fshielded_vm_integrity", self.project),
            "resource": {
                "type": "gce_instance",
                "labels": {"project_id": self.project, "instance_id": instance, "zone": location},
            },
            "timestamp": self.clock.now().rfc3339_micros(),
            "severity": if passed { "NOTICE" } else { "ERROR" },
            "jsonPayload": {
                "@type": "type.googleapis.com/cloud_integrity.IntegrityEvent",
                "bootCounter": counter.to_string(),
                field: report,
            },
        })
    }
}
