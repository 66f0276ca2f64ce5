//! `pilothouse apiserver`: the API server alone, on any etcd, with kube-apiserver's flags. This is how a cluster outgrows
//! one machine: the store is then somebody else's, and several of these may share it.
//!
//! It keeps nothing on disk but, without `--tls-cert-file`, the certificate that clients need to trust it. Controllers and
//! nodes are not part of it.

mod authentication;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use apiserver::{ApiServer, Config};
use base::Clock;
use clap::Args;
use etcd::{RemoteStore, Store};
use ipnet::IpNet;
use pki::{Authority, Identity, Requester, Signer, SignerCore, request_identity};
use policy::UserInfo;
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::{commands, system};
use authentication::AuthenticationArgs;

/// kube-apiserver's flags, as far as they mean something here; their names and defaults are its own unless a text says
/// otherwise.
#[derive(Debug, Clone, Args)]
pub(crate) struct ApiServerArgs {
    /// Servers of the etcd to use, `http://HOST:PORT` or `https://HOST:PORT`
    #[arg(long, value_name = "URL,...", value_delimiter = ',', required = true)]
    etcd_servers: Vec<String>,
    /// Authority of etcd's certificates
    #[arg(long, value_name = "FILE")]
    etcd_cafile: Option<PathBuf>,
    /// Certificate to show to etcd
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile")]
    etcd_certfile: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    etcd_keyfile: Option<PathBuf>,
    /// Address to listen on (kube-apiserver: 0.0.0.0)
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    bind_address: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    secure_port: u16,
    /// What the endpoints of the Service `kubernetes` show [default: the bind address where that is possible]
    #[arg(long, value_name = "IP")]
    advertise_address: Option<IpAddr>,
    /// Where apiserver.crt is written without --tls-cert-file
    #[arg(long, value_name = "DIR", default_value = "/var/run/kubernetes")]
    cert_dir: PathBuf,
    /// Certificate to serve with, and what stands between it and its authority
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// Authority of client certificates
    #[arg(long, value_name = "FILE")]
    client_ca_file: Option<PathBuf>,
    /// Authority of front proxies
    #[arg(long, value_name = "FILE")]
    requestheader_client_ca_file: Option<PathBuf>,
    /// Static bearer tokens: lines of token,user,uid,"group,..."
    #[arg(long, value_name = "FILE")]
    token_auth_file: Option<PathBuf>,
    /// RSA or EC key that signs service-account tokens
    #[arg(long, value_name = "FILE", required = true)]
    service_account_signing_key_file: PathBuf,
    /// RSA or EC keys that verify service-account tokens; may be given several times, and hold several keys [default: the one
    /// that signs]
    #[arg(long, value_name = "FILE")]
    service_account_key_file: Vec<PathBuf>,
    /// Audiences of this server [default: the issuer]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    api_audiences: Vec<String>,
    /// Ranges of the Services' addresses (kube-apiserver: 10.0.0.0/24)
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',', default_value = "10.0.0.0/24")]
    service_cluster_ip_range: Vec<IpNet>,
    /// Who decides what callers may do; RBAC always does (kube-apiserver: AlwaysAllow)
    #[arg(long, value_name = "MODE,...", value_delimiter = ',', default_value = "RBAC")]
    authorization_mode: Vec<String>,
    #[command(flatten)]
    authentication: AuthenticationArgs,
    /// Let pods be privileged (kube-apiserver: false)
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_privileged: bool,
    /// Feature gates
    #[arg(long, value_name = "GATE=BOOL,...", default_value = "", hide_default_value = true, value_parser = crate::cli::feature_gates)]
    feature_gates: String,
    /// API groups and versions to serve
    #[arg(long, value_name = "KEY=BOOL,...", default_value = "", hide_default_value = true, value_parser = crate::cli::runtime_config)]
    runtime_config: String,
}

/// Serves until the process is asked to end.
///
/// # Errors
/// When a file, the address or etcd cannot be used; the text names it.
pub(crate) async fn run(args: &ApiServerArgs) -> Result<()> {
    let (bind, port) = (args.bind_address, args.secure_port);
    if !bind.is_loopback() {
        warn!(%bind, "this server can be reached from other machines");
    }
    let listener = TcpListener::bind((bind, port)).await.with_context(|| format!("listening on {bind}:{port}"))?;
    let address = listener.local_addr()?;
    let server = ApiServer::start(config(args, address.port()).await?).await.context("the API server")?;
    info!(%address, etcd = args.etcd_servers.join(","), "serving");
    let clock = system::clock();
    tokio::select! {
        () = server.serve(listener) => {}
        () = args.authentication.follow(&server, &clock) => {}
        _ = commands::up::termination() => {}
    }
    server.stop();
    Ok(())
}

