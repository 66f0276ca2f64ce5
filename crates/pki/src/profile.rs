//! What a certificate is for. A profile decides issuer, subject, names, key usage and lifetime; the request brings the
//! public key alone, so a clever request cannot widen what it gets (RFC 5280 §4.2.1).

use std::net::IpAddr;
use std::time::Duration;

use base::Timestamp;
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use serde::{Deserialize, Serialize};

use crate::outside::OutsideRequest;
use crate::{SignerError, der};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Leaves of the control plane; renewed at each start of an instance.
const LEAF_LIFETIME: Duration = Duration::from_secs(365 * DAY.as_secs());

/// Certificates begin so long before they are made: clocks differ.
const BACKDATE: Duration = Duration::from_secs(60 * 60);
/// The same for requests of the API, and what counts as a short lifetime there (`pkg/controller/certificates/signer`).
const API_BACKDATE: Duration = Duration::from_secs(5 * 60);
const API_SHORT: Duration = Duration::from_secs(8 * 60 * 60);

/// The certificate authorities of one cluster. None shares a key with another, nor with another cluster's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Authority {
    /// The cluster root CA: the API server's serving certificate, kubelets, Kubernetes clients.
    Cluster,
    /// Who may speak to the store's client port.
    EtcdApi,
    /// The store's members among themselves.
    EtcdPeer,
    /// The API server towards extension API servers (front proxy).
    Aggregation,
}

impl Authority {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::EtcdApi, Self::EtcdPeer, Self::Aggregation];

    /// The name in files and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::EtcdApi => "etcd-api",
            Self::EtcdPeer => "etcd-peer",
            Self::Aggregation => "aggregation",
        }
    }
}

/// A purpose, with the names that go with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "profile", rename_all = "kebab-case")]
pub enum Profile {
    /// The API server towards its clients.
    ApiServerServing { dns: Vec<String>, ips: Vec<IpAddr> },
    /// A store member towards its clients.
    EtcdServing { dns: Vec<String>, ips: Vec<IpAddr> },
    /// A client of the store; the name is etcd's user when authentication is on.
    EtcdClient { name: String },
    /// A store member towards the others, both ways.
    EtcdPeer { name: String, ips: Vec<IpAddr> },
    /// A Kubernetes user: common name and organizations (groups).
    KubeClient { user: String, groups: Vec<String> },
    /// A kubelet's own server.
    KubeletServing { node: String, dns: Vec<String>, ips: Vec<IpAddr> },
    /// The API server towards extension API servers.
    FrontProxyClient { name: String },
    /// What a CertificateSigningRequest of the API was approved for.
    Approved(Box<Approved>),
}

/// The signers of the CertificateSigningRequest API that the cluster CA stands behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApiSigner {
    /// `kubernetes.io/kube-apiserver-client`
    Client,
    /// `kubernetes.io/kube-apiserver-client-kubelet`
    KubeletClient,
    /// `kubernetes.io/kubelet-serving`
    KubeletServing,
}

/// An approved request: who is named, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approved {
    pub signer: ApiSigner,
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub emails: Vec<String>,
    pub uris: Vec<String>,
    /// May the key encipher too? RSA keys may want to.
    pub key_encipherment: bool,
    /// The user who filed the request, for the log.
    pub requested_by: String,
}

impl Approved {
    /// The signer looks once more: an API server that was broken into must not get a serving certificate of anybody but
    /// a node, nor a node's without its name.
    fn is_well_formed(&self) -> bool {
        let node = self.organizations == ["system:nodes"] && self.common_name.starts_with("system:node:");
        let names = self.dns.len() + self.ips.len();
        let others = self.emails.len() + self.uris.len();
        match self.signer {
            ApiSigner::Client => !self.organizations.iter().any(|group| group == crate::signer::ADMINISTRATORS),
            ApiSigner::KubeletClient => node && names + others == 0,
            ApiSigner::KubeletServing => node && names > 0 && others == 0,
        }
    }
}

