//! `pilothouse status` and `pilothouse inspect`.

use std::fmt::Write;

use anyhow::{Result, bail};

use crate::cli::{DataDirArgs, InspectArgs, InspectFormat, OutputFormat, StatusArgs, Subject};
use crate::commands::trust;
use crate::control;
use crate::edge::EndpointDeny;
use crate::fleet::hardening::Attribute;
use crate::fleet::report::{Exposure, Inspection, Rotation, Status};
use crate::layout::Layout;

/// What runs, and where.
///
/// # Errors
/// When no sandbox runs.
pub(crate) async fn run(args: &StatusArgs) -> Result<String> {
    let layout = Layout::resolve(args.data.data_dir.as_deref(), None)?;
    let status: Status = control::ask(&layout, "status").await?;
    match args.output {
        OutputFormat::Json => Ok(serde_json::to_string_pretty(&status)? + "\n"),
        OutputFormat::Text => text(&status),
    }
}

/// How the sandbox is put together.
///
/// # Errors
/// When no sandbox runs.
pub(crate) async fn inspect(args: &InspectArgs) -> Result<String> {
    let layout = Layout::resolve(args.data.data_dir.as_deref(), None)?;
    match args.subject {
        Some(Subject::Trust) => return trust::print(&control::ask::<Vec<_>>(&layout, "trust").await?, args.output),
        Some(Subject::Hardening) => {
            return hardening(&control::ask::<Vec<_>>(&layout, "hardening").await?, args.output);
        }
        Some(Subject::Endpoints) => {
            let exposure: Exposure = control::ask(&layout, "endpoints").await?;
            return match args.output {
                InspectFormat::Json => Ok(serde_json::to_string_pretty(&exposure)? + "\n"),
                InspectFormat::Text => exposure_text(&exposure),
                InspectFormat::Svg => bail!("there is a picture of `inspect trust` only"),
            };
        }
        None => {}
    }
    let inspection: Inspection = control::ask(&layout, "inspect").await?;
    match args.output {
        InspectFormat::Json => Ok(serde_json::to_string_pretty(&inspection)? + "\n"),
        InspectFormat::Text => inspection_text(&inspection),
        InspectFormat::Svg => bail!("there is a picture of `inspect trust` only"),
    }
}

/// Rotates the platform key and all data keys.
///
/// # Errors
/// When no sandbox runs, or a key cannot be written.
pub(crate) async fn rotate_keys(args: &DataDirArgs) -> Result<String> {
    let layout = Layout::resolve(args.data_dir.as_deref(), None)?;
    let Rotation { data_keys } = control::tell(&layout, "keys:rotate", &()).await?;
    let plural = if data_keys == 1 { "" } else { "s" };
    Ok(format!(
        "The platform key is new, and so {} {data_keys} data key{plural}; everything is sealed anew in the background \
         (`pilothouse inspect` shows when that is done).\n",
        if data_keys == 1 { "is" } else { "are" }
    ))
}

fn text(status: &Status) -> Result<String> {
    let mut out = String::new();
    let cloud = &status.cloud;
    writeln!(out, "Cloud    {}  project {}  as {}  pid {}", cloud.endpoint, cloud.project, cloud.account, cloud.pid)?;
    writeln!(out, "Data     {}", status.data_dir.display())?;
    for cluster in &status.clusters {
        writeln!(
            out,
            "\nCluster  {} in {}  {}  Kubernetes {}  {} node{}",
            cluster.name,
            cluster.location,
            cluster.state,
            cluster.kubernetes_version,
            cluster.nodes,
            if cluster.nodes == 1 { "" } else { "s" }
        )?;
        writeln!(out, "  API server  https://{}  internal https://{}", cluster.endpoint, cluster.internal_endpoint)?;
        writeln!(out, "  etcd        {}", cluster.etcd_endpoints.join(", "))?;
        writeln!(out, "  kubeconfig  {}", cluster.kubeconfig.display())?;
        for member in cluster.members.iter().filter(|_| cluster.members.len() > 1) {
            let state = match (member.healthy, member.leader) {
                (false, _) => "NOT HEALTHY".to_owned(),
                (true, leads) => format!(
                    "{}  term {}  index {}  applied {}",
                    if leads { "leader  " } else { "follower" },
                    member.raft_term,
                    member.raft_index,
                    member.raft_applied_index
                ),
            };
            writeln!(out, "  member      {}  {state}", member.name)?;
        }
        for instance in &cluster.instances {
            let alive = match (instance.pid, &instance.trouble) {
                (Some(pid), None) => format!("pid {pid}"),
                (Some(pid), Some(why)) => format!("pid {pid} ({why})"),
                (None, cause) => format!("DOWN ({})", cause.as_deref().unwrap_or("it is being started")),
            };
            writeln!(out, "  {:<15}{alive}  restarts {}  {}", instance.role, instance.restarts, instance.name)?;
        }
    }
    Ok(out)
}

