//! The command line, as typed: plain values only; [`crate::config`] resolves them.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::api_server::ApiServerArgs;
use crate::edge::EndpointDeny;

/// A local Google Kubernetes Engine control plane.
#[derive(Debug, Parser)]
#[command(name = "pilothouse", version, about, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start (or resume) a sandbox: the cloud and, unless told otherwise, one cluster
    Up(UpArgs),
    /// Show what runs, and where
    Status(StatusArgs),
    /// Print the shell commands that point kubectl, gcloud, etcdctl and Terraform at the sandbox
    Env(EnvArgs),
    /// Show how the sandbox is put together: processes, identities, certificates, what is enforced and what is not
    Inspect(InspectArgs),
    /// Give the platform and each data directory a new key; what is stored is sealed anew in the background
    RotateKeys(DataDirArgs),
    /// Print an access token of a Google account, as `gcloud auth print-access-token` would
    Token(TokenArgs),
    /// Say who decides what, and why
    #[command(subcommand)]
    Explain(Explain),
    /// Print the logs of the sandbox's processes
    Logs(LogsArgs),
    /// Stop the sandbox; its data stays
    Down(DataDirArgs),
    /// Stop the sandbox and delete its data
    Reset(ResetArgs),
    /// Run the store alone, with etcd's own flags
    #[command(disable_help_flag = true)]
    Etcd {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
    /// Run the API server alone, on any etcd, with kube-apiserver's flags
    Apiserver(Box<ApiServerArgs>),
    /// The cloud, the fleet and the edge, as `up` starts them
    #[command(hide = true)]
    Cloud(UpArgs),
    /// One cluster's signer, started by the fleet
    #[command(hide = true)]
    Signer(RoleArgs),
    /// One control-plane instance, started by the fleet
    #[command(hide = true)]
    Instance(RoleArgs),
}

/// Where the sandbox keeps its data.
#[derive(Debug, Clone, Args)]
pub(crate) struct DataDirArgs {
    /// Data directory [default: $XDG_DATA_HOME/pilothouse or ~/.local/share/pilothouse]
    #[arg(long, env = "PILOTHOUSE_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AuthMode {
    #[default]
    /// Only keys and tokens that were issued or uploaded here
    Strict,
    /// Any credential is project owner
    Open,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Profile {
    #[default]
    #[serde(rename = "classic")]
    /// As GKE's control plane security was first described
    Classic,
    #[value(name = "2026")]
    #[serde(rename = "2026")]
    /// As GKE is in 2026: the DNS endpoint is on, and without credentials only the health endpoints answer
    Year2026,
}

impl Profile {
    /// As typed.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Year2026 => "2026",
        }
    }
}

#[derive(Debug, Clone, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
    /// Return as soon as the sandbox answers; it goes on in the background
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Where the platform's key management keeps its keys [default: as before, else DATA_DIR/platform]
    #[arg(long, value_name = "DIR")]
    pub(crate) platform_dir: Option<PathBuf>,
    /// Project id [default: as before, else pilothouse-local]
    #[arg(long, env = "PILOTHOUSE_PROJECT")]
    pub(crate) project: Option<String>,
    /// Zone or region of the default cluster [default: as before, else us-central1-a]
    #[arg(long, visible_alias = "zone", visible_alias = "region", conflicts_with = "no_cluster")]
    pub(crate) location: Option<String>,
    /// Name of the default cluster [default: as before, else demo]
    #[arg(long, value_name = "NAME", conflicts_with = "no_cluster")]
    pub(crate) cluster: Option<String>,
    /// Start without a default cluster; the clusters that are there run all the same
    #[arg(long)]
    pub(crate) no_cluster: bool,
    /// Nodes in each zone of the default cluster when it is made [default: 3]
    #[arg(long, value_name = "N", conflicts_with = "no_cluster")]
    pub(crate) nodes: Option<u32>,
    /// Port of the cloud's endpoint on 127.0.0.1; 0 takes a free one [default: 8642, or a free one when that is taken]
    #[arg(long, value_name = "PORT")]
    pub(crate) cloud_port: Option<u16>,
    /// Address of the default cluster's API server [default: a loopback alias, port 443]
    #[arg(long, value_name = "IP[:PORT]", conflicts_with = "no_cluster")]
    pub(crate) api_address: Option<String>,
    /// Feature gates of the default cluster when it is made, as kube-apiserver takes them
    #[arg(long, value_name = "GATE=BOOL,...", default_value = "", hide_default_value = true, conflicts_with = "no_cluster", value_parser = feature_gates)]
    pub(crate) feature_gates: String,
    /// API groups and versions the default cluster serves when it is made, as kube-apiserver takes them
    #[arg(long, value_name = "KEY=BOOL,...", default_value = "", hide_default_value = true, conflicts_with = "no_cluster", value_parser = runtime_config)]
    pub(crate) runtime_config: String,
    /// What GKE of which age new clusters are like [default: as before, else classic]
    #[arg(long, value_enum)]
    pub(crate) profile: Option<Profile>,
    /// Which credentials are taken [default: strict]
    #[arg(long, value_enum)]
    pub(crate) auth: Option<AuthMode>,
    /// What callers see whom a cluster's endpoint does not let in [default: drop]
    #[arg(long, value_enum)]
    pub(crate) endpoint_deny: Option<EndpointDeny>,
    /// Start with this program although the sandbox was last started with another one
    #[arg(long, env = "PILOTHOUSE_ACCEPT_NEW_BINARY", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) accept_new_binary: bool,
    /// Put everything into one process (faster, no isolation)
    #[arg(long)]
    pub(crate) in_process: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
    /// Output format
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Text)]
    pub(crate) output: OutputFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InspectFormat {
    Text,
    Json,
    /// A picture (of `trust`)
    Svg,
}

