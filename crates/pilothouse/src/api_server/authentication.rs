//! kube-apiserver's flags about who calls: issuers of tokens, a webhook, front proxies, service accounts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use apiserver::{ApiServer, Config, RequestHeader, TokenWebhook, TrustedIssuer};
use base::Clock;
use clap::Args;
use policy::Anonymous;
use policy::jwt::{AuthenticationConfig, ClaimMapping, Expressions, JwtAuthenticator};
use tracing::{info, warn};

/// How often the configuration file is looked at.
const CONFIG_INTERVAL: Duration = Duration::from_secs(1);

/// Where Linux distributions keep the system's authorities; the first that is there counts (Go's `crypto/x509`).
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

#[derive(Debug, Clone, Args)]
pub(crate) struct AuthenticationArgs {
    /// File with an AuthenticationConfiguration: issuers of tokens, anonymous requests; no CEL expressions
    #[arg(long, value_name = "FILE")]
    authentication_config: Option<PathBuf>,
    /// Answer requests without credentials as system:anonymous [default: true]
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    anonymous_auth: Option<bool>,
    /// Issuer whose tokens are accepted, an https URL
    #[arg(long, value_name = "URL")]
    oidc_issuer_url: Option<String>,
    /// Audience that its tokens must be for
    #[arg(long, value_name = "NAME")]
    oidc_client_id: Option<String>,
    /// Authority of the issuer's server [default: the system's]
    #[arg(long, value_name = "FILE")]
    oidc_ca_file: Option<PathBuf>,
    /// Claim that becomes the user's name [default: sub]
    #[arg(long, value_name = "CLAIM")]
    oidc_username_claim: Option<String>,
    /// What is put before it; `-` for nothing [default: the issuer's URL and #, unless the claim is email]
    #[arg(long, value_name = "TEXT")]
    oidc_username_prefix: Option<String>,
    /// Claim that becomes the user's groups
    #[arg(long, value_name = "CLAIM")]
    oidc_groups_claim: Option<String>,
    /// What is put before each group
    #[arg(long, value_name = "TEXT")]
    oidc_groups_prefix: Option<String>,
    /// Algorithms that are accepted [default: RS256]
    #[arg(long, value_name = "ALG,...", value_delimiter = ',')]
    oidc_signing_algs: Vec<String>,
    /// Claim that must have this value
    #[arg(long, value_name = "CLAIM=VALUE")]
    oidc_required_claim: Vec<String>,
    /// kubeconfig of a service that is asked about bearer tokens
    #[arg(long, value_name = "FILE")]
    authentication_token_webhook_config_file: Option<PathBuf>,
    /// Version of TokenReview to send
    #[arg(long, value_name = "VERSION", default_value = "v1beta1")]
    authentication_token_webhook_version: String,
    /// How long its answers are kept
    #[arg(long, value_name = "DURATION", default_value = "2m0s", value_parser = go_duration)]
    authentication_token_webhook_cache_ttl: Duration,
    /// Headers in which a front proxy names the user
    #[arg(long, value_name = "HEADER,...", value_delimiter = ',')]
    requestheader_username_headers: Vec<String>,
    /// Headers in which it names the user's UID
    #[arg(long, value_name = "HEADER,...", value_delimiter = ',')]
    requestheader_uid_headers: Vec<String>,
    /// Headers in which it names groups
    #[arg(long, value_name = "HEADER,...", value_delimiter = ',')]
    requestheader_group_headers: Vec<String>,
    /// Prefixes of headers with extra information
    #[arg(long, value_name = "PREFIX,...", value_delimiter = ',')]
    requestheader_extra_headers_prefix: Vec<String>,
    /// Common names that a front proxy's certificate may have [default: any]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    requestheader_allowed_names: Vec<String>,
    /// Accept Secrets of type bootstrap.kubernetes.io/token as credentials
    #[arg(long, value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    enable_bootstrap_token_auth: bool,
    /// Issuer of service-account tokens, an https URL; of several the first signs, all are accepted
    #[arg(long, value_name = "URL", required = true)]
    service_account_issuer: Vec<String>,
    /// Where the keys of service-account tokens are published [default: at the advertised address]
    #[arg(long, value_name = "URL")]
    service_account_jwks_uri: Option<String>,
    /// Longest lifetime of a requested token [default: none]
    #[arg(long, value_name = "DURATION", default_value = "0s", hide_default_value = true, value_parser = go_duration)]
    service_account_max_token_expiration: Duration,
    /// Let the tokens that kubelets mount live for a year
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    service_account_extend_token_expiration: bool,
}

