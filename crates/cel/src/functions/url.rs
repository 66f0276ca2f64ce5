//! URLs (`k8s.io/apiserver/pkg/cel/library/urls.go` over Go's `net/url`).

use std::fmt;
use std::sync::Arc;

use machinery::go::quote;

use super::net::parse_addr;
use super::{NO_SUCH_OVERLOAD, Outcome, Row, row, text};
use crate::opaque::Opaque;
use crate::value::{Entries, Map, Val};

pub(super) const ROWS: &[Row] = &[
    row("url(string) -> kubernetes.URL", "string_to_url", |args| {
        let made = Url::parse(text(&args[0])?);
        let made = made.map_err(|why| format!("URL parse error during conversion from string: {why}"))?;
        Ok(Val::from_opaque(Opaque::Url(made)))
    }),
    row("kubernetes.URL::getScheme() -> string", "url_get_scheme", |args| Ok(Val::from_string(&url(&args[0])?.scheme))),
    row("kubernetes.URL::getHost() -> string", "url_get_host", |args| Ok(Val::from_string(&url(&args[0])?.host))),
    row("kubernetes.URL::getHostname() -> string", "url_get_hostname", |args| {
        let (name, _) = split_port(&url(&args[0])?.host);
        Ok(Val::from_string(name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name)))
    }),
    row("kubernetes.URL::getPort() -> string", "url_get_port", |args| {
        Ok(Val::from_string(split_port(&url(&args[0])?.host).1))
    }),
    row("kubernetes.URL::getEscapedPath() -> string", "url_get_escaped_path", |args| {
        Ok(Val::from_string(&url(&args[0])?.path))
    }),
    row("kubernetes.URL::getQuery() -> map(string, list(string))", "url_get_query", query),
    row("isURL(string) -> bool", "is_url_string", |args| Ok(Val::Bool(request_uri(text(&args[0])?).is_ok()))),
];

/// A URL, its path as it is sent.
#[derive(Clone, Debug)]
pub struct Url {
    scheme: String,
    opaque: String,
    user: Option<String>,
    host: String,
    path: String,
    query: Option<String>,
    fragment: Option<String>,
    has_authority: bool,
}

impl Url {
    /// `url.Parse`, of what `url.ParseRequestURI` takes.
    fn parse(raw: &str) -> Result<Self, String> {
        request_uri(raw)?;
        let (rest, fragment) = raw.split_once('#').map_or((raw, None), |(rest, fragment)| (rest, Some(fragment)));
        let wrong = |why| format!("parse {}: {why}", quote(raw));
        let mut parsed = parse(rest, false).map_err(wrong)?;
        if let Some(fragment) = fragment {
            unescaped(fragment, Part::Fragment).map_err(|why| format!("parse {}: {why}", quote(raw)))?;
            parsed.fragment = (!fragment.is_empty()).then(|| escaped(fragment));
        }
        Ok(parsed)
    }
}

/// Is it a URI that a request could name? (`url.ParseRequestURI`)
pub(super) fn request_uri(raw: &str) -> Result<(), String> {
    parse(raw, true).map(|_| ()).map_err(|why| format!("parse {}: {why}", quote(raw)))
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.scheme.is_empty() {
            write!(f, "{}:", self.scheme)?;
        }
        if self.opaque.is_empty() {
            if self.has_authority {
                f.write_str("//")?;
                if let Some(user) = &self.user {
                    write!(f, "{user}@")?;
                }
                f.write_str(&self.host.replace('%', "%25"))?;
            }
            f.write_str(&self.path)?;
        } else {
            f.write_str(&self.opaque)?;
        }
        if let Some(query) = &self.query {
            write!(f, "?{query}")?;
        }
        match &self.fragment {
            Some(fragment) => write!(f, "#{fragment}"),
            None => Ok(()),
        }
    }
}

fn url<'v>(value: &'v Val<'_>) -> Result<&'v Url, String> {
    match value {
        Val::Opaque(opaque) => match &**opaque {
            Opaque::Url(url) => Ok(url),
            _ => Err(NO_SUCH_OVERLOAD.to_owned()),
        },
        _ => Err(NO_SUCH_OVERLOAD.to_owned()),
    }
}

fn split_port(host: &str) -> (&str, &str) {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (name, port),
        _ => (host, ""),
    }
}

fn query<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    for pair in url(&args[0])?.query.as_deref().unwrap_or_default().split('&') {
        if pair.is_empty() || pair.contains(';') {
            continue;
        }
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Ok(key), Ok(value)) = (unescaped(key, Part::Query), unescaped(value, Part::Query)) else { continue };
        match all.iter_mut().find(|(other, _)| *other == key) {
            Some((_, values)) => values.push(value),
            None => all.push((key, vec![value])),
        }
    }
    let mut entries = Entries::default();
    for (key, values) in all {
        entries.insert(Val::from_string(&key), Val::from_texts(values))?;
    }
    Ok(Val::Map(Map::Shared(Arc::new(entries))))
}

