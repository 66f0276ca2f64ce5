//! Cloud KMS v1 over REST: locations, key rings, keys, versions, their policies, and what keys do.

mod change;
mod show;
mod using;

use gke::ApiError;
use machinery::Value;

use super::{Answer, method_not_found, projects};
use crate::Inner;
use crate::http::Request;
use crate::identity::Caller;
use crate::kms::{self, KeyName, Place};
use crate::state::{Binding, State};

/// Places for keys that are no regions.
const MULTI_REGIONS: &[&str] =
    &["global", "us", "europe", "asia", "asia1", "eur3", "eur4", "eur5", "eur6", "nam3", "nam4"];
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;

/// One call: who asks, for what.
struct Context<'a> {
    inner: &'a Inner,
    caller: &'a Caller,
    request: &'a Request,
    project: &'a str,
    location: &'a str,
}

/// Is it a path of this service, below `/v1/projects/<project>/locations`?
pub(super) fn is_ours(rest: &[&str]) -> bool {
    match rest {
        [] | [_] => true,
        [_, collection, ..] => {
            matches!(*collection, "keyRings" | "ekmConnections" | "ekmConfig" | "keyHandles" | "importJobs")
        }
    }
}

/// Answers a request for `/v1/projects/<project>/locations/<rest>`.
pub(super) fn answer(inner: &Inner, caller: &Caller, request: &Request, project: &str, rest: &[&str]) -> Answer {
    kms::settle(inner)?;
    let location = rest.first().copied().unwrap_or_default();
    let context = Context { inner, caller, request, project, location };
    let verb = request.verb.as_str();
    match (verb, rest) {
        ("GET", []) => context.locations(),
        ("GET", [_]) => context.location(),
        (_, [_, "keyRings", rest @ ..]) => {
            context.check_location()?;
            context.rings(verb, rest)
        }
        (_, [_, other, ..]) => Err(ApiError::unimplemented(other)),
        _ => Err(method_not_found()),
    }
}

/// A name and the action behind its colon.
fn split(segment: &str) -> (&str, &str) {
    segment.split_once(':').unwrap_or((segment, ""))
}

