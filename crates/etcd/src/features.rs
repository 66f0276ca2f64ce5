//! etcd's feature gates (`--feature-gates`), and the older flags that stand for some of them.

use crate::flags::{Flags, bool_of};

/// How far a gate has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Alpha,
    Beta,
}

/// Every gate of etcd 3.6: name, stage, default, and the older flag that means the same.
const GATES: &[(&str, Stage, bool, &str)] = &[
    ("CompactHashCheck", Stage::Alpha, false, "experimental-compact-hash-check-enabled"),
    ("InitialCorruptCheck", Stage::Alpha, false, "experimental-initial-corrupt-check"),
    ("LeaseCheckpoint", Stage::Alpha, false, "experimental-enable-lease-checkpoint"),
    ("LeaseCheckpointPersist", Stage::Alpha, false, "experimental-enable-lease-checkpoint-persist"),
    ("SetMemberLocalAddr", Stage::Alpha, false, ""),
    ("StopGRPCServiceOnDefrag", Stage::Alpha, false, "experimental-stop-grpc-service-on-defrag"),
    ("TxnModeWriteWithSharedBuffer", Stage::Beta, true, "experimental-txn-mode-write-with-shared-buffer"),
];

/// Names that stand for every gate of a stage.
const ALL: &[(&str, Stage)] = &[("AllAlpha", Stage::Alpha), ("AllBeta", Stage::Beta)];

/// Which gates are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Features([bool; GATES.len()]);

impl Features {
    /// Puts the flags together.
    ///
    /// # Errors
    /// In etcd's words, when a gate is set in two ways or lacks another that it needs.
    pub(crate) fn new(flags: &Flags) -> Result<Self, String> {
        let given = flags.text("feature-gates");
        let mut open = parse(given)?;
        for (at, (name, _, _, flag)) in GATES.iter().enumerate() {
            if flag.is_empty() || !flags.given(flag) {
                continue;
            }
            let value = flags.is_set(flag);
            if given.contains(name) {
                let gate = format!("--feature-gates={name}={}", open[at]);
                return Err(format!(
                    "cannot specify both flags: --{flag}={value} and {gate} at the same time, please just use {gate}"
                ));
            }
            open[at] = value;
        }
        let features = Self(open);
        if features.is_open("LeaseCheckpointPersist") && !features.is_open("LeaseCheckpoint") {
            let text = "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint";
            return Err(text.to_owned());
        }
        Ok(features)
    }

    /// Whether the gate with this name is open.
    pub(crate) fn is_open(&self, name: &str) -> bool {
        GATES.iter().position(|gate| gate.0 == name).is_some_and(|at| self.0[at])
    }
}

/// Whether a value of `--feature-gates` has its form.
///
/// # Errors
/// In etcd's words (`pkg/featuregate`).
pub(crate) fn check(value: &str) -> Result<(), String> {
    parse(value).map(drop)
}

fn parse(value: &str) -> Result<[bool; GATES.len()], String> {
    let mut set: [Option<bool>; GATES.len()] = [None; GATES.len()];
    let mut stages = Vec::new();
    for pair in value.split(',').filter(|pair| !pair.is_empty()) {
        let Some((name, text)) = pair.split_once('=') else {
            return Err(format!("missing bool value for {}", pair.trim()));
        };
        let (name, text) = (name.trim(), text.trim());
        let value = bool_of(text).ok_or_else(|| {
            format!("invalid value of {name}={text}, err: strconv.ParseBool: parsing {text:?}: invalid syntax")
        })?;
        if let Some(at) = GATES.iter().position(|gate| gate.0 == name) {
            set[at] = Some(value);
        } else if let Some((_, stage)) = ALL.iter().find(|all| all.0 == name) {
            stages.push((*stage, value));
        } else {
            return Err(format!("unrecognized feature gate: {name}"));
        }
    }
    let mut open = GATES.iter().zip(set).map(|((_, stage, default, _), set)| {
        let of_stage = stages.iter().find(|(named, _)| named == stage).map(|(_, value)| *value);
        set.or(of_stage).unwrap_or(*default)
    });
    Ok(std::array::from_fn(|_| open.next().unwrap_or(false)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Features, String> {
        let args = args.iter().map(std::ffi::OsString::from).collect();
        Features::new(&Flags::parse(args, |_| None).map_err(|refusal| refusal.text)?)
    }

    #[test]
    fn gates_are_set_by_name_by_stage_and_by_the_older_flags() {
        let check = |args: &[&str], name: &str, expect: bool| {
            assert_eq!(read(args).map(|features| features.is_open(name)), Ok(expect), "{args:?}");
        };
        check(&[], "LeaseCheckpoint", false);
        check(&[], "TxnModeWriteWithSharedBuffer", true);
        check(&["--feature-gates=LeaseCheckpoint=true"], "LeaseCheckpoint", true);
        check(&["--feature-gates=AllAlpha=true,CompactHashCheck=false"], "CompactHashCheck", false);
        check(&["--feature-gates=AllAlpha=true"], "CompactHashCheck", true);
        check(&["--feature-gates=AllBeta=false"], "TxnModeWriteWithSharedBuffer", false);
        check(&["--experimental-compact-hash-check-enabled"], "CompactHashCheck", true);
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_etcds_words() {
        let check = |args: &[&str], expect: &str| assert_eq!(read(args).expect_err(expect), expect);
        check(
            &["--feature-gates=X=true"],
            "invalid value \"X=true\" for flag -feature-gates: unrecognized feature gate: X",
        );
        check(
            &["--feature-gates=LeaseCheckpoint"],
            "invalid value \"LeaseCheckpoint\" for flag -feature-gates: missing bool value for LeaseCheckpoint",
        );
        check(
            &["--feature-gates=LeaseCheckpointPersist=true"],
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        );
        check(
            &["--feature-gates=InitialCorruptCheck=false", "--experimental-initial-corrupt-check"],
            "cannot specify both flags: --experimental-initial-corrupt-check=true and \
             --feature-gates=InitialCorruptCheck=false at the same time, please just use \
             --feature-gates=InitialCorruptCheck=false",
        );
    }
}
