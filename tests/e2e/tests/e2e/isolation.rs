//! Isolation and hardening: what holds each process in its place, as the kernel tells it, and what happens to whom when
//! something is moved, changed or killed.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Sandbox, client, eventually, on_path, skipped};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at the cluster that must not notice anything.
const PROBE: Duration = Duration::from_millis(100);

/// What `inspect hardening` says of an attribute of each process.
fn said(sandbox: &Sandbox, process: &str, attribute: &str) -> Result<(String, String)> {
    let found: Value = serde_json::from_str(&sandbox.pilothouse(&["inspect", "hardening", "-o", "json"])?)?;
    let found = found.as_array().context("a list")?;
    let own = found.iter().find(|one| one["process"] == process && one["attribute"] == attribute);
    let own = own.with_context(|| format!("{process}: {attribute} in {found:?}"))?;
    let text = |name: &str| own[name].as_str().unwrap_or_default().to_owned();
    Ok((text("enforced"), text("why")))
}

#[test]
fn signer_and_instance_are_filtered_and_have_no_capabilities() -> Result<()> {
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        skipped("system calls", "there is no filter for this architecture");
        return Ok(());
    }
    let sandbox = Sandbox::start_with(&["--nodes", "1"])?;
    for (pid, role) in sandbox.processes()?.into_iter().filter(|(_, role)| role != "cloud") {
        // Each thread has its own: all of them count.
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let status = fs::read_to_string(thread?.path().join("status"))?;
            for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"] {
                ensure!(status.contains(line), "{role}: {line} in {status}");
            }
        }
        let name = if role == "signer" { "signer" } else { "control-plane-0" };
        for attribute in ["system calls", "no other processes", "no new code", "capabilities"] {
            let (enforced, why) = said(&sandbox, name, attribute)?;
            ensure!(enforced == "full", "{name}: {attribute}: {enforced} {why}");
        }
        // Whether the kernel has Landlock, and which, the process says; silence would be a claim.
        for attribute in ["files", "nothing is executed", "signals"] {
            let (enforced, why) = said(&sandbox, name, attribute)?;
            ensure!(enforced == "full" || why.contains("Landlock"), "{name}: {attribute}: {enforced} {why}");
        }
    }
    let ((signer, _), (instance, why)) =
        (said(&sandbox, "signer", "network")?, said(&sandbox, "control-plane-0", "network")?);
    ensure!(signer == "full" && instance == "none" && why.contains("by design"), "{signer} {instance} {why}");
    Ok(())
}

/// The namespaces of a process, as the kernel names them; none where this user may not look.
fn namespaces(pid: &str) -> Option<[String; 4]> {
    let name = |kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).map(|name| name.display().to_string());
    Some([name("user").ok()?, name("net").ok()?, name("ipc").ok()?, name("uts").ok()?])
}

#[test]
fn each_process_is_in_the_namespaces_that_it_says() -> Result<()> {
    let sandbox = Sandbox::start_with(&["--nodes", "1"])?;
    let around = namespaces("self").context("the namespaces of this test")?;
    for (pid, role) in sandbox.processes()?.into_iter().filter(|(_, role)| role != "cloud") {
        let name = if role == "signer" { "signer" } else { "control-plane-0" };
        let (enforced, why) = said(&sandbox, name, "own user")?;
        let (_, ipc) = said(&sandbox, name, "own IPC and host name")?;
        let (network, network_why) = said(&sandbox, name, "network")?;
        ensure!(said(&sandbox, name, "own process numbers")?.0 == "none", "a PID namespace is not made");
        if enforced == "none" {
            ensure!(why.contains("without a user namespace of its own: "), "{why}");
            skipped("namespaces", &why);
            continue;
        }
        ensure!(enforced == "partial" && why.contains("to files and signals it is still user"), "{enforced} {why}");
        // Who may not trace a process does not see where it is either.
        let Some([user, net, own_ipc, uts]) = namespaces(&pid.to_string()) else {
            skipped("namespaces", "they are seen by root alone");
            continue;
        };
        ensure!(user != around[0] && why.contains(&user), "{role}: {user} {why}");
        ensure!(own_ipc != around[2] && ipc.contains(&own_ipc), "{role}: {own_ipc} {ipc}");
        ensure!(uts != around[3] && ipc.contains(&uts), "{role}: {uts} {ipc}");
        if role == "signer" {
            ensure!(net != around[1] && network == "full" && network_why.contains(&net), "{net} {network_why}");
            let interfaces = fs::read_to_string(format!("/proc/{pid}/net/dev"))?;
            ensure!(interfaces.lines().count() == 3 && interfaces.contains("lo:"), "{interfaces}");
            let routes = fs::read_to_string(format!("/proc/{pid}/net/fib_trie"))?;
            ensure!(!routes.contains("127.0.0.1"), "its loopback interface is up: {routes}");
        } else {
            ensure!(net == around[1], "an instance is where its endpoints are");
        }
    }
    Ok(())
}

