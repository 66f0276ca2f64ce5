//! `pilothouse inspect trust`: as text, JSON, or a picture.

use std::fmt::Write;

use anyhow::Result;

use crate::cli::InspectFormat;
use crate::fleet::trust::{ClusterTrust, Connection, Shown};

/// Digits that tell certificates apart for people.
const SHORT: usize = 12;

/// # Errors
/// When it cannot be written.
pub(crate) fn print(clusters: &[ClusterTrust], format: InspectFormat) -> Result<String> {
    match format {
        InspectFormat::Json => Ok(serde_json::to_string_pretty(clusters)? + "\n"),
        InspectFormat::Text => text(clusters),
        InspectFormat::Svg => picture(clusters),
    }
}

fn short(sha256: &str) -> &str {
    &sha256[..sha256.len().min(SHORT)]
}

fn text(clusters: &[ClusterTrust]) -> Result<String> {
    let mut out = String::new();
    for (i, found) in clusters.iter().enumerate() {
        let gap = if i == 0 { "" } else { "\n" };
        writeln!(out, "{gap}Cluster {} in {}", found.cluster, found.location)?;
        for authority in found.certificates.iter().filter(|certificate| certificate.is_ca) {
            let name = authority.used_for.trim_end_matches(" CA");
            writeln!(out, "\n  {}  {}  until {}", authority.used_for, short(&authority.sha256), authority.not_after)?;
            if !authority.ca_pool.is_empty() {
                writeln!(out, "    in {}", authority.ca_pool)?;
            }
            for leaf in found.certificates.iter().filter(|c| !c.is_ca && c.authority == name) {
                writeln!(
                    out,
                    "    {}  {}\n      {}  until {}",
                    short(&leaf.sha256),
                    leaf.used_for,
                    leaf.subject,
                    leaf.not_after
                )?;
            }
        }
        for stray in found.certificates.iter().filter(|c| !c.is_ca && c.authority.is_empty()) {
            writeln!(out, "\n  NOT OF THIS CLUSTER  {}  {}  {}", short(&stray.sha256), stray.used_for, stray.subject)?;
        }
        writeln!(out, "\n  Connections")?;
        for Connection { from, to, client, server, by } in &found.connections {
            let shown =
                if client.is_empty() { String::new() } else { format!("  {} to {}", short(client), short(server)) };
            writeln!(out, "    {from} -> {to}: {by}{shown}")?;
        }
        for silent in &found.silent {
            writeln!(out, "    NO ANSWER from {silent}")?;
        }
    }
    Ok(out)
}

const ROW: usize = 26;
const BOX: usize = 300;
const COLUMNS: [usize; 3] = [20, 460, 900];
const WIDTH: usize = COLUMNS[2] + BOX + 20;

/// Parties in three columns: those that only ask, those that do both, authorities with what they signed.
fn picture(clusters: &[ClusterTrust]) -> Result<String> {
    let mut body = String::new();
    let mut top = 30;
    for found in clusters {
        writeln!(
            body,
            "<text x=\"20\" y=\"{top}\" class=\"title\">{} in {}</text>",
            escape(&found.cluster),
            escape(&found.location)
        )?;
        top += 14;
        let (asking, both) = columns(&found.connections);
        let place = |name: &str| -> Option<(usize, usize)> {
            let row = |list: &[String]| list.iter().position(|party| party == name);
            row(&asking).map(|row| (COLUMNS[0], row)).or_else(|| row(&both).map(|row| (COLUMNS[1], row)))
        };
        let middle = |row: usize| top + row * ROW + ROW / 2;
        for connection in &found.connections {
            let (Some((x1, from)), Some((x2, to))) = (place(&connection.from), place(&connection.to)) else { continue };
            let class = if connection.client.is_empty() { "inside" } else { "mutual" };
            let (y1, y2) = (middle(from), middle(to));
            let (start, end) = if x1 == x2 { (x1 + BOX, x2 + BOX) } else { (x1 + BOX, x2) };
            let bend = if x1 == x2 { start + 60 } else { usize::midpoint(start, end) };
            writeln!(
                body,
                "<path class=\"{class}\" d=\"M{start} {y1} C{bend} {y1} {bend} {y2} {end} {y2}\"><title>{}</title></path>",
                escape(&format!("{} to {}: {}", connection.from, connection.to, connection.by))
            )?;
        }
        for (x, list) in [(COLUMNS[0], &asking), (COLUMNS[1], &both)] {
            for (row, party) in list.iter().enumerate() {
                label(&mut body, x, top + row * ROW, party, "")?;
            }
        }
        let mut row = 0;
        for authority in found.certificates.iter().filter(|certificate| certificate.is_ca) {
            label(&mut body, COLUMNS[2], top + row * ROW, &authority.used_for, &tooltip(authority))?;
            row += 1;
            let name = authority.used_for.trim_end_matches(" CA");
            for leaf in found.certificates.iter().filter(|c| !c.is_ca && c.authority == name) {
                let text = format!("{} {}", short(&leaf.sha256), leaf.used_for);
                writeln!(
                    body,
                    "<text x=\"{}\" y=\"{}\">{}<title>{}</title></text>",
                    COLUMNS[2] + 14,
                    top + row * ROW + 16,
                    escape(&text),
                    escape(&tooltip(leaf))
                )?;
                row += 1;
            }
        }
        top += asking.len().max(both.len()).max(row) * ROW + 40;
    }
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{top}\" viewBox=\"0 0 {WIDTH} {top}\">\n\
         <style>text{{font:12px sans-serif;fill:#222}}.title{{font-weight:bold;font-size:15px}}\
         rect{{fill:#eef3fb;stroke:#4a6fa5}}path{{fill:none}}.mutual{{stroke:#2e7d32;stroke-width:1.5}}\
         .inside{{stroke:#888;stroke-dasharray:4 3}}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{top}\" style=\"fill:#fff;stroke:none\"/>\n{body}</svg>\n"
    ))
}

