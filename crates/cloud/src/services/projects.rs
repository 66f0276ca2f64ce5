//! Resource Manager v1 and Service Usage v1: the one project, its IAM policy, its services.

use gke::{ApiError, Code};
use machinery::{Value, json};

use super::{Answer, forbidden, is_ours, method_not_found, require};
use crate::Inner;
use crate::http::Request;
use crate::identity::Caller;
use crate::pods::PodIdentity;
use crate::state::Binding;

/// Bindings a policy may have.
const BINDINGS_MAX: usize = 1500;

/// `/v1/projects[/<project>[:action]]`.
pub(super) fn resources(inner: &Inner, caller: &Caller, request: &Request, rest: &[&str]) -> Answer {
    let (project, action) = match rest {
        [] => ("", ""),
        [segment, ..] => segment.split_once(':').unwrap_or((segment, "")),
    };
    match (request.verb.as_str(), project, action) {
        ("GET", "", "") => {
            let seen = caller.may("resourcemanager.projects.get");
            let list: Vec<Value> = if seen { vec![project_value(inner)] } else { Vec::new() };
            Ok(gke::render::list("projects", list))
        }
        ("GET", project, "") => {
            require(inner, caller, project, "resourcemanager.projects.get")?;
            Ok(project_value(inner))
        }
        ("POST", project, "getIamPolicy") => {
            require(inner, caller, project, "resourcemanager.projects.getIamPolicy")?;
            Ok(policy(inner))
        }
        ("POST", project, "setIamPolicy") => {
            require(inner, caller, project, "resourcemanager.projects.setIamPolicy")?;
            set_policy(inner, &request.json()?)
        }
        ("POST", project, "testIamPermissions") => {
            if !is_ours(inner, project) {
                return Err(forbidden());
            }
            let asked = request.json()?;
            let held = asked["permissions"].items().iter().filter(|p| p.as_str().is_some_and(|p| caller.may(p)));
            Ok(gke::render::list("permissions", held.cloned().collect()))
        }
        ("POST", project, "getAncestry") => {
            require(inner, caller, project, "resourcemanager.projects.get")?;
            let own = json!({"resourceId": {"type": "project", "id": inner.project}});
            Ok(gke::render::list("ancestor", vec![own]))
        }
        _ => Err(method_not_found()),
    }
}

fn project_value(inner: &Inner) -> Value {
    json!({"projectNumber": inner.project_number, "projectId": inner.project, "lifecycleState": "ACTIVE",
        "name": inner.project, "createTime": inner.store.read().created})
}

/// A policy's etag.
pub(super) fn etag(revision: u64) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(revision.to_be_bytes())
}

fn policy(inner: &Inner) -> Value {
    let state = inner.store.read();
    show_policy(&state.policy, state.policy_revision)
}

/// A policy as clients see it.
pub(super) fn show_policy(bindings: &[Binding], revision: u64) -> Value {
    let bindings: Vec<Value> = bindings.iter().map(|b| json!({"role": b.role, "members": b.members})).collect();
    let mut policy = json!({"version": 1, "etag": etag(revision)});
    policy.set("bindings", bindings);
    policy
}

/// The bindings of a policy that is to be set.
///
/// # Errors
/// 400 for a role or member that cannot be, 501 for a condition.
pub(super) fn checked_bindings(inner: &Inner, asked: &Value) -> Result<Vec<Binding>, ApiError> {
    let mut bindings: Vec<Binding> = Vec::new();
    for binding in asked["bindings"].items() {
        if !binding["condition"].is_null() {
            return Err(ApiError::unimplemented("policy.bindings.condition"));
        }
        let (role, members) = (checked_role(binding)?, checked_members(inner, binding)?);
        match bindings.iter_mut().find(|b| b.role == role) {
            Some(known) => known.members.extend(members),
            None => bindings.push(Binding { role: role.to_owned(), members }),
        }
    }
    for binding in &mut bindings {
        binding.members.sort();
        binding.members.dedup();
    }
    bindings.retain(|binding| !binding.members.is_empty());
    bindings.sort_by(|a, b| a.role.cmp(&b.role));
    if bindings.len() > BINDINGS_MAX {
        return Err(ApiError::invalid("The policy has too many bindings."));
    }
    Ok(bindings)
}

