//! Manifests that nobody here wrote: CRDs as their projects publish them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::{Sandbox, on_path, skipped};

/// A published Go module, the folder of its CRDs, and one that must be there.
const PUBLISHED: &[(&str, &str, &str)] = &[
    ("sigs.k8s.io/gateway-api@v1.3.0", "config/crd/standard", "httproutes.gateway.networking.k8s.io"),
    (
        "github.com/prometheus-operator/prometheus-operator@v0.83.0",
        "example/prometheus-operator-crd",
        "prometheuses.monitoring.coreos.com",
    ),
];

#[test]
fn published_crds_are_established_and_explained() -> Result<()> {
    if on_path("go").is_none() {
        skipped("published CRDs", "go is not installed");
        return Ok(());
    }
    let sandbox = Sandbox::start()?;
    for (module, folder, name) in PUBLISHED {
        let directory = download(module)?.join(folder);
        for file in manifests(&directory)? {
            let path = file.display().to_string();
            // Server-side, as their documentation says, is not there yet; create needs no annotation of the whole.
            sandbox.kubectl(&["create", "-f", &path]).with_context(|| path)?;
        }
        sandbox.kubectl(&["wait", "--for=condition=Established", &format!("crd/{name}"), "--timeout=20s"])?;
    }
    let explained = sandbox.kubectl(&["explain", "httproute.spec"])?;
    ensure!(explained.contains("parentRefs"), "{explained}");
    sandbox.kubectl_with_input(&["apply", "-f", "-"], ROUTE)?;
    let refused = sandbox.kubectl_with_input(&["apply", "-f", "-"], &ROUTE.replace("port: 80", "port: 99999"));
    let text = refused.err().map_or_else(String::new, |e| e.to_string());
    ensure!(text.contains("should be less than or equal to 65535"), "{text}");
    Ok(())
}

const ROUTE: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: g}]
  rules: [{backendRefs: [{name: b, port: 80}]}]
"#;

fn download(module: &str) -> Result<PathBuf> {
    let output = Command::new("go").args(["mod", "download", "-json", module]).current_dir("/").output()?;
    ensure!(output.status.success(), "{module}: {}", String::from_utf8_lossy(&output.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(PathBuf::from(answer["Dir"].as_str().context("no directory")?))
}

fn manifests(directory: &std::path::Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .with_context(|| directory.display().to_string())?
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "yaml") && !p.ends_with("kustomization.yaml"))
        .collect();
    files.sort();
    Ok(files)
}
