//! What `--auth-token` says: `simple`, or `jwt,pub-key=FILE,priv-key=FILE,sign-method=RS256,ttl=10m`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::jwt::Method;

/// etcd's default life of a signed token.
const JWT_TTL_DEFAULT: Duration = Duration::from_secs(300);
const INVALID: &str = "auth: invalid auth options";

/// Which tokens are made and taken.
#[derive(Debug)]
pub(super) enum Options {
    /// Kept in memory.
    Simple,
    /// Signed.
    Jwt(JwtOptions),
    /// None: only certificates tell who a client is.
    None,
}

/// How tokens are signed. A missing file is one that was not given.
#[derive(Debug)]
pub(super) struct JwtOptions {
    pub(super) method: Method,
    pub(super) public: Option<Vec<u8>>,
    pub(super) private: Option<Vec<u8>>,
    pub(super) ttl: Duration,
}

impl Options {
    /// # Errors
    /// etcd's one text for whatever is wrong here; the log says more.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let kind = parts.next().unwrap_or_default();
        let mut values = BTreeMap::new();
        for part in parts {
            let pair = part.split_once('=').filter(|(_, value)| !value.contains('='));
            let (name, value) = pair.ok_or(INVALID)?;
            if values.insert(name, value).is_some() {
                return Err(INVALID.to_owned());
            }
        }
        match kind {
            "simple" => Ok(Self::Simple),
            "jwt" => JwtOptions::new(&values).map(Self::Jwt),
            "" => Ok(Self::None),
            _ => Err(INVALID.to_owned()),
        }
    }
}

impl JwtOptions {
    fn new(values: &BTreeMap<&str, &str>) -> Result<Self, String> {
        let given = |name: &str| values.get(name).copied().filter(|value| !value.is_empty());
        let invalid = |error: &dyn std::fmt::Display| {
            tracing::error!(target: "etcd", %error, "problem loading JWT options");
            INVALID.to_owned()
        };
        let file = |name: &str| -> Result<Option<Vec<u8>>, String> {
            let Some(path) = given(name).map(PathBuf::from) else { return Ok(None) };
            std::fs::read(&path).map(Some).map_err(|error| invalid(&format!("{}: {error}", path.display())))
        };
        let unknown: Vec<_> = values.keys().filter(|name| !KNOWN.contains(name)).collect();
        if !unknown.is_empty() {
            tracing::warn!(target: "etcd", keys = ?unknown, "unknown JWT options");
        }
        let ttl = match given("ttl") {
            Some(text) => crate::flags::duration_of(text).ok_or_else(|| invalid(&format!("ttl {text}")))?,
            None => JWT_TTL_DEFAULT,
        };
        let (public, private) = (file("pub-key")?, file("priv-key")?);
        let method = given("sign-method").unwrap_or_default();
        let method = Method::named(method).ok_or_else(|| invalid(&format!("sign-method {method}")))?;
        Ok(Self { method, public, private, ttl })
    }
}

const KNOWN: [&str; 4] = ["sign-method", "pub-key", "priv-key", "ttl"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_etcd_reads_them() {
        let check = |text: &str, expect: &str| {
            let read = match Options::parse(text) {
                Ok(Options::Simple) => "simple".to_owned(),
                Ok(Options::None) => "none".to_owned(),
                Ok(Options::Jwt(jwt)) => format!("{} {:?}", jwt.method.name, jwt.ttl),
                Err(error) => error,
            };
            assert_eq!(read, expect, "{text}");
        };
        check("simple", "simple");
        check("simple,any=thing", "simple");
        check("", "none");
        check("jwt,sign-method=ES256", "ES256 300s");
        check("jwt,sign-method=HS512,ttl=1h", "HS512 3600s");
        check("jwt,sign-method=HS512,ttl=,odd=x", "HS512 300s");
        for bad in [
            "opaque",
            "jwt",
            "jwt,sign-method=none",
            "jwt,sign-method=HS256,ttl=x",
            "jwt,sign-method=HS256,sign-method=HS256",
            "jwt,sign-method",
            "jwt,sign-method=HS256=",
            "jwt,sign-method=HS256,priv-key=/nonexistent",
        ] {
            check(bad, INVALID);
        }
    }
}