#[test]
fn in_one_process_nothing_is_claimed_but_what_that_process_gave_up() -> Result<()> {
    let sandbox = Sandbox::start_with(&["--nodes", "0", "--in-process"])?;
    let found: Value = serde_json::from_str(&sandbox.pilothouse(&["inspect", "hardening", "-o", "json"])?)?;
    let claimed = |one: &&Value| {
        let attribute = one["attribute"].as_str().unwrap_or_default();
        one["process"] != "cloud"
            && one["enforced"] != "none"
            && !matches!(attribute, "own directory" | "verified start")
    };
    let claims: Vec<_> = found.as_array().context("a list")?.iter().filter(claimed).collect();
    ensure!(claims.is_empty(), "{claims:?}");
    let (enforced, why) = said(&sandbox, "control-plane-0", "one cluster per process")?;
    ensure!(enforced == "none" && why.contains("--in-process"), "{why}");
    let (enforced, why) = said(&sandbox, "cloud", "files")?;
    ensure!(enforced == "full" || why.contains("Landlock"), "{enforced} {why}");
    Ok(())
}

#[test]
fn the_cloud_s_process_gives_up_what_it_does_not_need_and_inspect_says_so() -> Result<()> {
    let sandbox = Sandbox::start_with(&["--nodes", "1"])?;
    let (pid, _) = sandbox.processes()?.into_iter().find(|(_, role)| role == "cloud").context("the cloud")?;
    let filtered = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        ensure!(status.contains("NoNewPrivs:\t1"), "{status}");
        ensure!(!filtered || status.contains("Seccomp:\t2"), "{status}");
        // Nothing, or as root the right to ports below 1024 (CAP_NET_BIND_SERVICE is the tenth bit).
        for set in ["CapEff", "CapPrm"] {
            let bits = status.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(":\t")).context("a set")?;
            ensure!(u64::from_str_radix(bits, 16)? & !(1 << 10) == 0, "{set}: {bits}");
        }
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("a limit")?;
    ensure!(core.split_whitespace().skip(4).take(2).eq(["0", "0"]), "{core}");
    for (attribute, expected) in [
        ("no new privileges", "full"),
        ("no core dumps", "full"),
        ("own user", "none"),
        ("network", "none"),
        ("no new code", "none"),
        ("system calls", if filtered { "partial" } else { "none" }),
    ] {
        let (enforced, why) = said(&sandbox, "cloud", attribute)?;
        ensure!(enforced == expected, "{attribute}: {enforced} {why}");
    }
    for (attribute, at_most) in [("files", "full"), ("nothing is executed", "partial"), ("signals", "full")] {
        let (enforced, why) = said(&sandbox, "cloud", attribute)?;
        ensure!(enforced == at_most || why.contains("Landlock"), "{attribute}: {enforced} {why}");
    }
    let memory = said(&sandbox, "cloud", "memory kept from others")?;
    let environment = fs::read(format!("/proc/{pid}/environ"));
    ensure!(if environment.is_ok() { memory.0 == "partial" } else { memory.0 != "none" }, "{memory:?}");
    let text = sandbox.pilothouse(&["inspect", "hardening"])?;
    ensure!(text.contains("cloud with fleet and edge\n"), "{text}");
    Ok(())
}

/// Two clusters, made by gcloud where it is there, and the numbers of their processes: `(name, role, pid)`.
fn two_clusters() -> Result<Option<Sandbox>> {
    let Some(gcloud) = on_path("gcloud") else {
        skipped("two clusters", "no gcloud on PATH");
        return Ok(None);
    };
    let sandbox = Sandbox::start_with(&["--nodes", "0"])?;
    let mut create = sandbox.command(gcloud);
    create.args(["container", "clusters", "create", "other", "--num-nodes", "1", "--zone", "us-central1-a", "--quiet"]);
    let output = create.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(Some(sandbox))
}

fn pids(sandbox: &Sandbox, cluster: &str) -> Result<BTreeSet<u64>> {
    let status = sandbox.status()?;
    let clusters = status["clusters"].as_array().context("clusters")?;
    let own = clusters.iter().find(|one| one["name"] == cluster).context("no such cluster")?;
    let instances = own["instances"].as_array().context("instances")?;
    Ok(instances.iter().filter_map(|instance| instance["pid"].as_u64()).collect())
}