impl AuthenticationArgs {
    /// Puts all of it into the server's settings. A front proxy's authority is a flag of its own.
    ///
    /// # Errors
    /// When a file cannot be used, or flags contradict each other; in upstream's words where it has any.
    pub(super) fn apply(&self, config: &mut Config) -> Result<()> {
        self.service_accounts(config)?;
        let file = self.config_file()?;
        config.access.anonymous = match (file.as_ref().and_then(|f| f.anonymous.clone()), self.anonymous_auth) {
            (Some(_), Some(_)) => bail!(
                "anonymous: Forbidden: --anonynous-auth flag cannot be set when anonymous field is configured in \
                 authentication configuration file"
            ),
            (Some(anonymous), None) => anonymous,
            (None, Some(false)) => Anonymous::Off,
            (None, _) => Anonymous::On,
        };
        let rules = match file {
            Some(file) => file.jwt,
            None => self.oidc()?.into_iter().collect(),
        };
        config.jwt = trusted(rules, &config.clock)?;
        config.webhook = self.webhook(&config.clock)?;
        config.bootstrap_tokens = self.enable_bootstrap_token_auth;
        config.request_header = RequestHeader {
            allowed_names: self.requestheader_allowed_names.clone(),
            username: self.requestheader_username_headers.clone(),
            uid: self.requestheader_uid_headers.clone(),
            groups: self.requestheader_group_headers.clone(),
            extra_prefixes: self.requestheader_extra_headers_prefix.clone(),
        };
        Ok(())
    }

    fn service_accounts(&self, config: &mut Config) -> Result<()> {
        for (i, issuer) in self.service_account_issuer.iter().enumerate() {
            if issuer.is_empty() {
                bail!("service-account-issuer should not be an empty string");
            }
            if self.service_account_issuer[..i].contains(issuer) {
                bail!("service-account-issuer {issuer:?} is already specified");
            }
        }
        let mut issuers = self.service_account_issuer.iter().cloned();
        config.issuer = issuers.next().unwrap_or_default();
        config.further_issuers = issuers.collect();
        if let Some(uri) = &self.service_account_jwks_uri {
            if !uri.starts_with("https://") {
                bail!("service-account-jwks-uri requires https scheme, parsed as: {uri}");
            }
            config.jwks_uri.clone_from(uri);
        }
        let most = i64::try_from(self.service_account_max_token_expiration.as_secs()).unwrap_or(i64::MAX);
        if most > 0 && !(3600..=1 << 32).contains(&most) {
            bail!("the service-account-max-token-expiration must be between 1 hour and 2^32 seconds");
        }
        config.token_seconds_max = (most > 0).then_some(most);
        config.extend_tokens = self.service_account_extend_token_expiration;
        Ok(())
    }

    fn config_file(&self) -> Result<Option<AuthenticationConfig>> {
        let Some(file) = &self.authentication_config else { return Ok(None) };
        if self.has_oidc_flags() {
            bail!("authentication-config file and oidc-* flags are mutually exclusive");
        }
        let text = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        self.parse(&text)
            .map(Some)
            .map_err(|why| anyhow!("invalid authentication config: {why}").context(file.display().to_string()))
    }

    fn parse(&self, text: &[u8]) -> Result<AuthenticationConfig, String> {
        AuthenticationConfig::parse(text, &self.service_account_issuer, &pki::SIGNING_ALGORITHMS)
    }