/// `getScheme`: the scheme and what is behind it.
fn scheme(raw: &str) -> Result<(&str, &str), String> {
    for (i, byte) in raw.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if i > 0 => {}
            b':' if i == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => return Ok((&raw[..i], &raw[i + 1..])),
            _ => break,
        }
    }
    Ok(("", raw))
}

fn parse(raw: &str, is_request: bool) -> Result<Url, String> {
    if raw.bytes().any(|b| b < b' ' || b == 0x7f) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    if raw.is_empty() && is_request {
        return Err("empty url".to_owned());
    }
    let (scheme, rest) = if raw == "*" { ("", raw) } else { scheme(raw)? };
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query.to_owned())));
    let mut url = Url {
        scheme: scheme.to_ascii_lowercase(),
        opaque: String::new(),
        user: None,
        host: String::new(),
        path: String::new(),
        query,
        fragment: None,
        has_authority: false,
    };
    if raw == "*" {
        url.path = raw.to_owned();
        return Ok(url);
    }
    if !rest.starts_with('/') {
        if !url.scheme.is_empty() {
            url.opaque = rest.to_owned();
            return Ok(url);
        }
        if is_request {
            return Err("invalid URI for request".to_owned());
        }
        if rest.split('/').next().unwrap_or_default().contains(':') {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
    }
    let mut path = rest;
    let may_have_authority = !url.scheme.is_empty() || (!is_request && !rest.starts_with("///"));
    if let Some(after) = rest.strip_prefix("//").filter(|_| may_have_authority) {
        let end = after.find('/').unwrap_or(after.len());
        path = &after[end..];
        url.has_authority = true;
        let (user, host) = match after[..end].rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, &after[..end]),
        };
        url.host = parse_host(host, &url.scheme)?;
        if let Some(user) = user {
            if !user.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b)) {
                return Err("net/url: invalid userinfo".to_owned());
            }
            user.split(':').try_for_each(|part| unescaped(part, Part::User).map(|_| ()))?;
            url.user = Some(user.to_owned());
        }
    }
    unescaped(path, Part::Path)?;
    url.path = escaped(path);
    Ok(url)
}

fn parse_host(host: &str, scheme: &str) -> Result<String, String> {
    let port_of = |colon_port: &str| {
        let digits = colon_port.strip_prefix(':').unwrap_or(colon_port);
        let is_port =
            colon_port.is_empty() || (digits.len() < colon_port.len() && digits.bytes().all(|b| b.is_ascii_digit()));
        if is_port { Ok(()) } else { Err(format!("invalid port {} after host", quote(colon_port))) }
    };
    match host.rfind('[') {
        Some(0) => {
            let close = host.rfind(']').ok_or("missing ']' in host")?;
            port_of(&host[close + 1..])?;
            let inner = &host[1..close];
            let (address, zone) = inner.find("%25").map_or((inner, ""), |at| inner.split_at(at));
            let inner = format!("{}{}", unescaped(address, Part::Host)?, unescaped(zone, Part::Zone)?);
            let (address, _) = parse_addr(&inner).map_err(|why| format!("invalid host: {why}"))?;
            if address.is_ipv4() {
                return Err("invalid IP-literal".to_owned());
            }
            return Ok(format!("[{inner}]{}", &host[close + 1..]));
        }
        Some(_) => return Err("invalid IP-literal".to_owned()),
        None => {}
    }
    let colon = if matches!(scheme, "http" | "https") { host.find(':') } else { host.rfind(':') };
    if let Some(at) = colon {
        port_of(&host[at..])?;
    }
    unescaped(host, Part::Host)
}

/// Which part of a URL is read: each has its own characters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Host,
    Zone,
    User,
    Path,
    Query,
    Fragment,
}

fn unescaped(text: &str, part: Part) -> Result<String, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'%' => {
                let code = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
                let shown = String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 3)]);
                let wrong = || format!("invalid URL escape {}", quote(&shown));
                let code =
                    code.filter(|_| bytes[at + 1..at + 3].iter().all(u8::is_ascii_hexdigit)).ok_or_else(wrong)?;
                // A host may escape only what is not ASCII, and the percent sign of a zone.
                if part == Part::Host && code < 0x80 && &*shown != "%25" {
                    return Err(wrong());
                }
                if part == Part::Zone && &*shown != "%25" && code != b' ' && !is_host_byte(code) {
                    return Err(wrong());
                }
                out.push(code);
                at += 3;
            }
            b'+' if part == Part::Query => {
                out.push(b' ');
                at += 1;
            }
            _ => {
                if matches!(part, Part::Host | Part::Zone) && byte.is_ascii() && !is_host_byte(*byte) {
                    return Err(format!("invalid character {} in host name", quote(&text[at..=at])));
                }
                out.push(*byte);
                at += 1;
            }
        }
    }
    Ok(String::from_utf8(out).unwrap_or_else(|why| String::from_utf8_lossy(why.as_bytes()).into_owned()))
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]<>\"".contains(&byte)
}

/// The text with what a path cannot hold escaped, what is escaped left as it is.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@/%[]".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
