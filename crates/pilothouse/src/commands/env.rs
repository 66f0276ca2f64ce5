//! `pilothouse env`: the variables that point real clients at the sandbox, in the shell's own syntax.
//!
//! Nothing of the user's configuration is touched: gcloud gets a directory, kubectl a kubeconfig of its own.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cli::{EnvArgs, Shell};
use crate::control::{self, MetadataWish};
use crate::fleet::report::Machine;
use crate::layout::{Layout, RunState, write_private};

/// APIs of gcloud that the cloud answers, each with the path under which gcloud expects it.
const GCLOUD_APIS: &[(&str, &str)] = &[
    ("CONTAINER", "/"),
    ("COMPUTE", "/compute/v1/"),
    ("CLOUDRESOURCEMANAGER", "/"),
    ("SERVICEUSAGE", "/"),
    ("IAM", "/"),
    ("IAMCREDENTIALS", "/"),
    ("CLOUDIDENTITY", "/"),
    ("LOGGING", "/"),
    ("CLOUDKMS", "/"),
    ("PRIVATECA", "/privateca/"),
    ("ARTIFACTREGISTRY", "/"),
    ("CONTAINERANALYSIS", "/"),
];

/// Endpoints of Terraform's google provider.
const TERRAFORM_APIS: &[(&str, &str)] = &[
    ("CONTAINER", "/v1/"),
    ("CONTAINER_BETA", "/v1beta1/"),
    ("COMPUTE", "/compute/v1/"),
    ("RESOURCE_MANAGER", "/v1/"),
    ("SERVICE_USAGE", "/v1/"),
    ("IAM", "/v1/"),
    ("KMS", "/v1/"),
    ("PRIVATECA", "/privateca/v1/"),
];

/// Settings of the user's that would lead the clients away from the sandbox: taken out of the way, and given back.
const DISPLACED: &[&str] = &[
    "CLOUDSDK_ACTIVE_CONFIG_NAME",
    "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE",
    "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE",
    "CLOUDSDK_AUTH_IMPERSONATE_SERVICE_ACCOUNT",
    "CLOUDSDK_CORE_ACCOUNT",
    "CLOUDSDK_COMPUTE_REGION",
    "CLOUDSDK_COMPUTE_ZONE",
    "CLOUDSDK_CONTAINER_CLUSTER",
    "ETCDCTL_USER",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_CREDENTIALS",
];

/// By which the project's owner is known, and what only the owner has: not for programs that play a node or a pod.
const OWNERS: &[&str] = &[
    "CLOUDSDK_AUTH_ACCESS_TOKEN",
    "ETCDCTL_CACERT",
    "ETCDCTL_CERT",
    "ETCDCTL_ENDPOINTS",
    "ETCDCTL_KEY",
    "GOOGLE_OAUTH_ACCESS_TOKEN",
    "KUBECONFIG",
];

/// What `--dns-endpoint` sets, perhaps not at the first call: kept from the first one on.
const LATER: &[&str] = &["HTTPS_PROXY", "https_proxy", "SSL_CERT_FILE"];

/// Where systems keep the authorities they trust, in the order in which Go looks.
const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What the variables were before, as a JSON object; it is there as long as they are changed.
const SAVED: &str = "PILOTHOUSE_SAVED";

/// Prints the commands.
///
/// # Errors
/// When no sandbox runs.
pub(crate) async fn run(args: &EnvArgs) -> Result<String> {
    let layout = Layout::resolve(args.data.data_dir.as_deref(), None)?;
    let shell = args.shell.unwrap_or_else(shell_of_user);
    let environment = |name: &str| std::env::var(name).ok();
    let mut lines = if args.unset {
        let names = variables(&layout, &RunState::nothing(&layout), "")?.into_iter().map(|(name, _)| name);
        let ours = dns_variables(&environment("PILOTHOUSE_ENDPOINT").unwrap_or_default(), &layout);
        let set = ours.into_iter().filter(|(name, value)| environment(name).as_ref() == Some(value));
        unset_lines(shell, names.chain(set.map(|(name, _)| name)), &environment)
    } else {
        let state = layout.must_run()?;
        let file = layout.access_token();
        let token = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let mut variables = variables(&layout, &state, token.trim())?;
        let machine = machine(args);
        if let Some(whose) = &machine {
            let wish = MetadataWish { cluster: args.cluster.clone(), whose: whose.clone() };
            let server: SocketAddr = control::tell(&layout, "metadata", &wish).await?;
            variables = as_machine(variables, whose, server);
        }
        if args.dns_endpoint {
            let root: String = control::tell(&layout, "public-root", &()).await?;
            write_private(&layout.ca_bundle(), bundle(&root).as_bytes())?;
            variables.extend(dns_variables(&state.cloud_endpoint, &layout));
        }
        let displaced: Vec<&str> =
            DISPLACED.iter().chain(OWNERS.iter().filter(|_| machine.is_some())).copied().collect();
        let mut lines = export_lines(shell, variables, &displaced, &environment);
        lines.extend(path_line(shell));
        lines
    };
    lines.push(String::new());
    Ok(lines.join("\n"))
}

