//! kubectl, as a person uses it.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Sandbox, eventually};

#[test]
fn a_deployment_rolls_out_scales_and_goes_away() -> Result<()> {
    let sandbox = Sandbox::start()?;
    sandbox.kubectl(&["create", "deployment", "web", "--image=nginx", "--replicas=3"])?;
    sandbox.kubectl(&["rollout", "status", "deployment/web", "--timeout=20s"])?;
    let wide = sandbox.kubectl(&["get", "pods", "-o", "wide"])?;
    ensure!(wide.lines().filter(|l| l.contains("Running") && l.contains("1/1")).count() == 3, "{wide}");
    sandbox.kubectl(&["set", "image", "deployment/web", "nginx=nginx:1.29"])?;
    sandbox.kubectl(&["rollout", "status", "deployment/web", "--timeout=20s"])?;
    let history = sandbox.kubectl(&["rollout", "history", "deployment/web"])?;
    ensure!(history.contains('2'), "{history}");
    sandbox.kubectl(&["rollout", "undo", "deployment/web"])?;
    sandbox.kubectl(&["rollout", "status", "deployment/web", "--timeout=20s"])?;
    sandbox.kubectl(&["scale", "deployment/web", "--replicas=1"])?;
    eventually(Duration::from_secs(10), || {
        let pods = sandbox.kubectl(&["get", "pods", "-o", "name"])?;
        ensure!(pods.lines().count() == 1, "{pods}");
        Ok(())
    })?;
    sandbox.kubectl(&["delete", "deployment", "web"])?;
    eventually(Duration::from_secs(10), || {
        let pods = sandbox.kubectl(&["get", "pods,replicasets", "-o", "name"])?;
        ensure!(pods.is_empty(), "{pods}");
        Ok(())
    })
}

#[test]
fn the_first_look_finds_what_every_cluster_has() -> Result<()> {
    let sandbox = Sandbox::start()?;
    let namespaces = sandbox.kubectl(&["get", "namespaces", "-o", "name"])?;
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        ensure!(namespaces.contains(&format!("namespace/{name}\n")), "{namespaces}");
    }
    let nodes = sandbox.kubectl(&["get", "nodes"])?;
    ensure!(nodes.lines().filter(|l| l.contains(" Ready")).count() == 3, "{nodes}");
    eventually(Duration::from_secs(5), || {
        sandbox.kubectl(&["get", "serviceaccount", "default"])?;
        sandbox.kubectl(&["get", "configmap", "kube-root-ca.crt"])
    })?;
    ensure!(sandbox.kubectl(&["get", "service", "kubernetes"])?.contains("443/TCP"));
    ensure!(sandbox.kubectl(&["auth", "whoami"])?.contains("Username"));
    ensure!(sandbox.kubectl(&["api-resources"])?.contains("deployments"));
    ensure!(sandbox.kubectl(&["explain", "pod.spec.containers"])?.contains("image"));
    ensure!(sandbox.kubectl(&["version"])?.contains("v1.33"));
    Ok(())
}

const WIDGETS: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wi]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [size]
            properties:
              size: {type: integer, minimum: 1}
              colour: {type: string, default: red}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
"#;

const WIDGET: &str = r#"
apiVersion: example.com/v1
kind: Widget
metadata: {name: w}
spec: {size: 3}
"#;

#[test]
fn custom_resources_are_checked_defaulted_and_shown_like_built_in_ones() -> Result<()> {
    let sandbox = Sandbox::start()?;
    sandbox.kubectl_with_input(&["apply", "-f", "-"], WIDGETS)?;
    sandbox.kubectl(&["wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=10s"])?;
    sandbox.kubectl_with_input(&["apply", "-f", "-"], WIDGET)?;
    ensure!(sandbox.kubectl(&["get", "wi", "w", "-o", "jsonpath={.spec.colour}"])? == "red");
    let table = sandbox.kubectl(&["get", "widgets"])?;
    ensure!(table.contains("SIZE") && table.contains('3'), "{table}");
    let refused = sandbox.kubectl_with_input(&["apply", "-f", "-"], &WIDGET.replace("size: 3", "size: 0"));
    let text = format!("{:#}", refused.err().map_or_else(String::new, |e| e.to_string()));
    ensure!(text.contains("should be greater than or equal to 1"), "{text}");
    sandbox.kubectl(&["delete", "crd", "widgets.example.com", "--timeout=20s"])?;
    ensure!(!sandbox.kubectl_fails(&["get", "widgets"])?.is_empty());
    Ok(())
}