fn hardening(all: &[Attribute], format: InspectFormat) -> Result<String> {
    match format {
        InspectFormat::Json => return Ok(serde_json::to_string_pretty(all)? + "\n"),
        InspectFormat::Svg => bail!("there is a picture of `inspect trust` only"),
        InspectFormat::Text => {}
    }
    let mut out = String::new();
    let mut last = None;
    for Attribute { cluster, process, attribute, enforced, why } in all {
        if last != Some((cluster, process)) {
            let whose =
                if cluster.is_empty() { "with fleet and edge".to_owned() } else { format!("of cluster {cluster}") };
            writeln!(out, "{}{process} {whose}", if last.is_some() { "\n" } else { "" })?;
            last = Some((cluster, process));
        }
        writeln!(out, "  {enforced:<9}{attribute}: {why}")?;
    }
    Ok(out)
}

fn exposure_text(exposure: &Exposure) -> Result<String> {
    let mut out = String::new();
    for found in &exposure.clusters {
        writeln!(out, "Endpoints of cluster {} in {}", found.cluster, found.location)?;
        for status in &found.endpoints {
            writeln!(out, "  {:<9}{}\n           lets in {}", status.endpoint.name(), status.address, status.lets_in)?;
        }
        let what = if found.deny == EndpointDeny::Reset { "reset" } else { "left without an answer" };
        writeln!(out, "  others are {what}; {} so far, {} held now", found.denied, found.held)?;
        if found.by_port {
            writeln!(
                out,
                "  addresses cannot be aliased here: whoever uses the internal endpoint's port counts as inside"
            )?;
        }
        writeln!(out)?;
    }
    writeln!(out, "Places")?;
    for range in &exposure.places {
        writeln!(out, "  {:<21}{}", range.addresses, range.stands_for)?;
    }
    Ok(out)
}

fn inspection_text(inspection: &Inspection) -> Result<String> {
    let mut out = text(&inspection.status)?;
    if inspection.in_process {
        writeln!(out, "\nEverything runs in one process (--in-process).")?;
    }
    writeln!(out, "\nCertificate authorities")?;
    for certificate in &inspection.certificates {
        writeln!(
            out,
            "  {:<16}{:<18}until {}  {}",
            certificate.cluster, certificate.used_for, certificate.not_after, certificate.sha256
        )?;
    }
    writeln!(out, "\nKeys of data directories")?;
    for key in &inspection.keys {
        let state = if key.resealing { "  (sealing anew)" } else { "" };
        writeln!(out, "  {}  wrapped by {}  {}{state}", key.data_key_id, key.platform_key_id, key.data_dir.display())?;
    }
    write!(out, "\n{}", exposure_text(&inspection.exposure)?)?;
    writeln!(out, "\nBoundaries")?;
    for boundary in &inspection.boundaries {
        writeln!(out, "  {:<8}{}\n          {}", boundary.enforced, boundary.what, boundary.why)?;
    }
    Ok(out)
}