#[test]
fn killing_all_of_one_cluster_is_not_noticed_by_the_other() -> Result<()> {
    let Some(kubectl) = client("kubectl") else {
        skipped("two clusters", "no kubectl");
        return Ok(());
    };
    let Some(sandbox) = two_clusters()? else { return Ok(()) };
    let (demo, other) = (pids(&sandbox, "demo")?, pids(&sandbox, "other")?);
    ensure!(demo.len() == 2 && other.len() == 2 && demo.is_disjoint(&other), "{demo:?} {other:?}");
    // gcloud has made the other one kubectl's current cluster.
    let kubeconfig = sandbox.data_dir().join("user/clusters/us-central1-a_demo/kubeconfig");
    let (stop, probes) = (AtomicBool::new(false), AtomicUsize::new(0));
    let failures = std::thread::scope(|scope| -> Result<Vec<String>> {
        let prober = scope.spawn(|| -> Result<Vec<String>> {
            let mut failures = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let mut probe = sandbox.command(&kubectl);
                probe.arg("--kubeconfig").arg(&kubeconfig);
                probe.args(["get", "--raw", "/readyz", "--request-timeout", "5s"]);
                let output = probe.output()?;
                if !output.status.success() {
                    failures.push(String::from_utf8_lossy(&output.stderr).into_owned());
                }
                probes.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(PROBE);
            }
            Ok(failures)
        });
        let killed = (0..3).try_for_each(|_| -> Result<()> {
            let before = pids(&sandbox, "other")?;
            for pid in &before {
                ensure!(Command::new("kill").args(["-9", &pid.to_string()]).status()?.success());
            }
            let probed = probes.load(Ordering::Relaxed);
            eventually(LIMIT, || {
                let now = pids(&sandbox, "other")?;
                ensure!(now.len() == 2 && now.is_disjoint(&before), "{now:?}");
                ensure!(probes.load(Ordering::Relaxed) > probed + 3, "the other cluster was not looked at");
                Ok(())
            })
        });
        stop.store(true, Ordering::Relaxed);
        let failures = prober.join().map_err(|_| anyhow::anyhow!("the prober panicked"))??;
        killed.map(|()| failures)
    })?;
    ensure!(failures.is_empty(), "{failures:?}");
    ensure!(pids(&sandbox, "demo")? == demo, "a process of the other cluster was replaced");
    Ok(())
}

/// Etcd's ports are where a cluster's instance has an address of its own, and on no endpoint of the cluster.
#[test]
fn a_store_listens_on_its_instances_address_alone() -> Result<()> {
    let (Some(ss), Some(etcdctl)) = (on_path("ss"), client("etcdctl")) else {
        skipped("addresses of stores", "ss or etcdctl is not there");
        return Ok(());
    };
    let Some(sandbox) = two_clusters()? else { return Ok(()) };
    let processes = sandbox.processes()?;
    let sockets = crate::identities::run(Command::new(ss).arg("-ltnpH"))?;
    let is_ours = |line: &&str| processes.iter().any(|(pid, _)| line.contains(&format!("pid={pid},")));
    let listening: BTreeSet<&str> =
        sockets.lines().filter(is_ours).filter_map(|line| line.split_whitespace().nth(3)).collect();
    let status = sandbox.status()?;
    for cluster in status["clusters"].as_array().context("clusters")? {
        let store = cluster["etcdEndpoints"][0].as_str().context("an endpoint")?.trim_start_matches("https://");
        ensure!(listening.contains(store), "{store} is not among {listening:?}");
        let (address, port) = store.rsplit_once(':').context("a port")?;
        for endpoint in ["endpoint", "internalEndpoint"] {
            let host = cluster[endpoint].as_str().and_then(|text| text.split(':').next()).context("an endpoint")?;
            if host == address {
                skipped("addresses of stores", "this machine has no aliases");
                return Ok(());
            }
            let outside = format!("{host}:{port}");
            ensure!(!listening.contains(outside.as_str()), "{outside} is among {listening:?}");
            let mut stranger = sandbox.command(&etcdctl);
            stranger.env_remove("ETCDCTL_ENDPOINTS").args(["--command-timeout=2s", "endpoint", "status"]);
            let output = stranger.args(["--endpoints", &format!("https://{outside}")]).output()?;
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(!output.status.success() && text.contains("connection refused"), "{outside}: {text}");
        }
    }
    Ok(())
}

