//! What metadata servers hand to machines: tokens of the machine's service account, without a key.

use gke::metadata::Machine;
use http::{HeaderMap, HeaderValue, header};
use machinery::{Value, json};

use crate::http::Request;
use crate::identity::TOKEN_SECONDS;
use crate::services::oauth::{ISSUER, sign_identity};
use crate::{Cloud, CloudError};

/// What an identity token in full form says of the machine (`google.compute_engine`).
#[derive(Clone, Debug)]
pub struct MachineClaims(Value);

impl MachineClaims {
    /// As the machine's own metadata has it.
    pub fn of(machine: &Machine) -> Self {
        let number: u64 = machine.project_number.parse().unwrap_or_default();
        Self(json!({"compute_engine": {"instance_id": machine.id.to_string(), "instance_name": machine.name,
            "project_id": machine.project, "project_number": number, "zone": machine.zone}}))
    }
}

impl Cloud {
    /// What a POST of JSON to one of the cloud's APIs is answered, without a connection; `token` is the caller's, empty for
    /// none. Blocks for a write.
    pub fn post(&self, path: &str, token: &str, body: &Value) -> (u16, Value) {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}"))
            && !token.is_empty()
        {
            headers.insert(header::AUTHORIZATION, value);
        }
        let (verb, body) = ("POST".to_owned(), body.to_vec().into());
        let request = Request { verb, path: path.to_owned(), query: Vec::new(), headers, body, same_user: true };
        let reply = crate::services::answer(&self.0, &request);
        (reply.code, Value::from_slice(&reply.body).unwrap_or_default())
    }

    /// An access token of a machine's service account, and for how many seconds. Blocks for a write.
    ///
    /// # Errors
    /// When the account does not exist, or the state cannot be written.
    pub fn machine_token(&self, account: &str, scopes: Vec<String>) -> Result<(String, i64), CloudError> {
        self.unique_id(account)?;
        let token = self.0.new_token(account, scopes, Some(TOKEN_SECONDS)).map_err(CloudError::Refused)?;
        Ok((token, TOKEN_SECONDS))
    }

    /// An identity token of a machine's service account; with `machine` in full form. Its first use makes the key.
    ///
    /// # Errors
    /// As [`Cloud::machine_token`].
    pub fn machine_identity(
        &self,
        account: &str,
        audience: &str,
        machine: Option<MachineClaims>,
    ) -> Result<String, CloudError> {
        let id = self.unique_id(account)?;
        let now = self.0.clock.now().unix_seconds();
        let mut claims =
            json!({"aud": audience, "azp": id, "exp": now + TOKEN_SECONDS, "iat": now, "iss": ISSUER, "sub": id});
        if let Some(MachineClaims(machine)) = machine {
            claims.set("email", account);
            claims.set("email_verified", true);
            claims.set("google", machine);
        }
        sign_identity(&self.0, &claims).map_err(CloudError::Refused)
    }

    fn unique_id(&self, account: &str) -> Result<String, CloudError> {
        let state = self.0.store.read();
        let found = state.accounts.get(account).map(|account| account.unique_id.clone());
        let missing = || gke::ApiError::not_found(format!("Unknown service account {account}"));
        found.ok_or_else(|| CloudError::Refused(missing()))
    }
}