impl Context<'_> {
    fn rings(&self, verb: &str, rest: &[&str]) -> Answer {
        match (verb, rest) {
            ("GET", []) => self.list_rings(),
            ("POST", []) => self.create_ring(),
            (_, [segment]) => match (verb, split(segment)) {
                ("GET", (ring, "")) => self.get_ring(ring),
                (_, (ring, action)) => self.policy(&Target::Ring(ring), action),
            },
            (_, [ring, "cryptoKeys", rest @ ..]) => self.keys(verb, ring, rest),
            (_, [_, "importJobs", ..]) => Err(ApiError::unimplemented("importJobs")),
            _ => Err(method_not_found()),
        }
    }

    fn keys(&self, verb: &str, ring: &str, rest: &[&str]) -> Answer {
        match (verb, rest) {
            ("GET", []) => self.list_keys(ring),
            ("POST", []) => self.create_key(ring),
            (_, [segment]) => {
                let (key, action) = split(segment);
                let name = self.key_name(ring, key);
                match (verb, action) {
                    ("GET", "") => self.get_key(&name),
                    ("PATCH", "") => self.patch_key(&name),
                    ("POST", "encrypt") => self.encrypt(&name.to_string()),
                    ("POST", "decrypt") => self.decrypt(&name.to_string()),
                    ("POST", "updatePrimaryVersion") => self.update_primary(&name),
                    _ => self.policy(&Target::Key(&name), action),
                }
            }
            ("POST", [_, "cryptoKeyVersions:import"]) => Err(ApiError::unimplemented("cryptoKeyVersions.import")),
            (_, [key, "cryptoKeyVersions", rest @ ..]) => self.versions(verb, &self.key_name(ring, key), rest),
            _ => Err(method_not_found()),
        }
    }

    fn versions(&self, verb: &str, key: &KeyName, rest: &[&str]) -> Answer {
        match (verb, rest) {
            ("GET", []) => self.list_versions(key),
            ("POST", []) => self.create_version(key),
            (_, [id, "publicKey"]) if verb == "GET" => self.public_key(&format!("{key}/cryptoKeyVersions/{id}")),
            (_, [segment]) => {
                let (id, action) = split(segment);
                let name = format!("{key}/cryptoKeyVersions/{id}");
                let (_, number) = kms::parse_version(&name)?;
                match (verb, action) {
                    ("GET", "") => self.get_version(key, number),
                    ("PATCH", "") => self.patch_version(key, number),
                    ("POST", "destroy") => self.destroy(key, number),
                    ("POST", "restore") => self.restore(key, number),
                    ("POST", "encrypt") => self.encrypt(&name),
                    ("POST", "asymmetricSign") => self.sign(&name),
                    ("POST", "asymmetricDecrypt" | "macSign" | "macVerify" | "rawEncrypt" | "rawDecrypt") => {
                        self.other_use(key, number, action)
                    }
                    _ => Err(method_not_found()),
                }
            }
            _ => Err(method_not_found()),
        }
    }

    fn key_name(&self, ring: &str, key: &str) -> KeyName {
        let [project, location] = [self.project, self.location].map(str::to_owned);
        KeyName { project, location, ring: ring.to_owned(), key: key.to_owned() }
    }

    fn parent(&self) -> String {
        format!("projects/{}/locations/{}", self.project, self.location)
    }

    fn ring_name(&self, ring: &str) -> String {
        format!("{}/keyRings/{ring}", self.parent())
    }

    fn ring_id(&self, ring: &str) -> String {
        format!("{}/{ring}", self.location)
    }

    fn check_location(&self) -> Result<(), ApiError> {
        let place = self.location;
        if MULTI_REGIONS.contains(&place) || gke::places::regions().any(|region| region == place) {
            return Ok(());
        }
        Err(ApiError::invalid(format!(
            "The request concerns location '{place}' but was sent to location 'global'. Either Cloud KMS is not \
             available in '{place}' or the request was misrouted. In gRPC, ensure that the 'x-goog-request-params' \
             metadata is properly set. See https://cloud.google.com/kms/docs/grpc for more information."
        )))
    }

    fn locations(&self) -> Answer {
        let name = format!("projects/{}", self.project);
        let state = self.inner.store.read();
        self.require(&state, Place { project: self.project, ring: None, key: None, name: &name }, "locations.list")?;
        let places = gke::places::regions().chain(MULTI_REGIONS.iter().copied());
        let list: Vec<(String, Value)> =
            places.map(|place| (place.to_owned(), show::location(self.project, place))).collect();
        self.page("locations", list)
    }

    fn location(&self) -> Answer {
        let name = self.parent();
        let state = self.inner.store.read();
        self.require(&state, Place { project: self.project, ring: None, key: None, name: &name }, "locations.get")?;
        self.check_location()?;
        Ok(show::location(self.project, self.location))
    }

    /// 403 unless the caller holds `cloudkms.<permission>`.
    fn require(&self, state: &State, place: Place<'_>, permission: &str) -> Result<(), ApiError> {
        kms::require(self.inner, state, &self.caller.email, place, &format!("cloudkms.{permission}"))
    }

    /// For everything in a location.
    fn require_here(&self, state: &State, permission: &str) -> Result<(), ApiError> {
        let name = self.parent();
        self.require(state, Place { project: self.project, ring: None, key: None, name: &name }, permission)
    }

    fn require_ring(&self, state: &State, ring: &str, permission: &str) -> Result<(), ApiError> {
        let (id, name) = (self.ring_id(ring), self.ring_name(ring));
        self.require(state, Place { project: self.project, ring: Some(&id), key: None, name: &name }, permission)
    }

    fn require_key(&self, state: &State, key: &KeyName, permission: &str) -> Result<(), ApiError> {
        let (id, name) = (key.ring_id(), key.to_string());
        let place = Place { project: self.project, ring: Some(&id), key: Some(&key.key), name: &name };
        self.require(state, place, permission)
    }

    /// The page that was asked for, of items with what comes before the next page.
    fn page(&self, field: &str, items: Vec<(String, Value)>) -> Answer {
        for parameter in ["filter", "orderBy"] {
            if !self.request.query(parameter).is_empty() {
                return Err(ApiError::unimplemented(parameter));
            }
        }
        let size = match self.request.query("pageSize") {
            "" => PAGE_DEFAULT,
            text => match text.parse::<usize>() {
                Ok(0) => PAGE_DEFAULT,
                Ok(size) => size.min(PAGE_MAX),
                Err(_) => return Err(ApiError::invalid("The page size must not be negative.")),
            },
        };
        let (total, token) = (items.len(), self.request.query("pageToken"));
        let start = match token {
            "" => 0,
            token => match items.iter().position(|(id, _)| id == token) {
                Some(at) => at + 1,
                None => return Err(ApiError::invalid("The page token is invalid.")),
            },
        };
        let more = start + size < total;
        let page: Vec<(String, Value)> = items.into_iter().skip(start).take(size).collect();
        let last = page.last().map(|(id, _)| id.clone()).filter(|_| more);
        let mut out = gke::render::list(field, page.into_iter().map(|(_, value)| value).collect());
        if let Some(last) = last {
            out.set("nextPageToken", last);
        }
        if field != "locations" && total > 0 {
            out.set("totalSize", total);
        }
        Ok(out)
    }

    /// `getIamPolicy`, `setIamPolicy` and `testIamPermissions` of a ring or a key.
    fn policy(&self, target: &Target<'_>, action: &str) -> Answer {
        let (kind, inner) = (target.kind(), self.inner);
        let require = |state: &State, verb: &str| match target {
            Target::Ring(ring) => self.require_ring(state, ring, &format!("{kind}.{verb}")),
            Target::Key(key) => self.require_key(state, key, &format!("{kind}.{verb}")),
        };
        let state = inner.store.read();
        match (self.request.verb.as_str(), action) {
            ("GET", "getIamPolicy") => {
                require(&state, action)?;
                let (policy, revision) = self.kept_policy(&state, target)?;
                Ok(projects::show_policy(policy, revision))
            }
            ("POST", "setIamPolicy") => {
                require(&state, action)?;
                self.kept_policy(&state, target)?;
                let body = self.request.json()?;
                let asked = &body["policy"];
                let bindings = projects::checked_bindings(inner, asked)?;
                kms::change(inner, |state| {
                    let (policy, revision) = self.policy_to_change(state, target)?;
                    projects::check_etag(asked, *revision)?;
                    *policy = bindings;
                    *revision += 1;
                    Ok(projects::show_policy(policy, *revision))
                })
            }
            ("POST", "testIamPermissions") => {
                let asked = self.request.json()?;
                let (id, name) = match target {
                    Target::Ring(ring) => (self.ring_id(ring), self.ring_name(ring)),
                    Target::Key(key) => (key.ring_id(), key.to_string()),
                };
                let key = if let Target::Key(key) = target { Some(key.key.as_str()) } else { None };
                let place = Place { project: self.project, ring: Some(&id), key, name: &name };
                let may = |asked: &str| kms::may(inner, &state, &self.caller.email, place, asked);
                let held = asked["permissions"].items().iter().filter(|p| p.as_str().is_some_and(may));
                Ok(gke::render::list("permissions", held.cloned().collect()))
            }
            _ => Err(method_not_found()),
        }
    }

    fn kept_policy<'s>(&self, state: &'s State, target: &Target<'_>) -> Result<(&'s [Binding], u64), ApiError> {
        match target {
            Target::Ring(ring) => {
                let found = state.kms.0.get(&self.ring_id(ring)).ok_or_else(|| self.no_ring(ring))?;
                Ok((&found.policy, found.policy_revision))
            }
            Target::Key(key) => {
                let found = kms::key_of(state, key)?;
                Ok((&found.policy, found.policy_revision))
            }
        }
    }

    fn policy_to_change<'s>(
        &self,
        state: &'s mut State,
        target: &Target<'_>,
    ) -> Result<(&'s mut Vec<Binding>, &'s mut u64), ApiError> {
        match target {
            Target::Ring(ring) => {
                let found = state.kms.0.get_mut(&self.ring_id(ring)).ok_or_else(|| self.no_ring(ring))?;
                Ok((&mut found.policy, &mut found.policy_revision))
            }
            Target::Key(key) => {
                let found = change::key_mut(state, key)?;
                Ok((&mut found.policy, &mut found.policy_revision))
            }
        }
    }

    fn no_ring(&self, ring: &str) -> ApiError {
        ApiError::not_found(format!("KeyRing {} not found.", self.ring_name(ring)))
    }
}

/// What has a policy.
enum Target<'a> {
    Ring(&'a str),
    Key(&'a KeyName),
}

impl Target<'_> {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Ring(_) => "keyRings",
            Self::Key(_) => "cryptoKeys",
        }
    }
}
