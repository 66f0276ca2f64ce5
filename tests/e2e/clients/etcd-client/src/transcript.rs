//! One line for each answer, without what differs from one store or run to the next.

use std::fmt::Debug;

use etcd_client::Error;

/// Fields that name a store, a member or a moment.
const RANDOM: &[&str] = &["cluster_id: ", "member_id: ", "raft_term: "];

/// Prints an answer or its error; the answer, for those that look into it.
pub(crate) fn note<T: Debug>(what: &str, answer: Result<T, Error>) -> Option<T> {
    match answer {
        Ok(answer) => {
            println!("{what}: {}", plain(&format!("{answer:?}")));
            Some(answer)
        }
        Err(Error::GRpcStatus(status)) => {
            println!("{what}: {:?}: {}", status.code(), status.message());
            None
        }
        Err(error) => {
            println!("{what}: {error}");
            None
        }
    }
}

/// The same with bytes as text and without numbers that are random.
fn plain(text: &str) -> String {
    let mut text = with_bytes_as_text(text);
    for field in RANDOM {
        let mut rest = std::mem::take(&mut text);
        while let Some(place) = rest.find(field) {
            let after = rest.split_off(place + field.len());
            text += &rest;
            text.push('_');
            rest = after.trim_start_matches(|c: char| c.is_ascii_digit()).to_owned();
        }
        text += &rest;
    }
    text.replace("ResponseHeader { cluster_id: _, member_id: _, ", "Header { ").replace(", raft_term: _", "")
}

/// `[107, 49]` becomes `"k1"`.
fn with_bytes_as_text(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('[') {
        out += &rest[..start];
        rest = &rest[start..];
        let end = rest.find(']').map_or(0, |end| end + 1);
        let bytes: Option<Vec<u8>> = rest[..end]
            .strip_prefix('[')
            .and_then(|inside| inside.strip_suffix(']'))
            .and_then(|inside| inside.split(", ").map(|number| number.parse().ok()).collect());
        match bytes {
            Some(bytes) => {
                out += &format!("{:?}", String::from_utf8_lossy(&bytes));
                rest = &rest[end..];
            }
            None => {
                out.push('[');
                rest = &rest[1..];
            }
        }
    }
    out + rest
}
