//! etcd's own flags and `ETCD_*` environment, as `etcd --help` of 3.6 lists them.

use std::collections::BTreeMap;
use std::ffi::OsString;

use crate::command::Refusal;
use crate::listen::Url;

/// How a flag's value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Number,
    Unsigned,
    Unsigned32,
    /// Go's durations: `10m`, `500ms`.
    Duration,
    Text,
    /// A comma-separated list.
    Urls,
    /// As `Urls`, or `*`.
    Origins,
    /// `Gate=true,Other=false`.
    Features,
}

/// A flag: name, kind, default, and whether it does something here.
struct Flag(&'static str, Kind, &'static str, bool);

/// Every flag of etcd 3.6, our own `--platform-dir` and `--view`, and
/// `--restore` with what `etcdutl snapshot restore` takes.
#[rustfmt::skip]
const FLAGS: &[Flag] = &[
    Flag("name", Kind::Text, "default", true),
    Flag("data-dir", Kind::Text, "", true),
    Flag("platform-dir", Kind::Text, "", true),
    Flag("view", Kind::Bool, "true", true),
    Flag("restore", Kind::Text, "", true),
    Flag("skip-hash-check", Kind::Bool, "false", true),
    Flag("bump-revision", Kind::Number, "0", true),
    Flag("mark-compacted", Kind::Bool, "false", true),
    Flag("wal-dir", Kind::Text, "", false),
    Flag("snapshot-count", Kind::Unsigned, "10000", true),
    Flag("heartbeat-interval", Kind::Number, "100", true),
    Flag("election-timeout", Kind::Number, "1000", true),
    Flag("initial-election-tick-advance", Kind::Bool, "true", false),
    Flag("listen-peer-urls", Kind::Text, "http://localhost:2380", true),
    Flag("listen-client-urls", Kind::Urls, "http://localhost:2379", true),
    Flag("listen-client-http-urls", Kind::Urls, "", true),
    Flag("listen-metrics-urls", Kind::Urls, "", true),
    Flag("max-snapshots", Kind::Unsigned, "5", false),
    Flag("max-wals", Kind::Unsigned, "5", false),
    Flag("quota-backend-bytes", Kind::Number, "0", true),
    Flag("backend-bbolt-freelist-type", Kind::Text, "map", false),
    Flag("backend-batch-interval", Kind::Duration, "0s", false),
    Flag("backend-batch-limit", Kind::Number, "0", false),
    Flag("max-txn-ops", Kind::Unsigned, "128", true),
    Flag("max-request-bytes", Kind::Unsigned, "1572864", true),
    Flag("max-concurrent-streams", Kind::Unsigned32, "4294967295", true),
    Flag("grpc-keepalive-min-time", Kind::Duration, "5s", true),
    Flag("grpc-keepalive-interval", Kind::Duration, "2h0m0s", true),
    Flag("grpc-keepalive-timeout", Kind::Duration, "20s", true),
    Flag("socket-reuse-port", Kind::Bool, "false", true),
    Flag("socket-reuse-address", Kind::Bool, "false", true),
    Flag("initial-advertise-peer-urls", Kind::Text, "http://localhost:2380", true),
    Flag("initial-cluster", Kind::Text, "", true),
    Flag("initial-cluster-state", Kind::Text, "new", true),
    Flag("initial-cluster-token", Kind::Text, "etcd-cluster", true),
    Flag("advertise-client-urls", Kind::Urls, "http://localhost:2379", true),
    Flag("discovery", Kind::Text, "", false),
    Flag("discovery-srv", Kind::Text, "", false),
    Flag("strict-reconfig-check", Kind::Bool, "true", true),
    Flag("pre-vote", Kind::Bool, "true", true),
    Flag("auto-compaction-retention", Kind::Text, "0", true),
    Flag("auto-compaction-mode", Kind::Text, "periodic", true),
    Flag("cert-file", Kind::Text, "", true),
    Flag("key-file", Kind::Text, "", true),
    Flag("client-cert-auth", Kind::Bool, "false", true),
    Flag("client-cert-file", Kind::Text, "", false),
    Flag("client-key-file", Kind::Text, "", false),
    Flag("client-crl-file", Kind::Text, "", true),
    Flag("client-cert-allowed-hostname", Kind::Text, "", true),
    Flag("trusted-ca-file", Kind::Text, "", true),
    Flag("auto-tls", Kind::Bool, "false", true),
    Flag("peer-cert-file", Kind::Text, "", true),
    Flag("peer-key-file", Kind::Text, "", true),
    Flag("peer-client-cert-file", Kind::Text, "", true),
    Flag("peer-client-key-file", Kind::Text, "", true),
    Flag("peer-client-cert-auth", Kind::Bool, "false", true),
    Flag("peer-trusted-ca-file", Kind::Text, "", true),
    Flag("peer-cert-allowed-cn", Kind::Text, "", true),
    Flag("peer-cert-allowed-hostname", Kind::Text, "", true),
    Flag("peer-auto-tls", Kind::Bool, "false", true),
    Flag("peer-skip-client-san-verification", Kind::Bool, "false", true),
    Flag("peer-crl-file", Kind::Text, "", true),
    Flag("self-signed-cert-validity", Kind::Unsigned, "1", true),
    Flag("cipher-suites", Kind::Text, "", true),
    Flag("cors", Kind::Origins, "*", true),
    Flag("host-whitelist", Kind::Text, "*", true),
    Flag("tls-min-version", Kind::Text, "TLS1.2", true),
    Flag("tls-max-version", Kind::Text, "", true),
    Flag("auth-token", Kind::Text, "simple", true),
    Flag("bcrypt-cost", Kind::Unsigned, "10", true),
    Flag("auth-token-ttl", Kind::Unsigned, "300", true),
    Flag("enable-pprof", Kind::Bool, "false", false),
    Flag("metrics", Kind::Text, "basic", true),
    Flag("logger", Kind::Text, "zap", true),
    Flag("log-outputs", Kind::Text, "default", true),
    Flag("log-level", Kind::Text, "info", true),
    Flag("log-format", Kind::Text, "json", true),
    Flag("enable-log-rotation", Kind::Bool, "false", false),
    Flag("warning-apply-duration", Kind::Duration, "100ms", false),
    Flag("watch-progress-notify-interval", Kind::Duration, "10m0s", true),
    Flag("experimental-watch-progress-notify-interval", Kind::Duration, "10m0s", true),
    Flag("experimental-initial-corrupt-check", Kind::Bool, "false", true),
    Flag("feature-gates", Kind::Features, "", true),
    Flag("unsafe-no-fsync", Kind::Bool, "false", false),
    Flag("force-new-cluster", Kind::Bool, "false", true),
    Flag("config-file", Kind::Text, "", true),
    Flag("enable-grpc-gateway", Kind::Bool, "true", true),
    Flag("max-learners", Kind::Number, "1", true),
    Flag("bootstrap-defrag-threshold-megabytes", Kind::Unsigned, "0", true),
    Flag("compact-hash-check-time", Kind::Duration, "1m0s", true),
    Flag("compaction-batch-limit", Kind::Number, "0", false),
    Flag("compaction-sleep-interval", Kind::Duration, "0s", false),
    Flag("corrupt-check-time", Kind::Duration, "0s", true),
    Flag("downgrade-check-time", Kind::Duration, "5s", false),
    Flag("snapshot-catchup-entries", Kind::Unsigned, "5000", true),
    Flag("memory-mlock", Kind::Bool, "false", false),
    Flag("warning-unary-request-duration", Kind::Duration, "0s", true),
    Flag("raft-read-timeout", Kind::Duration, "5s", false),
    Flag("raft-write-timeout", Kind::Duration, "5s", false),
    Flag("log-rotation-config-json", Kind::Text, "", false),
    Flag("v2-deprecation", Kind::Text, "write-only", true),
    Flag("discovery-endpoints", Kind::Text, "", true),
    Flag("discovery-token", Kind::Text, "", true),
    Flag("discovery-srv-name", Kind::Text, "", false),
    Flag("discovery-proxy", Kind::Text, "", false),
    Flag("discovery-fallback", Kind::Text, "exit", false),
    Flag("discovery-dial-timeout", Kind::Duration, "2s", false),
    Flag("discovery-request-timeout", Kind::Duration, "5s", true),
    Flag("discovery-keepalive-time", Kind::Duration, "2s", false),
    Flag("discovery-keepalive-timeout", Kind::Duration, "6s", false),
    Flag("discovery-insecure-transport", Kind::Bool, "true", true),
    Flag("discovery-insecure-skip-tls-verify", Kind::Bool, "false", true),
    Flag("discovery-cert", Kind::Text, "", true),
    Flag("discovery-key", Kind::Text, "", true),
    Flag("discovery-cacert", Kind::Text, "", true),
    Flag("discovery-user", Kind::Text, "", true),
    Flag("discovery-password", Kind::Text, "", true),
    Flag("enable-distributed-tracing", Kind::Bool, "false", false),
    Flag("distributed-tracing-address", Kind::Text, "localhost:4317", false),
    Flag("distributed-tracing-service-name", Kind::Text, "etcd", false),
    Flag("distributed-tracing-instance-id", Kind::Text, "", false),
    Flag("distributed-tracing-sampling-rate", Kind::Number, "0", false),
    Flag("experimental-bootstrap-defrag-threshold-megabytes", Kind::Unsigned, "0", true),
    Flag("experimental-compact-hash-check-enabled", Kind::Bool, "false", true),
    Flag("experimental-compact-hash-check-time", Kind::Duration, "1m0s", true),
    Flag("experimental-compaction-batch-limit", Kind::Number, "0", false),
    Flag("experimental-compaction-sleep-interval", Kind::Duration, "0s", false),
    Flag("experimental-corrupt-check-time", Kind::Duration, "0s", true),
    Flag("experimental-distributed-tracing-address", Kind::Text, "localhost:4317", false),
    Flag("experimental-distributed-tracing-instance-id", Kind::Text, "", false),
    Flag("experimental-distributed-tracing-sampling-rate", Kind::Number, "0", false),
    Flag("experimental-distributed-tracing-service-name", Kind::Text, "etcd", false),
    Flag("experimental-downgrade-check-time", Kind::Duration, "5s", false),
    Flag("experimental-enable-distributed-tracing", Kind::Bool, "false", false),
    Flag("experimental-enable-lease-checkpoint", Kind::Bool, "false", true),
    Flag("experimental-enable-lease-checkpoint-persist", Kind::Bool, "false", true),
    Flag("experimental-memory-mlock", Kind::Bool, "false", false),
    Flag("experimental-peer-skip-client-san-verification", Kind::Bool, "false", true),
    Flag("experimental-snapshot-catchup-entries", Kind::Unsigned, "5000", true),
    Flag("experimental-stop-grpc-service-on-defrag", Kind::Bool, "false", false),
    Flag("experimental-txn-mode-write-with-shared-buffer", Kind::Bool, "true", false),
    Flag("experimental-warning-apply-duration", Kind::Duration, "100ms", false),
    Flag("experimental-warning-unary-request-duration", Kind::Duration, "0s", true),
    Flag("version", Kind::Bool, "false", true),
    Flag("help", Kind::Bool, "false", true),
];

