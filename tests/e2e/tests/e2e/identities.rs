//! Who is who in a cluster: authorities, certificates, signing requests (reference: GKE behaviour §1), with openssl, curl and
//! kubectl.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Sandbox, eventually, on_path, skipped};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// A key made by openssl, and the request for its certificate.
pub(crate) struct Request {
    pub(crate) key: String,
    pub(crate) csr: String,
}

/// Are the clients there that these tests are about?
pub(crate) fn clients() -> bool {
    let missing: Vec<&str> = ["openssl", "curl", "base64"].into_iter().filter(|name| on_path(name).is_none()).collect();
    if !missing.is_empty() {
        skipped("identities", &format!("{} not on PATH", missing.join(", ")));
    }
    missing.is_empty()
}

pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?}: {text}{error}");
    Ok(text.into_owned())
}

pub(crate) fn openssl(arguments: &[&str]) -> Result<String> {
    run(Command::new("openssl").args(arguments))
}

/// What openssl says of a handshake, both streams.
pub(crate) fn handshake(address: &str, more: &[&str]) -> Result<(bool, String)> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", address, "-verify_return_error"]).args(more).stdin(Stdio::null());
    let Output { status, stdout, stderr } = command.output()?;
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    Ok((status.success(), text))
}

fn cluster(sandbox: &Sandbox) -> Result<Value> {
    Ok(sandbox.status()?["clusters"][0].clone())
}

/// `ip:port` of the API server.
pub(crate) fn endpoint(sandbox: &Sandbox) -> Result<String> {
    let endpoint = cluster(sandbox)?["endpoint"].as_str().context("it has an endpoint")?.to_owned();
    Ok(if endpoint.contains(':') { endpoint } else { format!("{endpoint}:443") })
}

/// A file with the cluster CA, as the kubeconfig has it.
pub(crate) fn root(sandbox: &Sandbox, name: &str) -> Result<String> {
    let path = "jsonpath={.clusters[0].cluster.certificate-authority-data}";
    let encoded = sandbox.kubectl(&["config", "view", "--raw", "-o", path])?;
    let file = sandbox.file(&format!("{name}.b64"), &encoded)?;
    sandbox.file(name, &run(Command::new("base64").args(["-d", &file]))?)
}

/// A key and a request, with what openssl takes: `/O=system:nodes/CN=system:node:a`.
pub(crate) fn request(sandbox: &Sandbox, name: &str, subject: &str, more: &[&str]) -> Result<Request> {
    let (key, csr) = (sandbox.file(&format!("{name}.key"), "")?, sandbox.file(&format!("{name}.csr"), "")?);
    let mut arguments = vec!["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    arguments.extend(["-subj", subject, "-keyout", &key, "-out", &csr]);
    arguments.extend(more);
    openssl(&arguments)?;
    Ok(Request { key, csr })
}

/// A CertificateSigningRequest object.
pub(crate) fn object(name: &str, csr: &str, signer: &str, usages: &[&str]) -> Result<Value> {
    let encoded = run(Command::new("base64").args(["-w0", csr]))?;
    Ok(json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"request": encoded, "signerName": signer, "usages": usages}}))
}

pub(crate) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(crate) const CLIENT_USAGES: [&str; 2] = ["digital signature", "client auth"];

pub(crate) fn create(sandbox: &Sandbox, object: &Value) -> Result<String> {
    let file = sandbox.file("object.json", &object.to_string())?;
    sandbox.kubectl(&["create", "-f", &file])
}

pub(crate) fn create_fails(sandbox: &Sandbox, object: &Value) -> Result<String> {
    let file = sandbox.file("object.json", &object.to_string())?;
    sandbox.kubectl_fails(&["create", "-f", &file])
}

/// The certificate that was issued for a request, in a file.
pub(crate) fn issued(sandbox: &Sandbox, name: &str) -> Result<String> {
    let encoded = eventually(LIMIT, || {
        let encoded = sandbox.kubectl(&["get", "csr", name, "-o", "jsonpath={.status.certificate}"])?;
        ensure!(!encoded.is_empty(), "{name} is not issued");
        Ok(encoded)
    })?;
    let file = sandbox.file(&format!("{name}.b64"), &encoded)?;
    sandbox.file(&format!("{name}.crt"), &run(Command::new("base64").args(["-d", &file]))?)
}