#[test]
fn the_directory_of_one_cluster_is_refused_under_the_name_of_another() -> Result<()> {
    let Some(mut sandbox) = two_clusters()? else { return Ok(()) };
    let status = sandbox.status()?;
    let directory = |cluster: &str| -> Result<std::path::PathBuf> {
        let clusters = status["clusters"].as_array().context("clusters")?;
        let own = clusters.iter().find(|one| one["name"] == cluster).context("no such cluster")?;
        let id = own["id"].as_str().context("an id")?;
        Ok(sandbox.data_dir().join("clusters").join(&id[..16]))
    };
    let (demo, other) = (directory("demo")?, directory("other")?);
    for part in ["control-plane-0", "signer"] {
        sandbox.pilothouse(&["down"])?;
        let aside = sandbox.data_dir().join("aside");
        fs::rename(other.join(part), &aside)?;
        // What is moved is a whole directory, its statement included.
        ensure!(Command::new("cp").arg("-a").arg(demo.join(part)).arg(other.join(part)).status()?.success());
        sandbox.up(&[])?;
        let shown = eventually(LIMIT, || {
            let shown = sandbox.pilothouse(&["status"])?;
            ensure!(shown.contains("instance identity mismatch"), "{shown}");
            Ok(shown)
        })?;
        let logs = sandbox.pilothouse(&["logs"])?;
        let identity: Value = serde_json::from_slice(&fs::read(demo.join(part).join("identity.json"))?)?;
        let wrapped = identity["dataKey"]["wrapped"].as_str().context("a wrapped key")?;
        for text in [&shown, &logs] {
            ensure!(!text.contains(wrapped) && !text.contains("PRIVATE KEY"), "key material: {text}");
        }
        ensure!(pids(&sandbox, "demo")?.len() == 2, "the other cluster serves");
        sandbox.pilothouse(&["down"])?;
        fs::remove_dir_all(other.join(part))?;
        fs::rename(&aside, other.join(part))?;
    }
    sandbox.up(&[])?;
    eventually(LIMIT, || {
        ensure!(pids(&sandbox, "other")?.len() == 2);
        Ok(())
    })
}

/// Another program: the built one, and a byte behind it that nobody reads.
fn changed_program(sandbox: &Sandbox) -> Result<std::path::PathBuf> {
    let copy = sandbox.data_dir().with_file_name("pilothouse");
    fs::copy(e2e::program(), &copy)?;
    let mut file = fs::OpenOptions::new().append(true).open(&copy)?;
    std::io::Write::write_all(&mut file, b"x")?;
    Ok(copy)
}

/// The first integrity event of the log's end that did not pass: its report.
fn refusal(sandbox: &Sandbox, part: &str) -> Result<Value> {
    let log = sandbox.pilothouse(&["logs", "boot"])?;
    let events: Vec<Value> = log
        .lines()
        .filter_map(|line| line.find('{').map(|at| serde_json::from_str(&line[at..])))
        .collect::<Result<_, _>>()?;
    let refused = events.iter().rev().find(|event| event["severity"] == "ERROR").context("nothing was refused")?;
    ensure!(refused["logName"] == "projects/pilothouse-local/logs/compute.googleapis.com%2Fshielded_vm_integrity");
    ensure!(refused["jsonPayload"]["@type"] == "type.googleapis.com/cloud_integrity.IntegrityEvent", "{refused}");
    let report = refused["jsonPayload"][part].clone();
    ensure!(report["policyEvaluationPassed"] == false, "{refused}");
    Ok(report)
}

fn sha256(path: &std::path::Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(path).output()?;
    let line = String::from_utf8(output.stdout)?;
    Ok(line.split(' ').next().context("a digest")?.to_owned())
}

