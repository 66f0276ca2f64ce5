//! What the flags of the client port come to: checked as etcd checks them, then put into the form that serves.

use crate::compactor::Keep;
use crate::flags::Flags;
use crate::listen::{Place, Url};
use crate::logging::level;
use crate::router::Traffic;
use crate::serve::ServeOptions;
use crate::tls::{Certificate, Settings as TlsSettings};

/// Cipher suites that Go knows, of which only some are offered here.
const SUITES: &[&str] = &[
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
];

/// Flags that 3.6 has under two names: the old and the new one.
const RENAMED: &[&str] = &[
    "compact-hash-check-time",
    "corrupt-check-time",
    "compaction-batch-limit",
    "watch-progress-notify-interval",
    "warning-apply-duration",
    "bootstrap-defrag-threshold-megabytes",
    "memory-mlock",
    "snapshot-catchup-entries",
    "compaction-sleep-interval",
    "downgrade-check-time",
    "enable-distributed-tracing",
    "distributed-tracing-address",
    "distributed-tracing-service-name",
    "distributed-tracing-instance-id",
    "distributed-tracing-sampling-rate",
    "peer-skip-client-san-verification",
];

/// How the client port is served.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) listeners: Vec<(Url, Traffic)>,
    pub(crate) reuse_port: bool,
    pub(crate) options: ServeOptions,
    /// Nothing without a certificate.
    pub(crate) tls: Option<TlsSettings>,
    pub(crate) compaction: Option<Keep>,
    /// Whether calls are timed.
    pub(crate) timed: bool,
    /// Calls that take longer are told.
    pub(crate) slow_call: std::time::Duration,
}

fn urls(flags: &Flags, name: &str) -> Result<Vec<Url>, String> {
    flags.list(name).iter().map(|text| Url::parse(text)).collect()
}

impl Settings {
    /// Checks the flags, in etcd's order, and puts them together.
    ///
    /// # Errors
    /// In etcd's words (`embed.Config.Validate` and what follows it); it ends with code 1 then.
    pub(crate) fn new(flags: &Flags) -> Result<Self, String> {
        for new in RENAMED {
            let old = format!("experimental-{new}");
            if flags.given(&old) && flags.given(new) {
                return Err(format!("cannot set --{old} and --{new} at the same time, please use --{new} only"));
            }
        }
        check_logging(flags)?;
        let [clients, clients_http, metrics] = [
            urls(flags, "listen-client-urls")?,
            urls(flags, "listen-client-http-urls")?,
            urls(flags, "listen-metrics-urls")?,
        ];
        for url in clients.iter().chain(&clients_http).chain(&metrics) {
            url.check_bind()?;
        }
        for url in urls(flags, "advertise-client-urls")? {
            let all = flags.list("advertise-client-urls").join(",");
            url.check_host().map_err(|why| format!("--advertise-client-urls {all:?} must be \"host:port\" ({why})"))?;
        }
        check_bootstrap(flags)?;
        let from_file = flags.given("config-file");
        if flags.given("listen-client-urls") && !flags.given("advertise-client-urls") && !from_file {
            return Err("--advertise-client-urls is required when --listen-client-urls is set explicitly".to_owned());
        }
        match flags.text("auto-compaction-mode") {
            "revision" | "periodic" => {}
            "" => return Err("undefined auto-compaction-mode".to_owned()),
            mode => return Err(format!("unknown auto-compaction-mode {mode:?}")),
        }
        check_tls(flags)?;
        let compaction = Keep::parse(flags.text("auto-compaction-mode"), flags.text("auto-compaction-retention"))?;
        let traffic = if clients_http.is_empty() { Traffic::All } else { Traffic::Grpc };
        let mut listeners: Vec<_> = clients.into_iter().map(|url| (url, traffic)).collect();
        listeners.extend(clients_http.into_iter().map(|url| (url, Traffic::Http)));
        listeners.extend(metrics.into_iter().map(|url| (url, Traffic::Metrics)));
        let tls = tls(flags, &listeners);
        if let Some((url, traffic)) = listeners.iter().find(|(url, _)| url.tls && tls.is_none()) {
            let missing = "TLS key/cert (--cert-file, --key-file) must be provided for";
            return Err(match traffic {
                Traffic::Metrics => format!("client {missing} metrics secure url"),
                _ => format!("{missing} client url {} with HTTPS scheme", url.text),
            });
        }
        Ok(Self {
            listeners,
            reuse_port: flags.is_set("socket-reuse-port"),
            options: options(flags),
            tls,
            compaction,
            timed: flags.text("metrics") == "extensive",
            slow_call: slow_call(flags)?,
        })
    }
}

