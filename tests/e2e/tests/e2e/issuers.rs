//! Tokens that come from elsewhere: another cluster's as those of an OpenID issuer, a webhook that knows more, and what a
//! stranger puts into headers. One API server is the issuer, another one trusts it; the store is common to both.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use e2e::{eventually, on_path, program, skipped};
use tempfile::TempDir;

use crate::authentication::curl;

const LIMIT: Duration = Duration::from_secs(40);
const WHOAMI: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const REVIEW: &str = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#;

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A store, and API servers on it.
struct Place {
    dir: TempDir,
    etcd: String,
    processes: Vec<Process>,
}

/// One API server.
struct Server {
    url: String,
    /// Its certificate and authority.
    authority: PathBuf,
}

impl Place {
    fn new(openssl: &Path) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let etcd = format!("http://127.0.0.1:{}", free_port()?);
        let child = Command::new(program())
            .arg("etcd")
            .arg(format!("--data-dir={}", dir.path().join("etcd").display()))
            .args([format!("--listen-client-urls={etcd}"), format!("--advertise-client-urls={etcd}")])
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{}", free_port()?))
            .stderr(Stdio::null())
            .spawn()?;
        for name in ["one", "two"] {
            let made =
                Command::new(openssl).args(["genrsa", "-out"]).arg(dir.path().join(name)).arg("2048").output()?;
            ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
        std::fs::write(dir.path().join("tokens.csv"), "t0ken,admin,1,\"system:masters\"\n")?;
        std::fs::write(dir.path().join("more.csv"), "t0ken,admin,1,\"system:masters\"\nfar,jane,7,\"devs\"\n")?;
        Ok(Self { dir, etcd, processes: vec![Process(child)] })
    }

    fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    fn command(&self, name: &str, port: u16, key: &str, tokens: &str, more: &[String]) -> Command {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let mut command = Command::new(program());
        command
            .args(["apiserver", "--etcd-servers", &self.etcd, "--secure-port", &port.to_string()])
            .arg(format!("--service-account-issuer=https://127.0.0.1:{port}"))
            .arg(format!("--service-account-jwks-uri=https://127.0.0.1:{port}/openid/v1/jwks"))
            .arg(format!("--service-account-signing-key-file={}", file(key)))
            .arg(format!("--token-auth-file={}", file(tokens)))
            .arg(format!("--cert-dir={}", file(name)))
            .args(more);
        command
    }

    /// Starts a server and waits until it answers; etcd may be slower than it.
    fn start(&mut self, name: &str, key: &str, tokens: &str, more: &[String]) -> Result<Server> {
        let port = free_port()?;
        let url = format!("https://127.0.0.1:{port}");
        let spawn = || self.command(name, port, key, tokens, more).stderr(Stdio::null()).spawn();
        let mut child = Process(spawn()?);
        eventually(LIMIT, || {
            if child.0.try_wait()?.is_some() {
                child = Process(spawn()?);
            }
            let (code, body) = curl(&["-H", "Authorization: Bearer t0ken", &format!("{url}/readyz")])?;
            ensure!(code == 200, "{code} {body}");
            Ok(())
        })?;
        self.processes.push(child);
        Ok(Server { url, authority: self.dir.path().join(name).join("apiserver.crt") })
    }
}

impl Server {
    fn post(&self, token: &str, path: &str, body: &str) -> Result<(u16, serde_json::Value)> {
        self.post_with(&["-H", &format!("Authorization: Bearer {token}")], path, body)
    }

    fn post_with(&self, more: &[&str], path: &str, body: &str) -> Result<(u16, serde_json::Value)> {
        let url = format!("{}{path}", self.url);
        let mut arguments = vec!["-H", "Content-Type: application/json", "-d", body, &url];
        arguments.extend(more);
        let (code, text) = curl(&arguments)?;
        Ok((code, serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text))))
    }

    fn admin(&self, path: &str, body: &str) -> Result<serde_json::Value> {
        let (code, answer) = self.post("t0ken", path, body)?;
        ensure!(matches!(code, 200 | 201), "{path}: {code} {answer}");
        Ok(answer)
    }

    /// Name and groups of whoever holds the token; the code otherwise.
    fn whoami(&self, token: &str) -> Result<Result<serde_json::Value, u16>> {
        let (code, answer) = self.post(token, WHOAMI, REVIEW)?;
        Ok(if code == 201 { Ok(answer["status"]["userInfo"].clone()) } else { Err(code) })
    }

    fn token(&self, audiences: &str) -> Result<String> {
        let body = format!(
            r#"{{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","spec":{{"audiences":[{audiences}]}}}}"#
        );
        let made = self.admin("/api/v1/namespaces/default/serviceaccounts/robot/token", &body)?;
        Ok(made["status"]["token"].as_str().context("a token")?.to_owned())
    }
}

