//! A token among the subprotocols of a WebSocket, whose clients in browsers can set no other header
//! (`apiserver/pkg/authentication/request/websocket`).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL, UPGRADE};

/// The subprotocol that is a token: this, and the token in base64url without padding.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// The token among the subprotocols of a request for a WebSocket, if there is one.
///
/// # Errors
/// Upstream's text, for the log; the client sees 401.
pub(crate) fn find(headers: &HeaderMap) -> Result<Option<String>, &'static str> {
    if !is_websocket(headers) {
        return Ok(None);
    }
    let mut encoded = protocols(headers).filter_map(|protocol| protocol.strip_prefix(TOKEN_PROTOCOL));
    let Some(token) = encoded.next() else { return Ok(None) };
    if encoded.next().is_some() {
        return Err("multiple base64.bearer.authorization tokens specified");
    }
    let token = URL_SAFE_NO_PAD.decode(token).map_err(|_| "invalid base64.bearer.authorization token encoding")?;
    let token = String::from_utf8(token).map_err(|_| "invalid base64.bearer.authorization token")?;
    if token.is_empty() {
        return Ok(None);
    }
    // One must be left to be answered with.
    if protocols(headers).all(|protocol| protocol.starts_with(TOKEN_PROTOCOL)) {
        return Err("missing additional subprotocol");
    }
    Ok(Some(token))
}

/// Takes the token out of the subprotocols, so that whoever handles the request next neither sees nor answers with it.
pub(crate) fn remove(headers: &mut HeaderMap) {
    let has_token = is_websocket(headers) && protocols(headers).any(|protocol| protocol.starts_with(TOKEN_PROTOCOL));
    if !has_token {
        return;
    }
    let left: Vec<&str> = protocols(headers).filter(|protocol| !protocol.starts_with(TOKEN_PROTOCOL)).collect();
    match HeaderValue::from_str(&left.join(",")) {
        Ok(left) => headers.insert(SEC_WEBSOCKET_PROTOCOL, left),
        Err(_) => headers.remove(SEC_WEBSOCKET_PROTOCOL),
    };
}

/// Does the request ask for a WebSocket?
pub(crate) fn is_websocket(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let mut options = texts(headers, &CONNECTION).flat_map(|value| value.split(',')).map(str::trim);
    upgrade && options.any(|option| option.eq_ignore_ascii_case("upgrade"))
}

/// Every subprotocol of every such header (RFC 6455 §11.3.4: several are as good as one).
fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    texts(headers, &SEC_WEBSOCKET_PROTOCOL).flat_map(|header| header.split(',')).map(str::trim)
}

fn texts<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn websocket(protocols: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(UPGRADE, HeaderValue::from_static("WebSocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        for header in protocols {
            headers.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(header).unwrap());
        }
        headers
    }

    #[test]
    fn a_token_is_one_of_the_subprotocols_and_never_the_only_one() {
        let token = format!("{TOKEN_PROTOCOL}{}", URL_SAFE_NO_PAD.encode("secret"));
        let both = format!("{token}, v4.channel.k8s.io");
        let padded = format!("{TOKEN_PROTOCOL}YQ==, a");
        let latin = format!("{TOKEN_PROTOCOL}{}, a", URL_SAFE_NO_PAD.encode([0xe9]));
        let empty = format!("{TOKEN_PROTOCOL}, a");
        let check = |protocols: &[&str], expected: Result<Option<&str>, &str>| {
            assert_eq!(find(&websocket(protocols)), expected.map(|token| token.map(str::to_owned)), "{protocols:?}");
        };
        check(&[&both], Ok(Some("secret")));
        check(&["a,b", &token], Ok(Some("secret")));
        check(&["v4.channel.k8s.io"], Ok(None));
        check(&[], Ok(None));
        check(&[&empty], Ok(None));
        check(&[&token], Err("missing additional subprotocol"));
        check(&[&both, &token], Err("multiple base64.bearer.authorization tokens specified"));
        check(&[&padded], Err("invalid base64.bearer.authorization token encoding"));
        check(&[&latin], Err("invalid base64.bearer.authorization token"));
        let mut plain = websocket(&[&both]);
        plain.remove(UPGRADE);
        assert_eq!(find(&plain), Ok(None), "no WebSocket");
    }

    #[test]
    fn the_token_does_not_go_on() {
        let token = format!("{TOKEN_PROTOCOL}{}", URL_SAFE_NO_PAD.encode("secret"));
        let mut headers = websocket(&["a, b", &token, "c"]);
        remove(&mut headers);
        assert_eq!(headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().collect::<Vec<_>>(), ["a,b,c"]);
        let before = websocket(&["a, b", "c"]);
        let mut untouched = before.clone();
        remove(&mut untouched);
        assert_eq!(untouched, before);
    }
}
