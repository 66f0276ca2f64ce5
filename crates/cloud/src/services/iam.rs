//! IAM v1: service accounts, their keys, their policies, and tokens in their name. Of a key only the public half stays here.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use gke::{ApiError, Code};
use machinery::{Value, json};

use super::{Answer, credentials, forbidden, is_ours, method_not_found, projects, require};
use crate::Inner;
use crate::http::Request;
use crate::identity::Caller;
use crate::state::{Account, Key};

/// User-managed keys of one account.
const KEYS_MAX: usize = 10;

/// `/v1/projects/<project>/serviceAccounts…`; `-` stands for the account's own project.
pub(super) fn answer(inner: &Inner, caller: &Caller, request: &Request, project: &str, rest: &[&str]) -> Answer {
    if project != "-" && !is_ours(inner, project) {
        return Err(forbidden());
    }
    let may = |permission: &str| require(inner, caller, &inner.project, permission);
    match (request.verb.as_str(), rest) {
        ("GET", []) => {
            may("iam.serviceAccounts.list")?;
            let state = inner.store.read();
            let list = state.accounts.iter().filter(|(_, account)| account.service);
            Ok(gke::render::list("accounts", list.map(|(email, account)| show(inner, email, account)).collect()))
        }
        ("POST", []) => {
            may("iam.serviceAccounts.create")?;
            create(inner, &request.json()?)
        }
        ("GET" | "POST", [target]) if target.contains(':') => {
            let (email, action) = target.rsplit_once(':').unwrap_or((target, ""));
            act(inner, caller, request, email, action)
        }
        ("GET", [email]) => {
            may("iam.serviceAccounts.get")?;
            let (email, account) = find(inner, email)?;
            Ok(show(inner, &email, &account))
        }
        ("DELETE", [email]) => {
            may("iam.serviceAccounts.delete")?;
            let (email, _) = find(inner, email)?;
            inner.store.write(|state| {
                state.accounts.remove(&email);
                state.tokens.retain(|_, token| token.email != email);
                Ok(())
            })?;
            Ok(Value::object())
        }
        ("GET", [email, "keys"]) => {
            may("iam.serviceAccountKeys.list")?;
            let (email, account) = find(inner, email)?;
            let keys = account.keys.iter().map(|(id, key)| show_key(inner, &email, id, key));
            Ok(gke::render::list("keys", keys.collect()))
        }
        ("POST", [email, "keys"]) => {
            may("iam.serviceAccountKeys.create")?;
            create_key(inner, &find(inner, email)?.0)
        }
        ("POST", [email, "keys:upload"]) => {
            may("iam.serviceAccountKeys.create")?;
            upload_key(inner, &find(inner, email)?.0, request.json()?.str_at(&["publicKeyData"]))
        }
        ("GET", [email, "keys", id]) => {
            may("iam.serviceAccountKeys.get")?;
            let (email, account) = find(inner, email)?;
            let key = account.keys.get(*id).ok_or_else(|| unknown_key(id))?;
            Ok(show_key(inner, &email, id, key))
        }
        ("DELETE", [email, "keys", id]) => {
            may("iam.serviceAccountKeys.delete")?;
            let (email, _) = find(inner, email)?;
            inner.store.write(|state| {
                let removed = state.accounts.get_mut(&email).and_then(|account| account.keys.remove(*id));
                removed.map(|_| Value::object()).ok_or_else(|| unknown_key(id))
            })
        }
        _ => Err(method_not_found()),
    }
}

/// What is asked of one account: its policy, and tokens and signatures in its name (`credentials`).
fn act(inner: &Inner, caller: &Caller, request: &Request, email: &str, action: &str) -> Answer {
    let found = find(inner, email);
    let name = found.as_ref().map_or(email, |(email, _)| email.as_str()).to_owned();
    let held = |permission: &str| {
        let state = inner.store.read();
        caller.may(permission)
            || state.roles_on(&name, &caller.email).iter().any(|role| policy::iam::role_allows(role, permission))
    };
    let may = |permission: &str| if held(permission) { Ok(()) } else { Err(denied(permission)) };
    let post = request.verb == "POST";
    match action {
        "getIamPolicy" => {
            may("iam.serviceAccounts.getIamPolicy")?;
            let (_, account) = found?;
            Ok(projects::show_policy(&account.policy, account.policy_revision))
        }
        "setIamPolicy" if post => {
            may("iam.serviceAccounts.setIamPolicy")?;
            set_policy(inner, &found?.0, &request.json()?["policy"])
        }
        "testIamPermissions" if post => {
            let asked = request.json()?;
            let (_, _) = found?;
            let list = asked["permissions"].items().iter().filter(|p| p.as_str().is_some_and(held));
            Ok(gke::render::list("permissions", list.cloned().collect()))
        }
        _ => match credentials::permission(action).filter(|_| post) {
            Some(permission) => credentials::answer(inner, caller, request, email, (action, permission)),
            None => Err(method_not_found()),
        },
    }
}

/// 403 of an account that is not there for the caller, or not at all.
pub(super) fn denied(permission: &str) -> ApiError {
    let text = format!("Permission '{permission}' denied on resource (or it may not exist).");
    ApiError::new(Code::PermissionDenied, text)
}

fn set_policy(inner: &Inner, email: &str, asked: &Value) -> Answer {
    let bindings = projects::checked_bindings(inner, asked)?;
    inner.store.write(|state| {
        let account = state.accounts.get_mut(email).ok_or_else(|| ApiError::not_found("Unknown service account"))?;
        projects::check_etag(asked, account.policy_revision)?;
        account.policy = bindings;
        account.policy_revision += 1;
        Ok(projects::show_policy(&account.policy, account.policy_revision))
    })
}

