use super::*;

fn machine() -> Machine {
    Machine {
        name: "node-a".to_owned(),
        id: 42,
        zone: "us-central1-a".to_owned(),
        machine_type: "e2-medium".to_owned(),
        project: "p".to_owned(),
        project_number: "123".to_owned(),
        address: "10.128.0.2".to_owned(),
        tags: vec!["gke-node".to_owned()],
        attributes: [("cluster-name", "demo"), ("kube-env", "A: \"b\"\n")].map(|(k, v)| (k.into(), v.into())).into(),
        account: "a@p.iam.gserviceaccount.com".to_owned(),
        scopes: vec!["s1".to_owned(), "s2".to_owned()],
    }
}

fn request(path_and_query: &str) -> Request {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    Request {
        method: "GET".to_owned(),
        path: path.to_owned(),
        query: crate::query::pairs(query),
        host: "metadata.google.internal".to_owned(),
        flavor: "Google".to_owned(),
        forwarded: false,
    }
}

fn get(path: &str) -> Reply {
    match answer(&machine().tree(), &request(path)) {
        Outcome::Done(reply) => reply,
        other => panic!("{path}: {other:?}"),
    }
}

fn check(path: &str, body: &str) {
    let reply = get(&format!("/computeMetadata/v1/{path}"));
    assert_eq!((reply.code, reply.body.as_str()), (200, body), "{path}");
    assert_eq!(reply.etag.as_ref().map(String::len), Some(16), "{path}");
}

