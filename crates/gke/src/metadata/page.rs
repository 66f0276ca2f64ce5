//! Google's pages for errors, without their pictures.

use super::{HTML, Reply};

fn page(code: u16, title: &str, text: &str) -> Reply {
    let body = format!(
        "<!DOCTYPE html>\n<html lang=en>\n  <meta charset=utf-8>\n  <title>Error {code} ({title})!!1</title>\n  \
         <p><b>{code}.</b> <ins>That\u{2019}s an error.</ins>\n  <p>{text} <ins>That\u{2019}s all we know.</ins>\n"
    );
    Reply::new(code, HTML, body)
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

pub(super) fn not_found(path: &str) -> Reply {
    let text = format!("The requested URL <code>{}</code> was not found on this server.", escape(path));
    page(404, "Not Found", &text)
}

/// `why` is HTML.
pub(super) fn forbidden(path: &str, why: &str) -> Reply {
    let path = escape(path);
    let text = format!("Your client does not have permission to get URL <code>{path}</code> from this server. {why}");
    page(403, "Forbidden", &text)
}

pub(super) fn bad_request(path: &str, why: &str) -> Reply {
    let text =
        format!("Your client has issued a malformed or illegal request for <code>{}</code>. {why}", escape(path));
    page(400, "Bad Request", &text)
}

pub(super) fn method_not_allowed(method: &str, path: &str) -> Reply {
    let (method, path) = (escape(method), escape(path));
    let text = format!("The request method <code>{method}</code> is inappropriate for the URL <code>{path}</code>.");
    page(405, "Method Not Allowed", &text)
}
