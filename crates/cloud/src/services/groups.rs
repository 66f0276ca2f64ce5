//! Cloud Identity v1: groups and their members, as `gcloud identity groups` asks for them. Their use is in IAM policies
//! (`group:…`), and in clusters that look at them (`authenticatorGroupsConfig`).
//!
//! There is no directory beside the project here: whoever may set the project's policy administers the groups too.

use gke::{ApiError, Code};
use machinery::{Value, json};

use super::{Answer, is_address, method_not_found};
use crate::Inner;
use crate::http::Request;
use crate::identity::Caller;
use crate::state::{Group, Membership, State};

const ADMINISTRATOR: &str = "resourcemanager.projects.setIamPolicy";
const GROUPS_MAX: usize = 1000;
const MEMBERS_MAX: usize = 5000;
const ROLES: [&str; 3] = ["MEMBER", "MANAGER", "OWNER"];
const DISCUSSION: &str = "cloudidentity.googleapis.com/groups.discussion_forum";

/// `/v1/groups[:action][/<id>[/memberships…]]`.
pub(super) fn answer(inner: &Inner, caller: &Caller, request: &Request, first: &str, rest: &[&str]) -> Answer {
    let name = rest.first().map_or_else(|| first.to_owned(), |id| format!("groups/{id}"));
    if !caller.may(ADMINISTRATOR) {
        return Err(denied(&name));
    }
    let state = inner.store.read();
    match (request.verb.as_str(), first, rest) {
        ("POST", "groups", []) => create(inner, caller, request),
        ("GET", "groups", []) => Ok(list(&state, request.query("parent"))),
        ("GET", "groups:search", []) => search(&state, request.query("query")),
        ("GET", "groups:lookup", []) => {
            let email = request.query("groupKey.id").to_lowercase();
            let group = state.groups.get(&email).ok_or_else(|| denied(&email))?;
            Ok(json!({"name": format!("groups/{}", group.id)}))
        }
        (verb, "groups", [id, rest @ ..]) => {
            let found = state.groups.iter().find(|(_, group)| group.id == *id);
            let (email, group) = found.ok_or_else(|| denied(&name))?;
            match (verb, rest) {
                ("GET", []) => Ok(show(email, group)),
                ("PATCH", []) => update(inner, email, request),
                ("DELETE", []) => change(inner, |state| {
                    state.groups.remove(email);
                    state.groups.values_mut().for_each(|group| drop(group.members.remove(email)));
                    Ok(done(None))
                }),
                (verb, rest) => memberships(inner, request, (email, group), verb, rest),
            }
        }
        _ => Err(method_not_found()),
    }
}

/// 403 of what is not there for the caller, or not at all.
fn denied(name: &str) -> ApiError {
    ApiError::new(
        Code::PermissionDenied,
        format!("Error(2028): Permission denied for resource {name} (or it may not exist)."),
    )
}

/// A change after which other accounts may be in other groups.
fn change<T>(inner: &Inner, change: impl FnOnce(&mut State) -> Result<T, ApiError>) -> Result<T, ApiError> {
    inner.store.write(|state| {
        state.groups_revision += 1;
        change(state)
    })
}

/// An operation that is over.
fn done(response: Option<(&str, Value)>) -> Value {
    let mut answer = Value::object();
    if let Some((kind, value)) = response {
        answer = value;
        answer.set("@type", format!("type.googleapis.com/google.apps.cloudidentity.groups.v1.{kind}"));
    }
    json!({"done": true, "response": answer})
}

fn show(email: &str, group: &Group) -> Value {
    let mut out = json!({"name": format!("groups/{}", group.id), "groupKey": {"id": email}, "parent": group.parent.as_str(),
        "displayName": group.display_name.as_str(), "createTime": group.created.as_str(), "updateTime": group.created.as_str(),
        "labels": {}});
    for (key, value) in &group.labels {
        out["labels"].set(key, value.as_str());
    }
    if !group.description.is_empty() {
        out.set("description", group.description.as_str());
    }
    out
}

/// `customerId/C…`, as gcloud writes it, and `customers/C…` are the same.
fn parent(text: &str) -> Option<String> {
    let id = text.strip_prefix("customerId/").or_else(|| text.strip_prefix("customers/"))?;
    (!id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric())).then(|| format!("customers/{id}"))
}