impl Profile {
    /// The name in logs and refusals.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ApiServerServing { .. } => "api-server-serving",
            Self::EtcdServing { .. } => "etcd-serving",
            Self::EtcdClient { .. } => "etcd-client",
            Self::EtcdPeer { .. } => "etcd-peer",
            Self::KubeClient { .. } => "kube-client",
            Self::KubeletServing { .. } => "kubelet-serving",
            Self::FrontProxyClient { .. } => "front-proxy-client",
            Self::Approved(approved) => match approved.signer {
                ApiSigner::Client => "approved-client",
                ApiSigner::KubeletClient => "approved-kubelet-client",
                ApiSigner::KubeletServing => "approved-kubelet-serving",
            },
        }
    }

    /// Who asked the API for it; empty for what was not asked for there.
    pub(crate) fn requested_by(&self) -> &str {
        match self {
            Self::Approved(approved) => &approved.requested_by,
            _ => "",
        }
    }

    /// Can a certificate of this purpose carry these names at all?
    pub(crate) fn is_well_formed(&self) -> bool {
        match self {
            Self::Approved(approved) => approved.is_well_formed(),
            _ => true,
        }
    }

    /// How long before now it begins, and whether what lies before now counts for its lifetime. Requests of the API are
    /// dated as kube-controller-manager dates them.
    const fn backdated(&self, lifetime: Duration) -> (Duration, bool) {
        match self {
            Self::Approved(_) => (API_BACKDATE, lifetime.as_secs() >= API_SHORT.as_secs()),
            _ => (BACKDATE, false),
        }
    }

    /// From when and how long it is good, asked for now; at most the purpose's own lifetime.
    pub(crate) fn validity(&self, now: Timestamp, asked: Option<Duration>) -> (Timestamp, Duration) {
        let lifetime = asked.map_or(self.lifetime(), |asked| asked.min(self.lifetime()));
        let (backdate, within) = self.backdated(lifetime);
        (now - backdate, if within { lifetime } else { lifetime + backdate })
    }

    /// Which authority signs it.
    pub const fn authority(&self) -> Authority {
        match self {
            Self::ApiServerServing { .. }
            | Self::KubeClient { .. }
            | Self::KubeletServing { .. }
            | Self::Approved(_) => Authority::Cluster,
            Self::EtcdServing { .. } | Self::EtcdClient { .. } => Authority::EtcdApi,
            Self::EtcdPeer { .. } => Authority::EtcdPeer,
            Self::FrontProxyClient { .. } => Authority::Aggregation,
        }
    }

    /// How long such a certificate lives when nothing shorter is asked for.
    pub const fn lifetime(&self) -> Duration {
        LEAF_LIFETIME
    }

    /// The subject, as a DER `Name`.
    pub(crate) fn distinguished_name(&self) -> Vec<u8> {
        let (common_name, organizations) = self.subject();
        der::name(&common_name, &organizations)
    }

    /// Names and usages; the subject is [`Self::distinguished_name`], times and issuer are the signer's.
    pub(crate) fn params(&self) -> Result<CertificateParams, SignerError> {
        let mut params = CertificateParams::default();
        // Any: the real one takes its place. Under an empty subject the alternative names would be marked critical.
        params.distinguished_name.push(DnType::CommonName, self.name());
        let (dns, ips) = self.names();
        for name in dns {
            let name = name.as_str().try_into().map_err(|_| SignerError::BadName(name.clone()))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(ips.iter().copied().map(SanType::IpAddress));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.is_ca = IsCa::ExplicitNoCa;
        if let Self::Approved(approved) = self {
            let ascii = |name: &String| name.as_str().try_into().map_err(|_| SignerError::BadName(name.clone()));
            for name in &approved.emails {
                params.subject_alt_names.push(SanType::Rfc822Name(ascii(name)?));
            }
            for name in &approved.uris {
                params.subject_alt_names.push(SanType::URI(ascii(name)?));
            }
            params.key_usages.extend(approved.key_encipherment.then_some(KeyUsagePurpose::KeyEncipherment));
        }
        params.extended_key_usages = self.usages();
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    /// What somebody else's authority is asked for, for a public key (PEM).
    pub(crate) fn outside(&self, public_key: String, lifetime_seconds: u64) -> OutsideRequest {
        let ((common_name, organizations), (dns, ips), usages) = (self.subject(), self.names(), self.usages());
        let (emails, uris, key_encipherment) = match self {
            Self::Approved(approved) => (approved.emails.clone(), approved.uris.clone(), approved.key_encipherment),
            _ => (Vec::new(), Vec::new(), false),
        };
        OutsideRequest {
            authority: self.authority(),
            public_key,
            common_name,
            organizations,
            dns: dns.to_vec(),
            ips: ips.to_vec(),
            emails,
            uris,
            key_encipherment,
            server: usages.contains(&ServerAuth),
            client: usages.contains(&ClientAuth),
            lifetime_seconds,
        }
    }

    /// Common name and organizations.
    pub(crate) fn subject(&self) -> (String, Vec<String>) {
        match self {
            Self::ApiServerServing { .. } => ("kube-apiserver".to_owned(), Vec::new()),
            Self::EtcdServing { .. } => ("etcd".to_owned(), Vec::new()),
            Self::EtcdClient { name } | Self::EtcdPeer { name, .. } | Self::FrontProxyClient { name } => {
                (name.clone(), Vec::new())
            }
            Self::KubeClient { user, groups } => (user.clone(), groups.clone()),
            Self::Approved(approved) => (approved.common_name.clone(), approved.organizations.clone()),
            Self::KubeletServing { node, .. } => (format!("system:node:{node}"), vec!["system:nodes".to_owned()]),
        }
    }

    fn names(&self) -> (&[String], &[IpAddr]) {
        match self {
            Self::ApiServerServing { dns, ips }
            | Self::EtcdServing { dns, ips }
            | Self::KubeletServing { dns, ips, .. } => (dns, ips),
            Self::EtcdPeer { ips, .. } => (&[], ips),
            Self::Approved(approved) => (&approved.dns, &approved.ips),
            Self::EtcdClient { .. } | Self::KubeClient { .. } | Self::FrontProxyClient { .. } => (&[], &[]),
        }
    }

    fn usages(&self) -> Vec<ExtendedKeyUsagePurpose> {
        match self {
            Self::ApiServerServing { .. } | Self::EtcdServing { .. } | Self::KubeletServing { .. } => vec![ServerAuth],
            Self::EtcdClient { .. } | Self::KubeClient { .. } | Self::FrontProxyClient { .. } => vec![ClientAuth],
            Self::EtcdPeer { .. } => vec![ServerAuth, ClientAuth],
            Self::Approved(approved) => match approved.signer {
                ApiSigner::Client | ApiSigner::KubeletClient => vec![ClientAuth],
                ApiSigner::KubeletServing => vec![ServerAuth],
            },
        }
    }
}

/// The names under which an API server is reached from inside and outside its cluster: the `kubernetes` Service in all
/// its forms, its first address, and the endpoints.
pub fn api_server_names(service_ip: IpAddr, endpoints: &[IpAddr]) -> Profile {
    let service =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
    let dns = service.into_iter().chain(["localhost"]).map(str::to_owned).collect();
    let mut ips = vec![service_ip];
    for ip in endpoints {
        if !ips.contains(ip) {
            ips.push(*ip);
        }
    }
    Profile::ApiServerServing { dns, ips }
}
