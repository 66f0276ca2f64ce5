//! `Maintenance.Downgrade`: the cluster may be told to look one minor version older, so that members of that version
//! could take over. As in etcd, nothing else changes: the state is one that the older version reads.

use mvcc::Command;
use tonic::Status;

use super::{Api, status};
use crate::database::{MINOR, cluster_version};
use crate::{LocalStore, proto as pb};

impl Api {
    /// Does what is asked; returns the cluster's version as it was, major and minor.
    pub(super) async fn change_version(
        &self,
        store: &LocalStore,
        request: &pb::DowngradeRequest,
    ) -> Result<String, Status> {
        use pb::downgrade_request::DowngradeAction as Action;
        let snapshot = self.store.shared.published().snapshot.clone();
        let before = cluster_version(&snapshot).trim_end_matches(".0").to_owned();
        match Action::try_from(request.action) {
            Ok(Action::Validate) => drop(target(&request.version, snapshot.downgrade())?),
            Ok(Action::Enable) => {
                let minor = target(&request.version, snapshot.downgrade())?;
                store.propose(Command::Downgrade(Some(minor))).await.map_err(status)?;
            }
            // etcd only logs that there is nothing to cancel.
            Ok(Action::Cancel) if snapshot.downgrade().is_none() => {
                tracing::warn!(target: "etcd", "no inflight downgrade job");
            }
            Ok(Action::Cancel) => drop(store.propose(Command::Downgrade(None)).await.map_err(status)?),
            Err(_) => return Err(Status::unknown("etcdserver: unknown method")),
        }
        Ok(before)
    }
}

/// The minor version to go to, if that is allowed now.
fn target(version: &str, in_progress: Option<u8>) -> Result<u8, Status> {
    let (major, minor) = major_and_minor(version)
        .or_else(|| major_and_minor(&format!("{version}.0")))
        .ok_or_else(|| Status::invalid_argument("etcdserver: wrong downgrade target version format"))?;
    let target = u8::try_from(minor).ok().filter(|minor| major == 3 && *minor == MINOR - 1);
    let target = target.ok_or_else(|| Status::invalid_argument("etcdserver: invalid downgrade target version"))?;
    match in_progress {
        Some(_) => Err(Status::failed_precondition("etcdserver: cluster has a downgrade job in progress")),
        None => Ok(target),
    }
}

/// Of a semantic version, whose further parts do not count.
fn major_and_minor(version: &str) -> Option<(u64, u64)> {
    let numbers = version.split(['-', '+']).next()?;
    let mut parts = numbers.split('.').map(|part| {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse::<u64>().ok()).flatten()
    });
    let (major, minor, _patch) = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_one_minor_below() {
        let check = |version: &str, in_progress, expect: Result<u8, &str>| {
            let answer = target(version, in_progress);
            assert_eq!(answer.as_ref().copied().map_err(Status::message), expect, "{version}");
        };
        let (format, invalid) =
            ("etcdserver: wrong downgrade target version format", "etcdserver: invalid downgrade target version");
        for good in ["3.5.0", "3.5", "3.5.9", "3.5.0-rc.1"] {
            check(good, None, Ok(5));
        }
        for bad in ["", "x", "3", "3.5.0.0", "3.+5", "v3.5"] {
            check(bad, None, Err(format));
        }
        for other in ["3.4", "3.6.0", "2.5.0", "3.261.0"] {
            check(other, None, Err(invalid));
        }
        check("3.5", Some(5), Err("etcdserver: cluster has a downgrade job in progress"));
        check("3.6", Some(5), Err(invalid));
    }

    #[test]
    fn what_is_stored_says_whether_one_is_under_way() {
        for (compaction_finished, downgrade) in [(true, None), (false, None), (true, Some(5)), (false, Some(0))] {
            let marks = mvcc::Marks { revision: 9, compacted: 3, compaction_finished, downgrade };
            let mut stored = bytes::BytesMut::new();
            crate::checkpoint::encode_marks(marks, &mut stored);
            assert_eq!(crate::checkpoint::decode_marks(&mut stored.freeze()), Some(marks));
        }
    }
}