fn unknown_key(id: &str) -> ApiError {
    ApiError::not_found(format!("Service account key {id} does not exist."))
}

/// By email or by unique id.
pub(super) fn find(inner: &Inner, name: &str) -> Result<(String, Account), ApiError> {
    let state = inner.store.read();
    let found = state.accounts.iter().find(|(email, a)| a.service && (*email == name || a.unique_id == name));
    let found = found.map(|(email, account)| (email.clone(), account.clone()));
    found.ok_or_else(|| ApiError::not_found(format!("Unknown service account {name}")))
}

fn show(inner: &Inner, email: &str, account: &Account) -> Value {
    let mut out = json!({
        "name": format!("projects/{}/serviceAccounts/{email}", inner.project), "projectId": inner.project,
        "uniqueId": account.unique_id, "email": email, "oauth2ClientId": account.unique_id,
        "etag": STANDARD.encode(account.display_name.as_bytes()),
    });
    if !account.display_name.is_empty() {
        out.set("displayName", account.display_name.as_str());
    }
    out
}

fn create(inner: &Inner, body: &Value) -> Answer {
    let id = body.str_at(&["accountId"]);
    let letters = id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let edges = id.starts_with(|c: char| c.is_ascii_lowercase()) && !id.ends_with('-');
    if !(6..=30).contains(&id.len()) || !letters || !edges {
        let text = format!(
            "Invalid service account ID {id:?}: must be 6 to 30 characters, begin with a letter and consist of lowercase \
             letters, digits and hyphens."
        );
        return Err(ApiError::invalid(text));
    }
    let email = format!("{id}@{}.iam.gserviceaccount.com", inner.project);
    let account = crate::identity::new_account(true, body.str_at(&["serviceAccount", "displayName"]), &inner.entropy);
    let shown = show(inner, &email, &account);
    inner.store.write(|state| {
        if state.accounts.contains_key(&email) {
            let text = format!("Service account {id} already exists within project projects/{}.", inner.project);
            return Err(ApiError::new(Code::AlreadyExists, text));
        }
        state.accounts.insert(email, account);
        Ok(())
    })?;
    Ok(shown)
}

fn show_key(inner: &Inner, email: &str, id: &str, key: &Key) -> Value {
    json!({
        "name": format!("projects/{}/serviceAccounts/{email}/keys/{id}", inner.project),
        "keyAlgorithm": "KEY_ALG_RSA_2048", "keyType": "USER_MANAGED",
        "keyOrigin": if key.uploaded { "USER_PROVIDED" } else { "GOOGLE_PROVIDED" },
        "validAfterTime": key.created, "validBeforeTime": "9999-12-31T23:59:59Z",
    })
}

fn store_key(inner: &Inner, email: &str, key: &Key) -> Result<String, ApiError> {
    let id: String = inner.entropy.bytes::<20>().iter().map(|byte| format!("{byte:02x}")).collect();
    inner.store.write(|state| {
        let account = state.accounts.get_mut(email).ok_or_else(|| ApiError::not_found("Unknown service account"))?;
        if account.keys.len() >= KEYS_MAX {
            return Err(ApiError::new(Code::FailedPrecondition, "Precondition check failed."));
        }
        account.keys.insert(id.clone(), key.clone());
        Ok(())
    })?;
    Ok(id)
}

fn create_key(inner: &Inner, email: &str) -> Answer {
    let internal = || ApiError::new(Code::Internal, "Internal error encountered.");
    let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| internal())?;
    let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| internal())?;
    let key = credentials::public_half(inner, email, &pair, der.as_ref())?;
    let id = store_key(inner, email, &key)?;
    let unique_id = find(inner, email)?.1.unique_id;
    let file = json!({
        "type": "service_account", "project_id": inner.project, "private_key_id": id, "private_key": pem(der.as_ref()),
        "client_email": email, "client_id": unique_id, "auth_uri": "https://accounts.google.com/o/oauth2/auth",
        "token_uri": format!("{}/token", inner.endpoint),
        "auth_provider_x509_cert_url": format!("{}/oauth2/v1/certs", inner.endpoint),
        "client_x509_cert_url": format!("{}/robot/v1/metadata/x509/{email}", inner.endpoint),
        "universe_domain": "googleapis.com",
    });
    let mut out = show_key(inner, email, &id, &key);
    out.set("privateKeyType", "TYPE_GOOGLE_CREDENTIALS_FILE");
    out.set("privateKeyData", STANDARD.encode(file.to_string()));
    Ok(out)
}

/// PKCS #8 as text, as key files have it.
fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}

/// `data` is base64 of an X.509 certificate in PEM, self-signed by the key's owner.
fn upload_key(inner: &Inner, email: &str, data: &str) -> Answer {
    let wrong = || ApiError::invalid("Public key data is not a valid base64-encoded X.509 certificate in PEM form.");
    let text = STANDARD.decode(data).map_err(|_| wrong())?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&text).map_err(|_| wrong())?;
    let certificate = pem.parse_x509().map_err(|_| wrong())?;
    let parsed = certificate.public_key().parsed().map_err(|_| wrong())?;
    let x509_parser::public_key::PublicKey::RSA(rsa) = parsed else { return Err(wrong()) };
    let strip = |number: &[u8]| number.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
    let key = Key {
        n: URL_SAFE_NO_PAD.encode(strip(rsa.modulus)),
        e: URL_SAFE_NO_PAD.encode(strip(rsa.exponent)),
        uploaded: true,
        created: inner.clock.now().rfc3339(),
        certificate: String::from_utf8_lossy(&text).into_owned(),
    };
    let id = store_key(inner, email, &key)?;
    Ok(show_key(inner, email, &id, &key))
}