fn export_lines(
    shell: Shell,
    variables: Vec<(String, String)>,
    displaced: &[&str],
    environment: &impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let displaced = displaced.iter().filter(|name| environment(name).is_some());
    let mut lines: Vec<String> = displaced.clone().map(|name| unset(shell, name)).collect();
    if environment(SAVED).is_none() {
        let names =
            variables.iter().map(|(name, _)| name.as_str()).chain(displaced.copied()).chain(LATER.iter().copied());
        let before: BTreeMap<&str, String> = names.filter_map(|name| Some((name, environment(name)?))).collect();
        lines.push(export(shell, SAVED, &serde_json::to_string(&before).unwrap_or_default()));
    }
    lines.extend(variables.iter().map(|(name, value)| export(shell, name, value)));
    lines
}

fn unset_lines(
    shell: Shell,
    names: impl Iterator<Item = String>,
    environment: &impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let saved = environment(SAVED).unwrap_or_default();
    let before: BTreeMap<String, String> = serde_json::from_str(&saved).unwrap_or_default();
    let ours: Vec<String> = names.filter(|name| !before.contains_key(name)).collect();
    let mut lines: Vec<String> = ours.iter().map(|name| unset(shell, name)).collect();
    lines.extend(before.iter().map(|(name, value)| export(shell, name, value)));
    lines.push(unset(shell, SAVED));
    lines.extend(path_without_us(shell, environment));
    lines
}

