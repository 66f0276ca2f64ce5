//! The machines behind the cluster's nodes, as an instance knows them: asks nothing of the nodes themselves.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use controllers::action::MachineCheck;
use manager::{MachineQuestion, MachineVerdict};
use pki::{Attested, MachineIdentity, MachineSecret, SignerError};
use registry::certificate_request::{self, CertificateRequest};

use crate::fleet::message::{InstanceStart, MachineSpec};

/// All machines of the cluster, whichever instance carries their nodes.
pub(crate) struct Machines {
    project: String,
    secret: MachineSecret,
    by_name: Mutex<BTreeMap<String, MachineSpec>>,
}

impl Machines {
    /// # Errors
    /// When the fleet sent a secret of the wrong form.
    pub(crate) fn new(start: &InstanceStart) -> Result<Self> {
        let secret = MachineSecret::from_text(&start.machine_secret.0)?;
        let machines = Self { project: start.cluster.project.clone(), secret, by_name: Mutex::default() };
        machines.replace(start.machines.clone());
        Ok(machines)
    }

    /// These are the machines now.
    pub(crate) fn replace(&self, specs: Vec<MachineSpec>) {
        let all = specs.into_iter().map(|spec| (spec.name.clone(), spec)).collect();
        *self.by_name.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }

    pub(crate) fn find(&self, name: &str) -> Option<MachineSpec> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Where a node's kubelet listens.
    pub(crate) fn kubelet(&self, name: &str) -> Option<SocketAddr> {
        self.find(name).map(|machine| machine.kubelet)
    }

    /// The certificate request of a machine, with what its TPM says of the key.
    ///
    /// # Errors
    /// When the request cannot be read.
    pub(crate) fn attest(&self, machine: &MachineSpec, csr_der: &[u8]) -> Result<String, SignerError> {
        self.secret.attest(&self.identity(machine), csr_der)
    }

    fn identity(&self, machine: &MachineSpec) -> MachineIdentity {
        MachineIdentity { zone: machine.zone.clone(), name: machine.name.clone(), project_name: self.project.clone() }
    }

    /// Is a certificate request what the machine it names could have sent?
    pub(crate) fn answer(&self, question: &MachineQuestion) -> MachineVerdict {
        let (Ok(asked), Ok(csr)) =
            (certificate_request::parse(&question.csr_pem), certificate_request::der(&question.csr_pem))
        else {
            return MachineVerdict::Bad;
        };
        let machine = self.find(asked.node());
        match question.check {
            MachineCheck::Addresses => match machine {
                Some(machine) if self.owns(&machine, &asked) => MachineVerdict::Good,
                _ => MachineVerdict::Bad,
            },
            MachineCheck::Attestation => {
                let text = String::from_utf8_lossy(&question.csr_pem);
                let nobody = || MachineSpec {
                    name: String::new(),
                    zone: String::new(),
                    internal_ip: std::net::Ipv4Addr::UNSPECIFIED,
                    kubelet: SocketAddr::from(([0, 0, 0, 0], 0)),
                };
                let known = machine.is_some();
                match self.secret.check(&text, &csr, &self.identity(&machine.unwrap_or_else(nobody))) {
                    Attested::Absent => MachineVerdict::Silent,
                    Attested::Good if known => MachineVerdict::Good,
                    Attested::Good | Attested::Bad => MachineVerdict::Bad,
                }
            }
        }
    }

    /// At least one address, all of them the machine's, and only its own names (`validateNodeServerCert`).
    fn owns(&self, machine: &MachineSpec, asked: &CertificateRequest) -> bool {
        // `example.com:project` is called `project.example.com` in names.
        let project = match self.project.split_once(':') {
            Some((domain, project)) => format!("{project}.{domain}"),
            None => self.project.clone(),
        };
        let name = &machine.name;
        let names = [
            name.clone(),
            format!("{name}.c.{project}.internal"),
            format!("{name}.{}.c.{project}.internal", machine.zone),
        ];
        let addresses = [IpAddr::from(machine.internal_ip), machine.kubelet.ip()];
        !asked.ips.is_empty()
            && asked.ips.iter().all(|ip| addresses.contains(ip))
            && asked.dns.iter().all(|dns| names.contains(dns))
    }
}

#[cfg(test)]
mod tests {
    use pki::KeyRequest;

    use super::*;

    fn machines() -> Machines {
        let spec = |name: &str, last: u8| MachineSpec {
            name: name.to_owned(),
            zone: "us-central1-a".to_owned(),
            internal_ip: [10, 128, 0, last].into(),
            kubelet: SocketAddr::from(([127, 9, 9, last], 10250)),
        };
        let by_name = [spec("a", 2), spec("b", 3)].into_iter().map(|spec| (spec.name.clone(), spec)).collect();
        let secret = MachineSecret::generate(&crate::system::entropy());
        Machines { project: "p".to_owned(), secret, by_name: Mutex::new(by_name) }
    }

    fn request(node: &str, dns: &[&str], ips: &[&str]) -> KeyRequest {
        let dns: Vec<String> = dns.iter().map(|name| (*name).to_owned()).collect();
        let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        KeyRequest::new(&format!("system:node:{node}"), &["system:nodes".to_owned()], &dns, &ips).unwrap()
    }

    #[test]
    fn a_serving_certificate_is_for_the_machines_own_names_and_addresses() {
        let machines = machines();
        let check = |dns: &[&str], ips: &[&str]| {
            let csr_pem = request("a", dns, ips).pem().into_bytes();
            machines.answer(&MachineQuestion { check: MachineCheck::Addresses, csr_pem })
        };
        assert_eq!(check(&["a"], &["10.128.0.2", "127.9.9.2"]), MachineVerdict::Good);
        assert_eq!(check(&["a.us-central1-a.c.p.internal", "a.c.p.internal"], &["10.128.0.2"]), MachineVerdict::Good);
        for (dns, ips) in [
            (&["a"][..], &[][..]),
            (&["a"], &["10.128.0.3"]),
            (&["a", "b"], &["10.128.0.2"]),
            (&["kubernetes.default.svc"], &["10.128.0.2"]),
            (&[], &["10.128.0.2", "127.0.0.1"]),
        ] {
            assert_eq!(check(dns, ips), MachineVerdict::Bad, "{dns:?} {ips:?}");
        }
    }

    #[test]
    fn only_the_machine_itself_attests_for_its_name() {
        let machines = machines();
        let check = |text: String| {
            machines.answer(&MachineQuestion { check: MachineCheck::Attestation, csr_pem: text.into_bytes() })
        };
        let attested = |machine: &str, node: &str| {
            machines.attest(&machines.find(machine).unwrap(), request(node, &[], &[]).der()).unwrap()
        };
        assert_eq!(check(attested("a", "a")), MachineVerdict::Good);
        assert_eq!(check(attested("b", "a")), MachineVerdict::Bad, "b for a");
        assert_eq!(check(request("a", &[], &[]).pem()), MachineVerdict::Silent);
        // Anybody with the bootstrap credential may read what other machines sent.
        let borrowed = request("a", &[], &[]).pem() + &attested("a", "a");
        assert_eq!(check(borrowed), MachineVerdict::Bad, "a request before the one that a attested");
        assert_eq!(check(attested("a", "nobody")), MachineVerdict::Bad, "no machine of the cluster");
    }
}