/// Certificate and key of a user whom the administrator lets in by certificate.
pub(crate) fn user(sandbox: &Sandbox, name: &str, subject: &str) -> Result<(String, String)> {
    let asked = request(sandbox, name, subject, &[])?;
    create(sandbox, &object(name, &asked.csr, CLIENT, &CLIENT_USAGES)?)?;
    sandbox.kubectl(&["certificate", "approve", name])?;
    Ok((issued(sandbox, name)?, asked.key))
}

/// kubectl as the owner of a certificate.
pub(crate) fn as_user<'a>(user: &'a (String, String), root: &'a str, server: &'a str) -> Vec<&'a str> {
    // An empty kubeconfig: the default one has a token, which would go before.
    let empty = ["--kubeconfig", "/dev/null"];
    let rest =
        ["--server", server, "--certificate-authority", root, "--client-certificate", &user.0, "--client-key", &user.1];
    empty.into_iter().chain(rest).collect()
}

#[test]
fn a_server_is_trusted_by_its_own_clusters_root_alone_and_speaks_no_old_tls() -> Result<()> {
    if !clients() {
        return Ok(());
    }
    let (ours, theirs) = (Sandbox::start_with(&["--nodes", "1"])?, Sandbox::start_with(&["--nodes", "1"])?);
    let (root_file, other) = (root(&ours, "root.pem")?, root(&theirs, "root.pem")?);
    let address = endpoint(&ours)?;
    let (good, text) = handshake(&address, &["-CAfile", &root_file])?;
    ensure!(good && text.contains("Verify return code: 0 (ok)"), "{text}");
    let (good, text) = handshake(&address, &["-CAfile", &other])?;
    ensure!(!good && text.to_lowercase().contains("verify error"), "{text}");
    let store = cluster(&ours)?["etcdEndpoints"][0].as_str().context("an endpoint")?.replace("https://", "");
    let kubelet = crate::nodes::kubelets(&ours)?.remove(0).1;
    for door in [address.as_str(), &store, &kubelet] {
        for (version, spoken) in [("-tls1_1", false), ("-tls1_2", true), ("-tls1_3", true)] {
            // Without -CAfile and -verify_return_error: the store wants a client certificate, which is another matter.
            let mut command = Command::new("openssl");
            // The lowest level lets openssl itself offer TLS 1.1 at all.
            command.args(["s_client", "-connect", door, version, "-cipher", "DEFAULT@SECLEVEL=0"]).stdin(Stdio::null());
            let text = eventually(LIMIT, || {
                let output = command.output()?;
                let text =
                    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                ensure!(!text.contains("Connection refused"), "{door} does not listen yet");
                Ok(text)
            })?;
            let cipher = text.contains("New, TLSv1.") && !text.contains("Cipher is (NONE)");
            ensure!(cipher == spoken, "{door} {version}: {text}");
        }
    }

    // Thirty years, from before now.
    let dates = openssl(&["x509", "-in", &root_file, "-noout", "-dates", "-ext", "basicConstraints,keyUsage"])?;
    ensure!(dates.contains("CA:TRUE") && dates.contains("Certificate Sign"), "{dates}");
    let year = |line: &str| -> Option<i32> { line.split_whitespace().rev().nth(1)?.parse().ok() };
    let years: Vec<i32> = dates.lines().filter(|line| line.starts_with("not")).filter_map(year).collect();
    // 10,950 days: some leap days short of the same date.
    ensure!(years.len() == 2 && (29..=30).contains(&(years[1] - years[0])), "{dates}");

    // Four authorities in each cluster, eight keys.
    let mut seen = BTreeSet::new();
    for sandbox in [&ours, &theirs] {
        let inspection: Value = serde_json::from_str(&sandbox.pilothouse(&["inspect", "-o", "json"])?)?;
        let certificates = inspection["certificates"].as_array().context("a list")?.clone();
        ensure!(certificates.len() == 4, "{certificates:?}");
        seen.extend(certificates.iter().map(|certificate| certificate["sha256"].to_string()));
    }
    ensure!(seen.len() == 8, "{seen:?}");
    Ok(())
}