fn variables(layout: &Layout, state: &RunState, token: &str) -> Result<Vec<(String, String)>> {
    let user = layout.user();
    let path = |name: &str| user.join(name).display().to_string();
    let host = state.cloud_endpoint.trim_start_matches("http://").to_owned();
    let mut list: Vec<(String, String)> = [
        ("PILOTHOUSE_DATA_DIR", layout.root().display().to_string()),
        ("PILOTHOUSE_ENDPOINT", state.cloud_endpoint.clone()),
        ("PILOTHOUSE_PROJECT", state.project.clone()),
        ("KUBECONFIG", layout.kubeconfig().display().to_string()),
        ("CLOUDSDK_CONFIG", path("gcloud")),
        ("CLOUDSDK_CORE_PROJECT", state.project.clone()),
        ("CLOUDSDK_CORE_DISABLE_USAGE_REPORTING", "true".to_owned()),
        ("CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK", "true".to_owned()),
        ("CLOUDSDK_AUTH_ACCESS_TOKEN", token.to_owned()),
        ("GOOGLE_OAUTH_ACCESS_TOKEN", token.to_owned()),
        ("GOOGLE_PROJECT", state.project.clone()),
        ("GOOGLE_CLOUD_PROJECT", state.project.clone()),
        ("GCE_METADATA_HOST", host.clone()),
        ("GCE_METADATA_ROOT", host.clone()),
        ("GCE_METADATA_IP", host),
        ("NO_PROXY", no_proxy("NO_PROXY")),
        ("no_proxy", no_proxy("no_proxy")),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    for (api, base) in GCLOUD_APIS {
        list.push((format!("CLOUDSDK_API_ENDPOINT_OVERRIDES_{api}"), format!("{}{base}", state.cloud_endpoint)));
    }
    for (api, base) in TERRAFORM_APIS {
        list.push((format!("GOOGLE_{api}_CUSTOM_ENDPOINT"), format!("{}{base}", state.cloud_endpoint)));
    }
    list.push(("ETCDCTL_ENDPOINTS".to_owned(), state.etcd_endpoints.join(",")));
    for (name, file) in [("CACERT", "etcd-ca.crt"), ("CERT", "etcd-client.crt"), ("KEY", "etcd-client.key")] {
        list.push((format!("ETCDCTL_{name}"), path(file)));
    }
    // For `--unset` (nothing runs then) all names count.
    if state.etcd_endpoints.is_empty() && state.pid != 0 {
        list.retain(|(name, _)| !name.starts_with("ETCDCTL_"));
    }
    Ok(list)
}

fn machine(args: &EnvArgs) -> Option<Machine> {
    let node = args.node.clone().map(Machine::Node);
    args.pod.clone().map(|(namespace, name)| Machine::Pod { namespace, name }).or(node)
}

/// What a program on a node, or in a pod, finds: the way to its metadata server and to the cloud, and nobody's credentials.
fn as_machine(variables: Vec<(String, String)>, whose: &Machine, server: SocketAddr) -> Vec<(String, String)> {
    let server_text = if server.port() == 80 { server.ip().to_string() } else { server.to_string() };
    let own = match whose {
        Machine::Node(name) => format!("node-{name}"),
        Machine::Pod { namespace, name } => format!("pod-{namespace}-{name}"),
    };
    let own_value = |(name, value): (String, String)| match name.as_str() {
        "GCE_METADATA_HOST" | "GCE_METADATA_ROOT" | "GCE_METADATA_IP" => (name, server_text.clone()),
        // gcloud keeps accounts and tokens there: each machine has its own.
        "CLOUDSDK_CONFIG" => (name, format!("{value}-{own}")),
        _ => (name, value),
    };
    variables.into_iter().filter(|(name, _)| !OWNERS.contains(&name.as_str())).map(own_value).collect()
}

/// What leads a client to the names of DNS endpoints.
fn dns_variables(cloud: &str, layout: &Layout) -> Vec<(String, String)> {
    let bundle = layout.ca_bundle().display().to_string();
    LATER
        .iter()
        .map(|name| ((*name).to_owned(), if *name == "SSL_CERT_FILE" { bundle.clone() } else { cloud.to_owned() }))
        .collect()
}

/// The system's authorities, those of the user's own bundle included, and ours.
fn bundle(root: &str) -> String {
    let own = std::env::var("SSL_CERT_FILE").ok().filter(|file| !file.ends_with("/user/ca-bundle.crt"));
    let files = own.as_deref().into_iter().chain(SYSTEM_ROOTS.iter().copied());
    let system = files.into_iter().find_map(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    format!("{}\n{root}", system.trim_end())
}

/// What the user keeps from proxies, and the sandbox' addresses. Not every client understands a range.
fn no_proxy(name: &str) -> String {
    let mut parts: Vec<String> = std::env::var(name)
        .unwrap_or_default()
        .split(',')
        .map(|p| p.trim().to_owned())
        .filter(|p| !p.is_empty())
        .collect();
    for ours in ["127.0.0.1", "127.0.0.0/8", "localhost"] {
        if !parts.iter().any(|p| p == ours) {
            parts.push(ours.to_owned());
        }
    }
    parts.join(",")
}

/// Takes the directory of this program out of the path again, where `env` put it first.
fn path_without_us(shell: Shell, environment: &impl Fn(&str) -> Option<String>) -> Option<String> {
    let program = std::env::current_exe().ok()?;
    let directory = program.parent()?.to_str()?;
    let path = environment("PATH")?;
    let rest = path.strip_prefix(directory)?.strip_prefix(':')?;
    Some(match shell {
        Shell::Fish => {
            let parts: Vec<String> = rest.split(':').map(|part| quote(shell, part)).collect();
            format!("set -gx PATH {}", parts.join(" "))
        }
        _ => export(shell, "PATH", rest),
    })
}

/// The line that lets the shell find `pilothouse`, where it cannot yet.
fn path_line(shell: Shell) -> Option<String> {
    let program = std::env::current_exe().ok()?;
    let directory = program.parent()?;
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).any(|d| d.join("pilothouse").is_file());
    (!found).then(|| prepend_path(shell, directory))
}

fn prepend_path(shell: Shell, directory: &Path) -> String {
    let quoted = quote(shell, &directory.display().to_string());
    match shell {
        Shell::Posix => format!("export PATH={quoted}:\"$PATH\""),
        Shell::Fish => format!("set -gx PATH {quoted} $PATH"),
        Shell::Powershell => format!("$env:PATH = {quoted} + ':' + $env:PATH"),
    }
}

fn shell_of_user() -> Shell {
    match std::env::var("SHELL") {
        Ok(shell) if shell.ends_with("/fish") => Shell::Fish,
        Ok(shell) if shell.ends_with("/pwsh") => Shell::Powershell,
        _ => Shell::Posix,
    }
}

fn export(shell: Shell, name: &str, value: &str) -> String {
    let value = quote(shell, value);
    match shell {
        Shell::Posix => format!("export {name}={value}"),
        Shell::Fish => format!("set -gx {name} {value}"),
        Shell::Powershell => format!("$env:{name} = {value}"),
    }
}

fn unset(shell: Shell, name: &str) -> String {
    match shell {
        Shell::Posix => format!("unset {name}"),
        Shell::Fish => format!("set -e {name}"),
        Shell::Powershell => format!("Remove-Item -ErrorAction Ignore Env:{name}"),
    }
}

fn quote(shell: Shell, value: &str) -> String {
    match shell {
        Shell::Posix => format!("'{}'", value.replace('\'', r"'\''")),
        Shell::Fish => format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'")),
        Shell::Powershell => format!("'{}'", value.replace('\'', "''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_so_that_no_shell_reads_them_as_code() {
        assert_eq!(export(Shell::Posix, "A", "it's $(x)"), r"export A='it'\''s $(x)'");
        assert_eq!(export(Shell::Fish, "A", "it's"), r"set -gx A 'it\'s'");
        assert_eq!(export(Shell::Powershell, "A", "it's"), "$env:A = 'it''s'");
        assert_eq!(unset(Shell::Posix, "A"), "unset A");
    }

    #[test]
    fn a_program_that_plays_a_pod_gets_the_pods_server_and_nothing_of_the_owners() {
        let given =
            ["KUBECONFIG", "CLOUDSDK_AUTH_ACCESS_TOKEN", "GCE_METADATA_HOST", "CLOUDSDK_CONFIG", "GOOGLE_PROJECT"];
        let given = given.map(|name| (name.to_owned(), "x".to_owned())).to_vec();
        let pod = Machine::Pod { namespace: "shop".to_owned(), name: "cart".to_owned() };
        let text = |(name, value): (String, String)| format!("{name}={value}");
        let at = |server: &str| {
            as_machine(given.clone(), &pod, server.parse().unwrap()).into_iter().map(text).collect::<Vec<_>>()
        };
        let rest = ["CLOUDSDK_CONFIG=x-pod-shop-cart", "GOOGLE_PROJECT=x"];
        assert_eq!(at("127.4.5.6:80"), [&["GCE_METADATA_HOST=127.4.5.6"][..], &rest].concat());
        assert_eq!(at("127.0.0.1:4567"), [&["GCE_METADATA_HOST=127.0.0.1:4567"][..], &rest].concat());
    }

    #[test]
    fn what_the_user_had_is_kept_once_and_given_back() {
        let ours = || vec![("KUBECONFIG".to_owned(), "k".to_owned()), ("GOOGLE_PROJECT".to_owned(), "p".to_owned())];
        let user = |name: &str| match name {
            "KUBECONFIG" => Some("it's mine".to_owned()),
            "CLOUDSDK_COMPUTE_ZONE" => Some("z".to_owned()),
            _ => None,
        };
        let lines = export_lines(Shell::Posix, ours(), DISPLACED, &user);
        let saved = r#"{"CLOUDSDK_COMPUTE_ZONE":"z","KUBECONFIG":"it's mine"}"#;
        let expected = [
            "unset CLOUDSDK_COMPUTE_ZONE".to_owned(),
            export(Shell::Posix, SAVED, saved),
            "export KUBECONFIG='k'".to_owned(),
            "export GOOGLE_PROJECT='p'".to_owned(),
        ];
        assert_eq!(lines, expected);
        let changed = |name: &str| (name == SAVED).then(|| saved.to_owned());
        assert!(!export_lines(Shell::Posix, ours(), DISPLACED, &changed).iter().any(|line| line.contains(SAVED)));
        let lines = unset_lines(Shell::Posix, ours().into_iter().map(|(name, _)| name), &changed);
        let expected = [
            "unset GOOGLE_PROJECT",
            "export CLOUDSDK_COMPUTE_ZONE='z'",
            r"export KUBECONFIG='it'\''s mine'",
            "unset PILOTHOUSE_SAVED",
        ];
        assert_eq!(lines, expected);
    }
}