/// Was the policy read at this revision, if the caller says when?
///
/// # Errors
/// 409 when it was another one.
pub(super) fn check_etag(asked: &Value, revision: u64) -> Result<(), ApiError> {
    let sent = asked.str_at(&["etag"]);
    if sent.is_empty() || sent == etag(revision) {
        return Ok(());
    }
    let text =
        "There were concurrent policy changes. Please retry the whole read-modify-write with exponential backoff.";
    Err(ApiError::new(Code::Aborted, text))
}

fn set_policy(inner: &Inner, request: &Value) -> Answer {
    let asked = &request["policy"];
    let bindings = checked_bindings(inner, asked)?;
    inner.store.write(|state| {
        check_etag(asked, state.policy_revision)?;
        for member in bindings.iter().flat_map(|b| &b.members) {
            if let Some(email) = member.strip_prefix("user:") {
                let account = crate::identity::new_account(false, "", &inner.entropy);
                state.accounts.entry(email.to_owned()).or_insert(account);
            }
        }
        state.policy = bindings;
        state.policy_revision += 1;
        Ok(())
    })?;
    Ok(policy(inner))
}

fn checked_role(binding: &Value) -> Result<&str, ApiError> {
    let role = binding.str_at(&["role"]);
    let custom = role.starts_with("projects/") || role.starts_with("organizations/");
    match () {
        () if custom => Err(ApiError::invalid(format!("Role ({role}) does not exist in the resource's hierarchy."))),
        () if policy::iam::is_possible_role(role) => Ok(role),
        () => Err(ApiError::invalid(format!("Role {role} is not supported for this resource."))),
    }
}

fn checked_members(inner: &Inner, binding: &Value) -> Result<Vec<String>, ApiError> {
    let members = binding["members"].items().iter();
    members.map(|member| checked_member(inner, member.as_str().unwrap_or_default())).collect()
}

/// A member as it is kept: mail addresses and domains in lower case.
fn checked_member(inner: &Inner, member: &str) -> Result<String, ApiError> {
    if matches!(member, "allUsers" | "allAuthenticatedUsers") {
        return Ok(member.to_owned());
    }
    let unknown = || {
        ApiError::invalid(format!(
            "The member {member} is of an unknown type. Please set a valid type prefix for the member."
        ))
    };
    let (kind, name) = member.split_once(':').ok_or_else(unknown)?;
    if kind == "serviceAccount"
        && let Some(pod) = PodIdentity::parse(name)
    {
        return if super::sts::has_pool(inner, &pod.pool) { Ok(member.to_owned()) } else { Err(no_pool(&pod.pool)) };
    }
    let is_service = name.to_lowercase().ends_with(".gserviceaccount.com");
    let right = match kind {
        "principal" | "principalSet" | "deleted" if !name.is_empty() => return Ok(member.to_owned()),
        "user" | "group" if is_service => "serviceAccount",
        "serviceAccount" if is_address(name) && !is_service => "user",
        "user" | "serviceAccount" | "group" | "domain" => kind,
        _ => return Err(unknown()),
    };
    if right != kind {
        return Err(ApiError::invalid(format!(
            "Principal {name} is of type \"{right}\". The principal should appear as \"{right}:{name}\". See \
             https://cloud.google.com/iam/help/members/types for additional documentation."
        )));
    }
    let good = if kind == "domain" { is_domain(name) } else { is_address(name) };
    if !good {
        return Err(ApiError::invalid(format!("Invalid principal {member}: {name:?} is not a valid {kind}.")));
    }
    let name = name.to_lowercase();
    let own = name.ends_with(&format!("@{}.iam.gserviceaccount.com", inner.project));
    if own && !inner.store.read().accounts.contains_key(&name) {
        return Err(ApiError::invalid(format!("Service account {name} does not exist.")));
    }
    Ok(format!("{kind}:{name}"))
}