#[test]
fn the_roots_key_is_nowhere_near_the_api_server() -> Result<()> {
    let sandbox = Sandbox::start_with(&["--nodes", "1"])?;
    let directories = cluster(&sandbox)?["instances"].as_array().context("instances")?.clone();
    ensure!(directories.len() == 2, "{directories:?}");
    for instance in &directories {
        let directory = instance["dataDir"].as_str().context("a directory")?;
        let found = Command::new("grep").args(["-rlE", "BEGIN ([A-Z]+ )?PRIVATE KEY", directory]).output()?;
        ensure!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
        let pid = instance["pid"].as_u64().context("it runs")?;
        match std::fs::read(format!("/proc/{pid}/environ")) {
            Ok(environment) => {
                ensure!(!String::from_utf8_lossy(&environment).contains("PRIVATE KEY"), "in the environment");
            }
            Err(error) => ensure!(error.kind() == std::io::ErrorKind::PermissionDenied, "{error}"),
        }
        let line = std::fs::read(format!("/proc/{pid}/cmdline"))?;
        ensure!(!String::from_utf8_lossy(&line).contains("PRIVATE KEY"), "on the command line");
    }
    Ok(())
}

#[test]
fn signing_requests_are_decided_as_upstream_decides_them() -> Result<()> {
    if !clients() {
        return Ok(());
    }
    let sandbox = Sandbox::start_with(&["--nodes", "1"])?;
    // A user by certificate: approved by hand, signed, and let in as what the certificate says.
    let jane = user(&sandbox, "jane", "/O=dev/CN=jane")?;
    let shown = openssl(&["x509", "-in", &jane.0, "-noout", "-subject", "-ext", "extendedKeyUsage,basicConstraints"])?;
    ensure!(shown.contains("TLS Web Client Authentication") && shown.contains("CA:FALSE"), "{shown}");
    let (root, server) = (root(&sandbox, "root.pem")?, format!("https://{}", endpoint(&sandbox)?));
    let flags = as_user(&jane, &root, &server);
    let whoami = sandbox.kubectl(&[&flags[..], &["auth", "whoami"]].concat())?;
    ensure!(whoami.contains("jane") && whoami.contains("dev") && whoami.contains("X509SHA256="), "{whoami}");

    // Never by itself; not for administrators at all.
    let asked = request(&sandbox, "plain", "/CN=plain", &[])?;
    create(&sandbox, &object("plain", &asked.csr, CLIENT, &CLIENT_USAGES)?)?;
    let masters = request(&sandbox, "masters", "/O=system:masters/CN=eve", &[])?;
    let refused = create_fails(&sandbox, &object("masters", &masters.csr, CLIENT, &CLIENT_USAGES)?)?;
    let why = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
    ensure!(refused.contains(why), "{refused}");
    sandbox.kubectl(&["certificate", "deny", "plain"])?;
    let listed = sandbox.kubectl(&["get", "csr", "plain", "--no-headers"])?;
    ensure!(listed.trim().ends_with("Denied"), "{listed}");
    let again = sandbox.kubectl_fails(&["certificate", "approve", "plain"])?;
    ensure!(again.contains("certificate signing request \"plain\" is already Denied"), "{again}");

    // What the signer does not sign fails for good.
    let wrong = request(&sandbox, "wrong", "/CN=wrong", &[])?;
    create(&sandbox, &object("wrong", &wrong.csr, CLIENT, &["server auth"])?)?;
    sandbox.kubectl(&["certificate", "approve", "wrong"])?;
    eventually(LIMIT, || {
        let failed = "jsonpath={.status.conditions[?(@.type=='Failed')].message}";
        let message = sandbox.kubectl(&["get", "csr", "wrong", "-o", failed])?;
        ensure!(message == "invalid usage for client certificate: server auth", "{message}");
        Ok(())
    })?;

    // A signer of one's own: nobody but its owner signs, and only what is a certificate.
    let custom = request(&sandbox, "custom", "/CN=custom", &[])?;
    create(&sandbox, &object("custom", &custom.csr, "example.com/mine", &["any"])?)?;
    sandbox.kubectl(&["certificate", "approve", "custom"])?;
    let sign = |value: &str| {
        let patch = json!({"status": {"certificate": value}}).to_string();
        ["patch", "csr", "custom", "--subresource=status", "--type=merge", "-p", &patch].map(str::to_owned)
    };
    let patched = sign("bm90IGEgY2VydGlmaWNhdGU=");
    let refused = sandbox.kubectl_fails(&patched.each_ref().map(String::as_str))?;
    ensure!(refused.contains("must contain at least one CERTIFICATE PEM block"), "{refused}");
    let refused = sandbox.kubectl_fails(&[&flags[..], &["certificate", "approve", "custom"]].concat())?;
    ensure!(refused.contains("forbidden") || refused.contains("Forbidden"), "{refused}");
    let jane_certificate = run(Command::new("base64").args(["-w0", &jane.0]))?;
    let patched = sign(&jane_certificate);
    sandbox.kubectl(&patched.each_ref().map(String::as_str))?;
    let patched = sign(&format!("{jane_certificate}\n"));
    ensure!(sandbox.kubectl(&patched.each_ref().map(String::as_str)).is_ok(), "the same certificate again");

    // What is no request at all.
    let mut bad = object("bad", &custom.csr, "example.com/mine", &["any"])?;
    bad["spec"]["expirationSeconds"] = 599.into();
    let refused = create_fails(&sandbox, &bad)?;
    ensure!(refused.contains("may not specify a duration less than 600 seconds (10 minutes)"), "{refused}");
    bad["spec"]["expirationSeconds"] = 600.into();
    bad["spec"]["signerName"] = "kubernetes.io/legacy-unknown".into();
    let refused = create_fails(&sandbox, &bad)?;
    ensure!(refused.contains("the legacy signerName is not allowed via this API version"), "{refused}");
    Ok(())
}