fn columns(connections: &[Connection]) -> (Vec<String>, Vec<String>) {
    let (mut asking, mut both) = (Vec::new(), Vec::new());
    for connection in connections {
        for party in [&connection.from, &connection.to] {
            let serves = connections.iter().any(|other| other.to == *party);
            let list = if serves { &mut both } else { &mut asking };
            if !list.contains(party) {
                list.push(party.clone());
            }
        }
    }
    (asking, both)
}

fn label(out: &mut String, x: usize, y: usize, text: &str, title: &str) -> Result<()> {
    let title = if title.is_empty() { String::new() } else { format!("<title>{}</title>", escape(title)) };
    let height = ROW - 6;
    writeln!(out, "<g><rect x=\"{x}\" y=\"{y}\" width=\"{BOX}\" height=\"{height}\" rx=\"4\"/>{title}")?;
    writeln!(out, "<text x=\"{}\" y=\"{}\">{}</text></g>", x + 6, y + 14, escape(text))?;
    Ok(())
}

fn tooltip(certificate: &Shown) -> String {
    let Shown { sha256, subject, issuer, not_after, .. } = certificate;
    format!("{subject}\nissued by {issuer}\nuntil {not_after}\nSHA-256 {sha256}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Vec<ClusterTrust> {
        let certificate = |used_for: &str, is_ca, authority: &str| Shown {
            sha256: format!("{:064x}", used_for.len()),
            subject: format!("CN=<{used_for}>"),
            issuer: "CN=x".to_owned(),
            is_ca,
            not_after: "2030".to_owned(),
            used_for: used_for.to_owned(),
            authority: authority.to_owned(),
            ca_pool: if is_ca { "projects/p/locations/l/caPools/c".to_owned() } else { String::new() },
        };
        let connection = |from: &str, to: &str, client: &str| Connection {
            from: from.to_owned(),
            to: to.to_owned(),
            client: client.to_owned(),
            server: client.to_owned(),
            by: "mutual TLS".to_owned(),
        };
        vec![ClusterTrust {
            cluster: "demo".to_owned(),
            location: "us-central1-a".to_owned(),
            certificates: vec![
                certificate("cluster CA", true, "cluster"),
                certificate("API server", false, "cluster"),
                certificate("intruder", false, ""),
            ],
            connections: vec![connection("kubelet a", "API server", "ff"), connection("API server", "signer", "")],
            silent: vec!["kubelet b at 127.0.0.1:1".to_owned()],
        }]
    }

    #[test]
    fn certificates_stand_under_their_authority_and_strangers_apart() {
        let text = print(&found(), InspectFormat::Text).unwrap();
        let order = [
            "Cluster demo",
            "cluster CA",
            "caPools/c",
            "API server",
            "NOT OF THIS CLUSTER",
            "Connections",
            "NO ANSWER",
        ];
        let places: Vec<usize> =
            order.iter().map(|part| text.find(part).unwrap_or_else(|| panic!("{part}: {text}"))).collect();
        assert!(places.is_sorted(), "{text}");
        assert!(text.contains("kubelet a -> API server: mutual TLS  ff to ff"), "{text}");
    }

    #[test]
    fn the_picture_is_well_formed_and_shows_each_party_once() {
        let svg = print(&found(), InspectFormat::Svg).unwrap();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(!svg.contains("CN=<") && svg.contains("CN=&lt;"), "names are escaped");
        assert_eq!(svg.matches(">kubelet a</text>").count(), 1);
        assert_eq!(svg.matches("<path").count(), 2);
        assert_eq!(svg.matches("<g>").count(), svg.matches("</g>").count());
    }
}
