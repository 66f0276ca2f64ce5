//! Scenarios as text: commands, and below each what came of it. `UPDATE_EXPECT=1` rewrites the results.
//!
//! Commands: `members 1 2 3` · `newcomer ID` (knows of no members) · `add-voter ID NEW` · `tick ID [N]` · `campaign ID` · `propose ID TEXT` · `read ID N` · `sync ID` ·
//! `deliver` (all messages, until none are left) · `part ID` · `join ID` · `transfer ID TO` · `status`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use bytes::Bytes;

use crate::{Config, Input, MemberId, Membership, MembershipChange, Message, Output, Raft, Restored};

#[derive(Default)]
struct Scene {
    members: BTreeMap<MemberId, Raft>,
    network: Vec<(MemberId, MemberId, Message)>,
    held: BTreeMap<MemberId, Vec<(MemberId, Message)>>,
    synced: BTreeMap<MemberId, Input>,
    parted: BTreeSet<MemberId>,
    said: String,
}

impl Scene {
    fn command(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |place: usize| words.get(place).and_then(|word| word.parse::<u64>().ok());
        let id = number(1).unwrap_or(0);
        match words[0] {
            "members" => {
                let ids: Vec<MemberId> = (1..words.len()).filter_map(number).collect();
                for id in &ids {
                    let members = Membership::of_voters(ids.iter().copied());
                    let raft = Raft::new(Config::new(*id, 1), Restored { members, ..Restored::default() });
                    self.members.insert(*id, raft);
                }
            }
            "newcomer" => drop(self.members.insert(id, Raft::new(Config::new(id, 1), Restored::default()))),
            "add-voter" => {
                let change = MembershipChange::AddVoter(number(2).unwrap_or(0));
                self.step(id, Input::ProposeMembership { context: 7, change, data: Bytes::new() });
            }
            "tick" => (0..number(2).unwrap_or(1)).for_each(|_| self.step(id, Input::Tick)),
            "campaign" => self.step(id, Input::Campaign),
            "propose" => self.step(id, Input::Propose { context: 7, data: words[2].to_owned().into() }),
            "read" => self.step(id, Input::ReadIndex { context: number(2).unwrap_or(0) }),
            "transfer" => self.step(id, Input::TransferLeader(number(2).unwrap_or(0))),
            "sync" => self.sync(id),
            "deliver" => self.deliver(),
            "part" => drop(self.parted.insert(id)),
            "join" => drop(self.parted.remove(&id)),
            "status" => self.status(),
            other => panic!("no command {other}"),
        }
        std::mem::take(&mut self.said)
    }

    fn say(&mut self, text: String) {
        writeln!(self.said, "  {text}").expect("a string takes anything");
    }

    fn step(&mut self, id: MemberId, input: Input) {
        let mut out = Vec::new();
        self.members.get_mut(&id).expect("a member").step(input, &mut out);
        for output in out {
            match output {
                Output::Persist { term, index, .. } => drop(self.synced.insert(id, Input::Synced { term, index })),
                Output::Send { to, message, after_sync } if after_sync && self.synced.contains_key(&id) => {
                    self.held.entry(id).or_default().push((to, message));
                }
                // Nobody is there yet.
                Output::Send { to, .. } if !self.members.contains_key(&to) => {}
                Output::Send { to, message, .. } => self.network.push((id, to, message)),
                Output::Apply(entries) => {
                    for entry in entries {
                        let data = match entry.membership_change() {
                            Some((change, _)) => format!("{change:?}"),
                            None => String::from_utf8_lossy(&entry.data).into_owned(),
                        };
                        let index = entry.index;
                        self.say(format!("{id} applies {index} {:?} {data}", entry.kind));
                    }
                }
                Output::Role { role, leader, term } => {
                    self.say(format!("{id} is {role:?} in term {term}, leader {}", leader.unwrap_or(0)));
                }
                Output::ReadReady { context, index } => self.say(format!("{id} may read {context} at {index}")),
                Output::Refused { context, reason } => self.say(format!("{id} refuses {context}: {reason:?}")),
                Output::Restore(_) | Output::SendSnapshot { .. } => self.say(format!("{id}: {output:?}")),
            }
        }
    }

    fn sync(&mut self, id: MemberId) {
        let held = self.held.remove(&id).unwrap_or_default();
        self.network.extend(held.into_iter().map(|(to, message)| (id, to, message)));
        if let Some(synced) = self.synced.remove(&id) {
            self.step(id, synced);
        }
    }

    /// Delivers and syncs until all is quiet.
    fn deliver(&mut self) {
        for _ in 0..1000 {
            let messages = std::mem::take(&mut self.network);
            let waiting: Vec<MemberId> = self.synced.keys().copied().filter(|id| !self.parted.contains(id)).collect();
            if messages.is_empty() && waiting.is_empty() {
                return;
            }
            for (from, to, message) in messages {
                if !self.parted.contains(&from) && !self.parted.contains(&to) {
                    self.step(to, Input::Receive(from, message));
                }
            }
            waiting.into_iter().for_each(|id| self.sync(id));
        }
        panic!("the members never fall silent");
    }

    fn status(&mut self) {
        let lines: Vec<String> = self
            .members
            .values()
            .map(|raft| {
                let s = raft.status();
                format!(
                    "{}: {:?} term {} commit {} last {} stable {}",
                    s.id, s.role, s.term, s.commit, s.last_index, s.stable
                )
            })
            .collect();
        lines.into_iter().for_each(|line| self.say(line));
    }
}

#[test]
fn scenarios_run_as_written() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata");
    let mut files: Vec<_> = std::fs::read_dir(dir).expect("testdata").map(|f| f.expect("a file").path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for path in files {
        let written = std::fs::read_to_string(&path).expect("a scenario");
        let (mut scene, mut result) = (Scene::default(), String::new());
        for line in written.lines().filter(|line| !line.starts_with("  ")) {
            writeln!(result, "{line}").expect("a string takes anything");
            if !line.is_empty() && !line.starts_with('#') {
                result.push_str(&scene.command(line));
            }
        }
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&path, &result).expect("the scenario is writable");
        } else {
            assert_eq!(result, written, "{}", path.display());
        }
    }
}
