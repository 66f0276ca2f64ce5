//! The text of an expression, and its faults shown as cel-go shows them: place, line and caret.

use std::fmt::Write as _;

/// More errors than this are counted, not shown.
const SHOWN_MAX: usize = 100;
/// A longer line is not quoted.
const SNIPPET_BYTES_MAX: usize = 16_384;

/// One fault of an expression.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Issue {
    /// Where it begins, in bytes; `None` when it has no place.
    pub(crate) at: Option<usize>,
    /// What is wrong.
    pub message: String,
}

/// Why an expression was refused: `Display` gives cel-go's text, one `ERROR: <input>:line:column: …` with the line and
/// a caret for each fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Issues {
    source: String,
    issues: Vec<Issue>,
    total: usize,
}

impl std::error::Error for Issues {}

impl std::fmt::Display for Issues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, issue) in self.issues.iter().enumerate() {
            let line_break = if i == 0 { "" } else { "\n" };
            write!(f, "{line_break}{}", show(&self.source, issue))?;
        }
        match self.total.saturating_sub(SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "\n{more} more errors were truncated"),
        }
    }
}

/// What was found so far.
#[derive(Default)]
pub(crate) struct Findings {
    issues: Vec<Issue>,
    total: usize,
}

impl Findings {
    pub(crate) fn report(&mut self, at: Option<usize>, message: impl Into<String>) {
        self.total += 1;
        if self.total <= SHOWN_MAX {
            self.issues.push(Issue { at, message: message.into() });
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// As an error about `source`, in order of place.
    pub(crate) fn into_issues(self, source: &str) -> Issues {
        let Self { mut issues, total } = self;
        issues.sort_by_key(|issue| issue.at.map_or(-1, |at| at as i64));
        Issues { source: source.to_owned(), issues, total }
    }
}

fn show(source: &str, issue: &Issue) -> String {
    let Some(at) = issue.at else { return format!("ERROR: <input>:-1:0: {}", issue.message) };
    let before = &source[..at.min(source.len())];
    let number = before.matches('\n').count() + 1;
    let begin = before.rfind('\n').map_or(0, |i| i + 1);
    let column = before[begin..].chars().count();
    // Upstream finds no offset in an empty text, so that its column stays one short.
    let shown_column = if source.is_empty() { 0 } else { column + 1 };
    let mut text = format!("ERROR: <input>:{number}:{shown_column}: {}", issue.message);
    let line = source[begin..].split('\n').next().unwrap_or_default();
    if source.is_empty() || line.len() > SNIPPET_BYTES_MAX {
        return text;
    }
    let line = line.replace('\t', " ");
    let _ = write!(text, "\n | {line}\n | ");
    let mut chars = line.chars();
    for c in chars.by_ref().take(column) {
        text.push(if c.is_ascii() { '.' } else { '\u{ff0e}' });
    }
    text.push(if chars.next().is_none_or(|c| c.is_ascii()) { '^' } else { '\u{ff3e}' });
    text
}