fn check_logging(flags: &Flags) -> Result<(), String> {
    match flags.text("logger") {
        "zap" => {}
        other => return Err(format!("unknown logger option {other:?}")),
    }
    match flags.text("log-format") {
        "json" | "console" => {}
        other => return Err(format!("unknown log format: {other}, supported values json, console")),
    }
    let outputs = flags.list("log-outputs");
    if outputs.len() > 1 && outputs.iter().any(|output| output == "default") {
        return Err("multi logoutput for \"default\" is not supported yet".to_owned());
    }
    match level(flags.text("log-level")) {
        Some(_) => Ok(()),
        None => Err(format!("unrecognized level: {:?}", flags.text("log-level"))),
    }
}

fn check_bootstrap(flags: &Flags) -> Result<(), String> {
    let given = ["initial-cluster", "discovery", "discovery-endpoints", "discovery-srv"];
    if given.iter().filter(|name| !flags.text(name).is_empty()).count() > 1 {
        return Err("multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
                    \"discovery\", \"discovery-endpoints\" or \"discovery-srv\""
            .to_owned());
    }
    if flags.text("discovery-token").is_empty() != flags.text("discovery-endpoints").is_empty() {
        return Err("both --discovery-token and --discovery-endpoints must be set".to_owned());
    }
    Ok(())
}

fn check_tls(flags: &Flags) -> Result<(), String> {
    let (min, max) = (flags.text("tls-min-version"), flags.text("tls-max-version"));
    check_tls_version(min)?;
    check_tls_version(max)?;
    check_tls_choice(min, max, &flags.list("cipher-suites"))
}

/// Whether this is one of etcd's names; an empty one sets no bound.
///
/// # Errors
/// In etcd's words.
pub(crate) fn check_tls_version(version: &str) -> Result<(), String> {
    if !matches!(version, "" | "TLS1.2" | "TLS1.3") {
        return Err(format!("unexpected TLS version {version:?} (must be one of: TLS1.2, TLS1.3)"));
    }
    Ok(())
}

/// Whether versions and cipher suites go together, and Go knows all of these.
///
/// # Errors
/// In etcd's words.
pub(crate) fn check_tls_choice(min: &str, max: &str, suites: &[String]) -> Result<(), String> {
    if max == "TLS1.2" && min == "TLS1.3" {
        return Err(format!("min version ({min}) is greater than max version ({max})"));
    }
    if min == "TLS1.3" && !suites.is_empty() {
        return Err("cipher suites cannot be configured when only TLS1.3 is enabled".to_owned());
    }
    match suites.iter().find(|suite| !SUITES.contains(&suite.as_str())) {
        Some(suite) => Err(format!("unexpected TLS cipher suite {suite:?}")),
        None => Ok(()),
    }
}

/// How long a call may take before it is told of; etcd's default is 300 ms.
fn slow_call(flags: &Flags) -> Result<std::time::Duration, String> {
    let [new, old] = ["warning-unary-request-duration", "experimental-warning-unary-request-duration"];
    let (new, old) = (flags.duration(new), flags.duration(old));
    if !new.is_zero() && !old.is_zero() {
        return Err(
            "both --experimental-warning-unary-request-duration and --warning-unary-request-duration flags are \
                    set. Use only --warning-unary-request-duration"
                .to_owned(),
        );
    }
    let given = new.max(old);
    Ok(if given.is_zero() { std::time::Duration::from_millis(300) } else { given })
}

fn options(flags: &Flags) -> ServeOptions {
    ServeOptions {
        origins: flags.list("cors"),
        hosts: flags.list("host-whitelist"),
        gateway: flags.is_set("enable-grpc-gateway"),
        streams_max: u32::try_from(flags.number("max-concurrent-streams")).unwrap_or(u32::MAX),
        client_ping_interval_min: flags.duration("grpc-keepalive-min-time"),
        ping_interval: flags.duration("grpc-keepalive-interval"),
        ping_timeout: flags.duration("grpc-keepalive-timeout"),
        ..ServeOptions::default()
    }
}