/// The values of `--v2-deprecation`, which mean nothing any more.
const V2_DEPRECATION: &[&str] = &["write-only", "write-only-skip-check", "write-only-drop-data", "gone"];

/// The flags as given: on the command line, else in the environment, else their defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flags {
    values: BTreeMap<&'static str, String>,
    /// Flags that were given and have no effect here.
    pub(crate) ignored: Vec<&'static str>,
}

impl Flags {
    /// Reads arguments (without the program's name) and environment.
    ///
    /// # Errors
    /// In the words of etcd's own parser (Go's package `flag`): an unknown flag, a missing or malformed value.
    pub fn parse(args: Vec<OsString>, env: impl Fn(&str) -> Option<String>) -> Result<Self, Refusal> {
        let mut flags = Self { values: BTreeMap::new(), ignored: Vec::new() };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let arg = arg.into_string().map_err(|arg| format!("invalid argument {}", arg.display()))?;
            let Some(name) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|rest| !rest.is_empty())
            else {
                return Err(Refusal::invalid(format!("{arg:?} is not a valid flag")));
            };
            let (name, given) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            let name = if name == "h" { "help" } else { name };
            let flag = FLAGS.iter().find(|flag| flag.0 == name);
            let flag = flag.ok_or_else(|| format!("flag provided but not defined: -{name}"))?;
            let value = match (given, flag.1) {
                (Some(value), _) => value,
                (None, Kind::Bool) => "true".to_owned(),
                (None, _) => match args.next().map(OsString::into_string) {
                    Some(Ok(value)) => value,
                    _ => return Err(format!("flag needs an argument: -{name}").into()),
                },
            };
            check(flag, &value).map_err(|why| match flag.1 {
                Kind::Bool => format!("invalid boolean value {value:?} for -{name}: {why}"),
                _ => format!("invalid value {value:?} for flag -{name}: {why}"),
            })?;
            flags.set(flag, value);
        }
        for flag in FLAGS {
            let variable = format!("ETCD_{}", flag.0.to_uppercase().replace('-', "_"));
            let Some(value) = env(&variable).filter(|value| !value.is_empty()) else { continue };
            if flags.values.contains_key(flag.0) {
                return Err(Refusal::invalid(format!(
                    "conflicting environment variable {variable:?} is shadowed by corresponding command-line flag \
                     {:?} (either unset environment variable or disable flag)",
                    flag.0
                )));
            }
            // These two end the program before etcd looks at its environment.
            if !matches!(flag.0, "version" | "help") {
                check(flag, &value)
                    .map_err(|why| Refusal::invalid(format!("invalid value {value:?} for {variable}: {why}")))?;
                flags.set(flag, value);
            }
        }
        Ok(flags)
    }

    /// The flags that a configuration file sets, and no others: with one, etcd looks at nothing else.
    ///
    /// # Errors
    /// A value that its flag does not take.
    pub(crate) fn of_file(path: &str, pairs: Vec<(String, String)>) -> Result<Self, Refusal> {
        let mut flags = Self { values: BTreeMap::new(), ignored: Vec::new() };
        let pairs = pairs.into_iter().chain([("config-file".to_owned(), path.to_owned())]);
        for (name, value) in pairs {
            let Some(flag) = FLAGS.iter().find(|flag| flag.0 == name) else { continue };
            check(flag, &value).map_err(|why| {
                Refusal::invalid(match flag.1 {
                    Kind::Urls => format!("unexpected error setting up {name}: {why}"),
                    _ => format!("invalid value {value:?} for {name}: {why}"),
                })
            })?;
            flags.set(flag, value);
        }
        Ok(flags)
    }

    /// Another value in the place of what was given.
    pub(crate) fn replace(&mut self, name: &'static str, value: String) {
        self.values.insert(name, value);
    }

    fn set(&mut self, flag: &Flag, value: String) {
        if !flag.3 && value != flag.2 {
            self.ignored.push(flag.0);
        }
        self.values.insert(flag.0, value);
    }

    /// A flag's value or default.
    pub(crate) fn text(&self, name: &str) -> &str {
        let default = || FLAGS.iter().find(|flag| flag.0 == name).map_or("", |flag| flag.2);
        self.values.get(name).map_or_else(default, String::as_str)
    }

    /// The name under which a flag was given that had another while it was experimental.
    pub(crate) fn either(&self, name: &'static str) -> &'static str {
        let old = format!("experimental-{name}");
        self.values.keys().find(|given| **given == old).copied().unwrap_or(name)
    }

    /// The names of all flags that were given.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.values.keys().copied()
    }

    /// Whether it was given at all.
    pub(crate) fn given(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    pub(crate) fn is_set(&self, name: &str) -> bool {
        bool_of(self.text(name)) == Some(true)
    }

    pub(crate) fn number(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or(0)
    }

    pub(crate) fn duration(&self, name: &str) -> std::time::Duration {
        duration_of(self.text(name)).unwrap_or_default()
    }

    /// A comma-separated list.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        self.text(name).split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    /// What `--help` prints.
    pub(crate) fn usage() -> String {
        use std::fmt::Write as _;
        let mut out = "Usage:\n\n  etcd [flags]\n    Start an etcd server.\n\nFlags:\n".to_owned();
        for flag in FLAGS {
            let note = if flag.3 { "" } else { "  (accepted, without effect here)" };
            let _ = writeln!(out, "  --{} '{}'{note}", flag.0, flag.2);
        }
        out
    }
}

