//! Bad input and bad guests: the real system's answer, and the server goes on.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Sandbox, eventually, on_path, skipped};
use serde_json::Value;

/// curl with the sandbox's token and authority; the HTTP code, the headers and the body.
struct Curl<'a> {
    sandbox: &'a Sandbox,
    server: String,
    authority: String,
    token: String,
}

impl<'a> Curl<'a> {
    fn new(sandbox: &'a Sandbox) -> Result<Self> {
        let view = sandbox.kubectl(&["config", "view", "--raw", "--flatten", "-o", "json"])?;
        let config: Value = serde_json::from_str(&view)?;
        let cluster = &config["clusters"][0]["cluster"];
        let server = cluster["server"].as_str().context("server")?.to_owned();
        let authority = sandbox.kubectl(&[
            "get",
            "configmap",
            "kube-root-ca.crt",
            "-n",
            "kube-system",
            "-o",
            "jsonpath={.data.ca\\.crt}",
        ])?;
        let token = config["users"][0]["user"]["token"].as_str().context("token")?.to_owned();
        Ok(Self { sandbox, server, authority: sandbox.file("ca.crt", &authority)?, token })
    }

    fn send(&self, path: &str, arguments: &[&str]) -> Result<(u16, String)> {
        let output = self
            .sandbox
            .command("curl")
            .args(["-s", "-i", "--http1.1", "-m", "20", "--cacert", &self.authority])
            .args(["-H", "Expect:"])
            .args(arguments)
            .arg(format!("{}{path}", self.server))
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let code = text.split_whitespace().nth(1).and_then(|c| c.parse().ok()).unwrap_or(0);
        Ok((code, text))
    }

    fn post(&self, content_type: &str, path: &str, body: &[u8]) -> Result<(u16, String)> {
        let file = self.sandbox.data_dir().with_file_name(format!("body-{:?}", std::thread::current().id()));
        std::fs::write(&file, body)?;
        let bearer = format!("Authorization: Bearer {}", self.token);
        let data = format!("@{}", file.display());
        let kind = format!("Content-Type: {content_type}");
        self.send(path, &["-X", "POST", "-H", &bearer, "-H", &kind, "--data-binary", &data])
    }
}

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[test]
fn malformed_bodies_are_refused_with_a_status() -> Result<()> {
    if on_path("curl").is_none() {
        skipped("malformed bodies", "curl is not on PATH");
        return Ok(());
    }
    let sandbox = Sandbox::start()?;
    let status = sandbox.status()?;
    let curl = Curl::new(&sandbox)?;
    let json = "application/json";
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let sized = |bytes: usize| {
        let head = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"l"},"data":{"k":""#;
        format!("{head}{}\"}}}}", "x".repeat(bytes - head.len() - 3))
    };
    // The largest body that is read, and one byte more.
    let (whole, large) = (sized(3 << 20), sized((3 << 20) + 1));
    let wrong_kind = r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}"#;
    let bad_name = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"A_b"}}"#;
    let cases: [(&str, &[u8], u16, &str); 9] = [
        (json, b"{", 400, "Failure"),
        (json, deep.as_bytes(), 400, "Failure"),
        (json, large.as_bytes(), 413, "Request entity too large: limit is 3145728"),
        (json, whole.as_bytes(), 422, "[]: Too long: may not be more than 1048576 bytes"),
        (json, wrong_kind.as_bytes(), 400, "cannot be handled as a ConfigMap"),
        (json, bad_name.as_bytes(), 422, "metadata.name: Invalid value"),
        ("application/vnd.kubernetes.protobuf", b"k8s\0\x0a\xff\xff\xff\xff\x0f", 400, "Failure"),
        ("application/yaml", b"a: &x [*x, *x]\n\t- b", 400, "Failure"),
        ("text/html", b"<p>", 415, "Failure"),
    ];
    for (content_type, body, code, text) in cases {
        let (got, answer) = curl.post(content_type, CONFIG_MAPS, body)?;
        let shown: String = answer.chars().take(600).collect();
        ensure!(got == code && answer.contains(text), "{content_type}, {} bytes: {got} {shown}", body.len());
    }
    unharmed(&sandbox, &status)
}

#[test]
fn unknown_fields_are_dropped_warned_of_or_refused_as_the_caller_wishes() -> Result<()> {
    if on_path("curl").is_none() {
        skipped("unknown fields", "curl is not on PATH");
        return Ok(());
    }
    let sandbox = Sandbox::start()?;
    let curl = Curl::new(&sandbox)?;
    let body = br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"u-"},"dota":{"k":"v"}}"#;
    let cases =
        [("Ignore", 201, ""), ("Warn", 201, "unknown field \\\"dota\\\""), ("Strict", 400, "strict decoding error")];
    for (validation, code, text) in cases {
        let path = format!("{CONFIG_MAPS}?fieldValidation={validation}");
        let (got, answer) = curl.post("application/json", &path, body)?;
        ensure!(got == code && answer.contains(text), "{validation}: {got} {answer}");
    }
    Ok(())
}

