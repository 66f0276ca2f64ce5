//! Files that outlive a container: those on volumes of its pod, and those on the node.

use std::collections::BTreeSet;

use machinery::Value;

use super::behaviour::variables;
use super::shell::Place;

/// More files than this are not remembered.
const FILES_MAX: usize = 10_000;

/// Names of files, each after the volume it is on.
#[derive(Default)]
pub(super) struct Files(BTreeSet<String>);

impl Files {
    fn below<'a>(&'a self, root: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.range(root.to_owned()..).map_while(move |file| file.strip_prefix(root))
    }

    fn replace(&mut self, root: &str, files: &BTreeSet<String>) {
        self.0.retain(|file| !file.starts_with(root));
        let room = FILES_MAX.saturating_sub(self.0.len());
        self.0.extend(files.iter().take(room).map(|file| format!("{root}{file}")));
    }
}

/// A mounted volume: where it is in the container, its name among all files, and whether it is the node's.
struct Mount<'a> {
    path: &'a str,
    root: String,
    of_node: bool,
}

fn mounts<'a>(pod: &'a Value, container: &'a Value) -> Vec<Mount<'a>> {
    let volumes = pod["spec"]["volumes"].items();
    let find = |mount: &'a Value| {
        let name = mount.str_at(&["name"]);
        let volume = volumes.iter().find(|v| v.str_at(&["name"]) == name)?;
        let (root, of_node) = if let Some(path) = volume["hostPath"]["path"].as_str() {
            (format!("{path}/"), true)
        } else if let Some(claim) = volume["persistentVolumeClaim"]["claimName"].as_str() {
            (format!("claim:{}/{claim}/", pod.str_at(&["metadata", "namespace"])), true)
        } else if !volume["emptyDir"].is_null() {
            (format!("{name}/"), false)
        } else {
            return None;
        };
        let part = match mount.str_at(&["subPath"]) {
            "" => String::new(),
            part => format!("{part}/"),
        };
        let path = mount.str_at(&["mountPath"]).trim_end_matches('/');
        Some(Mount { path, root: root + &part, of_node })
    };
    container["volumeMounts"].items().iter().filter_map(find).collect()
}

/// What a container that starts finds.
pub(super) fn place(pod: &Value, container: &Value, own: &Files, node: &Files) -> Place {
    let mut place = Place { variables: variables(pod, container), files: BTreeSet::new() };
    for mount in mounts(pod, container) {
        let files = if mount.of_node { node } else { own };
        place.files.extend(files.below(&mount.root).map(|file| format!("{}/{file}", mount.path)));
    }
    place
}

/// Keeps what it left on its volumes.
pub(super) fn keep(pod: &Value, container: &Value, place: &Place, own: &mut Files, node: &mut Files) {
    for mount in mounts(pod, container) {
        let inside = format!("{}/", mount.path);
        let left = place.files.iter().filter_map(|file| Some(file.strip_prefix(&inside)?.to_owned())).collect();
        let files = if mount.of_node { &mut *node } else { &mut *own };
        files.replace(&mount.root, &left);
    }
}