fn no_pool(pool: &str) -> ApiError {
    ApiError::invalid(format!(
        "Identity Pool does not exist ({pool}). Please check that you specified a valid resource name as returned in the \
         `name` attribute in the configuration API."
    ))
}

/// Is it a mail address?
pub(crate) fn is_address(text: &str) -> bool {
    let local = |text: &str| {
        !text.is_empty() && text.len() <= 64 && text.chars().all(|c| !c.is_control() && !c.is_whitespace() && c != '@')
    };
    text.len() <= 254 && text.split_once('@').is_some_and(|(name, domain)| local(name) && is_domain(domain))
}

fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    text.len() <= 253 && text.contains('.') && text.split('.').all(label)
}

/// `/v1/projects/<project>/services…`.
pub(super) fn services(inner: &Inner, caller: &Caller, request: &Request, project: &str, rest: &[&str]) -> Answer {
    match (request.verb.as_str(), rest) {
        ("GET", ["services"]) => {
            require(inner, caller, project, "serviceusage.services.list")?;
            let state = inner.store.read();
            let wanted = request.query("filter");
            let list = if wanted.contains("DISABLED") { Vec::new() } else { state.services.clone() };
            Ok(gke::render::list("services", list.iter().map(|name| service(inner, name, true)).collect()))
        }
        ("GET", ["services", name]) => {
            require(inner, caller, project, "serviceusage.services.get")?;
            let enabled = inner.store.read().services.iter().any(|s| s == name);
            Ok(service(inner, name, enabled))
        }
        ("GET", ["services:batchGet"]) => {
            require(inner, caller, project, "serviceusage.services.get")?;
            let state = inner.store.read();
            let names = request.query.iter().filter(|(key, _)| key == "names").map(|(_, path)| path.as_str());
            let names = names.map(|path| path.rsplit('/').next().unwrap_or(path));
            let list = names.map(|name| service(inner, name, state.services.iter().any(|s| s == name)));
            Ok(gke::render::list("services", list.collect()))
        }
        ("POST", ["services", action]) => {
            let (name, verb) = action.split_once(':').ok_or_else(method_not_found)?;
            switch(inner, caller, project, &[name], verb)
        }
        ("POST", ["services:batchEnable"]) => {
            let body = request.json()?;
            let names: Vec<&str> = body["serviceIds"].items().iter().filter_map(Value::as_str).collect();
            switch(inner, caller, project, &names, "enable")
        }
        _ => Err(method_not_found()),
    }
}

fn service(inner: &Inner, name: &str, enabled: bool) -> Value {
    json!({"name": format!("projects/{}/services/{name}", inner.project_number), "parent":
        format!("projects/{}", inner.project_number), "config": {"name": name},
        "state": if enabled { "ENABLED" } else { "DISABLED" }})
}

/// Enables or disables; the operation is finished at once, as clients would poll one for ever.
fn switch(inner: &Inner, caller: &Caller, project: &str, names: &[&str], verb: &str) -> Answer {
    let (permission, kind) = match verb {
        "enable" => ("serviceusage.services.enable", "EnableServiceResponse"),
        "disable" => ("serviceusage.services.disable", "DisableServiceResponse"),
        _ => return Err(method_not_found()),
    };
    require(inner, caller, project, permission)?;
    if let Some(wrong) = names.iter().find(|name| !name.contains('.')) {
        return Err(ApiError::not_found(format!("Service {wrong:?} not found.")));
    }
    inner.store.write(|state| {
        state.services.retain(|service| !names.contains(&service.as_str()));
        if verb == "enable" {
            state.services.extend(names.iter().map(|name| (*name).to_owned()));
            state.services.sort();
        }
        Ok(())
    })?;
    let mut response = json!({"@type": format!("type.googleapis.com/google.api.serviceusage.v1.{kind}")});
    if let [name] = names {
        response.set("service", service(inner, name, verb == "enable"));
    }
    let name = format!("operations/acat.p2-{}-{}", inner.project_number, inner.entropy.uuid());
    let mut operation = json!({"name": name, "done": true});
    operation.set("response", response);
    Ok(operation)
}
