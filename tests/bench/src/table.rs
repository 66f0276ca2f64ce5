//! Measured lines to a Markdown table: a row a measure, a column a server, medians.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// Reads the files and makes the table.
///
/// # Errors
/// When a file cannot be read or a line is not of the form.
pub(crate) fn of(files: &[PathBuf]) -> Result<String> {
    let mut order: Vec<(String, String)> = Vec::new();
    let mut servers: Vec<String> = Vec::new();
    let mut values: BTreeMap<(String, String), Vec<f64>> = BTreeMap::new();
    for file in files {
        for line in fs::read_to_string(file)?.lines() {
            let mut parts = line.split('\t').map(str::to_owned);
            let mut part = || parts.next().with_context(|| format!("{}: {line}", file.display()));
            let (server, measure, value, unit) = (part()?, part()?, part()?, part()?);
            if !servers.contains(&server) {
                servers.push(server.clone());
            }
            if !order.iter().any(|(m, _)| *m == measure) {
                order.push((measure.clone(), unit));
            }
            values.entry((measure, server)).or_default().push(value.parse()?);
        }
    }
    let mut text =
        format!("| measure | unit | {} |\n|---|---|{}\n", servers.join(" | "), "---:|".repeat(servers.len()));
    for (measure, unit) in order {
        text.push_str(&format!("| {measure} | {unit} |"));
        for server in &servers {
            let cell = values.get_mut(&(measure.clone(), server.clone())).map(|v| median(v));
            text.push_str(&cell.map_or_else(|| " – |".to_owned(), |v| format!(" {v:.1} |")));
        }
        text.push('\n');
    }
    Ok(text)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_the_median_of_each_server() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a");
        fs::write(&file, "ours\tget\t3\tms\nours\tget\t1\tms\nours\tget\t2\tms\nreal\tget\t9\tms\n").unwrap();
        let table = of(&[file]).unwrap();
        assert!(table.contains("| get | ms | 2.0 | 9.0 |"), "{table}");
    }
}
