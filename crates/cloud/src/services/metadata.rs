//! The metadata server: the project, and tokens of its default service account.

use machinery::json;

use crate::Inner;
use crate::http::{Reply, Request};
use crate::identity::{TOKEN_SECONDS, all_scopes};

const ROOT: &str = "/computeMetadata/v1/";

/// Answers `/` and `/computeMetadata/…`: asked with the header that no page can make a browser send, never through a
/// proxy.
pub(super) fn answer(inner: &Inner, request: &Request) -> Reply {
    let reply = if request.path == "/" {
        Reply::text(200, "computeMetadata/\n")
    } else if !request.header("x-forwarded-for").is_empty() {
        Reply::text(403, "X-Forwarded-For is refused.\n")
    } else if !request.header("metadata-flavor").eq_ignore_ascii_case("google") {
        Reply::text(403, "Missing Metadata-Flavor:Google header.\n")
    } else if request.verb != "GET" {
        Reply::text(405, "Only GET is served.\n")
    } else {
        entry(inner, request).unwrap_or_else(|| Reply::text(404, "No such entry.\n"))
    };
    reply.with("metadata-flavor", "Google").with("server", "Metadata Server for VM")
}

fn entry(inner: &Inner, request: &Request) -> Option<Reply> {
    let compute = format!("{}-compute@developer.gserviceaccount.com", inner.project_number);
    let path = crate::http::decode(&request.path);
    let path = path
        .strip_prefix(ROOT)
        .or_else(|| (path == "/computeMetadata" || path == "/computeMetadata/").then_some(""))?;
    let text = |text: &str| Some(Reply::text(200, text));
    match path {
        "" => return text("instance/\nproject/\nuniverse/\n"),
        "project/project-id" => return text(&inner.project),
        "project/numeric-project-id" => return text(&inner.project_number),
        "universe/universe-domain" => return text("googleapis.com"),
        "instance/id" => return text("1"),
        "instance/service-accounts" | "instance/service-accounts/" => return text(&format!("default/\n{compute}/\n")),
        _ => {}
    }
    let (account, item) = path.strip_prefix("instance/service-accounts/")?.split_once('/')?;
    if account != "default" && account != compute {
        return None;
    }
    match item {
        "" if request.query("recursive") == "true" => {
            Some(Reply::json(200, &json!({"aliases": ["default"], "email": compute, "scopes": all_scopes()})))
        }
        "" => text("aliases\nemail\nidentity\nscopes\ntoken\n"),
        "email" => text(&compute),
        "aliases" => text("default\n"),
        "scopes" => text(&format!("{}\n", all_scopes().join("\n"))),
        "token" => Some(match inner.new_token(&compute, all_scopes(), Some(TOKEN_SECONDS)) {
            Ok(token) => {
                Reply::json(200, &json!({"access_token": token, "expires_in": TOKEN_SECONDS, "token_type": "Bearer"}))
            }
            Err(error) => super::refusal(inner, &error),
        }),
        "identity" => {
            let audience = request.query("audience");
            if audience.is_empty() {
                return Some(Reply::text(400, "non-empty audience parameter required\n"));
            }
            Some(match super::oauth::id_token(inner, &compute, audience) {
                Ok(token) => Reply::text(200, token),
                Err(error) => super::refusal(inner, &error),
            })
        }
        _ => None,
    }
}
