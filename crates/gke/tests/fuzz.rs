//! What strangers send before anybody knows them: queries, paths and hosts of metadata servers, networks of endpoints.

use std::net::Ipv4Addr;

use fuzz::Fuzz;
use gke::metadata::{Entry, Outcome, Request, answer, guard, touches, waits};
use machinery::Value;

fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).split('\n').map(str::to_owned).collect()
}

#[test]
fn any_request_to_a_metadata_server_is_answered_and_only_its_own_host_gets_past_the_guard() {
    let own = ["127.1.2.3:80".to_owned(), "127.1.2.3".to_owned()];
    let seeds = [
        "GET\n/computeMetadata/v1/instance/attributes/kube-env\nmetadata.google.internal\nGoogle\nalt=json",
        "GET\n/computeMetadata/v1/\n127.1.2.3:80\nGoogle\nrecursive=true&wait_for_change=true&timeout_sec=5&last_etag=x",
    ];
    let words =
        ["%2e%2e/", "%00", "..", "//", "evil.example", ":", "@", "v1beta1", "&", "=", "%", "+", "timeout_sec=-1", "é"];
    let tree = Entry::text_of("value");
    Fuzz::of(seeds).words(words).run(|bytes| {
        let lines = lines(bytes);
        let line = |number: usize| lines.get(number).cloned().unwrap_or_default();
        let request = Request {
            method: line(0),
            path: line(1),
            query: gke::query::pairs(&line(4)),
            host: line(2),
            flavor: line(3),
            forwarded: false,
        };
        let _ = (waits(&request), touches(&request, "instance/attributes/kube-env"));
        if let Outcome::Done(reply) = answer(&tree, &request) {
            assert!(reply.location.is_none_or(|location| !location.contains(['\r', '\n'])), "a header was split");
        }
        if guard(&request, &own).is_none() {
            let known = ["metadata", "metadata.google.internal", "metadata.goog", "169.254.169.254"];
            let host = request.host.rsplit_once(':').map_or(request.host.as_str(), |(name, _)| name);
            let is_known = known.iter().any(|known| known.eq_ignore_ascii_case(host));
            assert!(is_known || own.contains(&request.host), "{}", request.host);
            assert!(request.method == "GET");
        }
    });
}

#[test]
fn any_networks_are_read_or_refused_and_never_open_more_than_they_say() {
    use gke::exposure::{Endpoint, EndpointSettings, Place, decide};
    let seeds = [
        r#"{"controlPlaneEndpointsConfig":{"ipEndpointsConfig":{"enabled":true,"enablePublicEndpoint":true,"authorizedNetworksConfig":{"enabled":true,"cidrBlocks":[{"cidrBlock":"10.0.0.0/8"},{"cidrBlock":"192.0.2.1/32"}]}}}}"#,
    ];
    let words = [
        "0.0.0.0/0",
        "/33",
        "::/0",
        "10.0.0.0/-1",
        "010.1.1.1/8",
        "1.2.3.4",
        "null",
        "[]",
        "{}",
        "\\u0000",
        "\"enabled\":1",
    ];
    Fuzz::of(seeds).words(words).run(|bytes| {
        let Ok(body) = Value::from_slice(bytes) else { return };
        let settings = EndpointSettings::of(&body);
        let networks = settings.authorized.clone();
        let stranger = "203.0.113.7".parse().unwrap();
        let let_in = decide(&settings, Endpoint::External, stranger, Place::Internet).allows();
        let named =
            networks.is_none_or(|all| all.iter().any(|network| network.contains(&Ipv4Addr::new(203, 0, 113, 7))));
        assert!(!let_in || named, "{body}");
    });
}