fn list(state: &State, under: &str) -> Value {
    let under = parent(under);
    let groups = state.groups.iter().filter(|(_, group)| under.as_ref().is_none_or(|under| group.parent == *under));
    gke::render::list("groups", groups.map(|(email, group)| show(email, group)).collect())
}

/// The one form of query that gcloud makes: `parent == 'customerId/C…' && 'LABEL' in labels`.
fn search(state: &State, query: &str) -> Answer {
    let wrong = || ApiError::invalid(format!("Error(2004): Invalid query: {query}"));
    let quoted = |text: &str| text.trim().trim_matches(['\'', '"']).to_owned();
    let (mut under, mut labels) = (None, Vec::new());
    for term in query.split("&&") {
        if let Some((_, value)) = term.split_once("==").filter(|(field, _)| field.trim() == "parent") {
            under = Some(parent(&quoted(value)).ok_or_else(wrong)?);
        } else {
            let label = term.trim().strip_suffix("in labels").ok_or_else(wrong)?;
            labels.push(quoted(label));
        }
    }
    let under = under.ok_or_else(wrong)?;
    let fits = |group: &Group| group.parent == under && labels.iter().all(|label| group.labels.contains_key(label));
    let groups = state.groups.iter().filter(|(_, group)| fits(group));
    Ok(gke::render::list("groups", groups.map(|(email, group)| show(email, group)).collect()))
}

fn create(inner: &Inner, caller: &Caller, request: &Request) -> Answer {
    let body = request.json()?;
    let email = body.str_at(&["groupKey", "id"]).to_lowercase();
    if !is_address(&email) {
        return Err(ApiError::invalid(format!("Error(2003): Invalid group key: {email:?} is no address.")));
    }
    let parent = parent(body.str_at(&["parent"]))
        .ok_or_else(|| ApiError::invalid("Error(2003): The parent must be a customer: customers/C0123abcd."))?;
    let labels = body["labels"].members().map(|(key, value)| (key.to_owned(), value.as_str().unwrap_or("").to_owned()));
    let mut group = Group {
        id: id(inner),
        display_name: body.str_at(&["displayName"]).to_owned(),
        description: body.str_at(&["description"]).to_owned(),
        parent,
        labels: labels.collect(),
        created: inner.clock.now().rfc3339(),
        members: std::collections::BTreeMap::new(),
    };
    if !group.labels.contains_key(DISCUSSION) {
        return Err(ApiError::invalid(format!("Error(2003): Groups here have the label {DISCUSSION}.")));
    }
    if request.query("initialGroupConfig") == "WITH_INITIAL_OWNER" {
        let roles = vec!["MEMBER".to_owned(), "OWNER".to_owned()];
        group.members.insert(caller.email.to_lowercase(), membership(inner, roles));
    }
    let shown = show(&email, &group);
    change(inner, |state| {
        if state.groups.len() >= GROUPS_MAX {
            return Err(ApiError::new(Code::FailedPrecondition, "Precondition check failed."));
        }
        if state.groups.contains_key(&email) || state.accounts.contains_key(&email) {
            return Err(ApiError::new(Code::AlreadyExists, format!("Error(2021): {email} is already in use.")));
        }
        state.groups.insert(email, group);
        Ok(done(Some(("Group", shown))))
    })
}

fn update(inner: &Inner, email: &str, request: &Request) -> Answer {
    let body = request.json()?;
    let fields: Vec<&str> = request.query("updateMask").split(',').map(str::trim).collect();
    let known = ["displayName", "display_name", "description"];
    if let Some(other) = fields.iter().find(|field| !known.contains(field)) {
        return Err(ApiError::unimplemented(&format!("group.{other}")));
    }
    inner.store.write(|state| {
        let group = state.groups.get_mut(email).ok_or_else(|| denied(email))?;
        for field in &fields {
            match *field {
                "description" => body.str_at(&["description"]).clone_into(&mut group.description),
                _ => body.str_at(&["displayName"]).clone_into(&mut group.display_name),
            }
        }
        Ok(done(Some(("Group", show(email, group)))))
    })
}