#[test]
fn a_program_with_one_byte_more_gets_no_key_until_it_is_accepted() -> Result<()> {
    let mut sandbox = Sandbox::start_with(&["--nodes", "0"])?;
    let (enforced, why) = said(&sandbox, "control-plane-0", "verified start")?;
    let built = sha256(e2e::program())?;
    ensure!(enforced == "partial" && why.contains(&built[..12]), "{enforced} {why}");
    sandbox.pilothouse(&["down"])?;
    let copy = changed_program(&sandbox)?;
    let up = ["up", "--detach", "--cloud-port", "0"];
    let output = sandbox.command(&copy).args(up).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let other = sha256(&copy)?;
    ensure!(!output.status.success() && said.contains("--accept-new-binary"), "{said}");
    ensure!(said.contains(&built) && said.contains(&other), "{said}");
    let report = refusal(&sandbox, "earlyBootReportEvent")?;
    ensure!(report["actualMeasurements"][0]["value"] == other.as_str(), "{report}");
    ensure!(report["policyMeasurements"][0]["value"] == built.as_str(), "{report}");
    ensure!(sandbox.processes()?.is_empty(), "something stayed behind");
    let output = sandbox.command(&copy).args(up).arg("--accept-new-binary").output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    sandbox.pilothouse(&["down"])?;
    // Now it is the one that was built that nobody accepted.
    let refused = sandbox.up(&[]).unwrap_err().to_string();
    ensure!(refused.contains("--accept-new-binary"), "{refused}");
    sandbox.up(&["--accept-new-binary"])
}

#[test]
fn a_record_that_somebody_changed_is_refused_and_said() -> Result<()> {
    let mut sandbox = Sandbox::start_with(&["--nodes", "0"])?;
    let status = sandbox.status()?;
    let id = status["clusters"][0]["id"].as_str().context("an id")?;
    let record = sandbox.data_dir().join("clusters").join(&id[..16]).join("cluster.json");
    sandbox.pilothouse(&["down"])?;
    let whole = fs::read_to_string(&record)?;
    let changed = whole.replacen("\"feature_gates\": \"\"", "\"feature_gates\": \"AllAlpha=true\"", 1);
    ensure!(changed != whole, "{whole}");
    fs::write(&record, &changed)?;
    let digest = sha256(&record)?;
    let refused = sandbox.up(&[]).unwrap_err().to_string();
    ensure!(refused.contains(&digest) && refused.contains("cluster.json"), "{refused}");
    let report = refusal(&sandbox, "lateBootReportEvent")?;
    ensure!(report["actualMeasurements"][0]["value"] == digest.as_str(), "{report}");
    fs::write(&record, &whole)?;
    ensure!(report["policyMeasurements"][0]["value"] == sha256(&record)?.as_str(), "{report}");
    sandbox.up(&[])?;
    // A change by the fleet is one that it states.
    sandbox.kubectl(&["get", "namespaces"])?;
    sandbox.pilothouse(&["down"])?;
    let manifest = sandbox.data_dir().join("platform/boot/program.json");
    let text = fs::read_to_string(&manifest)?;
    let at = text.find("\"payload\": \"").context("a payload")? + 60;
    let mut damaged = text.clone();
    damaged.replace_range(at..=at, if &text[at..=at] == "A" { "B" } else { "A" });
    fs::write(&manifest, &damaged)?;
    let refused = sandbox.up(&[]).unwrap_err().to_string();
    ensure!(refused.contains("program.json") && refused.contains("is not believed"), "{refused}");
    fs::write(&manifest, &text)?;
    sandbox.up(&[])
}

#[test]
fn an_instance_is_started_again_from_what_was_measured_whatever_lies_in_its_place() -> Result<()> {
    let sandbox = Sandbox::start_with(&["--no-cluster"])?;
    sandbox.pilothouse(&["down"])?;
    let copy = changed_program(&sandbox)?;
    let up = ["up", "--detach", "--cloud-port", "0", "--accept-new-binary", "--cluster", "demo", "--nodes", "0"];
    let output = sandbox.command(&copy).args(up).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::remove_file(&copy)?;
    fs::write(&copy, "#!/bin/sh\nexit 1\n")?;
    let before = pids(&sandbox, "demo")?;
    for pid in &before {
        ensure!(Command::new("kill").args(["-9", &pid.to_string()]).status()?.success());
    }
    eventually(LIMIT, || {
        let now = pids(&sandbox, "demo")?;
        ensure!(now.len() == 2 && now.is_disjoint(&before), "{now:?}");
        Ok(())
    })
}

#[test]
fn a_store_run_alone_leaves_no_core_dump() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut store = Command::new(e2e::program())
        .args(["etcd", "--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://127.0.0.1:1"])
        .args(["--listen-peer-urls=http://127.0.0.1:0", "--log-level=error"])
        .arg(format!("--data-dir={}", dir.path().join("store").display()))
        .spawn()?;
    let limits = format!("/proc/{}/limits", store.id());
    let checked = eventually(LIMIT, || {
        let limits = std::fs::read_to_string(&limits)?;
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("the limit")?;
        ensure!(core.split_whitespace().filter(|word| *word == "0").count() == 2, "{core}");
        Ok(())
    });
    let _ = store.kill();
    store.wait()?;
    checked
}
