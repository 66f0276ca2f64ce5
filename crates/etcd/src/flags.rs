//! etcd's own flags and `ETCD_*` environment, as `etcd --help` of 3.6 lists them.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// How a flag's value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Number,
    /// Go's durations: `10m`, `500ms`.
    Duration,
    Text,
}

/// A flag: name, kind, default, and whether it does something here.
struct Flag(&'static str, Kind, &'static str, bool);

/// Every flag of etcd 3.6 that programs are known to pass, our own `--platform-dir` and `--view`, and
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
    Flag("snapshot-count", Kind::Number, "10000", true),
    Flag("heartbeat-interval", Kind::Number, "100", true),
    Flag("election-timeout", Kind::Number, "1000", true),
    Flag("initial-election-tick-advance", Kind::Bool, "true", false),
    Flag("listen-peer-urls", Kind::Text, "http://localhost:2380", true),
    Flag("listen-client-urls", Kind::Text, "http://localhost:2379", true),
    Flag("listen-client-http-urls", Kind::Text, "", false),
    Flag("listen-metrics-urls", Kind::Text, "", false),
    Flag("max-snapshots", Kind::Number, "5", false),
    Flag("max-wals", Kind::Number, "5", false),
    Flag("quota-backend-bytes", Kind::Number, "0", true),
    Flag("backend-bbolt-freelist-type", Kind::Text, "map", false),
    Flag("backend-batch-interval", Kind::Duration, "0s", false),
    Flag("backend-batch-limit", Kind::Number, "0", false),
    Flag("max-txn-ops", Kind::Number, "128", true),
    Flag("max-request-bytes", Kind::Number, "1572864", true),
    Flag("max-concurrent-streams", Kind::Number, "4294967295", false),
    Flag("grpc-keepalive-min-time", Kind::Duration, "5s", false),
    Flag("grpc-keepalive-interval", Kind::Duration, "2h0m0s", false),
    Flag("grpc-keepalive-timeout", Kind::Duration, "20s", false),
    Flag("socket-reuse-port", Kind::Bool, "false", false),
    Flag("socket-reuse-address", Kind::Bool, "false", false),
    Flag("initial-advertise-peer-urls", Kind::Text, "http://localhost:2380", true),
    Flag("initial-cluster", Kind::Text, "", true),
    Flag("initial-cluster-state", Kind::Text, "new", true),
    Flag("initial-cluster-token", Kind::Text, "etcd-cluster", true),
    Flag("advertise-client-urls", Kind::Text, "http://localhost:2379", true),
    Flag("discovery", Kind::Text, "", false),
    Flag("discovery-srv", Kind::Text, "", false),
    Flag("strict-reconfig-check", Kind::Bool, "true", true),
    Flag("pre-vote", Kind::Bool, "true", true),
    Flag("auto-compaction-retention", Kind::Text, "0", false),
    Flag("auto-compaction-mode", Kind::Text, "periodic", false),
    Flag("cert-file", Kind::Text, "", true),
    Flag("key-file", Kind::Text, "", true),
    Flag("client-cert-auth", Kind::Bool, "false", true),
    Flag("client-cert-file", Kind::Text, "", false),
    Flag("client-key-file", Kind::Text, "", false),
    Flag("client-crl-file", Kind::Text, "", false),
    Flag("client-cert-allowed-hostname", Kind::Text, "", false),
    Flag("trusted-ca-file", Kind::Text, "", true),
    Flag("auto-tls", Kind::Bool, "false", false),
    Flag("peer-cert-file", Kind::Text, "", true),
    Flag("peer-key-file", Kind::Text, "", true),
    Flag("peer-client-cert-file", Kind::Text, "", true),
    Flag("peer-client-key-file", Kind::Text, "", true),
    Flag("peer-client-cert-auth", Kind::Bool, "false", true),
    Flag("peer-trusted-ca-file", Kind::Text, "", true),
    Flag("peer-cert-allowed-cn", Kind::Text, "", false),
    Flag("peer-cert-allowed-hostname", Kind::Text, "", false),
    Flag("peer-auto-tls", Kind::Bool, "false", false),
    Flag("peer-skip-client-san-verification", Kind::Bool, "false", false),
    Flag("peer-crl-file", Kind::Text, "", false),
    Flag("self-signed-cert-validity", Kind::Number, "1", false),
    Flag("cipher-suites", Kind::Text, "", false),
    Flag("cors", Kind::Text, "*", false),
    Flag("host-whitelist", Kind::Text, "*", false),
    Flag("tls-min-version", Kind::Text, "TLS1.2", false),
    Flag("tls-max-version", Kind::Text, "", false),
    Flag("auth-token", Kind::Text, "simple", true),
    Flag("bcrypt-cost", Kind::Number, "10", true),
    Flag("auth-token-ttl", Kind::Number, "300", true),
    Flag("enable-pprof", Kind::Bool, "false", false),
    Flag("metrics", Kind::Text, "basic", false),
    Flag("logger", Kind::Text, "zap", false),
    Flag("log-outputs", Kind::Text, "default", false),
    Flag("log-level", Kind::Text, "info", false),
    Flag("log-format", Kind::Text, "json", false),
    Flag("enable-log-rotation", Kind::Bool, "false", false),
    Flag("warning-apply-duration", Kind::Duration, "100ms", false),
    Flag("watch-progress-notify-interval", Kind::Duration, "10m0s", true),
    Flag("experimental-watch-progress-notify-interval", Kind::Duration, "10m0s", true),
    Flag("experimental-initial-corrupt-check", Kind::Bool, "false", false),
    Flag("feature-gates", Kind::Text, "", false),
    Flag("unsafe-no-fsync", Kind::Bool, "false", false),
    Flag("force-new-cluster", Kind::Bool, "false", false),
    Flag("version", Kind::Bool, "false", true),
    Flag("help", Kind::Bool, "false", true),
];

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
    pub fn parse(args: Vec<OsString>, env: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let mut flags = Self { values: BTreeMap::new(), ignored: Vec::new() };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let arg = arg.into_string().map_err(|arg| format!("invalid argument {}", arg.display()))?;
            let Some(name) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|rest| !rest.is_empty())
            else {
                return Err(format!("'{arg}' is not a valid flag"));
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
                    _ => return Err(format!("flag needs an argument: -{name}")),
                },
            };
            check(flag, &value).map_err(|why| format!("invalid value {value:?} for flag -{name}: {why}"))?;
            flags.set(flag, value);
        }
        for flag in FLAGS {
            let variable = format!("ETCD_{}", flag.0.to_uppercase().replace('-', "_"));
            if flags.values.contains_key(flag.0) {
                continue;
            }
            if let Some(value) = env(&variable).filter(|value| !value.is_empty()) {
                check(flag, &value).map_err(|why| format!("invalid value {value:?} for {variable}: {why}"))?;
                flags.set(flag, value);
            }
        }
        Ok(flags)
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