const DISCOVERY: &str = r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding",
    "metadata":{"name":"discovery"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole",
    "name":"system:service-account-issuer-discovery"},"subjects":[{"apiGroup":"rbac.authorization.k8s.io",
    "kind":"Group","name":"system:unauthenticated"}]}"#;

fn configuration(issuer: &Server) -> Result<String> {
    let authority = std::fs::read_to_string(&issuer.authority)?;
    let config = serde_json::json!({
        "apiVersion": "apiserver.config.k8s.io/v1beta1", "kind": "AuthenticationConfiguration",
        "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]},
        "jwt": [
            {"issuer": {"url": "https://nowhere.invalid", "audiences": ["x"], "certificateAuthority": authority},
                "claimMappings": {"username": {"claim": "sub", "prefix": ""}}},
            {"issuer": {"url": issuer.url, "audiences": ["here"], "certificateAuthority": authority},
                "claimValidationRules": [{"claim": "sub", "requiredValue": "system:serviceaccount:default:robot"}],
                "claimMappings": {"username": {"claim": "sub", "prefix": "a:"}, "uid": {"claim": "jti"},
                    "groups": {"claim": "aud", "prefix": "aud:"}}},
        ],
    });
    Ok(config.to_string())
}

#[test]
fn tokens_of_a_trusted_issuer_come_in_under_another_name_and_no_others() -> Result<()> {
    let Some(openssl) = on_path("openssl") else {
        skipped("tokens of other issuers", "openssl is not on PATH to make keys");
        return Ok(());
    };
    let mut place = Place::new(&openssl)?;
    let issuer = place.start("issuer", "one", "tokens.csv", &[])?;
    issuer.admin("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", DISCOVERY)?;
    let robot = r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"robot"}}"#;
    issuer.admin("/api/v1/namespaces/default/serviceaccounts", robot)?;
    let file = place.file("authentication.json", &configuration(&issuer)?)?;
    let server = place.start("server", "two", "tokens.csv", &[format!("--authentication-config={file}")])?;
    let good = issuer.token("\"here\",\"there\"")?;
    let user = eventually(LIMIT, || match server.whoami(&good)? {
        Ok(user) => Ok(user),
        Err(code) => bail!("{code}"),
    })?;
    ensure!(user["username"] == "a:system:serviceaccount:default:robot", "{user}");
    ensure!(user["groups"] == serde_json::json!(["aud:here", "aud:there", "system:authenticated"]), "{user}");
    ensure!(user["uid"].as_str().is_some_and(|uid| uid.len() == 36), "{user}");

    let parts: Vec<&str> = good.split('.').collect();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let own = server.token("")?;
    for (what, bad) in [
        ("another audience", issuer.token("\"there\"")?),
        ("alg none", format!("{none}.{}.", parts[1])),
        ("alg none with the signature", format!("{none}.{}.{}", parts[1], parts[2])),
        (
            "the other server's signature",
            format!("{}.{}.{}", parts[0], parts[1], own.rsplit('.').next().unwrap_or_default()),
        ),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("the server's own token", own.clone()),
    ] {
        let at = if what == "the server's own token" { &issuer } else { &server };
        ensure!(at.whoami(&bad)? == Err(401), "{what}");
    }
    ensure!(server.whoami(&own)?.is_ok_and(|user| user["username"] == "system:serviceaccount:default:robot"));

    // Nobody in particular sees /livez and nothing else, whatever RBAC says.
    let code = |path: &str| curl(&[&format!("{}{path}", server.url)]).map(|(code, _)| code);
    ensure!(code("/livez")? == 200 && code("/version")? == 401 && code("/openid/v1/jwks")? == 401);
    let (code, _) =
        server.post_with(&["-H", "X-Remote-User: admin", "-H", "X-Remote-Group: system:masters"], WHOAMI, REVIEW)?;
    ensure!(code == 401, "headers of a front proxy that is none: {code}");
    Ok(())
}

