//! What `up` shall do, checked before anything is touched: flags over what the data directory remembers over defaults.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use gke::places::Place;
use serde::{Deserialize, Serialize};

use crate::cli::{AuthMode, Profile, UpArgs};
use crate::edge::EndpointDeny;
use crate::fleet::message::Switches;
use crate::fleet::parse_wish;
use crate::layout::{Layout, RunState, write_private};

const PROJECT: &str = "pilothouse-local";
const LOCATION: &str = "us-central1-a";
const CLUSTER: &str = "demo";
/// Of the default cluster, in each zone.
pub(crate) const NODES: u32 = 3;
/// GKE's limit for one pool in one zone.
const NODES_MAX: u32 = 1000;

/// A cluster by name and place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterName {
    pub(crate) name: String,
    pub(crate) location: String,
}

/// What a data directory remembers of the flags it was started with, in `sandbox.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Settings {
    pub(crate) project: String,
    pub(crate) platform_dir: PathBuf,
    /// The default cluster; none after `--no-cluster`.
    pub(crate) cluster: Option<ClusterName>,
    /// Of new clusters.
    #[serde(default)]
    pub(crate) profile: Profile,
}

impl Settings {
    /// Reads what is remembered; `None` for a directory that never was started.
    ///
    /// # Errors
    /// When the file is damaged or may not be read.
    pub(crate) fn load(layout: &Layout) -> Result<Option<Self>> {
        let file = layout.settings();
        match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map(Some).with_context(|| {
                format!(
                    "{} is damaged; delete it and start again with the --project and --platform-dir of this sandbox",
                    file.display()
                )
            }),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(crate::layout::refusal("read", &file, e)),
        }
    }

    pub(crate) fn save(&self, layout: &Layout) -> Result<()> {
        write_private(&layout.settings(), &serde_json::to_vec_pretty(self)?)
    }
}

/// A checked command line of `up`.
pub(crate) struct Config {
    pub(crate) layout: Layout,
    pub(crate) project: String,
    pub(crate) cluster: Option<ClusterName>,
    /// As typed: an existing cluster is not resized.
    pub(crate) nodes: Option<u32>,
    pub(crate) cloud_port: Option<u16>,
    pub(crate) api: Option<(IpAddr, Option<u16>)>,
    /// Of the default cluster when it is made.
    pub(crate) switches: Switches,
    /// Of clusters that are made from now on.
    pub(crate) profile: Profile,
    pub(crate) auth: AuthMode,
    /// What callers see whom an endpoint does not let in.
    pub(crate) endpoint_deny: EndpointDeny,
    pub(crate) in_process: bool,
    /// This program may be another one than the last time.
    pub(crate) accept_new_binary: bool,
}

impl Config {
    /// Checks the flags and fills in the rest. Touches nothing.
    ///
    /// # Errors
    /// One line that names the flag and what it may be.
    pub(crate) fn resolve(args: &UpArgs) -> Result<Self> {
        let layout = Layout::resolve(args.data.data_dir.as_deref(), args.platform_dir.as_deref())?;
        layout.check()?;
        let remembered = Settings::load(&layout)?;
        let layout = match (&remembered, &args.platform_dir) {
            (Some(settings), None) => layout.with_platform(settings.platform_dir.clone()),
            _ => layout,
        };
        let project = project(args.project.as_deref(), remembered.as_ref(), &layout)?;
        let cluster = cluster(args, remembered.as_ref())?;
        if let Some(nodes) = args.nodes.filter(|n| *n > NODES_MAX) {
            bail!("--nodes {nodes}: a cluster here has at most {NODES_MAX} nodes in a zone");
        }
        let api = args.api_address.as_deref().map(parse_wish).transpose()?;
        Ok(Self {
            layout,
            project,
            cluster,
            nodes: args.nodes,
            cloud_port: args.cloud_port,
            api,
            switches: Switches {
                feature_gates: args.feature_gates.clone(),
                runtime_config: args.runtime_config.clone(),
            },
            profile: args.profile.or(remembered.as_ref().map(|s| s.profile)).unwrap_or_default(),
            auth: args.auth.unwrap_or(AuthMode::Strict),
            endpoint_deny: args.endpoint_deny.unwrap_or_default(),
            in_process: args.in_process,
            accept_new_binary: args.accept_new_binary,
        })
    }

    /// What the data directory shall remember.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            project: self.project.clone(),
            platform_dir: self.layout.platform().to_owned(),
            cluster: self.cluster.clone(),
            profile: self.profile,
        }
    }
}