async fn config(args: &ApiServerArgs, port: u16) -> Result<Config> {
    check_authorization(&args.authorization_mode)?;
    let (clock, entropy) = (system::clock(), system::entropy());
    let store = store(args, &clock)?;
    let token_key = read(&args.service_account_signing_key_file)?;
    let token_keys = args.service_account_key_file.iter().map(|file| read(file)).collect::<Result<Vec<_>>>()?;
    let core = SignerCore::with_token_key("apiserver", &token_key, &token_keys, clock.clone(), entropy.clone())
        .context("--service-account-signing-key-file and --service-account-key-file")?;
    let signer = Signer::InProcess(Arc::new(core), Requester::Instance);
    let serving = serving(args, &signer).await?;
    // Without an authority of its own nobody has a certificate: this one has signed none.
    let client_ca = match &args.client_ca_file {
        Some(file) => read(file)?,
        None => signer.certificate(Authority::Cluster).await?,
    };
    let mut config = Config::new(store, clock, entropy, signer, serving, client_ca);
    config.front_proxy_ca = args.requestheader_client_ca_file.as_deref().map(read).transpose()?.unwrap_or_default();
    if let Some(file) = &args.token_auth_file {
        config.set_tokens(tokens(&read(file)?).with_context(|| file.display().to_string())?);
    }
    args.authentication.apply(&mut config)?;
    config.audiences.clone_from(&args.api_audiences);
    config.service_cidrs.clone_from(&args.service_cluster_ip_range);
    config.allow_privileged = args.allow_privileged;
    config.feature_gates.clone_from(&args.feature_gates);
    config.runtime_config.clone_from(&args.runtime_config);
    config.advertise_port = port;
    config.host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let own = (!args.bind_address.is_loopback() && !args.bind_address.is_unspecified()).then_some(args.bind_address);
    if let Some(address) = args.advertise_address.or(own) {
        config.advertise_address = address;
    }
    Ok(config)
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}

fn store(args: &ApiServerArgs, clock: &Clock) -> Result<Store> {
    let tls = match &args.etcd_cafile {
        None if args.etcd_servers.iter().any(|server| server.starts_with("https://")) => {
            bail!("--etcd-cafile is required for an etcd with https")
        }
        None => None,
        Some(authority) => {
            let identity = match (&args.etcd_certfile, &args.etcd_keyfile) {
                (Some(certificate), Some(key)) => {
                    let identity = Identity::from_pem(&read(certificate)?, &read(key)?);
                    Some(identity.context("--etcd-certfile and --etcd-keyfile")?)
                }
                _ => None,
            };
            let config = pki::client_config(&read(authority)?, identity.as_ref(), &[b"h2"], clock);
            Some(config.context("--etcd-cafile, --etcd-certfile and --etcd-keyfile")?)
        }
    };
    Ok(Store::Remote(RemoteStore::connect(&args.etcd_servers, tls)?))
}

/// The certificate from the files, or one of an authority that lives as long as the process; clients find both in
/// `apiserver.crt`.
async fn serving(args: &ApiServerArgs, signer: &Signer) -> Result<Identity> {
    if let (Some(certificate), Some(key)) = (&args.tls_cert_file, &args.tls_private_key_file) {
        let identity = Identity::from_pem(&read(certificate)?, &read(key)?);
        return identity.context("--tls-cert-file and --tls-private-key-file");
    }
    let range = args.service_cluster_ip_range.first().context("--service-cluster-ip-range is empty")?;
    let first = range.hosts().next().context("--service-cluster-ip-range has no addresses")?;
    let endpoints: Vec<IpAddr> = [Some(args.bind_address), args.advertise_address, Some(IpAddr::from([127, 0, 0, 1]))]
        .into_iter()
        .flatten()
        .collect();
    let identity = request_identity(signer, &pki::api_server_names(first, &endpoints), None).await?;
    let authority = signer.certificate(Authority::Cluster).await?;
    let file = args.cert_dir.join("apiserver.crt");
    let written = std::fs::create_dir_all(&args.cert_dir)
        .and_then(|()| std::fs::write(&file, format!("{}{authority}", identity.certificate_pem())));
    written.with_context(|| format!("writing {} (--cert-dir)", file.display()))?;
    info!(file = %file.display(), "wrote the certificate and its authority");
    Ok(identity)
}

fn check_authorization(modes: &[String]) -> Result<()> {
    for mode in modes {
        match mode.as_str() {
            "RBAC" | "Node" => {}
            "AlwaysAllow" | "AlwaysDeny" | "ABAC" | "Webhook" => {
                bail!("--authorization-mode: {mode} is not supported here")
            }
            _ => bail!("authorization-mode {mode:?} is not a valid mode"),
        }
    }
    if modes.iter().any(|mode| mode == "RBAC") {
        Ok(())
    } else {
        bail!("--authorization-mode: RBAC must be among them")
    }
}