/// The issuer's tokens, with expressions for who they stand for.
fn expressions(issuer: &Server, prefix: &str, rule: &str) -> Result<String> {
    let authority = std::fs::read_to_string(&issuer.authority)?;
    let config = serde_json::json!({
        "apiVersion": "apiserver.config.k8s.io/v1beta1", "kind": "AuthenticationConfiguration",
        "jwt": [{
            "issuer": {"url": issuer.url, "audiences": ["here"], "certificateAuthority": authority},
            "claimValidationRules": [{"expression": rule, "message": "only robots"}],
            "claimMappings": {
                "username": {"expression": format!("'{prefix}' + claims.sub.split(':')[3]")},
                "groups": {"expression": "dyn(claims.aud).filter(a, a != 'there').map(a, 'aud:' + a)"},
                "uid": {"expression": "claims['kubernetes.io'].serviceaccount.uid"},
                "extra": [{"key": "example.org/namespace", "valueExpression": "claims[?'kubernetes.io'].namespace.orValue('')"}],
            },
            "userValidationRules": [{"expression": "!user.username.startsWith('system:')", "message": "reserved"}],
        }],
    });
    Ok(config.to_string())
}

#[test]
fn expressions_say_who_a_token_stands_for_and_the_file_is_read_again() -> Result<()> {
    let Some(openssl) = on_path("openssl") else {
        skipped("expressions about tokens", "openssl is not on PATH to make keys");
        return Ok(());
    };
    const ROBOTS: &str = "claims.sub.endsWith(':robot')";
    let mut place = Place::new(&openssl)?;
    let issuer = place.start("issuer", "one", "tokens.csv", &[])?;
    issuer.admin("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", DISCOVERY)?;
    let robot = r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"robot"}}"#;
    issuer.admin("/api/v1/namespaces/default/serviceaccounts", robot)?;
    let file = place.file("authentication.json", &expressions(&issuer, "one-", ROBOTS)?)?;
    let server = place.start("server", "two", "tokens.csv", &[format!("--authentication-config={file}")])?;
    let token = issuer.token("\"here\",\"there\"")?;
    let named = |name: &str| {
        eventually(LIMIT, || match server.whoami(&token)? {
            Ok(user) if user["username"] == name => Ok(user),
            other => bail!("{other:?}"),
        })
    };
    let user = named("one-robot")?;
    ensure!(user["groups"] == serde_json::json!(["aud:here", "system:authenticated"]), "{user}");
    ensure!(user["uid"].as_str().is_some_and(|uid| uid.len() == 36), "{user}");
    ensure!(user["extra"]["example.org/namespace"] == serde_json::json!(["default"]), "{user}");

    let counted = |status: &str, count: u32| {
        let name = "apiserver_authentication_config_controller_automatic_reloads_total{apiserver_id_hash=\"sha256:";
        let end = format!("\",status=\"{status}\"}} {count}");
        eventually(LIMIT, || {
            let url = format!("{}/metrics", server.url);
            let (_, text) = curl(&["-H", "Authorization: Bearer t0ken", &url])?;
            ensure!(text.lines().any(|line| line.starts_with(name) && line.ends_with(&end)), "{text}");
            Ok(())
        })
    };
    place.file("authentication.json", &expressions(&issuer, "two-", ROBOTS)?)?;
    named("two-robot")?;
    counted("success", 1)?;
    // A file that is wrong changes nothing, nor does one that is right about everything but the anonymous.
    place.file("authentication.json", &expressions(&issuer, "three-", "claims.sub")?)?;
    counted("failure", 1)?;
    let anonymous = expressions(&issuer, "four-", ROBOTS)?.replacen('{', r#"{"anonymous": {"enabled": false},"#, 1);
    place.file("authentication.json", &anonymous)?;
    counted("failure", 2)?;
    ensure!(server.whoami(&token)?.is_ok_and(|user| user["username"] == "two-robot"));
    // Whom a rule keeps out, whose name is reserved.
    place.file("authentication.json", &expressions(&issuer, "five-", "claims.sub == 'nobody'")?)?;
    counted("success", 2)?;
    ensure!(server.whoami(&token)? == Err(401));
    place.file("authentication.json", &expressions(&issuer, "system:", ROBOTS)?)?;
    counted("success", 3)?;
    ensure!(server.whoami(&token)? == Err(401));
    place.file("authentication.json", &expressions(&issuer, "six-", ROBOTS)?)?;
    named("six-robot")?;
    Ok(())
}