fn project(asked: Option<&str>, remembered: Option<&Settings>, layout: &Layout) -> Result<String> {
    match (asked, remembered) {
        (Some(asked), Some(settings)) if asked != settings.project => bail!(
            "{} holds project {}, not {asked}: leave --project (and PILOTHOUSE_PROJECT) out, or choose another --data-dir",
            layout.root().display(),
            settings.project
        ),
        (_, Some(settings)) => Ok(settings.project.clone()),
        (asked, None) => {
            let project = asked.unwrap_or(PROJECT);
            if !is_project_id(project) {
                bail!(
                    "--project {project:?}: a project id has 6 to 30 lowercase letters, digits and hyphens, begins with a \
                     letter and does not end with a hyphen"
                );
            }
            Ok(project.to_owned())
        }
    }
}

/// Resource Manager's rule for project ids.
fn is_project_id(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (6..=30).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.bytes().all(allowed)
}

/// The default cluster: as typed, else as remembered, else `demo`.
fn cluster(args: &UpArgs, remembered: Option<&Settings>) -> Result<Option<ClusterName>> {
    if args.no_cluster {
        return Ok(None);
    }
    let before = match remembered {
        Some(settings) if args.cluster.is_none() && args.location.is_none() => return Ok(settings.cluster.clone()),
        Some(settings) => settings.cluster.as_ref(),
        None => None,
    };
    let pick = |typed: Option<&String>, before: Option<&String>, default: &str| {
        typed.or(before).map_or_else(|| default.to_owned(), Clone::clone)
    };
    let name = pick(args.cluster.as_ref(), before.map(|c| &c.name), CLUSTER);
    let location = pick(args.location.as_ref(), before.map(|c| &c.location), LOCATION);
    gke::names::check("cluster.name", &name).map_err(|_| {
        anyhow::anyhow!(
            "--cluster {name:?}: a cluster's name has up to 40 lowercase letters, digits and hyphens, begins with a letter \
             and does not end with a hyphen"
        )
    })?;
    Place::parse(&location).map_err(|_| {
        anyhow::anyhow!(
            "--location {location:?}: there is no such zone or region; {LOCATION} is a zone and us-central1 a region, \
             `gcloud container get-server-config` and `gcloud compute zones list` know the rest"
        )
    })?;
    Ok(Some(ClusterName { name, location }))
}

/// The first typed flag that says something else than what runs, with what runs.
pub(crate) fn difference(args: &UpArgs, running: &RunState) -> Option<String> {
    let cluster = running.cluster.as_ref();
    let platform = args.platform_dir.as_ref().and_then(|d| std::path::absolute(d).ok());
    let port = running.cloud_endpoint.rsplit_once(':').map_or("", |(_, port)| port);
    let differs = |flag: &str, typed: Option<String>, runs: Option<String>| {
        let typed = typed.filter(|typed| runs.as_ref() != Some(typed))?;
        let instead = runs.map_or_else(|| "without it".to_owned(), |runs| format!("with {flag} {runs}"));
        Some(format!("it runs {instead}, not with {flag} {typed}"))
    };
    let auth = |auth: AuthMode| if auth == AuthMode::Open { "open" } else { "strict" }.to_owned();
    let typed_port = args.cloud_port.filter(|port| *port != 0).map(|p| p.to_string());
    differs("--project", args.project.clone(), Some(running.project.clone()))
        .or_else(|| {
            let runs = running.platform_dir.display().to_string();
            differs("--platform-dir", platform.map(|d| d.display().to_string()), Some(runs))
        })
        .or_else(|| differs("--cluster", args.cluster.clone(), cluster.map(|c| c.name.clone())))
        .or_else(|| differs("--location", args.location.clone(), cluster.map(|c| c.location.clone())))
        .or_else(|| differs("--nodes", args.nodes.map(|n| n.to_string()), running.nodes.map(|n| n.to_string())))
        .or_else(|| differs("--cloud-port", typed_port, Some(port.to_owned())))
        .or_else(|| {
            let typed = args.api_address.clone().filter(|typed| !is_at(typed, &running.api_address));
            differs("--api-address", typed, Some(running.api_address.clone()).filter(|a| !a.is_empty()))
        })
        .or_else(|| {
            let typed = args.profile.map(|profile| profile.as_str().to_owned());
            differs("--profile", typed, Some(running.profile.as_str().to_owned()))
        })
        .or_else(|| differs("--auth", args.auth.map(auth), Some(auth(running.auth))))
        .or_else(|| {
            let typed = args.endpoint_deny.map(|deny| deny.as_str().to_owned());
            differs("--endpoint-deny", typed, Some(running.endpoint_deny.as_str().to_owned()))
        })
        .or_else(|| {
            let other = args.in_process && !running.in_process;
            other.then(|| "its parts run in processes of their own, not --in-process".to_owned())
        })
        .or_else(|| {
            let other = args.no_cluster && cluster.is_some();
            other.then(|| "it runs with a default cluster, not with --no-cluster".to_owned())
        })
}