#[test]
fn values_and_directories_are_read_as_compute_engine_shows_them() {
    check("", "instance/\nproject/\nuniverse/\n");
    check("project/", "attributes/\nnumeric-project-id\nproject-id\n");
    check("project/project-id", "p");
    check("project/numeric-project-id", "123");
    check("instance/zone", "projects/123/zones/us-central1-a");
    check("instance/hostname", "node-a.us-central1-a.c.p.internal");
    check("instance/id?alt=json", "42");
    check("instance/name?alt=json", "\"node-a\"");
    check("instance/tags", "[\"gke-node\"]");
    check("instance/attributes/", "cluster-name\nkube-env\n");
    check("instance/attributes/cluster-name", "demo");
    check("instance/disks/", "0/\n");
    check("instance/disks/0/device-name", "persistent-disk-0");
    check("instance/service-accounts/", "a@p.iam.gserviceaccount.com/\ndefault/\n");
    check("instance/service-accounts/default/", "aliases\nemail\nidentity\nscopes\ntoken\n");
    check("instance/service-accounts/default/scopes", "s1\ns2\n");
    check("instance/service-accounts/a%40p.iam.gserviceaccount.com/email", "a@p.iam.gserviceaccount.com");
    check(
        "instance/service-accounts/default/?recursive=true",
        r#"{"aliases":["default"],"email":"a@p.iam.gserviceaccount.com","scopes":["s1","s2"]}"#,
    );
    check("project/?recursive=true", r#"{"attributes":{},"numericProjectId":123,"projectId":"p"}"#);
    check("project/?recursive=true&alt=text", "numeric-project-id 123\nproject-id p\n");
    check(
        "instance/service-accounts/default/?recursive=true&alt=text",
        "aliases default\nemail a@p.iam.gserviceaccount.com\nscopes s1\nscopes s2\n",
    );
    check(
        "instance/scheduling/?recursive=true",
        r#"{"automaticRestart":"TRUE","onHostMaintenance":"MIGRATE","preemptible":"FALSE"}"#,
    );
}

#[test]
fn what_is_not_there_or_asked_wrongly_is_answered_with_googles_pages() {
    let cases = [
        (
            "/computeMetadata/v1/instance/nothing",
            404,
            "The requested URL <code>/computeMetadata/v1/instance/nothing</code>",
        ),
        ("/computeMetadata/v1/instance/name/", 404, "was not found on this server."),
        ("/computeMetadata/v1/instance/name/x", 404, "was not found on this server."),
        ("/computeMetadata/v1/instance/disks/1/", 404, "was not found on this server."),
        ("/computeMetadata/v2/<script>", 404, "&lt;script&gt;"),
        ("/computeMetadata/v1/instance", 301, "/computeMetadata/v1/instance/\n"),
        ("/computeMetadata/v1", 301, "/computeMetadata/v1/\n"),
        ("/computeMetadata/v1/project/?alt=json", 400, "malformed"),
        ("/computeMetadata/v1/instance/name?alt=xml", 400, "malformed"),
        ("/computeMetadata/v1beta1/instance/name", 403, "Legacy metadata endpoints are disabled."),
        ("/0.1/meta-data/", 403, "Please use the /v1/ endpoint."),
        (
            "/computeMetadata/v1/instance/service-accounts/default/identity",
            400,
            "non-empty audience parameter required",
        ),
        ("/", 200, "computeMetadata/\n"),
    ];
    for (path, code, text) in cases {
        let reply = get(path);
        assert!(reply.code == code && reply.body.contains(text), "{path}: {reply:?}");
    }
    let moved = get("/computeMetadata/v1/instance?recursive=true").location.unwrap();
    assert_eq!(moved, "http://metadata.google.internal/computeMetadata/v1/instance/?recursive=true");
}

#[test]
fn tokens_are_made_by_whoever_serves() {
    let of = |path: &str| {
        answer(&machine().tree(), &request(&format!("/computeMetadata/v1/instance/service-accounts/{path}")))
    };
    let token = |account: &str, scopes: &[&str]| Outcome::Token {
        account: account.to_owned(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
    };
    assert_eq!(of("default/token"), token("default", &[]));
    assert_eq!(of("default/token?scopes=a,%20b,"), token("default", &["a", "b"]));
    assert_eq!(of("a@p.iam.gserviceaccount.com/token"), token("a@p.iam.gserviceaccount.com", &[]));
    let identity = Outcome::Identity { account: "default".to_owned(), audience: "https://x".to_owned(), full: true };
    assert_eq!(of("default/identity?audience=https://x&format=full"), identity);
    assert!(matches!(of("other/token"), Outcome::Done(Reply { code: 404, .. })));
}

#[test]
fn guards_refuse_pages_proxies_and_callers_without_the_header() {
    let own = ["127.3.2.1:80".to_owned(), "127.3.2.1".to_owned()];
    let refused = |change: &dyn Fn(&mut Request)| {
        let mut request = request("/computeMetadata/v1/instance/name");
        change(&mut request);
        guard(&request, &own).map(|reply| (reply.code, reply.body))
    };
    assert_eq!(refused(&|_| ()), None);
    for host in [
        "metadata",
        "169.254.169.254",
        "metadata.google.internal:80",
        "Metadata.Google.Internal",
        "127.3.2.1",
        "127.3.2.1:80",
    ] {
        assert_eq!(refused(&|request| request.host = host.to_owned()), None, "{host}");
    }
    for host in ["", "evil.example", "127.0.0.1", "127.3.2.1.evil.example", "metadata.evil.example", "127.3.2.1:81"] {
        let (code, body) = refused(&|request| request.host = host.to_owned()).unwrap();
        assert!(code == 403 && body.contains("is not one of this server"), "{host}: {body}");
    }
    let (code, body) = refused(&|request| request.flavor.clear()).unwrap();
    assert!(code == 403 && body.contains("from this server. Missing Metadata-Flavor:Google header."), "{body}");
    assert_eq!(refused(&|request| request.flavor = "Microsoft".to_owned()).unwrap().0, 403);
    assert_eq!(refused(&|request| request.forwarded = true).unwrap().0, 403);
    assert_eq!(refused(&|request| request.method = "PUT".to_owned()).unwrap().0, 405);
    for (seconds, code) in [("7", None), ("", None), ("-1", Some(400)), ("1s", Some(400)), ("1e3", Some(400))] {
        let answer = refused(&|request| request.query = vec![("timeout_sec".to_owned(), seconds.to_owned())]);
        assert_eq!(answer.map(|(code, _)| code), code, "{seconds}");
    }
    let mut root = request("/");
    root.flavor.clear();
    assert_eq!(guard(&root, &own), None, "clients look whether somebody is there");
}

#[test]
fn waiting_and_what_is_touched() {
    assert_eq!(waits(&request("/x")), None);
    let asked = waits(&request("/x?wait_for_change=true&last_etag=0&timeout_sec=7")).unwrap();
    assert_eq!(asked, Wait { last_etag: Some("0".to_owned()), timeout: Some(Duration::from_secs(7)) });
    assert_eq!(waits(&request("/x?wait_for_change=TRUE")).unwrap(), Wait { last_etag: None, timeout: None });
    let touched =
        |path: &str| touches(&request(&format!("/computeMetadata/v1/{path}")), "instance/attributes/kube-env");
    assert!(
        touched("instance/attributes/kube-env") && touched("?recursive=true") && touched("instance/?recursive=true")
    );
    assert!(touched("instance/attributes/?recursive=true") && touched("instance/attributes/kube%2Denv"));
    assert!(
        !touched("instance/attributes/")
            && !touched("instance/attributes/cluster-name")
            && !touched("project/?recursive=true")
    );
}

#[test]
fn a_pod_sees_less_than_its_node() {
    let tree = machine().tree_for_pods();
    for path in ["instance/attributes/kube-env", "instance/name", "instance/disks/"] {
        let answer = answer(&tree, &request(&format!("/computeMetadata/v1/{path}")));
        assert!(matches!(answer, Outcome::Done(Reply { code: 404, .. })), "{path}: {answer:?}");
    }
    let names = answer(&tree, &request("/computeMetadata/v1/instance/attributes/"));
    assert!(matches!(names, Outcome::Done(Reply { body, .. }) if body == "cluster-name\n"));
}

#[test]
fn a_pod_sees_its_own_account_and_little_of_the_machine() {
    let pod = Machine { account: "cart@p.iam.gserviceaccount.com".to_owned(), ..machine() };
    let get = |path: &str| match answer_for_pod(&pod, &request(&format!("/computeMetadata/v1/{path}"))) {
        Outcome::Done(reply) => (reply.code, reply.body),
        made => (0, format!("{made:?}")),
    };
    let concealed = (403, "This metadata endpoint is concealed.\n".to_owned());
    for hidden in ["instance/attributes/kube-env", "instance/name", "instance/disks/", "instance/tags"] {
        assert_eq!(get(hidden), concealed, "{hidden}");
    }
    assert_eq!(get("instance/attributes/"), (200, "cluster-name\n".to_owned()));
    assert_eq!(get("instance/service-accounts/default/email").1, "cart@p.iam.gserviceaccount.com");
    assert_eq!(get("instance/service-accounts/").1, "cart@p.iam.gserviceaccount.com/\ndefault/\n");
    // The machine's own account is nobody here, and what is nowhere is not concealed.
    assert_eq!(get("instance/service-accounts/a@p.iam.gserviceaccount.com/token").0, 404);
    assert_eq!(get("instance/nothing").0, 404);
    assert!(get("instance/service-accounts/default/token?scopes=a,b").1.contains("[\"a\", \"b\"]"));
}

#[test]
fn a_missing_binding_is_told_with_the_way_out() {
    let message = "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).";
    let reply = no_token("access token", 403, message);
    let text = "Unable to generate access token; IAM returned 403 Forbidden: Permission \
                'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).\nThis error could be caused \
                by a missing IAM policy binding on the target IAM service account.\n";
    assert!(
        reply.code == 403 && reply.body.starts_with(text) && reply.body.contains("#authenticating_to"),
        "{reply:?}"
    );
    let (gone, broken) = (no_token("identity token", 404, "Not found"), no_token("access token", 503, "x"));
    assert_eq!(gone.body, "Unable to generate identity token; IAM returned 404 Not Found: Not found\n");
    assert_eq!((broken.code, broken.body.as_str()), (500, "GKE Metadata Server: Internal Server Error\n"));
}