#[test]
fn a_webhook_is_asked_about_tokens_that_nobody_here_knows() -> Result<()> {
    let Some(openssl) = on_path("openssl") else {
        skipped("the token webhook", "openssl is not on PATH to make keys");
        return Ok(());
    };
    let mut place = Place::new(&openssl)?;
    let far = place.start("far", "one", "more.csv", &[])?;
    let config = serde_json::json!({"kind": "Config", "apiVersion": "v1", "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": format!("{}/apis/authentication.k8s.io/v1/tokenreviews", far.url),
            "certificate-authority": far.authority}}],
        "users": [{"name": "u", "user": {"token": "t0ken"}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}]});
    let file = place.file("webhook.json", &config.to_string())?;
    let flags = [
        format!("--authentication-token-webhook-config-file={file}"),
        "--authentication-token-webhook-version=v1".to_owned(),
        // The far server's own audience: what it answers must meet this server's.
        format!("--api-audiences={}", far.url),
    ];
    let server = place.start("near", "two", "tokens.csv", &flags)?;
    let user = server.whoami("far")?.map_err(|code| anyhow::anyhow!("{code}"))?;
    ensure!(user["username"] == "jane" && user["groups"][0] == "devs", "{user}");
    ensure!(server.whoami("nobody")? == Err(401));
    ensure!(server.whoami("t0ken")?.is_ok_and(|user| user["username"] == "admin"), "its own tokens come first");
    Ok(())
}

#[test]
fn a_file_that_makes_no_sense_is_refused_at_the_start() -> Result<()> {
    let Some(openssl) = on_path("openssl") else {
        skipped("authentication files", "openssl is not on PATH to make keys");
        return Ok(());
    };
    let place = Place::new(&openssl)?;
    let head = "apiVersion: apiserver.config.k8s.io/v1beta1\nkind: AuthenticationConfiguration\n";
    for (text, error) in [
        (
            "jwt: [{issuer: {url: \"https://a\", audiences: [x]}, claimMappings: {username: {expression: claims +}}}]",
            "jwt[0].claimMappings.username.expression: Invalid value: \"claims +\": compilation failed: ERROR: \
             <input>:1:9: Syntax error: mismatched input '<EOF>' expecting",
        ),
        ("anonymous: {enabled: true, colour: red}", "unknown field \"anonymous.colour\""),
    ] {
        let file = place.file("bad.yaml", &format!("{head}{text}\n"))?;
        let output = place
            .command("bad", free_port()?, "one", "tokens.csv", &[format!("--authentication-config={file}")])
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && said.contains(error), "{said}");
    }
    Ok(())
}

/// The header of a token.
fn header(token: &str) -> Result<serde_json::Value> {
    let head = token.split('.').next().context("a head")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head)?)?)
}

