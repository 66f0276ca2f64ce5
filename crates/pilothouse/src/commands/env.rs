//! `pilothouse env`: the variables that point real clients at the sandbox, in the shell's own syntax.
//!
//! Nothing of the user's configuration is touched: gcloud gets a directory, kubectl a kubeconfig of its own.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cli::{EnvArgs, Shell};
use crate::layout::{Layout, RunState};

/// APIs of gcloud that the cloud answers, each with the path under which gcloud expects it.
const GCLOUD_APIS: &[(&str, &str)] = &[
    ("CONTAINER", "/"),
    ("COMPUTE", "/compute/v1/"),
    ("CLOUDRESOURCEMANAGER", "/"),
    ("SERVICEUSAGE", "/"),
    ("IAM", "/"),
    ("LOGGING", "/"),
    ("CLOUDKMS", "/"),
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
];

/// Prints the commands.
///
/// # Errors
/// When no sandbox runs.
pub(crate) fn run(args: &EnvArgs) -> Result<String> {
    let layout = Layout::resolve(args.data.data_dir.as_deref(), None)?;
    let shell = args.shell.unwrap_or_else(shell_of_user);
    let variables = if args.unset {
        let state = layout.running()?.unwrap_or_else(|| nothing_runs(&layout));
        variables(&layout, &state, "")?
    } else {
        let state = layout.must_run()?;
        let file = layout.access_token();
        let token = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        variables(&layout, &state, token.trim())?
    };
    let mut lines: Vec<String> = variables
        .iter()
        .map(|(name, value)| if args.unset { unset(shell, name) } else { export(shell, name, value) })
        .collect();
    if !args.unset {
        lines.extend(path_line(shell));
    }
    lines.push(String::new());
    Ok(lines.join("\n"))
}

fn nothing_runs(layout: &Layout) -> RunState {
    RunState {
        pid: 0,
        cloud_endpoint: String::new(),
        control_endpoint: String::new(),
        project: String::new(),
        account: String::new(),
        platform_dir: layout.platform().to_owned(),
        etcd_endpoints: Vec::new(),
    }
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
        ("NO_PROXY", "127.0.0.0/8,localhost".to_owned()),
        ("no_proxy", "127.0.0.0/8,localhost".to_owned()),
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
    if state.etcd_endpoints.is_empty() && state.pid != 0 {
        list.retain(|(name, _)| !name.starts_with("ETCDCTL_"));
    }
    Ok(list)
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
}