    /// Watches the configuration file and gives the server what it says anew, for as long as the server runs. What cannot
    /// be used is logged once and the issuers stay as they are; whether anonymous requests are taken does not change.
    pub(super) async fn follow(&self, server: &ApiServer, clock: &Clock) {
        let Some(file) = &self.authentication_config else { return std::future::pending().await };
        let mut known = std::fs::read(file).unwrap_or_default();
        let anonymous = self.parse(&known).ok().and_then(|config| config.anonymous);
        let mut turns = tokio::time::interval(CONFIG_INTERVAL);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            // A file that is being replaced may be away for a moment.
            let Ok(text) = tokio::fs::read(file).await else { continue };
            if text == known {
                continue;
            }
            let outcome = match self.parse(&text) {
                Ok(config) if config.anonymous != anonymous => {
                    Err(anyhow!("anonymous: Forbidden: changed from initial configuration file"))
                }
                Ok(config) => trusted(config.jwt, clock),
                Err(why) => Err(anyhow!(why)),
            };
            let outcome = match outcome {
                Ok(issuers) => server.set_issuers(&issuers).await.map_err(|why| anyhow!(why)),
                Err(why) => {
                    // What is wrong will not become right by itself.
                    known.clone_from(&text);
                    Err(why)
                }
            };
            server.count_authentication_reload(outcome.is_ok());
            match outcome {
                Ok(()) => {
                    known = text;
                    info!(file = %file.display(), "reloaded authentication config");
                }
                Err(why) => {
                    warn!(file = %file.display(), why = %format!("{why:#}"), "failed to reload authentication config")
                }
            }
        }
    }

    fn has_oidc_flags(&self) -> bool {
        let single = [
            &self.oidc_issuer_url,
            &self.oidc_client_id,
            &self.oidc_username_claim,
            &self.oidc_username_prefix,
            &self.oidc_groups_claim,
            &self.oidc_groups_prefix,
        ];
        single.iter().any(|flag| flag.is_some())
            || self.oidc_ca_file.is_some()
            || !self.oidc_signing_algs.is_empty()
            || !self.oidc_required_claim.is_empty()
    }

    fn oidc(&self) -> Result<Option<JwtAuthenticator>> {
        if !self.has_oidc_flags() {
            return Ok(None);
        }
        let (Some(issuer), Some(client)) = (&self.oidc_issuer_url, &self.oidc_client_id) else {
            bail!("oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set")
        };
        let claim = self.oidc_username_claim.clone().unwrap_or_else(|| "sub".to_owned());
        let prefix = match self.oidc_username_prefix.as_deref() {
            None | Some("") if claim != "email" => format!("{issuer}#"),
            None | Some("" | "-") => String::new(),
            Some(prefix) => prefix.to_owned(),
        };
        let groups_prefix = self.oidc_groups_prefix.clone().unwrap_or_default();
        let groups = self.oidc_groups_claim.clone().map(|claim| ClaimMapping { claim, prefix: groups_prefix });
        let mut algorithms = self.oidc_signing_algs.clone();
        if algorithms.is_empty() {
            algorithms.push("RS256".to_owned());
        }
        if let Some(unknown) = algorithms.iter().find(|a| !pki::SIGNING_ALGORITHMS.contains(&a.as_str())) {
            bail!("oidc: unsupported signing alg: {unknown:?}");
        }
        let required = self.oidc_required_claim.iter().map(|pair| match pair.split_once('=') {
            Some((claim, value)) => Ok((claim.to_owned(), value.to_owned())),
            None => Err(anyhow!("--oidc-required-claim: malformed pair, expect string=string")),
        });
        let rules = JwtAuthenticator {
            issuer: issuer.clone(),
            discovery_url: String::new(),
            certificate_authority: self.oidc_ca_file.as_deref().map(read).transpose()?.unwrap_or_default(),
            audiences: vec![client.clone()],
            required: required.collect::<Result<_>>()?,
            username: ClaimMapping { claim, prefix },
            groups,
            uid: None,
            algorithms,
            expressions: Expressions::default(),
        };
        rules.check_flags(&self.service_account_issuer).map_err(|why| anyhow!(why))?;
        Ok(Some(rules))
    }

    fn webhook(&self, clock: &Clock) -> Result<Option<TokenWebhook>> {
        let Some(file) = &self.authentication_token_webhook_config_file else { return Ok(None) };
        let version = &self.authentication_token_webhook_version;
        if !matches!(version.as_str(), "v1" | "v1beta1") {
            bail!("unsupported authentication webhook version {version:?}, supported versions are \"v1\", \"v1beta1\"");
        }
        let directory = file.parent().unwrap_or(Path::new("/"));
        let read_beside = |path: &str| {
            let path = directory.join(path);
            std::fs::read_to_string(&path).map_err(|e| format!("reading {}: {e}", path.display()))
        };
        let (url, tls, authorization) = apiserver::read_webhook_config(&read(file)?, read_beside, clock)
            .map_err(|why| anyhow!(why).context(file.display().to_string()))?;
        let cache = self.authentication_token_webhook_cache_ttl;
        Ok(Some(TokenWebhook { url, tls, authorization, version: version.clone(), cache }))
    }
}

