//! The log, in the two forms that etcd's zap gives it: harnesses wait for lines of it and read their fields.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriterExt as _};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::EtcdError;
use crate::error::storage;
use crate::flags::Flags;

/// How the log is written (`--log-level`, `--log-format`, `--log-outputs`). The one who runs the command sets it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// `debug`, `info`, `warn` or `error`.
    level: &'static str,
    /// One JSON object a line, or text.
    json: bool,
    /// `stderr`, `stdout`, or files. `default` is standard error.
    outputs: Vec<String>,
}

/// The level that a text names as zap reads it: in any case, `info` for none, and what is above `error` counts as that.
pub(crate) fn level(text: &str) -> Option<&'static str> {
    match text.to_ascii_lowercase().as_str() {
        "debug" => Some("debug"),
        "" | "info" => Some("info"),
        "warn" | "warning" => Some("warn"),
        "error" | "dpanic" | "panic" | "fatal" => Some("error"),
        _ => None,
    }
}

impl Logging {
    pub(crate) fn new(flags: &Flags) -> Self {
        let level = level(flags.text("log-level")).unwrap_or("error");
        let outputs = flags.list("log-outputs").into_iter().map(|output| match output.as_str() {
            "default" => "stderr".to_owned(),
            _ => output,
        });
        Self { level, json: flags.text("log-format") == "json", outputs: outputs.collect() }
    }

    /// As without any flag.
    pub(crate) fn standard() -> Self {
        Self { level: "info", json: true, outputs: vec!["stderr".to_owned()] }
    }

    /// As etcd's proxies log.
    pub(crate) fn of_proxy(debug: bool) -> Self {
        Self { level: if debug { "debug" } else { "info" }, ..Self::standard() }
    }

    /// Writes the process's log so from now on, unless it is being written already. A filter in the environment
    /// (`RUST_LOG`) goes before the level; other parts of the program than the member are heard from `warn` upwards.
    ///
    /// # Errors
    /// When a file cannot be opened.
    pub fn begin(&self) -> Result<(), EtcdError> {
        let mut writer = BoxMakeWriter::new(std::io::sink);
        for output in &self.outputs {
            writer = match output.as_str() {
                "stderr" => BoxMakeWriter::new(writer.and(std::io::stderr)),
                "stdout" => BoxMakeWriter::new(writer.and(std::io::stdout)),
                path => {
                    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
                    let file = file.map_err(|error| storage(&format!("opening the log {path}"), error))?;
                    BoxMakeWriter::new(writer.and(file))
                }
            };
        }
        let filter = EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| EnvFilter::new(format!("warn,etcd={0},disk={0},raft={0}", self.level)));
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(writer)
            .with_ansi(false)
            // The log may lie on a full disk: a line that cannot be written must not panic whoever wrote it.
            .log_internal_errors(false)
            .event_format(Zap { json: self.json })
            .try_init();
        Ok(())
    }
}

/// Lines as etcd's zap writes them.
struct Zap {
    json: bool,
}

impl<S, N> FormatEvent<S, N> for Zap
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut said = Said::default();
        event.record(&mut said);
        let metadata = event.metadata();
        let caller = caller(metadata.file().unwrap_or_default(), metadata.line().unwrap_or_default());
        writer.write_str(&line(self.json, *metadata.level(), &time, &caller, &said))
    }
}

/// Directory, file and line, as zap's short form.
fn caller(file: &str, line: u32) -> String {
    let short = file.rmatch_indices('/').nth(1).map_or(file, |(at, _)| &file[at + 1..]);
    format!("{short}:{line}")
}

fn line(json: bool, level: Level, time: &str, caller: &str, said: &Said) -> String {
    let level = match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        _ => "debug",
    };
    let fields: Vec<String> = said.fields.iter().map(|(name, value)| format!("{}:{value}", key(name))).collect();
    if json {
        let head =
            format!(r#""level":"{level}","ts":"{time}","caller":{},"msg":{}"#, quoted(caller), quoted(&said.message));
        let all: Vec<String> = std::iter::once(head).chain(fields).collect();
        return format!("{{{}}}\n", all.join(","));
    }
    let fields = if fields.is_empty() { String::new() } else { format!("\t{{{}}}", fields.join(", ")) };
    format!("{time}\t{}\t{caller}\t{}{fields}\n", level.to_uppercase(), said.message)
}

/// A field's name, with the hyphens that names in Rust cannot have.
fn key(name: &str) -> String {
    quoted(&name.replace('_', "-"))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What an event says: its message, and its fields in their order.
#[derive(Default)]
struct Said {
    message: String,
    fields: Vec<(&'static str, serde_json::Value)>,
}

impl Said {
    fn add(&mut self, field: &Field, value: impl Into<serde_json::Value>) {
        self.fields.push((field.name(), value.into()));
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            _ => self.add(field, format!("{value:?}")),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            _ => self.add(field, value),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_in_any_case() {
        let cases = [
            ("DEBUG", Some("debug")),
            ("", Some("info")),
            ("Warn", Some("warn")),
            ("FATAL", Some("error")),
            ("loud", None),
        ];
        for (text, expect) in cases {
            assert_eq!(level(text), expect, "{text}");
        }
    }

    #[test]
    fn lines_have_zaps_forms() {
        let fields = vec![("peer_address", "a\"b".into()), ("revision", 7.into())];
        let said = Said { message: "serving".to_owned(), fields };
        let none = Said { message: "it".to_owned(), fields: Vec::new() };
        let check = |json, said, expect: &str| {
            let file = caller("crates/etcd/src/command.rs", 3);
            assert_eq!(line(json, Level::INFO, "2026-01-02T03:04:05.000006Z", &file, said), expect);
        };
        check(
            true,
            &said,
            "{\"level\":\"info\",\"ts\":\"2026-01-02T03:04:05.000006Z\",\"caller\":\"src/command.rs:3\",\
             \"msg\":\"serving\",\"peer-address\":\"a\\\"b\",\"revision\":7}\n",
        );
        check(
            false,
            &said,
            "2026-01-02T03:04:05.000006Z\tINFO\tsrc/command.rs:3\tserving\t{\"peer-address\":\"a\\\"b\", \"revision\":7}\n",
        );
        check(false, &none, "2026-01-02T03:04:05.000006Z\tINFO\tsrc/command.rs:3\tit\n");
    }
}