/// A token under headers that say something else of its key, as forgers write them.
fn forgeries(openssl: &Path, place: &Place, token: &str, public: &[u8]) -> Result<Vec<(String, String)>> {
    let [_, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else { bail!("{token}") };
    let kid = header(token)?["kid"].clone();
    let mut forged = Vec::new();
    for (alg, kid) in ["RS256", "ES384", "none", "HS256"].into_iter().flat_map(|alg| [(alg, Some(&kid)), (alg, None)]) {
        let mut head = serde_json::json!({"alg": alg});
        if let Some(kid) = kid {
            head["kid"] = kid.clone();
        }
        let text = format!("{}.{claims}", URL_SAFE_NO_PAD.encode(head.to_string()));
        // With the public key's file as the secret.
        let secret: String = public.iter().map(|byte| format!("{byte:02x}")).collect();
        let file = place.file("signed", &text)?;
        let mut mac = Command::new(openssl);
        mac.args(["dgst", "-sha256", "-binary", "-mac", "HMAC", "-macopt", &format!("hexkey:{secret}"), &file]);
        let mac = mac.output()?;
        ensure!(mac.status.success() && mac.stdout.len() == 32, "{}", String::from_utf8_lossy(&mac.stderr));
        for signature in [signature, "", &URL_SAFE_NO_PAD.encode(mac.stdout)] {
            forged.push((format!("{head} {signature}"), format!("{text}.{signature}")));
        }
    }
    Ok(forged)
}

#[test]
fn tokens_are_signed_with_a_curve_and_verified_by_several_keys() -> Result<()> {
    let Some(openssl) = on_path("openssl") else {
        skipped("keys of service-account tokens", "openssl is not on PATH to make keys");
        return Ok(());
    };
    let mut place = Place::new(&openssl)?;
    let run = |arguments: &[&str]| crate::identities::run(Command::new(&openssl).args(arguments));
    let file = |name: &str| place.dir.path().join(name).display().to_string();
    // As openssl writes them: the curve's name in a block of its own before the key.
    for (name, curve) in [("p256", "prime256v1"), ("p384", "secp384r1"), ("p521", "secp521r1")] {
        run(&["ecparam", "-name", curve, "-genkey", "-out", &file(name)])?;
        run(&["ec", "-in", &file(name), "-pubout", "-out", &file(&format!("{name}.pub"))])?;
    }
    run(&["pkcs8", "-topk8", "-nocrypt", "-in", &file("p521"), "-out", &file("p521.p8")])?;
    let robot = r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"robot"}}"#;
    let rsa = place.start("rsa", "one", "tokens.csv", &[])?;
    rsa.admin("/api/v1/namespaces/default/serviceaccounts", robot)?;
    let unknown = place.start("unknown", "two", "tokens.csv", &[])?;
    let large = place.start("large", "p521.p8", "tokens.csv", &[])?;

    let keys = ["p256", "p384.pub", "one"]
        .map(|name| format!("--service-account-key-file={}", place.dir.path().join(name).display()));
    let issuers = [&rsa, &unknown].map(|server| format!("--service-account-issuer={}", server.url));
    let server = place.start("server", "p256", "tokens.csv", &[&keys[..], &issuers[..]].concat())?;
    let own = server.token("")?;
    let (_, keys) = curl(&["-H", "Authorization: Bearer t0ken", &format!("{}/openid/v1/jwks", server.url)])?;
    let keys: serde_json::Value = serde_json::from_str(&keys)?;
    let algorithms: Vec<&str> =
        keys["keys"].as_array().context("keys")?.iter().filter_map(|key| key["alg"].as_str()).collect();
    ensure!(algorithms == ["ES256", "ES384", "RS256"], "{keys}");
    let head = header(&own)?;
    ensure!(head["alg"] == "ES256" && head["kid"] == keys["keys"][0]["kid"], "{head} {keys}");
    let (_, discovery) =
        curl(&["-H", "Authorization: Bearer t0ken", &format!("{}/.well-known/openid-configuration", server.url)])?;
    ensure!(discovery.contains(r#"["ES256","ES384","RS256"]"#), "{discovery}");
    let public = std::fs::read(place.dir.path().join("p256.pub"))?;
    for (what, forged) in forgeries(&openssl, &place, &own, &public)? {
        ensure!(server.whoami(&forged)? == Err(401), "{what}");
    }
    for (token, good) in [(own, true), (rsa.token("")?, true), (unknown.token("")?, false)] {
        let found = server.whoami(&token)?;
        ensure!(found.is_ok() == good, "{}: {found:?}", header(&token)?);
    }
    let token = large.token("")?;
    ensure!(header(&token)?["alg"] == "ES512" && large.whoami(&token)?.is_ok());
    ensure!(server.whoami(&token)? == Err(401), "a key that the server does not know");
    Ok(())
}