fn check(flag: &Flag, value: &str) -> Result<(), &'static str> {
    let good = match flag.1 {
        Kind::Bool => bool_of(value).is_some(),
        Kind::Number => value.parse::<i64>().is_ok(),
        Kind::Duration => duration_of(value).is_some(),
        Kind::Text => true,
    };
    if good { Ok(()) } else { Err("parse error") }
}

/// What Go's `strconv.ParseBool` takes.
fn bool_of(value: &str) -> Option<bool> {
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

    fn parse(args: &[&str], env: &[(&str, &str)]) -> Result<Flags, String> {
        let lookup = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Flags::parse(args.iter().map(OsString::from).collect(), lookup)
    }

    #[test]
    fn flags_come_before_the_environment_and_that_before_the_defaults() {
        let env = [("ETCD_NAME", "from-env"), ("ETCD_MAX_TXN_OPS", "7")];
        let flags = parse(&["--name=a", "-data-dir", "/d", "--client-cert-auth"], &env).expect("good flags");
        assert_eq!((flags.text("name"), flags.text("data-dir")), ("a", "/d"));
        assert_eq!((flags.number("max-txn-ops"), flags.number("max-request-bytes")), (7, 1_572_864));
        assert!(flags.is_set("client-cert-auth"));
        assert_eq!(flags.duration("watch-progress-notify-interval").as_secs(), 600);
    }

    #[test]
    fn what_etcd_does_not_know_is_refused_in_its_words() {
        let check = |args: &[&str], expect: &str| assert_eq!(parse(args, &[]), Err(expect.to_owned()));
        check(&["--nonsense"], "flag provided but not defined: -nonsense");
        check(&["--name"], "flag needs an argument: -name");
        check(&["--max-txn-ops=x"], "invalid value \"x\" for flag -max-txn-ops: parse error");
        check(&["stray"], "'stray' is not a valid flag");
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
                Kind::Number | Kind::Text => number.to_owned(),
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