/// What to look at more closely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// Who trusts whom in each cluster, by the certificates that are really shown
    Trust,
    /// How far each process is confined, and why no further
    Hardening,
    /// Which endpoints each cluster has, and who gets in
    Endpoints,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct InspectArgs {
    /// What to look at [default: everything, in short]
    #[arg(value_enum)]
    pub(crate) subject: Option<Subject>,
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
    /// Output format
    #[arg(long, short, value_enum, default_value_t = InspectFormat::Text)]
    pub(crate) output: InspectFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Posix,
    Fish,
    Powershell,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct EnvArgs {
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
    /// Whose syntax to print [default: from $SHELL]
    #[arg(long, value_enum)]
    pub(crate) shell: Option<Shell>,
    /// Print the commands that undo it
    #[arg(long)]
    pub(crate) unset: bool,
    /// Lead clients to the names of DNS endpoints too: a proxy for HTTPS that knows these and nothing else, and the
    /// authority that vouches for them beside the system's
    #[arg(long, conflicts_with = "unset")]
    pub(crate) dns_endpoint: bool,
    /// For a program that plays this pod: the pod's metadata server, and none of the owner's credentials
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with_all = ["unset", "node"], value_parser = pod)]
    pub(crate) pod: Option<(String, String)>,
    /// For a program that runs on this node: the node's metadata server, and none of the owner's credentials
    #[arg(long, value_name = "NAME", conflicts_with = "unset")]
    pub(crate) node: Option<String>,
    /// In which cluster pod or node are, `NAME` or `LOCATION/NAME` [default: the only one]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(crate) cluster: String,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
    /// Only this process' log: `cloud`, or an instance or signer as `status` names it
    pub(crate) process: Option<String>,
    /// Only the last lines
    #[arg(long, short = 'n', value_name = "LINES")]
    pub(crate) tail: Option<usize>,
    /// Go on printing what is added
    #[arg(long, short)]
    pub(crate) follow: bool,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Explain {
    /// May somebody do this in the cluster? Names the rule or role that decides, or the smallest grant that would
    #[command(name = "can-i")]
    CanI(CanIArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CanIArgs {
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
    /// What: get, list, create, …, or an HTTP method for a path
    pub(crate) verb: String,
    /// On what: a resource (`pods`, `deploy`, `deployments.apps`, `pods/log`) or a path (`/metrics`)
    pub(crate) what: String,
    /// Only the object of this name
    pub(crate) name: Option<String>,
    /// Who [default: the sandbox's owner]
    #[arg(long = "as", value_name = "USER")]
    pub(crate) as_user: Option<String>,
    /// In which groups, beside those that everybody of the kind is in
    #[arg(long, value_name = "GROUP")]
    pub(crate) as_group: Vec<String>,
    /// Where
    #[arg(long, short, default_value = "default")]
    pub(crate) namespace: String,
    /// In all namespaces
    #[arg(long, short = 'A')]
    pub(crate) all_namespaces: bool,
    /// A part of the resource, as `log` or `status`
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) subresource: String,
    /// In which cluster, `NAME` or `LOCATION/NAME` [default: the first one]
    #[arg(long)]
    pub(crate) cluster: Option<String>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Text)]
    pub(crate) output: OutputFormat,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct TokenArgs {
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
    /// Whose: the address of a person, who then has an account here, or of a service account
    pub(crate) account: String,
    /// OAuth scopes [default: cloud-platform and userinfo.email]
    #[arg(long, value_name = "SCOPE,...", value_delimiter = ',')]
    pub(crate) scopes: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ResetArgs {
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// What the fleet puts on a child's command line, so that `ps` tells what it is. Everything else, keys included, comes
/// over the inherited socket that is its standard input.
#[derive(Debug, Clone, Args)]
pub(crate) struct RoleArgs {
    /// The cluster it serves
    #[arg(long)]
    pub(crate) cluster: String,
    /// Its own data directory
    #[arg(long)]
    pub(crate) data_dir: PathBuf,
    /// Where it listens, for the reader of `ps`
    #[arg(long)]
    pub(crate) address: Vec<SocketAddr>,
}

/// Reads `NAMESPACE/NAME`, or a name in `default`.
pub(crate) fn pod(text: &str) -> Result<(String, String), String> {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    if namespace.is_empty() || name.is_empty() || name.contains('/') {
        return Err("expected NAMESPACE/NAME".to_owned());
    }
    Ok((namespace.to_owned(), name.to_owned()))
}

/// Refuses what an API server would refuse, before anything is made.
pub(crate) fn feature_gates(text: &str) -> Result<String, String> {
    let options = registry::Options { feature_gates: text.to_owned(), ..registry::Options::default() };
    options.check().map(|()| text.to_owned())
}

pub(crate) fn runtime_config(text: &str) -> Result<String, String> {
    let options = registry::Options { runtime_config: text.to_owned(), ..registry::Options::default() };
    options.check().map(|()| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_and_groups_that_do_not_exist_are_refused_before_anything_is_made() {
        for (flag, error) in [
            ("--feature-gates=X=true", "unrecognized feature gate: X"),
            ("--feature-gates=CRDValidationRatcheting=false", "feature is locked to true"),
            ("--runtime-config=foo/v1=true", "unknown api groups foo"),
        ] {
            let refused = Cli::try_parse_from(["pilothouse", "up", flag]).unwrap_err().to_string();
            assert!(refused.contains(error), "{refused}");
        }
        let flags = ["pilothouse", "up", "--feature-gates=AllAlpha=true", "--runtime-config=api/alpha=true"];
        assert!(Cli::try_parse_from(flags).is_ok());
    }
}