#[test]
fn each_issuance_and_refusal_is_in_the_signers_log_for_good() -> Result<()> {
    if !clients() {
        return Ok(());
    }
    let mut sandbox = Sandbox::start_with(&["--nodes", "1"])?;
    let jane = user(&sandbox, "jane", "/O=dev/CN=jane")?;
    let fingerprint = openssl(&["x509", "-in", &jane.0, "-noout", "-fingerprint", "-sha256", "-serial"])?;
    let value = |key: &str| {
        let line = fingerprint.lines().find(|line| line.to_lowercase().starts_with(key));
        line.and_then(|line| line.split_once('=')).map(|(_, value)| value.replace(':', "").to_lowercase())
    };
    let (sha256, serial) = (value("sha256").context("a digest")?, value("serial").context("a serial number")?);
    let issued = |sandbox: &Sandbox| -> Result<()> {
        let logs = sandbox.pilothouse(&["logs"])?;
        let line = logs.lines().find(|line| line.contains(&sha256)).context("no line with the digest")?;
        for part in ["issued", "subject=\"jane\"", "groups=\"dev\"", "requester=\"instance\"", &serial] {
            ensure!(line.contains(part), "{part} is not in {line}");
        }
        Ok(())
    };
    issued(&sandbox)?;
    sandbox.pilothouse(&["down"])?;
    sandbox.up(&[])?;
    issued(&sandbox)
}

#[test]
fn another_authoritys_certificate_is_nobody_at_the_api_server() -> Result<()> {
    if !clients() {
        return Ok(());
    }
    let sandbox = Sandbox::start_with(&["--nodes", "1"])?;
    let (root, server) = (root(&sandbox, "root.pem")?, format!("https://{}", endpoint(&sandbox)?));
    let user = sandbox.data_dir().join("user");
    let file = |name: &str| user.join(name).display().to_string();
    ensure!(Path::new(&file("etcd-client.crt")).exists());
    let mut curl = Command::new("curl");
    curl.args(["-s", "-w", "%{http_code}", "--cacert", &root, "--cert", &file("etcd-client.crt")]);
    curl.args(["--key", &file("etcd-client.key"), &format!("{server}/api/v1/namespaces")]);
    let answer = run(&mut curl)?;
    ensure!(answer.contains("Unauthorized") && answer.ends_with("401"), "{answer}");
    Ok(())
}