#[test]
fn refusals_use_the_words_of_kubernetes() -> Result<()> {
    let sandbox = Sandbox::start()?;
    let cases: [(&[&str], &str); 5] = [
        (&["get", "pod", "absent"], "pods \"absent\" not found"),
        (&["create", "configmap", "Bad_Name"], "a lowercase RFC 1123 subdomain must consist of"),
        (&["create", "namespace", "default"], "namespaces \"default\" already exists"),
        (&["get", "pods", "--token=garbage"], "You must be logged in to the server"),
        (&["get", "pods", "--as=stranger"], "User \"stranger\" cannot list resource \"pods\" in API group \"\""),
    ];
    for (arguments, text) in cases {
        let said = sandbox.kubectl_fails(arguments)?;
        ensure!(said.contains(text), "{arguments:?} said {said}");
    }
    Ok(())
}

#[test]
fn deleting_a_namespace_deletes_what_is_in_it() -> Result<()> {
    let sandbox = Sandbox::start()?;
    sandbox.kubectl(&["create", "namespace", "doomed"])?;
    sandbox.kubectl(&["create", "configmap", "c", "-n", "doomed"])?;
    sandbox.kubectl(&["create", "deployment", "d", "--image=nginx", "-n", "doomed"])?;
    sandbox.kubectl(&["delete", "namespace", "doomed", "--timeout=20s"])?;
    ensure!(sandbox.kubectl_fails(&["get", "namespace", "doomed"])?.contains("not found"));
    Ok(())
}

const LIST: &str = r#"
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: one}, data: {a: "1"}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: two}, data: {a: "2"}}
"#;

/// For a `List` and for plain-text explanations kubectl wants `/openapi/v2` as protobuf.
#[test]
fn a_list_is_created_checked_applied_and_deleted() -> Result<()> {
    let sandbox = Sandbox::start()?;
    let list = sandbox.file("list.yaml", LIST)?;
    ensure!(sandbox.kubectl(&["create", "-f", &list])? == "configmap/one created\nconfigmap/two created\n");
    ensure!(sandbox.kubectl(&["apply", "-f", &list])?.contains("configmap/two configured"));
    let wrong = sandbox.file("wrong.yaml", &LIST.replace(", data:", ", dota:").replace("name: ", "name: un"))?;
    let said = sandbox.kubectl_fails(&["create", "--validate=strict", "-f", &wrong])?;
    // For a list kubectl looks itself, with the schemas of that document.
    ensure!(said.contains("unknown field \"dota\" in io.k8s.api.core.v1.ConfigMap"), "{said}");
    ensure!(sandbox.kubectl(&["delete", "-f", &list])?.contains("configmap \"one\" deleted"));

    let explain = |what: &str| sandbox.kubectl(&["explain", what, "--output", "plaintext-openapiv2"]);
    let pods = explain("pods.spec")?;
    for line in ["containers\t<[]Object> -required-", "nodeSelector\t<map[string]string>"] {
        ensure!(pods.contains(line), "{pods}");
    }
    sandbox.kubectl_with_input(&["apply", "-f", "-"], WIDGETS)?;
    sandbox.kubectl(&["wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=10s"])?;
    let widgets = explain("widgets.spec")?;
    ensure!(widgets.contains("size\t<integer> -required-"), "{widgets}");
    Ok(())
}