fn check(flag: &Flag, value: &str) -> Result<(), String> {
    if flag.0 == "v2-deprecation" && !V2_DEPRECATION.contains(&value) {
        return Err(format!("invalid value {value:?}"));
    }
    let good = match flag.1 {
        Kind::Bool => bool_of(value).is_some(),
        Kind::Number => value.parse::<i64>().is_ok(),
        Kind::Unsigned => value.parse::<u64>().is_ok(),
        Kind::Unsigned32 if value.parse::<u32>().is_err() => {
            let why = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
                "value out of range"
            } else {
                "invalid syntax"
            };
            return Err(format!("strconv.ParseUint: parsing {value:?}: {why}"));
        }
        Kind::Duration => duration_of(value).is_some(),
        Kind::Features => return crate::features::check(value),
        Kind::Origins if value == "*" => true,
        Kind::Urls | Kind::Origins if !value.is_empty() => {
            return value.split(',').try_for_each(|url| Url::parse(url).map(drop));
        }
        Kind::Text | Kind::Urls | Kind::Origins | Kind::Unsigned32 => true,
    };
    if good { Ok(()) } else { Err("parse error".to_owned()) }
}

/// The kind of the flag with this name.
pub(crate) fn kind_of(name: &str) -> Option<Kind> {
    FLAGS.iter().find(|flag| flag.0 == name).map(|flag| flag.1)
}