#[test]
fn strangers_are_refused() -> Result<()> {
    if on_path("curl").is_none() {
        skipped("strangers", "curl is not on PATH");
        return Ok(());
    }
    let sandbox = Sandbox::start()?;
    let curl = Curl::new(&sandbox)?;
    let tokens =
        ["garbage", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6a3ViZS1zeXN0ZW06eCJ9.", "..", ""];
    for token in tokens {
        let bearer = format!("Authorization: Bearer {token}");
        let (code, answer) = curl.send("/api/v1/namespaces", &["-H", &bearer])?;
        ensure!(code == 401 || (token.is_empty() && code == 403), "{token:?}: {code} {answer}");
    }
    let (code, _) = curl.send(CONFIG_MAPS, &["-X", "POST", "-d", "{}"])?;
    ensure!(code == 403 || code == 401, "an anonymous write got {code}");
    let certificate = sandbox.variable("ETCDCTL_CERT").to_owned();
    let key = sandbox.variable("ETCDCTL_KEY").to_owned();
    let (code, _) = curl.send("/api/v1/namespaces", &["--cert", &certificate, "--key", &key])?;
    ensure!(code == 401, "the store's client certificate got {code} from the API server");
    Ok(())
}

#[test]
fn half_open_and_truncated_connections_stop_nobody() -> Result<()> {
    let sandbox = Sandbox::start()?;
    let status = sandbox.status()?;
    let endpoint = status["clusters"][0]["endpoint"].as_str().context("endpoint")?;
    let address = if endpoint.contains(':') { endpoint.to_owned() } else { format!("{endpoint}:443") };
    let before = memory_kib(&status)?;
    let mut held = Vec::new();
    for i in 0..200 {
        let mut stream = TcpStream::connect(&address)?;
        match i % 4 {
            // The first bytes of a ClientHello, and then nothing.
            0 => stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01])?,
            // A record that claims more than any record holds.
            1 => stream.write_all(&[0x16, 0x03, 0x03, 0xff, 0xff])?,
            // No TLS at all.
            2 => stream.write_all(b"GET /api HTTP/1.1\r\nHost: x\r\n\r\n")?,
            _ => {}
        }
        held.push(stream);
    }
    sandbox.kubectl(&["get", "namespaces"])?;
    let grown = memory_kib(&sandbox.status()?)?.saturating_sub(before);
    ensure!(grown < 64 << 10, "200 idle connections cost {grown} KiB");
    drop(held);
    unharmed(&sandbox, &status)
}

#[test]
fn a_flood_of_large_bodies_is_bounded_in_memory() -> Result<()> {
    if on_path("curl").is_none() {
        skipped("a flood of large bodies", "curl is not on PATH");
        return Ok(());
    }
    let sandbox = Sandbox::start()?;
    let status = sandbox.status()?;
    let before = memory_kib(&status)?;
    let curl = Curl::new(&sandbox)?;
    // Small on the wire, wide as a tree: the worst that three megabytes can become.
    let mut wide = b"{\"metadata\":{\"name\":\"w\"},\"data\":[0".to_vec();
    wide.extend(b",0".repeat((3 << 19) - 40));
    wide.extend(b"]}");
    std::thread::scope(|scope| -> Result<()> {
        let senders: Vec<_> = (0..8)
            .map(|_| {
                let (curl, wide) = (&curl, &wide);
                scope.spawn(move || (0..4).map(|_| curl.post("application/json", CONFIG_MAPS, wide)).collect())
            })
            .collect();
        for sender in senders {
            let answers: Result<Vec<(u16, String)>> = sender.join().expect("no sender panics");
            ensure!(answers?.iter().all(|(code, _)| *code == 400), "such data is no map of texts");
        }
        Ok(())
    })?;
    let grown = memory_kib(&sandbox.status()?)?.saturating_sub(before);
    ensure!(grown < 512 << 10, "32 bodies of 3 MiB cost {grown} KiB at the highest");
    unharmed(&sandbox, &status)
}

#[test]
fn a_full_disk_fails_writes_and_heals_when_there_is_space() -> Result<()> {
    let Some(mut sandbox) = Sandbox::start_on_small_disk(64)? else {
        skipped("a full disk", "this user may not mount a file system");
        return Ok(());
    };
    let status = sandbox.status()?;
    sandbox.kubectl(&["create", "configmap", "kept", "--from-literal=k=v"])?;
    let filler = sandbox.data_dir().join("filler");
    let mut file = std::fs::File::create(&filler)?;
    while file.write_all(&[1; 4096]).is_ok() {}
    // Its last blocks may still hold a few records.
    let filled = (0..200).find_map(|n| {
        let name = format!("lost-{n}");
        sandbox.kubectl(&["create", "configmap", &name]).err().map(|error| format!("{error:#}"))
    });
    let said = filled.context("200 objects fit on a full disk")?;
    ensure!(said.contains("etcdserver: request timed out"), "{said}");
    ensure!(sandbox.kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.k}"])? == "v");
    ensure!(sandbox.kubectl(&["get", "nodes"])?.contains("Ready"));
    drop(file);
    std::fs::remove_file(&filler)?;
    eventually(Duration::from_secs(10), || sandbox.kubectl(&["create", "configmap", "healed"]))?;
    unharmed(&sandbox, &status)?;
    sandbox.pilothouse(&["down"])?;
    sandbox.up(&[])?;
    sandbox.kubectl(&["get", "configmap", "kept", "healed"])?;
    Ok(())
}

/// The most memory that the API server's process ever held.
fn memory_kib(status: &Value) -> Result<u64> {
    let pid = &status["clusters"][0]["instances"][0]["pid"];
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find(|l| l.starts_with("VmHWM:")).context("VmHWM")?;
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).context("kB")
}

/// The processes of the sandbox are those that they were.
fn unharmed(sandbox: &Sandbox, before: &Value) -> Result<()> {
    let now = sandbox.status()?;
    let pids = |status: &Value| -> Vec<Value> {
        let instances = status["clusters"][0]["instances"].as_array().cloned().unwrap_or_default();
        instances.iter().map(|i| i["pid"].clone()).chain([status["cloud"]["pid"].clone()]).collect()
    };
    ensure!(pids(&now).len() == 3 && pids(&now) == pids(before), "{before} became {now}");
    Ok(())
}
