//! Failures as a person reads them: one line, from what was tried to its cause, with the way out.

use cloud::CloudError;
use disk::DiskError;
use pki::SignerError;

/// What helps when a part of a data directory is damaged or gone.
pub(crate) const RESTORE: &str =
    "restore it from a backup, or choose another --data-dir (`pilothouse reset` deletes this one)";

/// The whole cause in one line.
pub(crate) fn line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}").replace('\n', " ");
    if error.chain().any(is_lost_data) { format!("{text}; {RESTORE}") } else { text }
}

fn is_lost_data(cause: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(CloudError::Disk(error)) = cause.downcast_ref() {
        return is_lost_data(error);
    }
    match (cause.downcast_ref::<DiskError>(), cause.downcast_ref::<SignerError>()) {
        (Some(error), _) => matches!(
            error,
            DiskError::Damaged { .. }
                | DiskError::Missing { .. }
                | DiskError::WrongKey { .. }
                | DiskError::WrongUserKey { .. }
                | DiskError::IdentityMismatch { .. }
                | DiskError::Foreign { .. }
        ),
        (_, Some(SignerError::Storage(_))) => true,
        _ => matches!(cause.downcast_ref::<etcd::EtcdError>(), Some(etcd::EtcdError::Damaged(_))),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn lost_data_is_named_with_what_helps() {
        let path = std::path::PathBuf::from("/d/state.sealed");
        let damaged =
            Err::<(), _>(DiskError::Damaged { path, offset: 3, what: "the head\nis wrong" }).context("the cloud");
        let text = line(&damaged.map_err(|error| error.context("up")).unwrap_err());
        assert_eq!(
            text,
            format!("up: the cloud: /d/state.sealed is damaged at offset 3: the head is wrong; {RESTORE}")
        );
        assert_eq!(line(&anyhow::anyhow!("the port is taken")), "the port is taken");
    }
}
