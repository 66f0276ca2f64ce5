//! The flags of `etcd grpc-proxy start`, in the manner of Go's `cobra`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::time::Duration;

use crate::command::Refusal;
use crate::flags::{bool_of, duration_of};

/// What `--help` says before the flags.
const USAGE: &str = "Usage:\n  etcd grpc-proxy start [flags]\n\nFlags:\n";
/// What `etcd grpc-proxy` says without a command that it knows.
pub(super) const COMMANDS: &str = "carry the calls of etcd's clients to a cluster

Usage:
  etcd grpc-proxy [command]

Available Commands:
  start       start the proxy

Flags:
  -h, --help   help for grpc-proxy

Use \"etcd grpc-proxy [command] --help\" for more information about a command.
";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// A comma-separated list.
    List,
    Bool,
    Int,
    Uint,
    Uint32,
    Duration,
}

/// A flag: name, kind, default, and what it is for.
struct Flag(&'static str, Kind, &'static str, &'static str);

/// Every flag of etcd 3.6, by name.
#[rustfmt::skip]
const FLAGS: &[Flag] = &[
    Flag("advertise-client-url", Kind::Text, "127.0.0.1:23790", "where clients find this proxy; empty to tell them of etcd's members"),
    Flag("auto-tls", Kind::Bool, "false", "serve TLS with a certificate made at the first start"),
    Flag("cacert", Kind::Text, "", "file with the authorities that vouch for etcd"),
    Flag("cert", Kind::Text, "", "file with the certificate to show to etcd; it must have no common name"),
    Flag("cert-file", Kind::Text, "", "file with the certificate to show to clients"),
    Flag("client-crl-file", Kind::Text, "", "file with the list of revoked client certificates"),
    Flag("data-dir", Kind::Text, "default.proxy", "where --auto-tls keeps its certificate"),
    Flag("debug", Kind::Bool, "false", "log more"),
    Flag("dial-keepalive-time", Kind::Duration, "0s", "how often to ping etcd; 0 for never"),
    Flag("dial-keepalive-timeout", Kind::Duration, "20s", "how long etcd has to answer a ping"),
    Flag("discovery-srv", Kind::Text, "", "find endpoints by DNS; not supported here"),
    Flag("discovery-srv-name", Kind::Text, "", "service to look for with --discovery-srv"),
    Flag("enable-pprof", Kind::Bool, "false", "profiles of Go's runtime; without effect here"),
    Flag("endpoints", Kind::List, "127.0.0.1:2379", "where etcd's members are"),
    Flag("endpoints-auto-sync-interval", Kind::Duration, "0s", "how often to ask etcd where its members are; 0 for never"),
    Flag("experimental-enable-grpc-logging", Kind::Bool, "false", "log all requests and answers; not supported here"),
    Flag("experimental-leasing-prefix", Kind::Text, "", "answer reads from leased keys; not supported here"),
    Flag("experimental-serializable-ordering", Kind::Bool, "false", "let no read see an older state than one before it"),
    Flag("grpc-keepalive-interval", Kind::Duration, "2h0m0s", "how often to ping an idle client; 0 for never"),
    Flag("grpc-keepalive-min-time", Kind::Duration, "5s", "a client that pings more often is sent away; 0 for no limit"),
    Flag("grpc-keepalive-timeout", Kind::Duration, "20s", "how long a client has to answer a ping"),
    Flag("insecure-discovery", Kind::Bool, "false", "take endpoints without TLS with --discovery-srv"),
    Flag("insecure-skip-tls-verify", Kind::Bool, "false", "take any certificate of etcd's, for tests"),
    Flag("key", Kind::Text, "", "file with the key of --cert"),
    Flag("key-file", Kind::Text, "", "file with the key of --cert-file"),
    Flag("listen-addr", Kind::Text, "127.0.0.1:23790", "where to listen for clients"),
    Flag("listen-cipher-suites", Kind::List, "", "cipher suites of TLS 1.2 to offer to clients; empty for all"),
    Flag("max-concurrent-streams", Kind::Uint32, "4294967295", "streams that may be open on one connection of a client"),
    Flag("max-recv-bytes", Kind::Int, "2147483647", "largest message to take from etcd"),
    Flag("max-send-bytes", Kind::Int, "1572864", "largest message to send to etcd"),
    Flag("metrics-addr", Kind::Text, "", "URL to serve metrics and health on besides"),
    Flag("namespace", Kind::Text, "", "clients see the keys below this prefix, without it"),
    Flag("permit-without-stream", Kind::Bool, "false", "ping etcd without a call under way too"),
    Flag("resolver-prefix", Kind::Text, "", "keys below which proxies register; the same for all of them"),
    Flag("resolver-ttl", Kind::Int, "0", "seconds that the name of a proxy that is gone stays registered"),
    Flag("self-signed-cert-validity", Kind::Uint, "1", "years that the certificate of --auto-tls is good for"),
    Flag("tls-max-version", Kind::Text, "", "newest TLS version for clients: TLS1.2 or TLS1.3"),
    Flag("tls-min-version", Kind::Text, "TLS1.2", "oldest TLS version for clients: TLS1.2 or TLS1.3"),
    Flag("trusted-ca-file", Kind::Text, "", "file with the authorities that vouch for clients, who must then show a certificate"),
];

/// The flags as given, else their defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Flags(BTreeMap<&'static str, String>);

impl Flags {
    /// Reads what follows `grpc-proxy start`; nothing when only help is wanted.
    ///
    /// # Errors
    /// In cobra's words: an unknown flag, a missing or malformed value.
    pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Option<Self>, Refusal> {
        let fault = |text: String| Refusal::invalid(format!("Error: {text}\n{}", Self::usage()));
        let mut flags = Self::default();
        let mut args = args.into_iter().map(|arg| arg.to_string_lossy().into_owned());
        while let Some(arg) = args.next() {
            let Some(flag) = arg.strip_prefix("--") else {
                match arg.strip_prefix('-').and_then(|rest| rest.chars().next()) {
                    Some('h') => return Ok(None),
                    Some(letter) => return Err(fault(format!("unknown shorthand flag: '{letter}' in {arg}"))),
                    // Words that are no flags are passed over.
                    None => continue,
                }
            };
            if flag.is_empty() {
                break;
            }
            let (name, given) =
                flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value.to_owned())));
            if name == "help" {
                return Ok(None);
            }
            let flag = FLAGS.iter().find(|flag| flag.0 == name);
            let flag = flag.ok_or_else(|| fault(format!("unknown flag: --{name}")))?;
            let value = match (given, flag.1) {
                (Some(value), _) => value,
                (None, Kind::Bool) => "true".to_owned(),
                (None, _) => args.next().ok_or_else(|| fault(format!("flag needs an argument: --{name}")))?,
            };
            if let Err(why) = check(flag.1, &value) {
                return Err(fault(format!("invalid argument {value:?} for \"--{name}\" flag: {why}")));
            }
            match flags.0.get_mut(flag.0) {
                // A list that is given twice goes on.
                Some(list) if flag.1 == Kind::List => *list = format!("{list},{value}"),
                _ => drop(flags.0.insert(flag.0, value)),
            }
        }
        Ok(Some(flags))
    }

    pub(super) fn text(&self, name: &str) -> &str {
        let default = || FLAGS.iter().find(|flag| flag.0 == name).map_or("", |flag| flag.2);
        self.0.get(name).map_or_else(default, String::as_str)
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        bool_of(self.text(name)) == Some(true)
    }

    pub(super) fn number(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or(0)
    }

    pub(super) fn duration(&self, name: &str) -> Duration {
        duration_of(self.text(name)).unwrap_or_default()
    }

    pub(super) fn list(&self, name: &str) -> Vec<String> {
        self.text(name).split(',').filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    /// What `--help` prints.
    pub(super) fn usage() -> String {
        let mut rows = Vec::new();
        for Flag(name, kind, default, what) in FLAGS {
            let kind_name = match kind {
                Kind::Text => " string",
                Kind::List => " strings",
                Kind::Bool => "",
                Kind::Int => " int",
                Kind::Uint => " uint",
                Kind::Uint32 => " uint32",
                Kind::Duration => " duration",
            };
            let default = match kind {
                _ if matches!(*default, "" | "0" | "0s" | "false") => String::new(),
                Kind::Text => format!(" (default {default:?})"),
                Kind::List => format!(" (default [{default}])"),
                Kind::Bool | Kind::Int | Kind::Uint | Kind::Uint32 | Kind::Duration => format!(" (default {default})"),
            };
            rows.push((format!("      --{name}{kind_name}"), format!("{what}{default}")));
            if *name == "grpc-keepalive-timeout" {
                rows.push(("  -h, --help".to_owned(), "help for start".to_owned()));
            }
        }
        let width = rows.iter().map(|(left, _)| left.len()).max().unwrap_or(0) + 3;
        let mut out = USAGE.to_owned();
        for (left, right) in rows {
            let _ = writeln!(out, "{left:width$}{right}");
        }
        out
    }
}