/// Lines of a token file: token, user, uid and, if there are groups, a fourth column with them
/// (`apiserver/pkg/authentication/token/tokenfile`).
fn tokens(text: &str) -> Result<BTreeMap<String, UserInfo>> {
    let mut tokens = BTreeMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let columns = columns(line).with_context(|| format!("line {} has an open quote", number + 1))?;
        let [token, name, uid, more @ ..] = &columns[..] else {
            bail!("line {} has less than the 3 columns token, user and uid", number + 1)
        };
        if token.is_empty() {
            bail!("line {} has an empty token", number + 1);
        }
        let groups = more.first().map(String::as_str).unwrap_or_default();
        let groups: Vec<&str> = groups.split(',').map(str::trim).filter(|group| !group.is_empty()).collect();
        let mut user = UserInfo::authenticated(name, &groups);
        user.uid.clone_from(uid);
        if tokens.insert(token.clone(), user).is_some() {
            warn!(line = number + 1, "a token is given twice; the last one counts");
        }
    }
    Ok(tokens)
}

/// The columns of a line of comma-separated values (RFC 4180); nothing when a quote is not closed.
fn columns(line: &str) -> Option<Vec<String>> {
    let (mut columns, mut column, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = line.trim().chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.next_if_eq(&'"').is_some() => column.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => columns.push(std::mem::take(&mut column).trim().to_owned()),
            letter => column.push(letter),
        }
    }
    columns.push(column.trim().to_owned());
    (!quoted).then_some(columns)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(more: &[&str]) -> Result<ApiServerArgs, String> {
        let required = ["pilothouse", "apiserver", "--etcd-servers=http://127.0.0.1:1,http://127.0.0.1:2"];
        let tokens = ["--service-account-issuer=https://x", "--service-account-signing-key-file=/k"];
        let all = required.iter().chain(&tokens).chain(more);
        match Cli::try_parse_from(all).map_err(|error| error.to_string())?.command {
            Command::Apiserver(args) => Ok(*args),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn any_file_of_tokens_is_read_or_refused() {
        let seeds = ["secret,jane,1,\"dev,ops\"\nother,joe,2\n", "\"a\"\"b\",\"x,y\",uid,g\n"];
        fuzz::Fuzz::of(seeds).words(["\"", ",", "\n", "\r", "\"\"", "\0", "é", "system:masters"]).run(|bytes| {
            let Ok(read) = tokens(&String::from_utf8_lossy(bytes)) else { return };
            assert!(read.keys().all(|token| !token.is_empty()) && read.len() <= bytes.len());
        });
    }

    #[test]
    fn a_command_line_of_kube_apiserver_is_read() {
        let args = parse(&[
            "--secure-port=0",
            "--authorization-mode=Node,RBAC",
            "--service-account-key-file=/a",
            "--service-account-key-file=/b",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--anonymous-auth=false",
            "--allow-privileged",
            "--runtime-config=api/all=true",
        ]);
        let args = args.expect("good flags");
        assert_eq!((args.etcd_servers.len(), args.service_account_key_file.len(), args.secure_port), (2, 2, 0));
        assert!(args.allow_privileged);
        assert!(check_authorization(&args.authorization_mode).is_ok());
        for (flag, error) in [
            ("--etcd-certfile=/c", "--etcd-keyfile"),
            ("--tls-cert-file=/c", "--tls-private-key-file"),
            ("--feature-gates=X=true", "unrecognized feature gate: X"),
            ("--nonsense", "unexpected argument"),
        ] {
            let refusal = parse(&[flag]).expect_err(flag);
            assert!(refusal.contains(error), "{refusal}");
        }
    }

    #[test]
    fn only_modes_that_are_checked_are_taken() {
        let check = |modes: &[&str]| {
            let modes: Vec<String> = modes.iter().map(|mode| (*mode).to_owned()).collect();
            check_authorization(&modes).map_err(|error| error.to_string())
        };
        assert_eq!(check(&["RBAC"]), Ok(()));
        assert_eq!(check(&["AlwaysAllow"]), Err("--authorization-mode: AlwaysAllow is not supported here".to_owned()));
        assert_eq!(check(&["Node"]), Err("--authorization-mode: RBAC must be among them".to_owned()));
        assert_eq!(check(&["rbac"]), Err("authorization-mode \"rbac\" is not a valid mode".to_owned()));
    }

    #[test]
    fn token_files_are_read_as_upstream_reads_them() {
        let read = tokens("t1,alice,1\n\nt2,\"bob, the \"\"b\"\"\",2,\"dev,system:masters\"\nt3,carol,3,ops,ignored\n");
        let read = read.expect("good lines");
        assert_eq!(read["t1"].groups, ["system:authenticated"]);
        assert_eq!((read["t2"].name.as_str(), read["t2"].uid.as_str()), ("bob, the \"b\"", "2"));
        assert_eq!(read["t2"].groups, ["dev", "system:masters", "system:authenticated"]);
        assert_eq!(read["t3"].groups, ["ops", "system:authenticated"]);
        for (bad, error) in [("t,u", "line 1 has less than"), (",u,1", "empty token"), ("t,\"u,1", "open quote")] {
            let refusal = format!("{:#}", tokens(bad).map(drop).expect_err(bad));
            assert!(refusal.contains(error), "{refusal}");
        }
    }
}
