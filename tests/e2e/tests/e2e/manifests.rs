//! Manifests that nobody here wrote: CRDs and workloads as their projects publish them, from the Go module proxy.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::{Sandbox, on_path, skipped};

const GATEWAY: &str = "sigs.k8s.io/gateway-api@v1.3.0";
const PROMETHEUS: &str = "github.com/prometheus-operator/prometheus-operator@v0.83.0";
const CERT_MANAGER: &str = "github.com/cert-manager/cert-manager@v1.19.1";
const KEDA: &str = "github.com/kedacore/keda/v2@v2.17.2";
const METRICS_SERVER: &str = "sigs.k8s.io/metrics-server@v0.8.0";

/// A published Go module, the folder of its CRDs, and one that must be there.
const PUBLISHED: &[(&str, &str, &str)] = &[
    (GATEWAY, "config/crd/standard", "httproutes.gateway.networking.k8s.io"),
    (PROMETHEUS, "example/prometheus-operator-crd", "prometheuses.monitoring.coreos.com"),
    (CERT_MANAGER, "deploy/crds", "certificates.cert-manager.io"),
    (KEDA, "config/crd/bases", "scaledobjects.keda.sh"),
];

/// A custom resource and what its publisher's schema says of it.
struct Case {
    manifest: &'static str,
    /// What `-o jsonpath` shows of it: values that the schema filled in.
    filled: &'static str,
    shown: &'static str,
    /// A text in the manifest, what to put in its place, and why that is refused.
    bad: &'static [(&'static str, &'static str, &'static str)],
    /// A heading of its table.
    column: &'static str,
    explain: (&'static str, &'static str),
}

const CASES: &[Case] = &[
    Case {
        manifest: r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: published}
spec:
  parentRefs: [{name: g}]
  rules: [{backendRefs: [{name: b, port: 80}]}]
",
        filled: "{.spec.parentRefs[0].kind} {.spec.rules[0].matches[0].path} {.spec.rules[0].backendRefs[0].weight}",
        shown: r#"Gateway {"type":"PathPrefix","value":"/"} 1"#,
        bad: &[
            ("port: 80", "port: 99999", "should be less than or equal to 65535"),
            ("name: g", "name: ''", "should be at least 1 chars long"),
            ("name: b", "nmae: b", "spec.rules[0].backendRefs[0].name: Required value"),
        ],
        column: "HOSTNAMES",
        explain: ("httproute.spec", "parentRefs"),
    },
    Case {
        manifest: r"
apiVersion: monitoring.coreos.com/v1
kind: Prometheus
metadata: {name: published}
spec: {replicas: 2, retention: 1d}
",
        filled: "{.spec.portName} {.spec.scrapeInterval} {.spec.evaluationInterval}",
        shown: "web 30s 30s",
        bad: &[
            ("retention: 1d", "retention: often", "spec.retention in body should match"),
            ("replicas: 2", "replicas: two", "spec.replicas in body must be of type integer"),
        ],
        column: "DESIRED",
        explain: ("prometheus.spec.retention", "<string>"),
    },
    Case {
        manifest: r"
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: published}
spec:
  acme:
    server: https://example.com/directory
    privateKeySecretRef: {name: key}
    solvers: [{http01: {gatewayHTTPRoute: {parentRefs: [{name: g}]}}}]
",
        filled: "{.spec.acme.solvers[0].http01.gatewayHTTPRoute.parentRefs[0].kind}",
        shown: "Gateway",
        bad: &[("server:", "sever:", "spec.acme.server: Required value")],
        column: "READY",
        explain: ("issuer.spec.acme", "server\t<string> -required-"),
    },
    Case {
        manifest: r"
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: published}
spec: {secretName: s, dnsNames: [example.com], issuerRef: {name: i}, privateKey: {algorithm: ECDSA, size: 256}}
",
        filled: "{.spec.privateKey.algorithm}",
        shown: "ECDSA",
        bad: &[
            ("ECDSA", "DSA", r#"Unsupported value: "DSA": supported values: "RSA", "ECDSA", "Ed25519""#),
            ("secretName: s, ", "", "spec.secretName: Required value"),
        ],
        column: "SECRET",
        explain: ("certificate.spec.privateKey", "enum: RSA, ECDSA, Ed25519"),
    },
    Case {
        manifest: r"
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: published}
spec:
  scaleTargetRef: {name: web}
  fallback: {failureThreshold: 3, replicas: 6, behavior: static}
  triggers: [{type: cpu, metadata: {value: '60'}}]
",
        filled: "{.spec.fallback.behavior}",
        shown: "static",
        bad: &[
            ("behavior: static", "behavior: guess", "spec.fallback.behavior: Unsupported value: \"guess\""),
            ("value: '60'", "value: 60", "spec.triggers[0].metadata.value in body must be of type string"),
        ],
        column: "SCALETARGETNAME",
        explain: ("scaledobject.spec.triggers", "metadata\t<map[string]string> -required-"),
    },
];