/// What Go's `strconv.ParseBool` takes.
pub(crate) fn bool_of(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's durations without a sign: numbers with units, largest first or not.
pub(crate) fn duration_of(value: &str) -> Option<std::time::Duration> {
    let mut rest = value;
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    if rest == "0" {
        return Some(std::time::Duration::ZERO);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number * unit;
        rest = &rest[end..];
    }
    std::time::Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str], env: &[(&str, &str)]) -> Result<Flags, Refusal> {
        let lookup = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Flags::parse(args.iter().map(OsString::from).collect(), lookup)
    }

    #[test]
    fn what_the_environment_says_comes_before_the_defaults_and_beside_a_flag_is_refused() {
        let env = [("ETCD_VERSION", "true"), ("ETCD_MAX_TXN_OPS", "7")];
        let flags = parse(&["--name=a", "-data-dir", "/d", "--client-cert-auth"], &env).expect("good flags");
        assert_eq!((flags.text("name"), flags.text("data-dir")), ("a", "/d"));
        assert_eq!((flags.number("max-txn-ops"), flags.number("max-request-bytes")), (7, 1_572_864));
        assert!(flags.is_set("client-cert-auth"));
        assert_eq!(flags.duration("watch-progress-notify-interval").as_secs(), 600);
        assert!(!flags.is_set("version"));
        let both = parse(&["--max-txn-ops=7"], &env).expect_err("refused");
        let text = "conflicting environment variable \"ETCD_MAX_TXN_OPS\" is shadowed by corresponding command-line flag \
                    \"max-txn-ops\" (either unset environment variable or disable flag)";
        assert_eq!(both, Refusal::invalid(text.to_owned()));
    }

    #[test]
    fn what_etcd_does_not_know_is_refused_in_its_words() {
        let fault = |args: &[&str]| parse(args, &[]).expect_err("refused");
        let check = |args: &[&str], expect: &str| assert_eq!(fault(args), expect.to_owned().into());
        check(&["--nonsense"], "flag provided but not defined: -nonsense");
        check(&["--name"], "flag needs an argument: -name");
        check(&["--max-txn-ops=x"], "invalid value \"x\" for flag -max-txn-ops: parse error");
        check(&["--client-cert-auth=maybe"], "invalid boolean value \"maybe\" for -client-cert-auth: parse error");
        check(&["--snapshot-count=-1"], "invalid value \"-1\" for flag -snapshot-count: parse error");
        check(
            &["--cors=bad"],
            "invalid value \"bad\" for flag -cors: URL scheme must be http, https, unix, or unixs: bad",
        );
        check(
            &["--max-concurrent-streams=-1"],
            "invalid value \"-1\" for flag -max-concurrent-streams: strconv.ParseUint: parsing \"-1\": invalid syntax",
        );
        let url = "http://127.0.0.1:1/x";
        check(
            &[&format!("--listen-client-urls={url}")],
            &format!("invalid value {url:?} for flag -listen-client-urls: URL must not contain a path: {url}"),
        );
        assert_eq!(fault(&["stray"]), Refusal::invalid("\"stray\" is not a valid flag".to_owned()));
    }

    proptest::proptest! {
        #[test]
        fn any_command_line_is_read_or_refused_and_reads_back(
            words in proptest::collection::vec("(--?)?[a-z-]{0,20}(=.{0,12})?|.{0,8}", 0..6),
            flags in proptest::collection::btree_map(0..FLAGS.len(), "[0-9]{1,3}", 0..8),
            variable in ".{0,12}",
        ) {
            let args = words.iter().map(OsString::from).collect();
            let _ = Flags::parse(args, |_| Some(variable.clone()));
            let value = |index: usize, number: &str| match FLAGS[index].1 {
                Kind::Bool => (number.len() % 2).to_string(),
                Kind::Duration => format!("{number}ms"),
                Kind::Urls | Kind::Origins => format!("http://localhost:{number}"),
                Kind::Features => format!("LeaseCheckpoint={}", number.len() % 2),
                Kind::Text if FLAGS[index].0 == "v2-deprecation" => "gone".to_owned(),
                Kind::Number | Kind::Unsigned | Kind::Unsigned32 | Kind::Text => number.to_owned(),
            };
            let args = flags.iter().map(|(i, n)| format!("--{}={}", FLAGS[*i].0, value(*i, n)).into()).collect();
            let read = Flags::parse(args, |_| None).expect("each value has its flag's form");
            for (index, number) in &flags {
                proptest::prop_assert_eq!(read.text(FLAGS[*index].0), value(*index, number));
            }
        }

        #[test]
        fn any_text_is_a_duration_or_none(text in "[0-9.nuµmsh-]{0,20}|.{0,20}") {
            let _ = duration_of(&text);
        }
    }

    #[test]
    fn go_durations_are_read() {
        let check = |text: &str, ms: Option<u128>| assert_eq!(duration_of(text).map(|d| d.as_millis()), ms, "{text}");
        check("10m0s", Some(600_000));
        check("500ms", Some(500));
        check("1h2m3.5s", Some(3_723_500));
        check("5", None);
        check("0", Some(0));
    }
}