#[test]
fn a_service_accounts_token_is_signed_by_the_published_key_and_dies_with_its_account() -> Result<()> {
    if !clients() {
        return Ok(());
    }
    let sandbox = Sandbox::start_with(&["--nodes", "1"])?;
    let token = sandbox.kubectl(&["create", "token", "default"])?.trim().to_owned();
    let (signed, signature) = token.rsplit_once('.').context("a JWT")?;
    let (root, server) = (root(&sandbox, "root.pem")?, endpoint(&sandbox)?);
    let get = |more: &[&str], path: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--cacert", &root, "-H", &format!("Authorization: Bearer {token}")]).args(more);
        run(curl.arg(format!("https://{server}{path}")))
    };
    let keys: Value = serde_json::from_str(&get(&[], "/openid/v1/jwks")?)?;
    let decode = |name: &str, text: &str| -> Result<String> {
        let padded = text.replace('-', "+").replace('_', "/") + &"=".repeat((4 - text.len() % 4) % 4);
        let file = sandbox.file(&format!("{name}.b64"), &padded)?;
        let path = file.replace(".b64", ".bin");
        let bytes = Command::new("base64").args(["-d", &file]).output()?.stdout;
        std::fs::write(&path, bytes)?;
        Ok(path)
    };
    let part = |name: &str| keys["keys"][0][name].as_str().with_context(|| format!("no {name} in {keys}"));
    let hex =
        |path: &str| -> Result<String> { Ok(std::fs::read(path)?.iter().map(|byte| format!("{byte:02x}")).collect()) };
    let (n, e) = (hex(&decode("n", part("n")?)?)?, hex(&decode("e", part("e")?)?)?);
    let template = format!(
        "asn1=SEQUENCE:spki\n[spki]\nalgorithm=SEQUENCE:algorithm\nkey=BITWRAP,SEQUENCE:rsa\n[algorithm]\n\
         oid=OID:rsaEncryption\nnone=NULL\n[rsa]\nn=INTEGER:0x{n}\ne=INTEGER:0x{e}\n"
    );
    let (config, key) = (sandbox.file("key.cnf", &template)?, sandbox.file("key.der", "")?);
    openssl(&["asn1parse", "-genconf", &config, "-noout", "-out", &key])?;
    let pem = sandbox.file("key.pem", &openssl(&["rsa", "-pubin", "-inform", "DER", "-in", &key])?)?;
    let (signature, content) = (decode("signature", signature)?, sandbox.file("signed", signed)?);
    let verified = openssl(&["dgst", "-sha256", "-verify", &pem, "-signature", &signature, &content])?;
    ensure!(verified.contains("Verified OK"), "{verified}");

    let code = || get(&["-o", "/dev/null", "-w", "%{http_code}"], "/api/v1/namespaces");
    ensure!(code()? == "403", "known, but may nothing");
    sandbox.kubectl(&["delete", "serviceaccount", "default"])?;
    eventually(LIMIT, || {
        sandbox.kubectl(&["get", "serviceaccount", "default"])?;
        ensure!(code()? == "401", "the new account is not the old one");
        Ok(())
    })
}

/// Others of root's may look where this test may not.
fn user_is_root() -> Result<bool> {
    Ok(std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self")?) == 0)
}

#[test]
fn signer_and_instance_give_up_what_they_do_not_need_and_inspect_says_so() -> Result<()> {
    let sandbox = Sandbox::start_with(&["--nodes", "1"])?;
    let found: Value = serde_json::from_str(&sandbox.pilothouse(&["inspect", "hardening", "-o", "json"])?)?;
    let found = found.as_array().context("a list")?;
    for (pid, role) in sandbox.processes()?.into_iter().filter(|(_, role)| role != "cloud") {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        ensure!(status.contains("NoNewPrivs:\t1"), "{role}: {status}");
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("a limit")?;
        ensure!(core.split_whitespace().skip(4).take(2).eq(["0", "0"]), "{role}: {core}");
        // Another process of this user may not look into it, unless the user is root.
        let environment = std::fs::read(format!("/proc/{pid}/environ"));
        let name = if role == "signer" { "signer" } else { "control-plane-0" };
        let said = |attribute: &str| {
            let own = found.iter().find(|a| a["process"] == name && a["attribute"] == attribute);
            own.map(|a| a["enforced"].as_str().unwrap_or_default().to_owned())
                .with_context(|| format!("{name}: {attribute}"))
        };
        ensure!(said("no new privileges")? == "full" && said("no core dumps")? == "full", "{found:?}");
        ensure!(said("own directory")? == "full" && said("one cluster per process")? == "full", "{found:?}");
        let expected = if environment.is_ok() || user_is_root()? { "partial" } else { "full" };
        ensure!(said("memory kept from others")? == expected, "{found:?}");
        ensure!(said("own user")? != "full", "a namespace is no other user, and that is not claimed: {found:?}");
    }
    let text = sandbox.pilothouse(&["inspect", "hardening"])?;
    ensure!(text.contains("signer of cluster demo") && text.contains("full     no new privileges"), "{text}");
    Ok(())
}
