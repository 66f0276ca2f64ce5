//! Names: what they must look like, and the paths and messages they make.

use crate::ApiError;
use crate::places::segment;

/// Lower-case letters, digits and hyphens, a letter first, no hyphen last, at most 40.
///
/// # Errors
/// 400 naming the field. (The exact text of the real API is not known for every field.)
pub fn check(field: &str, name: &str) -> Result<(), ApiError> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
    let rest = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if first && rest && !name.ends_with('-') && name.len() <= 40 {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "Invalid value for field {field:?}: {name:?} (must start with a lowercase letter followed by up to 39 lowercase \
         letters, numbers, or hyphens, and cannot end with a hyphen)."
    )))
}

/// `projects/P/zones/Z/clusters/C`, with `locations` for a region.
pub fn cluster_path(project: &str, location: &str, cluster: &str) -> String {
    format!("projects/{project}/{}/clusters/{cluster}", segment(location))
}

/// 404 of a cluster.
pub fn cluster_not_found(project: &str, location: &str, cluster: &str) -> ApiError {
    ApiError::not_found(format!("Not found: {}.", cluster_path(project, location, cluster)))
}

/// 404 of a node pool of an existing cluster.
pub fn pool_not_found(pool: &str) -> ApiError {
    ApiError::not_found(format!("Not found: node pool {pool:?} not found."))
}

/// `gke-<cluster>-<pool>`, both cut so that together they have at most 32 characters: 16 each, a short one leaves its
/// rest to the other.
pub(crate) fn group_stem(prefix: &str, cluster: &str, pool: &str) -> String {
    let cluster_room = 32 - pool.len().min(16);
    let cluster = &cluster[..cluster.len().min(cluster_room)];
    let pool = &pool[..pool.len().min(32 - cluster.len())];
    format!("{prefix}-{cluster}-{pool}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_rfc_1035_up_to_forty_characters() {
        for good in ["a", "demo-1", &"a".repeat(40)] {
            assert!(check("cluster.name", good).is_ok(), "{good}");
        }
        for bad in ["", "Demo", "1a", "a-", "a_b", &"a".repeat(41)] {
            assert!(check("cluster.name", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn group_names_share_thirty_two_characters() {
        assert_eq!(group_stem("gke", "demo", "default-pool"), "gke-demo-default-pool");
        let long = "abcdefghijklmnopqrstuvwxyz";
        assert_eq!(group_stem("gke", long, long), "gke-abcdefghijklmnop-abcdefghijklmnop");
        assert_eq!(group_stem("gke", long, "p"), "gke-abcdefghijklmnopqrstuvwxyz-p");
    }
}