fn tls(flags: &Flags, listeners: &[(Url, Traffic)]) -> Option<TlsSettings> {
    let (certificate, key) = (flags.text("cert-file"), flags.text("key-file"));
    let certificate = if !certificate.is_empty() || !key.is_empty() {
        Certificate::Files { certificate: certificate.to_owned(), key: key.to_owned() }
    } else if flags.is_set("auto-tls") {
        let hosts = listeners.iter().filter_map(|(url, _)| match &url.place {
            Place::Tcp(host, _) => Some(host.clone()),
            Place::Unix(_) => None,
        });
        Certificate::SelfSigned { names: hosts.collect(), years: flags.number("self-signed-cert-validity").max(1) }
    } else {
        return None;
    };
    Some(TlsSettings {
        certificate,
        trusted_ca: flags.text("trusted-ca-file").to_owned(),
        client_cert_auth: flags.is_set("client-cert-auth"),
        crl: flags.text("client-crl-file").to_owned(),
        names: flags.list("client-cert-allowed-hostname"),
        version_min: flags.text("tls-min-version").to_owned(),
        version_max: flags.text("tls-max-version").to_owned(),
        cipher_suites: flags.list("cipher-suites"),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read(args: &[&str]) -> Result<Settings, String> {
        let args = args.iter().map(std::ffi::OsString::from).collect();
        Settings::new(&Flags::parse(args, |_| None).expect("each has its form"))
    }

    #[test]
    fn contradictions_are_refused_in_etcds_words() {
        let check = |args: &[&str], expect: &str| assert_eq!(read(args).expect_err(expect), expect);
        check(&["--listen-client-urls=http://foo:1"], "expected IP in URL for binding (http://foo:1)");
        check(
            &["--listen-client-urls=http://127.0.0.1:0"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        );
        check(&["--auto-compaction-mode=x"], "unknown auto-compaction-mode \"x\"");
        check(&["--auto-compaction-mode="], "undefined auto-compaction-mode");
        check(
            &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        );
        check(&["--tls-min-version=TLS1.1"], "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)");
        check(&["--cipher-suites=x"], "unexpected TLS cipher suite \"x\"");
        check(
            &["--tls-min-version=TLS1.3", "--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA"],
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        );
        check(&["--log-format=bogus"], "unknown log format: bogus, supported values json, console");
        check(&["--log-outputs=default,stdout"], "multi logoutput for \"default\" is not supported yet");
        check(&["--logger=x"], "unknown logger option \"x\"");
        check(
            &["--watch-progress-notify-interval=1s", "--experimental-watch-progress-notify-interval=1s"],
            "cannot set --experimental-watch-progress-notify-interval and --watch-progress-notify-interval at the same \
             time, please use --watch-progress-notify-interval only",
        );
        check(
            &["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://127.0.0.1:1"],
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme",
        );
        check(
            &["--discovery=http://x:1", "--initial-cluster=a=http://x:1"],
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery\", \
             \"discovery-endpoints\" or \"discovery-srv\"",
        );
    }

    #[test]
    fn flags_become_listeners_and_limits() {
        let settings = read(&[
            "--listen-client-urls=http://127.0.0.1:1,unix://a.sock",
            "--advertise-client-urls=http://127.0.0.1:1",
            "--listen-client-http-urls=http://127.0.0.1:2",
            "--listen-metrics-urls=http://127.0.0.1:3",
            "--max-concurrent-streams=9",
            "--grpc-keepalive-min-time=1s",
            "--cors=http://a:1",
            "--metrics=extensive",
            "--auto-compaction-retention=5m",
        ]);
        let settings = settings.expect("good flags");
        let traffic: Vec<_> = settings.listeners.iter().map(|(_, traffic)| *traffic).collect();
        assert_eq!(traffic, [Traffic::Grpc, Traffic::Grpc, Traffic::Http, Traffic::Metrics]);
        assert_eq!((settings.options.streams_max, settings.timed), (9, true));
        assert_eq!(settings.options.client_ping_interval_min, Duration::from_secs(1));
        assert_eq!(settings.compaction, Some(Keep::Time(Duration::from_secs(300))));
        assert_eq!(settings.options.origins, ["http://a:1"]);
    }
}