#[test]
fn published_crds_default_check_and_show_their_resources() -> Result<()> {
    if on_path("go").is_none() {
        skipped("published CRDs", "go is not installed");
        return Ok(());
    }
    let sandbox = Sandbox::start()?;
    for (module, folder, name) in PUBLISHED {
        let directory = download(module)?.join(folder);
        for file in manifests(&directory)? {
            let path = file.display().to_string();
            // They are too large for the annotation that `apply` leaves behind, as their documentation says.
            sandbox.kubectl(&["create", "-f", &path]).with_context(|| path)?;
        }
        sandbox.kubectl(&["wait", "--for=condition=Established", &format!("crd/{name}"), "--timeout=20s"])?;
    }
    for case in CASES {
        check(&sandbox, case).with_context(|| case.manifest)?;
    }
    Ok(())
}

fn check(sandbox: &Sandbox, case: &Case) -> Result<()> {
    let path = sandbox.file("published.yaml", case.manifest)?;
    sandbox.kubectl(&["apply", "-f", &path])?;
    let shown = sandbox.kubectl(&["get", "-f", &path, "-o", &format!("jsonpath={}", case.filled)])?;
    ensure!(shown == case.shown, "{} shows {shown}", case.filled);
    let version = || sandbox.kubectl(&["get", "-f", &path, "-o", "jsonpath={.metadata.resourceVersion}"]);
    let before = version()?;
    sandbox.kubectl(&["apply", "-f", &path])?;
    ensure!(version()? == before, "a second apply changes nothing");
    for (good, bad, why) in case.bad {
        let manifest = case.manifest.replace(good, bad);
        ensure!(manifest != case.manifest, "{good} is not in the manifest");
        let refused = sandbox.file("refused.yaml", &manifest)?;
        let said = sandbox.kubectl_fails(&["create", "--validate=false", "-f", &refused])?;
        ensure!(said.contains(why), "{bad}: {said}");
    }
    let table = sandbox.kubectl(&["get", "-f", &path])?;
    ensure!(table.contains(case.column), "{table}");
    let (field, text) = case.explain;
    let explained = sandbox.kubectl(&["explain", field])?;
    ensure!(explained.contains(text), "{explained}");
    sandbox.kubectl(&["delete", "-f", &path, "--timeout=20s"])?;
    Ok(())
}

#[test]
fn published_workloads_roll_out() -> Result<()> {
    if on_path("go").is_none() {
        skipped("published workloads", "go is not installed");
        return Ok(());
    }
    let sandbox = Sandbox::start()?;
    let metrics_server = download(METRICS_SERVER)?.join("manifests/base");
    let metrics_server = metrics_server.display().to_string();
    sandbox.kubectl(&["apply", "-k", &metrics_server])?;
    let generation =
        ["get", "deployment", "metrics-server", "-n", "kube-system", "-o", "jsonpath={.metadata.generation}"];
    sandbox.kubectl(&["apply", "-k", &metrics_server])?;
    ensure!(sandbox.kubectl(&generation)? == "1", "a second apply changes nothing");
    let in_system = ["-n", "kube-system", "--timeout=30s"];
    sandbox.kubectl(&[&["rollout", "status", "deployment/metrics-server"], &in_system[..]].concat())?;
    let pod = "{.items[0].spec.priority} {.items[0].spec.containers[0].readinessProbe.httpGet.scheme}";
    let selected = ["get", "pods", "-n", "kube-system", "-l", "k8s-app=metrics-server"];
    let pod = sandbox.kubectl(&[&selected[..], &["-o", &format!("jsonpath={pod}")]].concat())?;
    ensure!(pod == "2000000000 HTTPS", "{pod}");
    let bound = ["auth", "can-i", "get", "nodes/metrics", "--as=system:serviceaccount:kube-system:metrics-server"];
    ensure!(sandbox.kubectl(&bound)?.trim() == "yes");

    let prometheus = download(PROMETHEUS)?.join("example");
    for folder in ["prometheus-operator-crd", "rbac/prometheus-operator", "rbac/prometheus"] {
        for file in manifests(&prometheus.join(folder))? {
            sandbox.kubectl(&["create", "-f", &file.display().to_string()])?;
        }
    }
    sandbox.kubectl(&["rollout", "status", "deployment/prometheus-operator", "--timeout=30s"])?;
    ensure!(sandbox.kubectl(&["get", "servicemonitor,prometheus", "-o", "name"])?.lines().count() == 2);
    sandbox.kubectl(&["delete", "-k", &metrics_server, "--timeout=30s"])?;
    ensure!(sandbox.kubectl(&selected)?.is_empty(), "its pods are gone with it");
    Ok(())
}

fn download(module: &str) -> Result<PathBuf> {
    let output = Command::new("go").args(["mod", "download", "-json", module]).current_dir("/").output()?;
    ensure!(output.status.success(), "{module}: {}", String::from_utf8_lossy(&output.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(PathBuf::from(answer["Dir"].as_str().context("no directory")?))
}

fn manifests(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .with_context(|| directory.display().to_string())?
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "yaml") && !p.ends_with("kustomization.yaml"))
        .collect();
    files.sort();
    Ok(files)
}
