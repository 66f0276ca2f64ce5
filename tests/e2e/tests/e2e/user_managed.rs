//! Authorities that the user runs (reference: GKE behaviour §1, CMCA): gcloud makes CA pools and a cluster on them, openssl and
//! kubectl look at what its certificates are issued by, and gcloud takes the pool's authority and the agent's role away.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Sandbox, eventually, on_path, skipped};

use crate::identities::run;
use crate::kms::Owner;

const ZONE: &str = "us-central1-a";
const REGION: &str = "us-central1";
const PROJECT: &str = "pilothouse-local";
/// A controller that was refused tries again later and later.
const PATIENCE: Duration = Duration::from_secs(60);
const POOLS: [&str; 4] = ["cluster-ca", "etcd-api-ca", "etcd-peer-ca", "aggregation-ca"];

struct Pools {
    owner: Owner,
}

impl Pools {
    fn gcloud_fails(&self, arguments: &[&str]) -> Result<String> {
        let output = self.owner.sandbox.command(&self.owner.program).args(arguments).arg("--quiet").output()?;
        ensure!(!output.status.success(), "gcloud {} succeeded", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn at(&self, arguments: &[&str]) -> Result<String> {
        self.owner.gcloud(&[arguments, &["--location", REGION]].concat())
    }

    /// The certificate of a pool's root, in a file.
    fn root(&self, pool: &str) -> Result<String> {
        let described = ["privateca", "roots", "describe", "root", "--pool", pool];
        let pem = self.at(&[&described[..], &["--format", "value(pemCaCertificates)"]].concat())?;
        self.owner.sandbox.file(&format!("{pool}.pem"), &pem)
    }

    fn grant(&self, action: &str, pool: &str) -> Result<()> {
        let agent = self.owner.service_agent()?;
        let binding = ["--member", &agent, "--role", "roles/privateca.certificateManager"];
        self.at(&[&["privateca", "pools", action, pool], &binding[..]].concat())?;
        Ok(())
    }
}

fn create(pools: &[(&str, String)]) -> Vec<String> {
    let mut words: Vec<String> =
        ["container", "clusters", "create", "own", "--zone", ZONE, "--num-nodes", "1"].map(str::to_owned).into();
    for (flag, pool) in pools {
        words.extend([(*flag).to_owned(), format!("projects/{PROJECT}/locations/{REGION}/caPools/{pool}")]);
    }
    words
}

fn refs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// The subjects of what a pool has issued.
fn issued(pools: &Pools, pool: &str) -> Result<String> {
    let format = "value(certificateDescription.subjectDescription.subject.commonName)";
    pools.at(&["privateca", "certificates", "list", "--issuer-pool", pool, "--format", format])
}

fn user_csr(sandbox: &Sandbox, name: &str) -> Result<String> {
    let (key, csr) = (sandbox.file("user.key", "")?, sandbox.file("user.csr", "")?);
    let make = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=jane"];
    run(Command::new("openssl").args(make).args(["-keyout", &key, "-out", &csr]))?;
    let request = base64(&std::fs::read(&csr)?);
    Ok(format!(
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\nspec:\n  request: \
         {request}\n  signerName: kubernetes.io/kube-apiserver-client\n  usages: [client auth]\n"
    ))
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[test]
fn a_cluster_s_certificates_are_issued_by_the_user_s_authorities() -> Result<()> {
    let (Some(gcloud), Some(_)) = (on_path("gcloud"), on_path("openssl")) else {
        skipped("user-managed authorities", "gcloud or openssl is not on PATH");
        return Ok(());
    };
    let sandbox = Sandbox::start_with(&["--no-cluster", "--profile", "2026"])?;
    let pools = Pools { owner: Owner { sandbox, program: gcloud } };
    let all = create(
        &["--cluster-ca", "--etcd-api-ca", "--etcd-peer-ca", "--aggregation-ca"]
            .map(|flag| (flag, flag.trim_start_matches("--").to_owned())),
    );
    let refused = pools.gcloud_fails(&refs(&all))?;
    ensure!(refused.contains("caPools/cluster-ca' was not found"), "{refused}");
    for pool in POOLS {
        pools.at(&[
            "privateca",
            "pools",
            "create",
            pool,
            "--tier",
            "enterprise",
            "--no-publish-ca-cert",
            "--no-publish-crl",
        ])?;
        let root = ["privateca", "roots", "create", "root", "--pool", pool, "--auto-enable"];
        let subject = format!("CN={pool}, O=Demo");
        let key = if pool == "etcd-peer-ca" { "rsa-pkcs1-2048-sha256" } else { "ec-p256-sha256" };
        pools.at(&[&root[..], &["--subject", &subject, "--key-algorithm", key]].concat())?;
    }
    let refused = pools.gcloud_fails(&refs(&all))?;
    ensure!(refused.contains("needs the permission privateca.caPools.get"), "{refused}");
    for pool in POOLS {
        pools.grant("add-iam-policy-binding", pool)?;
    }
    let refused = pools.gcloud_fails(&refs(&all))?;
    ensure!(refused.contains("no enabled CA with an EC P-256 key"), "{refused}");
    let second = ["privateca", "roots", "create", "root2", "--pool", "etcd-peer-ca", "--auto-enable"];
    pools.at(&[&second[..], &["--subject", "CN=peers", "--key-algorithm", "ec-p256-sha256"]].concat())?;
    pools.owner.gcloud(&refs(&all))?;

    check_certificates(&pools)?;
    check_refusals(&pools)?;
    Ok(())
}

/// Everything that the cluster shows was issued by its pools, and can be seen in them.
fn check_certificates(pools: &Pools) -> Result<()> {
    let sandbox = &pools.owner.sandbox;
    let describe = |field: &str| {
        pools.owner.gcloud(&[
            "container",
            "clusters",
            "describe",
            "own",
            "--zone",
            ZONE,
            "--format",
            &format!("value({field})"),
        ])
    };
    let named = describe("userManagedKeysConfig.clusterCa")?;
    ensure!(named.trim().ends_with("/caPools/cluster-ca"), "{named}");
    let root = pools.root("cluster-ca")?;
    let shown = describe("masterAuth.clusterCaCertificate")?;
    ensure!(shown.trim() == base64(format!("{}\n", std::fs::read_to_string(&root)?.trim()).as_bytes()), "{shown}");
    let mut endpoint = describe("endpoint")?.trim().to_owned();
    if !endpoint.contains(':') {
        endpoint.push_str(":443");
    }
    run(Command::new("openssl").args(["s_client", "-connect", &endpoint, "-CAfile", &root, "-verify_return_error"]))?;
    let other = pools.root("aggregation-ca")?;
    let mut wrong = Command::new("openssl");
    wrong.args(["s_client", "-connect", &endpoint, "-CAfile", &other, "-verify_return_error"]);
    ensure!(!wrong.output()?.status.success(), "another root's");
    sandbox.kubectl(&["wait", "--for", "condition=Ready", "node", "--all", "--timeout", "60s"])?;

    for (pool, expected) in [
        ("cluster-ca", vec!["kube-apiserver", "system:node:gke-own-default-pool-"]),
        ("etcd-api-ca", vec!["etcd", "kube-apiserver", "etcdctl"]),
        ("etcd-peer-ca", vec!["control-plane-0"]),
    ] {
        let found = issued(pools, pool)?;
        for name in expected {
            ensure!(found.lines().any(|line| line.starts_with(name)), "no {name} in {pool}: {found}");
        }
    }
    let trust: serde_json::Value = serde_json::from_str(&sandbox.pilothouse(&["inspect", "trust", "-o", "json"])?)?;
    let certificates = trust[0]["certificates"].as_array().context("certificates")?.clone();
    let own = certificates.iter().filter(|shown| shown["isCa"] == true);
    let held: Vec<&str> = own.filter_map(|shown| shown["caPool"].as_str()).collect();
    ensure!(POOLS.iter().all(|pool| held.iter().any(|held| held.ends_with(pool))), "{held:?}");
    let strangers = certificates.iter().filter(|shown| shown["authority"] == "");
    ensure!(strangers.count() == 0, "{certificates:#?}");
    let pem = "BEGIN EC PRIVATE KEY";
    let log = sandbox.pilothouse(&["logs", &format!("own-{ZONE}-signer")])?;
    ensure!(log.contains("issued") && !log.contains(pem), "{log}");
    Ok(())
}

/// Without an enabled authority, or without its role on the pool, the control plane gets nothing; and then it does again.
fn check_refusals(pools: &Pools) -> Result<()> {
    let sandbox = &pools.owner.sandbox;
    let ask = |name: &str| -> Result<()> {
        sandbox.kubectl_with_input(&["apply", "-f", "-"], &user_csr(sandbox, name)?)?;
        sandbox.kubectl(&["certificate", "approve", name])?;
        Ok(())
    };
    let log = format!("own-{ZONE}-signer");
    let says = |what: &str| {
        eventually(PATIENCE, || {
            let text = sandbox.pilothouse(&["logs", &log])?;
            ensure!(text.contains(what), "the signer does not say {what:?}: {text}");
            Ok(())
        })
    };
    let certificate = |name: &str| sandbox.kubectl(&["get", "csr", name, "-o", "jsonpath={.status.certificate}"]);
    let there = |name: &str| {
        eventually(PATIENCE, || {
            ensure!(!certificate(name)?.is_empty(), "no certificate for {name}");
            Ok(())
        })
    };

    let root = ["root", "--pool", "cluster-ca", "--location", REGION];
    let refused = pools.gcloud_fails(&[&["privateca", "roots", "disable"], &root[..]].concat())?;
    ensure!(refused.contains("is used by clusters (own)"), "{refused}");
    pools.owner.gcloud(&[&["privateca", "roots", "disable"], &root[..], &["--ignore-dependent-resources"]].concat())?;
    ask("while-disabled")?;
    says("There are no enabled CAs in CaPool")?;
    ensure!(certificate("while-disabled")?.is_empty(), "issued by nobody");
    // What runs goes on.
    sandbox.kubectl(&["get", "namespaces"])?;
    pools.owner.gcloud(&[&["privateca", "roots", "enable"], &root[..]].concat())?;
    there("while-disabled")?;

    pools.grant("remove-iam-policy-binding", "cluster-ca")?;
    ask("without-the-role")?;
    says("Permission 'privateca.certificates.create' denied on resource")?;
    ensure!(certificate("without-the-role")?.is_empty(), "issued without the role");
    pools.grant("add-iam-policy-binding", "cluster-ca")?;
    there("without-the-role")?;
    Ok(())
}

#[test]
fn the_classic_profile_has_no_authorities_of_the_user_s() -> Result<()> {
    let Some(gcloud) = on_path("gcloud") else {
        skipped("user-managed authorities in the classic profile", "gcloud is not on PATH");
        return Ok(());
    };
    let sandbox = Sandbox::start_with(&["--no-cluster"])?;
    let pools = Pools { owner: Owner { sandbox, program: gcloud } };
    let refused = pools.gcloud_fails(&refs(&create(&[("--cluster-ca", "cluster-ca".to_owned())])))?;
    ensure!(refused.contains("cluster.userManagedKeysConfig is not implemented"), "{refused}");
    Ok(())
}
