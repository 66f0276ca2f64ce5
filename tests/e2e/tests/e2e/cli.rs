//! What the command line promises.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Result, ensure};
use e2e::Sandbox;

#[test]
fn status_tells_every_process_and_address() -> Result<()> {
    let sandbox = Sandbox::start()?;
    let status = sandbox.status()?;
    ensure!(status["cloud"]["endpoint"].as_str().is_some_and(|e| e.starts_with("http://127.0.0.1:")), "{status}");
    let cluster = &status["clusters"][0];
    for field in ["name", "location", "endpoint", "kubeconfig"] {
        ensure!(cluster[field].as_str().is_some_and(|t| !t.is_empty()), "{field} of {cluster}");
    }
    ensure!(cluster["etcdEndpoints"][0].as_str().is_some_and(|e| e.starts_with("https://127.")), "{cluster}");
    let instances = cluster["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
    ensure!(!instances.is_empty(), "{cluster}");
    for instance in instances {
        let command = std::fs::read(format!("/proc/{}/cmdline", instance["pid"]))?;
        let line = String::from_utf8_lossy(&command).into_owned();
        ensure!(line.contains(instance["dataDir"].as_str().unwrap_or("?")), "{line} does not name {instance}");
    }
    Ok(())
}

#[test]
fn a_second_up_resumes_with_all_data() -> Result<()> {
    let mut sandbox = Sandbox::start()?;
    sandbox.kubectl(&["create", "configmap", "kept", "--from-literal=k=v"])?;
    sandbox.pilothouse(&["down"])?;
    sandbox.up(&[])?;
    ensure!(sandbox.kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.k}"])? == "v");
    Ok(())
}

#[test]
fn private_files_are_private() -> Result<()> {
    let sandbox = Sandbox::start()?;
    let mut open = Vec::new();
    each_file(&sandbox.data_dir(), &mut |path| {
        let mode = std::fs::symlink_metadata(path)?.permissions().mode();
        if mode & 0o077 != 0 && !path.is_dir() && !inside_private(path, &sandbox.data_dir()) {
            open.push(path.display().to_string());
        }
        Ok(())
    })?;
    ensure!(open.is_empty(), "others may read {open:?}");
    Ok(())
}

/// Is some directory between the root and the file closed to others?
fn inside_private(path: &Path, root: &Path) -> bool {
    path.ancestors()
        .skip(1)
        .take_while(|d| d.starts_with(root))
        .any(|d| d.metadata().is_ok_and(|m| m.permissions().mode() & 0o077 == 0))
}

#[test]
fn no_secret_value_lies_in_the_data_directory_in_the_clear() -> Result<()> {
    let sandbox = Sandbox::start()?;
    sandbox.kubectl(&["create", "secret", "generic", "s", "--from-literal=k=MARKER-7f3a-plain"])?;
    sandbox.kubectl(&["create", "configmap", "MARKER-name-7f3a".to_lowercase().as_str()])?;
    // "k" of the secret is base64 in JSON: look for both forms, and for the name.
    let needles: [&[u8]; 3] = [b"MARKER-7f3a-plain", b"TUFSS0VSLTdmM2EtcGxhaW4", b"marker-name-7f3a"];
    each_file(&sandbox.data_dir(), &mut |path| {
        let content = std::fs::read(path)?;
        for needle in needles {
            ensure!(!content.windows(needle.len()).any(|w| w == needle), "{} shows it", path.display());
        }
        Ok(())
    })
}

#[test]
fn a_foreign_data_directory_is_refused_and_unharmed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    std::fs::write(directory.path().join("thesis.txt"), "mine")?;
    let output = std::process::Command::new(e2e::program())
        .args(["up", "--detach", "--data-dir"])
        .arg(directory.path())
        .output()?;
    ensure!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(text.contains("nothing was changed"), "{text}");
    ensure!(std::fs::read_dir(directory.path())?.count() == 1);
    Ok(())
}

#[test]
fn commands_behave_when_nothing_runs_and_when_run_twice() -> Result<()> {
    let mut sandbox = Sandbox::start_with(&["--nodes", "0"])?;
    let logs = sandbox.pilothouse(&["logs", "cloud", "-n", "1"])?;
    ensure!(logs.lines().count() == 1, "{logs}");
    ensure!(sandbox.pilothouse(&["inspect"])?.contains("Certificate authorities"));
    // Without its run file a sandbox can still be stopped: the directory's mark names its process.
    std::fs::remove_file(sandbox.data_dir().join("run.json"))?;
    ensure!(fails(&sandbox, &["status"])?.contains("not ready yet"));
    ensure!(fails(&sandbox, &["up", "--detach"])?.contains("`pilothouse down` stops it"));
    ensure!(sandbox.pilothouse(&["down"])?.starts_with("Stopped."));
    ensure!(sandbox.pilothouse(&["down"])?.starts_with("No sandbox runs on "));
    for command in ["status", "inspect", "env"] {
        ensure!(fails(&sandbox, &[command])?.contains("start one with `pilothouse up`"), "{command}");
    }
    ensure!(fails(&sandbox, &["logs", "nobody"])?.contains("there are: boot, cloud, "));
    ensure!(sandbox.pilothouse(&["env", "--unset", "--shell", "posix"])?.contains("unset KUBECONFIG"));
    std::fs::write(sandbox.data_dir().join("run.json"), "{")?;
    sandbox.up(&[])?;
    ensure!(fails(&sandbox, &["reset"])?.contains("nothing was deleted"));
    sandbox.pilothouse(&["reset", "--yes"])?;
    ensure!(!sandbox.data_dir().exists());
    ensure!(sandbox.pilothouse(&["reset", "--yes"])?.starts_with("Nothing is at "));
    Ok(())
}

/// What the program says when it must fail: one line.
fn fails(sandbox: &Sandbox, arguments: &[&str]) -> Result<String> {
    let output = sandbox.command(e2e::program()).args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{arguments:?}: {}\n{text}", output.status);
    let said = text.lines().last().unwrap_or_default();
    ensure!(said.contains("pilothouse: "), "{arguments:?}: {text}");
    Ok(said.to_owned())
}

#[test]
fn env_is_undone_by_unset_in_a_real_shell() -> Result<()> {
    let sandbox = Sandbox::start_with(&["--nodes", "0"])?;
    let program = e2e::program().display().to_string();
    let script = format!(
        "before=$(env | grep -v '^_=' | sort); eval \"$('{program}' env)\" && eval \"$('{program}' env)\"; \
         test \"$KUBECONFIG\" != mine && test -z \"$GOOGLE_APPLICATION_CREDENTIALS\" && \
         eval \"$('{program}' env --unset)\"; after=$(env | grep -v '^_=' | sort); \
         test \"$before\" = \"$after\" && echo same; echo \"$after\"",
    );
    let output = std::process::Command::new("sh")
        .env_clear()
        .envs([("PATH", "/usr/bin:/bin"), ("HOME", "/nowhere"), ("KUBECONFIG", "mine"), ("NO_PROXY", "a.example")])
        .envs([("GOOGLE_APPLICATION_CREDENTIALS", "it's mine"), ("SHELL", "/bin/sh")])
        .env("PILOTHOUSE_DATA_DIR", sandbox.data_dir())
        .args(["-c", &script])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.starts_with("same\n"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn each_file(directory: &Path, visit: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            each_file(&path, visit)?;
        } else if path.is_file() {
            visit(&path)?;
        }
    }
    Ok(())
}