fn trusted(rules: Vec<JwtAuthenticator>, clock: &Clock) -> Result<Vec<TrustedIssuer>> {
    if rules.is_empty() {
        return Ok(Vec::new());
    }
    let roots =
        if rules.iter().any(|rule| rule.certificate_authority.is_empty()) { system_roots()? } else { String::new() };
    let issuer = |rules: JwtAuthenticator| {
        let name = rules.issuer.clone();
        TrustedIssuer::new(rules, &roots, clock).with_context(|| format!("the authority of {name}"))
    };
    rules.into_iter().map(issuer).collect()
}

fn system_roots() -> Result<String> {
    if let Some(file) = std::env::var_os("SSL_CERT_FILE") {
        return read(Path::new(&file));
    }
    let found = SYSTEM_ROOTS.iter().find(|file| Path::new(file).is_file());
    read(Path::new(found.context("the system has no authorities; name the issuer's, or set SSL_CERT_FILE")?))
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}

/// `1h30m`, `2m0s`, `10s`, `500ms` (Go's `time.ParseDuration`, without fractions and signs).
fn go_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("time: invalid duration {text:?}");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut sum) = (text, Duration::ZERO);
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let millis = match &rest[digits..digits + unit] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        let part = number.checked_mul(millis).map(Duration::from_millis).ok_or_else(wrong)?;
        sum = sum.checked_add(part).ok_or_else(wrong)?;
        rest = &rest[digits + unit..];
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: AuthenticationArgs,
    }

    fn parse(more: &[&str]) -> AuthenticationArgs {
        let all = ["x", "--service-account-issuer=https://own"].iter().chain(more);
        Line::try_parse_from(all).map_err(|error| error.to_string()).unwrap().args
    }

    #[test]
    fn oidc_flags_become_one_authenticator() {
        assert!(parse(&[]).oidc().unwrap().is_none());
        let both = ["--oidc-issuer-url=https://a", "--oidc-client-id=c"];
        let plain = parse(&both).oidc().unwrap().unwrap();
        assert_eq!((plain.username.claim.as_str(), plain.username.prefix.as_str()), ("sub", "https://a#"));
        assert_eq!(plain.algorithms, ["RS256"]);
        let with = |more: &[&str]| parse(&[&both[..], more].concat()).oidc();
        assert_eq!(with(&["--oidc-username-claim=email"]).unwrap().unwrap().username.prefix, "");
        assert_eq!(with(&["--oidc-username-prefix=-"]).unwrap().unwrap().username.prefix, "");
        let all = with(&["--oidc-groups-claim=g", "--oidc-groups-prefix=p:", "--oidc-required-claim=hd=x=y"])
            .unwrap()
            .unwrap();
        assert_eq!(all.groups, Some(ClaimMapping { claim: "g".to_owned(), prefix: "p:".to_owned() }));
        assert_eq!(all.required, [("hd".to_owned(), "x=y".to_owned())]);
        for (flags, error) in [
            (vec!["--oidc-issuer-url=https://a"], "must be specified together"),
            (vec!["--oidc-ca-file=/x"], "must be specified together"),
            (vec![both[0], both[1], "--oidc-signing-algs=HS256"], "unsupported signing alg: \"HS256\""),
            (vec![both[0], both[1], "--oidc-required-claim=x"], "malformed pair"),
            (vec!["--oidc-issuer-url=http://a", both[1]], "URL scheme must be https"),
            (vec!["--oidc-issuer-url=https://own", both[1]], "must not overlap with disallowed issuers"),
        ] {
            let refused = parse(&flags).oidc().unwrap_err().to_string();
            assert!(refused.contains(error), "{flags:?}: {refused}");
        }
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, seconds) in [("2m0s", 120), ("1h30m", 5400), ("10s", 10), ("0", 0), ("0s", 0)] {
            assert_eq!(go_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "10", "s", "1d", "-1s", "1 s", "99999999999999999999s"] {
            assert!(go_duration(bad).is_err(), "{bad}");
        }
    }
}