/// Fifteen letters and digits.
fn id(inner: &Inner) -> String {
    let letters = b"0123456789abcdefghijklmnopqrstuv";
    let letter = |byte: u8| char::from(letters[usize::from(byte) % letters.len()]);
    std::iter::once('0').chain(inner.entropy.bytes::<14>().map(letter)).collect()
}

fn membership(inner: &Inner, roles: Vec<String>) -> Membership {
    let number = u64::from_be_bytes(inner.entropy.bytes()) % 1_000_000_000_000_000_000;
    Membership { id: format!("1{number:020}"), roles, created: inner.clock.now().rfc3339() }
}

fn show_member(group: &Group, state: &State, email: &str, member: &Membership) -> Value {
    let kind = match state.accounts.get(email) {
        _ if state.groups.contains_key(email) => "GROUP",
        Some(account) if account.service => "SERVICE_ACCOUNT",
        _ => "USER",
    };
    let roles: Vec<Value> = member.roles.iter().map(|role| json!({"name": role.as_str()})).collect();
    json!({"name": format!("groups/{}/memberships/{}", group.id, member.id), "preferredMemberKey": {"id": email},
        "roles": roles, "createTime": member.created.as_str(), "updateTime": member.created.as_str(), "type": kind})
}

fn memberships(inner: &Inner, request: &Request, (email, group): (&str, &Group), verb: &str, rest: &[&str]) -> Answer {
    let state = inner.store.read();
    match (verb, rest) {
        ("GET", ["memberships"]) => {
            let all = group.members.iter().map(|(member, held)| show_member(group, &state, member, held));
            Ok(gke::render::list("memberships", all.collect()))
        }
        ("GET", ["memberships:lookup"]) => {
            let member = request.query("memberKey.id").to_lowercase();
            let held = group.members.get(&member).ok_or_else(|| denied(&member))?;
            Ok(json!({"name": format!("groups/{}/memberships/{}", group.id, held.id)}))
        }
        ("POST", ["memberships"]) => add(inner, email, &request.json()?),
        (verb, ["memberships", id]) => {
            let found = group.members.iter().find(|(_, held)| held.id == *id);
            let (member, held) = found.ok_or_else(|| denied(&format!("groups/{}/memberships/{id}", group.id)))?;
            match verb {
                "GET" => Ok(show_member(group, &state, member, held)),
                "DELETE" => change(inner, |state| {
                    let group = state.groups.get_mut(email).ok_or_else(|| denied(email))?;
                    group.members.remove(member);
                    Ok(done(None))
                }),
                _ => Err(method_not_found()),
            }
        }
        _ => Err(method_not_found()),
    }
}

fn add(inner: &Inner, email: &str, body: &Value) -> Answer {
    let member = body.str_at(&["preferredMemberKey", "id"]).to_lowercase();
    if !is_address(&member) {
        return Err(ApiError::invalid(format!("Error(2003): Invalid member key: {member:?} is no address.")));
    }
    let mut roles: Vec<String> = Vec::new();
    for role in body["roles"].items() {
        if !role["expiryDetail"].is_null() {
            return Err(ApiError::unimplemented("membership.roles.expiryDetail"));
        }
        match role.str_at(&["name"]) {
            name if ROLES.contains(&name) => roles.push(name.to_owned()),
            other => return Err(ApiError::invalid(format!("Error(2003): {other:?} is no role of a member."))),
        }
    }
    if !roles.iter().any(|role| role == "MEMBER") {
        return Err(ApiError::invalid("Error(2003): Every member has the role MEMBER."));
    }
    let held = membership(inner, roles);
    change(inner, |state| {
        if member == email || state.groups_of(email).contains(member.as_str()) {
            return Err(ApiError::invalid(
                "Error(4005): A group cannot be a member of itself, nor of one of its members.",
            ));
        }
        let group = state.groups.get_mut(email).ok_or_else(|| denied(email))?;
        if group.members.contains_key(&member) {
            return Err(ApiError::new(Code::AlreadyExists, format!("Error(4003): {member} is a member already.")));
        }
        if group.members.len() >= MEMBERS_MAX {
            return Err(ApiError::new(Code::FailedPrecondition, "Precondition check failed."));
        }
        group.members.insert(member.clone(), held.clone());
        let group = group.clone();
        Ok(done(Some(("Membership", show_member(&group, state, &member, &held)))))
    })
}