/// Does an address fulfil a wish of the form `IP[:PORT]`?
pub(crate) fn is_at(wish: &str, address: &str) -> bool {
    match (parse_wish(wish), address.parse::<std::net::SocketAddr>()) {
        (Ok((ip, port)), Ok(address)) => ip == address.ip() && port.is_none_or(|port| port == address.port()),
        _ => false,
    }
}

/// Does `wish` (`NAME` or `LOCATION/NAME`) mean the cluster of this name in this location?
pub(crate) fn is_meant(wish: &str, location: &str, name: &str) -> bool {
    match wish.split_once('/') {
        Some(both) => both == (location, name),
        None => wish == name,
    }
}

/// What is said when several clusters are meant: how to name one of them.
pub(crate) fn several<'a>(clusters: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let all: Vec<String> = clusters.map(|(location, name)| format!("{location}/{name}")).collect();
    format!("there are {} such clusters; name one with --cluster: {}", all.len(), all.join(", "))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(directory: &std::path::Path, flags: &[&str]) -> UpArgs {
        let line = ["pilothouse", "up", "--data-dir"].into_iter().map(str::to_owned);
        let line = line.chain([directory.display().to_string()]).chain(flags.iter().map(|f| (*f).to_owned()));
        match Cli::parse_from(line).command {
            Command::Up(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_win_over_what_is_remembered_and_wrong_ones_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let resolve = |flags: &[&str]| Config::resolve(&args(directory.path(), flags));
        let first = resolve(&["--project", "my-project", "--zone", "europe-west1-b", "--cluster", "one"]).unwrap();
        first.layout.prepare().unwrap();
        first.settings().save(&first.layout).unwrap();
        let again = resolve(&[]).unwrap();
        assert_eq!(again.settings(), first.settings());
        let other = resolve(&["--cluster", "two"]).unwrap().cluster.unwrap();
        assert_eq!((other.name.as_str(), other.location.as_str()), ("two", "europe-west1-b"));
        assert_eq!(resolve(&["--no-cluster"]).unwrap().cluster, None);
        for (flags, named) in [
            (["--project", "another-one"], "holds project my-project, not another-one"),
            (["--location", "nowhere"], "--location \"nowhere\""),
            (["--cluster", "Bad"], "--cluster \"Bad\""),
            (["--nodes", "1001"], "--nodes 1001"),
            (["--api-address", "here"], "--api-address here"),
        ] {
            let text = resolve(&flags).err().map(|e| format!("{e:#}")).unwrap_or_default();
            assert!(text.contains(named) && !text.contains('\n'), "{flags:?}: {text}");
        }
    }

    #[test]
    fn project_ids_follow_resource_manager() {
        for good in ["abcdef", "my-project-1", &"a".repeat(30)] {
            assert!(is_project_id(good), "{good}");
        }
        for bad in ["", "abcde", "Abcdef", "1abcdef", "abcdef-", "abc def", "abc_def", "abcdé-f", &"a".repeat(31)] {
            assert!(!is_project_id(bad), "{bad}");
        }
    }

    #[test]
    fn a_flag_that_differs_from_what_runs_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let running = RunState {
            cloud_endpoint: "http://127.0.0.1:8642".to_owned(),
            project: "my-project".to_owned(),
            cluster: Some(ClusterName { name: "demo".to_owned(), location: "us-central1-a".to_owned() }),
            nodes: Some(3),
            api_address: "127.9.9.9:443".to_owned(),
            ..RunState::nothing(&Layout::resolve(Some(directory.path()), None).unwrap())
        };
        let check = |flags: &[&str]| difference(&args(directory.path(), flags), &running);
        for same in [
            &["--cloud-port", "0"][..],
            &["--cloud-port", "8642", "--project", "my-project", "--cluster", "demo", "--nodes", "3"],
            &["--api-address", "127.9.9.9", "--auth", "strict"],
            &["--api-address", "127.9.9.9:443", "--location", "us-central1-a"],
        ] {
            assert_eq!(check(same), None, "{same:?}");
        }
        for (other, named) in [
            (&["--project", "x-project"][..], "it runs with --project my-project, not with --project x-project"),
            (&["--nodes", "4"], "it runs with --nodes 3, not with --nodes 4"),
            (&["--api-address", "127.9.9.9:444"], "--api-address 127.9.9.9:443"),
            (&["--in-process"], "--in-process"),
            (&["--auth", "open"], "--auth strict"),
            (&["--endpoint-deny", "reset"], "--endpoint-deny drop"),
            (&["--no-cluster"], "--no-cluster"),
        ] {
            assert!(check(other).is_some_and(|text| text.contains(named)), "{other:?}: {:?}", check(other));
        }
    }
}