fn check(kind: Kind, value: &str) -> Result<(), String> {
    let number = |function: &str, fits: bool, value: &str| {
        let digits = value.strip_prefix(['-', '+']).filter(|_| function == "ParseInt").unwrap_or(value);
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let why = if is_number { "value out of range" } else { "invalid syntax" };
        if fits { Ok(()) } else { Err(format!("strconv.{function}: parsing {value:?}: {why}")) }
    };
    match kind {
        Kind::Text | Kind::List => Ok(()),
        Kind::Bool => number("ParseBool", bool_of(value).is_some(), value)
            .map_err(|why| why.replace("value out of range", "invalid syntax")),
        Kind::Int => number("ParseInt", value.parse::<i64>().is_ok(), value),
        Kind::Uint => number("ParseUint", value.parse::<u64>().is_ok(), value),
        Kind::Uint32 => number("ParseUint", value.parse::<u32>().is_ok(), value),
        Kind::Duration if duration_of(value).is_some() => Ok(()),
        Kind::Duration if value.parse::<f64>().is_ok() => Err(format!("time: missing unit in duration {value:?}")),
        Kind::Duration => Err(format!("time: invalid duration {value:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Option<Flags>, String> {
        Flags::parse(args.iter().map(OsString::from)).map_err(|refusal| {
            assert_eq!(refusal.code, 1);
            refusal.text.lines().next().unwrap_or_default().to_owned()
        })
    }

    #[test]
    fn flags_are_read_in_each_form_and_lists_go_on() {
        let flags = parse(&["--endpoints=a:1,b:2", "--endpoints", "c:3", "word", "--debug", "--auto-tls=false"]);
        let flags = flags.expect("good flags").expect("not only help");
        assert_eq!(flags.list("endpoints"), ["a:1", "b:2", "c:3"]);
        assert!(flags.is_set("debug") && !flags.is_set("auto-tls"));
        assert_eq!(flags.number("max-send-bytes"), 1_572_864);
        assert_eq!(flags.duration("grpc-keepalive-interval").as_secs(), 7200);
        assert_eq!(parse(&["--help"]), Ok(None));
        assert_eq!(parse(&["--debug", "-h"]), Ok(None));
    }

    #[test]
    fn what_is_no_flag_is_refused_in_cobras_words() {
        let check = |args: &[&str], expect: &str| assert_eq!(parse(args).expect_err(expect), expect);
        check(&["--x"], "Error: unknown flag: --x");
        check(&["-x"], "Error: unknown shorthand flag: 'x' in -x");
        check(&["--endpoints"], "Error: flag needs an argument: --endpoints");
        let invalid = |name: &str, value: &str, why: &str| {
            let expect = format!("Error: invalid argument {value:?} for \"--{name}\" flag: {why}");
            check(&[&format!("--{name}={value}")], &expect);
        };
        invalid("resolver-ttl", "x", "strconv.ParseInt: parsing \"x\": invalid syntax");
        invalid("debug", "maybe", "strconv.ParseBool: parsing \"maybe\": invalid syntax");
        invalid("debug", "7", "strconv.ParseBool: parsing \"7\": invalid syntax");
        invalid("max-concurrent-streams", "-1", "strconv.ParseUint: parsing \"-1\": invalid syntax");
        invalid(
            "max-concurrent-streams",
            "4294967296",
            "strconv.ParseUint: parsing \"4294967296\": value out of range",
        );
        invalid("grpc-keepalive-interval", "5", "time: missing unit in duration \"5\"");
        invalid("grpc-keepalive-interval", "x", "time: invalid duration \"x\"");
    }

    #[test]
    fn help_lists_every_flag_once_and_in_order() {
        let usage = Flags::usage();
        let listed: Vec<&str> =
            usage.lines().filter_map(|line| line.trim_start().strip_prefix("--")?.split(' ').next()).collect();
        assert!(listed.is_sorted() && listed.len() == FLAGS.len(), "{listed:?}");
    }
}
