//! The machines behind a cluster's nodes, as Compute would know them: their internal addresses, and the loopback address
//! that stands for each. Chosen once, remembered in the cluster's directory.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result};
use base::Entropy;
use serde::{Deserialize, Serialize};

use crate::fleet::addresses;
use crate::fleet::message::{MachineSpec, NodeSpec};
use crate::layout::write_private;

const FILE_NAME: &str = "machines.json";
/// The default network's range in us-central1, where nodes get their addresses.
const NODE_NETWORK: [u8; 2] = [10, 128];
/// The first two addresses of a range are the network's own and its gateway's.
const FIRST_HOST: u16 = 2;
const KUBELET: u16 = 10250;
const ALIAS_TRIES_MAX: u32 = 64;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Machine {
    ordinal: u16,
    kubelet: SocketAddr,
    /// Its metadata server; none where none could listen, and in a file of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<SocketAddr>,
}

/// The machines of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Machines(BTreeMap<String, Machine>);

impl Machines {
    /// Reads what is remembered in a cluster's directory.
    ///
    /// # Errors
    /// When the file is damaged.
    pub(crate) fn load(directory: &Path) -> Result<Self> {
        let file = directory.join(FILE_NAME);
        match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Self)
                .with_context(|| format!("{} is damaged; delete it to choose new addresses", file.display())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    /// One machine for each node: new ones get free addresses, those without a node are forgotten. `serve` listens as a node's
    /// metadata server, where it did before if that is free, and says where.
    ///
    /// # Errors
    /// When the change cannot be remembered.
    pub(crate) fn assign(
        &mut self,
        directory: &Path,
        nodes: &[NodeSpec],
        entropy: &Entropy,
        serve: impl Fn(&str, Option<SocketAddr>) -> Option<SocketAddr>,
    ) -> Result<()> {
        let before = self.0.clone();
        self.0.retain(|name, _| nodes.iter().any(|node| node.name == *name));
        for node in nodes {
            if !self.0.contains_key(&node.name) {
                let taken: Vec<u16> = self.0.values().map(|machine| machine.ordinal).collect();
                let ordinal = (0..u16::MAX - FIRST_HOST).find(|o| !taken.contains(o)).context("too many nodes")?;
                let used: Vec<SocketAddr> = self.0.values().map(|machine| machine.kubelet).collect();
                let kubelet = address(&used, entropy).context("no address is free for a node")?;
                self.0.insert(node.name.clone(), Machine { ordinal, kubelet, metadata: None });
            }
            if let Some(machine) = self.0.get_mut(&node.name) {
                machine.metadata = serve(&node.name, machine.metadata);
            }
        }
        if self.0 == before {
            return Ok(());
        }
        write_private(&directory.join(FILE_NAME), &serde_json::to_vec_pretty(&self.0)?)
    }

    /// What is known of the nodes' machines.
    pub(crate) fn specs(&self, nodes: &[NodeSpec]) -> Vec<MachineSpec> {
        let spec = |node: &NodeSpec| {
            let machine = self.0.get(&node.name)?;
            let [high, low] = (machine.ordinal + FIRST_HOST).to_be_bytes();
            let internal_ip = Ipv4Addr::new(NODE_NETWORK[0], NODE_NETWORK[1], high, low);
            let (name, zone) = (node.name.clone(), node.zone.clone());
            Some(MachineSpec { name, zone, internal_ip, kubelet: machine.kubelet })
        };
        nodes.iter().filter_map(spec).collect()
    }
}

/// A free alias with the kubelet's own port; where aliases cannot be had, a free port of 127.0.0.1.
fn address(used: &[SocketAddr], entropy: &Entropy) -> Option<SocketAddr> {
    let free = |address: SocketAddr| {
        let listener = TcpListener::bind(address).ok()?;
        listener.local_addr().ok().filter(|bound| !used.contains(bound))
    };
    let alias = (0..ALIAS_TRIES_MAX).find_map(|_| free(SocketAddr::new(addresses::alias(entropy), KUBELET)));
    alias.or_else(|| (0..ALIAS_TRIES_MAX).find_map(|_| free(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeSpec {
        NodeSpec {
            name: name.to_owned(),
            pool: "p".to_owned(),
            zone: "z".to_owned(),
            machine_type: "e2-medium".to_owned(),
            labels: Vec::new(),
            taints: Vec::new(),
            shielded: true,
            settings: gke::MachineSettings::default(),
        }
    }

    #[test]
    fn machines_keep_their_addresses_and_give_them_back() {
        let directory = tempfile::tempdir().unwrap();
        let entropy = crate::system::entropy();
        let mut machines = Machines::load(directory.path()).unwrap();
        let three = [node("a"), node("b"), node("c")];
        let server = |last| SocketAddr::from(([127, 9, 9, last], 80));
        machines.assign(directory.path(), &three, &entropy, |_, before| before.or(Some(server(1)))).unwrap();
        let first = machines.specs(&three);
        let ips: Vec<String> = first.iter().map(|machine| machine.internal_ip.to_string()).collect();
        assert_eq!(ips, ["10.128.0.2", "10.128.0.3", "10.128.0.4"]);
        assert_ne!(first[0].kubelet, first[1].kubelet);
        let mut again = Machines::load(directory.path()).unwrap();
        assert_eq!(again.specs(&three), first);
        let changed = [node("a"), node("c"), node("d")];
        // What they had is offered to them again; the new one has had nothing.
        again.assign(directory.path(), &changed, &entropy, |_, before| before.or(Some(server(2)))).unwrap();
        let servers: Vec<_> = again.0.values().map(|machine| machine.metadata).collect();
        assert_eq!(servers, [Some(server(1)), Some(server(1)), Some(server(2))]);
        let now = again.specs(&changed);
        assert_eq!((&now[0], &now[1]), (&first[0], &first[2]));
        assert_eq!(now[2].internal_ip, first[1].internal_ip, "a free address is used again");
    }
}
