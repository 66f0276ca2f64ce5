use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::system;

const CLUSTER: &str = "0123456789abcdef0123456789abcdef";

struct Place(TempDir);

impl Place {
    fn layout(&self) -> Layout {
        let layout = Layout::resolve(Some(&self.0.path().join("data")), None).unwrap();
        layout.prepare().unwrap();
        layout
    }

    fn platform(&self) -> Platform {
        Platform::open(self.layout().platform(), system::entropy()).unwrap()
    }

    fn verifier(&self, accept: bool) -> Verifier {
        let tools = (system::clock(), system::entropy());
        Verifier::open(&self.layout(), "p", &self.platform(), tools, accept).unwrap()
    }

    fn statement(&self, name: &str) -> PathBuf {
        self.layout().platform().join(DIRECTORY).join(name)
    }

    /// The integrity events: which part, whether it passed, how many digests were measured and accepted.
    fn events(&self) -> Vec<(String, bool, usize, usize)> {
        let text = fs::read_to_string(self.layout().log("boot")).unwrap();
        let one = |line: &str| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            let payload = event["jsonPayload"].as_object().unwrap().clone();
            let (part, report) = payload.iter().find(|(name, _)| name.ends_with("ReportEvent")).unwrap();
            let count = |name: &str| report[name].as_array().unwrap().len();
            let passed = report["policyEvaluationPassed"].as_bool().unwrap();
            (part.clone(), passed, count("actualMeasurements"), count("policyMeasurements"))
        };
        text.lines().map(one).collect()
    }
}

fn place() -> Place {
    Place(tempfile::tempdir().unwrap())
}

fn starting() -> Starting<'static> {
    Starting { cluster_id: CLUSTER, location: "us-central1-a", process: "signer" }
}

/// A sandbox that was made, and stopped: its record is `text`.
async fn made(place: &Place, text: &[u8]) {
    let verifier = place.verifier(false);
    verifier.record_changes(CLUSTER, text, || Ok(())).unwrap();
    verifier.admit(starting()).await.unwrap();
    verifier.settle(&place.platform()).await.unwrap();
}

async fn resumed(place: &Place, text: &[u8], accept: bool) -> Result<(), String> {
    let verifier = place.verifier(accept);
    verifier.measure_record(CLUSTER, Path::new("/data/cluster.json"), text).unwrap();
    verifier.admit(starting()).await.map_err(|e| format!("{e:#}"))
}

#[tokio::test]
async fn what_was_accepted_starts_and_every_start_is_an_event() {
    let place = place();
    made(&place, b"record").await;
    resumed(&place, b"record", false).await.unwrap();
    let (early, late) = ("earlyBootReportEvent".to_owned(), "lateBootReportEvent".to_owned());
    let of = |part: &String| (part.clone(), true, 1, 1);
    assert_eq!(place.events(), [of(&early), of(&late), of(&early), of(&late)]);
}

#[tokio::test]
async fn a_changed_record_is_refused_with_both_digests() {
    let place = place();
    made(&place, b"record").await;
    let refused = resumed(&place, b"recorD", true).await.unwrap_err();
    for text in [&b"record"[..], b"recorD"] {
        assert!(refused.contains(&pki::sha256(text)), "{refused}");
    }
    assert_eq!(place.events().last().unwrap(), &("lateBootReportEvent".to_owned(), false, 1, 1));
}

#[tokio::test]
async fn another_program_starts_only_when_the_user_says_so() {
    let place = place();
    made(&place, b"record").await;
    // The statement of a sandbox that was made with another program.
    let verifier = place.verifier(false);
    let other = Statement::of("pilothouse", &[pki::sha256(b"other")], "test", system::clock().now());
    write_private(&place.statement(PROGRAM), &other.signed(&verifier.signer).unwrap()).unwrap();
    let refused = resumed(&place, b"record", false).await.unwrap_err();
    assert!(refused.contains(&pki::sha256(b"other")) && refused.contains("--accept-new-binary"), "{refused}");
    assert_eq!(place.events().last().unwrap(), &("earlyBootReportEvent".to_owned(), false, 1, 1));
    resumed(&place, b"record", true).await.unwrap();
    resumed(&place, b"record", false).await.unwrap();
}

#[tokio::test]
async fn a_statement_with_one_byte_changed_or_gone_is_not_believed() {
    let place = place();
    made(&place, b"record").await;
    for name in [PROGRAM, "0123456789abcdef.json"] {
        let file = place.statement(name);
        let whole = fs::read(&file).unwrap();
        let mut changed = String::from_utf8(whole.clone()).unwrap();
        let at = changed.find("\"payload\": \"").unwrap() + 40;
        let other = if changed.as_bytes()[at] == b'A' { "B" } else { "A" };
        changed.replace_range(at..=at, other);
        fs::write(&file, changed).unwrap();
        let refused = resumed(&place, b"record", false).await.unwrap_err();
        assert!(refused.contains("is not believed"), "{refused}");
        fs::remove_file(&file).unwrap();
        let refused = resumed(&place, b"record", false).await.unwrap_err();
        assert!(refused.contains("is missing"), "{refused}");
        fs::write(&file, whole).unwrap();
        resumed(&place, b"record", false).await.unwrap();
    }
}

#[tokio::test]
async fn a_crash_between_statement_and_record_leaves_both_texts_accepted() {
    let place = place();
    made(&place, b"before").await;
    let verifier = place.verifier(false);
    verifier.measure_record(CLUSTER, Path::new("/r"), b"before").unwrap();
    verifier.record_changes(CLUSTER, b"after", || bail!("no space is left")).unwrap_err();
    resumed(&place, b"before", false).await.unwrap();
    resumed(&place, b"after", false).await.unwrap();
    resumed(&place, b"other", false).await.unwrap_err();
}

#[tokio::test]
async fn a_first_start_that_was_cut_off_begins_anew() {
    let place = place();
    let verifier = place.verifier(false);
    verifier.record_changes(CLUSTER, b"record", || Ok(())).unwrap();
    drop(verifier);
    resumed(&place, b"record", false).await.unwrap();
}

#[tokio::test]
async fn the_signing_key_outlives_a_rotation_of_the_platform_key() {
    let place = place();
    made(&place, b"record").await;
    let platform = place.platform();
    let verifier = place.verifier(false);
    platform.rotate().unwrap();
    verifier.reseal(&platform).unwrap();
    platform.forget_earlier().unwrap();
    resumed(&place, b"record", false).await.unwrap();
}

#[test]
fn what_is_measured_is_what_sha256sum_would_say() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x");
    fs::write(&path, "abc").unwrap();
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(measure(File::open(&path).unwrap()).unwrap(), abc);
    assert_eq!(pki::sha256(b"abc"), abc);
}
