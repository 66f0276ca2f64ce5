//! The bytes of entries, hard states and messages, for the log and for the wire. Integers are little-endian.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::membership::Membership;
use crate::message::{Body, Message, Snapshot};
use crate::types::{Entry, EntryKind, HardState, LogIndex, Term};

/// The bytes are not what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DecodeError;

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("malformed consensus data")
    }
}

impl std::error::Error for DecodeError {}

type Decoded<T> = Result<T, DecodeError>;

impl Entry {
    /// Appends the entry's bytes.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u64_le(self.term.0);
        out.put_u64_le(self.index.0);
        out.put_u8(kind_tag(self.kind));
        out.put_u64_le(self.context);
        put_bytes(out, &self.data);
    }

    /// Takes one entry off the front; its data shares the buffer.
    ///
    /// # Errors
    /// When the bytes are not an entry.
    pub fn decode(bytes: &mut Bytes) -> Result<Self, DecodeError> {
        let (term, index) = (Term(u64_of(bytes)?), LogIndex(u64_of(bytes)?));
        let kind = kind_of(u8_of(bytes)?)?;
        Ok(Self { term, index, kind, context: u64_of(bytes)?, data: bytes_of(bytes)? })
    }
}

impl HardState {
    /// Appends the hard state's bytes.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u64_le(self.term.0);
        out.put_u64_le(self.vote.unwrap_or(0));
        out.put_u64_le(self.commit.0);
    }

    /// Takes a hard state off the front.
    ///
    /// # Errors
    /// When the bytes are too short.
    pub fn decode(bytes: &mut Bytes) -> Result<Self, DecodeError> {
        let (term, vote) = (Term(u64_of(bytes)?), u64_of(bytes)?);
        Ok(Self { term, vote: (vote != 0).then_some(vote), commit: LogIndex(u64_of(bytes)?) })
    }
}

impl Membership {
    /// Appends the membership's bytes.
    pub fn encode(&self, out: &mut impl BufMut) {
        for set in [&self.voters, &self.learners] {
            out.put_u32_le(u32::try_from(set.len()).expect("members are few"));
            set.iter().for_each(|id| out.put_u64_le(*id));
        }
    }

    /// Takes a membership off the front.
    ///
    /// # Errors
    /// When the bytes are too short.
    pub fn decode(bytes: &mut Bytes) -> Result<Self, DecodeError> {
        let mut set = || (0..u32_of(bytes)?).map(|_| u64_of(bytes)).collect::<Decoded<_>>();
        Ok(Self { voters: set()?, learners: set()? })
    }
}

impl Snapshot {
    /// Appends the snapshot point's bytes.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u64_le(self.index.0);
        out.put_u64_le(self.term.0);
        self.members.encode(out);
    }

    /// Takes a snapshot point off the front.
    ///
    /// # Errors
    /// When the bytes are too short.
    pub fn decode(bytes: &mut Bytes) -> Result<Self, DecodeError> {
        let (index, term) = (LogIndex(u64_of(bytes)?), Term(u64_of(bytes)?));
        Ok(Self { index, term, members: Membership::decode(bytes)? })
    }
}

impl Message {
    /// The message's bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_u64_le(self.term.0);
        self.body.encode(&mut out);
        out.freeze()
    }

    /// Reads a message; the data of entries shares the buffer.
    ///
    /// # Errors
    /// When the bytes are not exactly one message.
    pub fn decode(mut bytes: Bytes) -> Result<Self, DecodeError> {
        let term = Term(u64_of(&mut bytes)?);
        let body = Body::decode(&mut bytes)?;
        if bytes.is_empty() { Ok(Self { term, body }) } else { Err(DecodeError) }
    }
}

impl Body {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::PreVote { last_index, last_term } => put(out, 1, &[last_index.0, last_term.0]),
            Self::PreVoteReply { granted } => put(out, 2, &[u64::from(*granted)]),
            Self::Vote { last_index, last_term, transfer } => {
                put(out, 3, &[last_index.0, last_term.0, u64::from(*transfer)]);
            }
            Self::VoteReply { granted } => put(out, 4, &[u64::from(*granted)]),
            Self::Append { prev_index, prev_term, entries, commit } => {
                put(out, 5, &[prev_index.0, prev_term.0, commit.0, entries.len() as u64]);
                entries.iter().for_each(|entry| entry.encode(out));
            }
            Self::Appended { index } => put(out, 6, &[index.0]),
            Self::Rejected { index, hint_index, hint_term } => put(out, 7, &[index.0, hint_index.0, hint_term.0]),
            Self::Heartbeat { commit, read } => put(out, 8, &[commit.0, *read]),
            Self::HeartbeatReply { read } => put(out, 9, &[*read]),
            Self::Snapshot(snapshot) => {
                put(out, 10, &[]);
                snapshot.encode(out);
            }
            Self::TimeoutNow => put(out, 11, &[]),
            Self::Propose { kind, context, data } => {
                put(out, 12, &[u64::from(kind_tag(*kind)), *context]);
                put_bytes(out, data);
            }
            Self::ReadIndex { context } => put(out, 13, &[*context]),
            Self::ReadIndexReply { context, index } => put(out, 14, &[*context, index.0]),
        }
    }

    fn decode(bytes: &mut Bytes) -> Decoded<Self> {
        let tag = u8_of(bytes)?;
        let mut number = || u64_of(bytes);
        Ok(match tag {
            1 => Self::PreVote { last_index: LogIndex(number()?), last_term: Term(number()?) },
            2 => Self::PreVoteReply { granted: number()? != 0 },
            3 => Self::Vote { last_index: LogIndex(number()?), last_term: Term(number()?), transfer: number()? != 0 },
            4 => Self::VoteReply { granted: number()? != 0 },
            5 => {
                let (prev_index, prev_term, commit) = (LogIndex(number()?), Term(number()?), LogIndex(number()?));
                let count = number()?;
                let entries = (0..count).map(|_| Entry::decode(bytes)).collect::<Decoded<_>>()?;
                Self::Append { prev_index, prev_term, entries, commit }
            }
            6 => Self::Appended { index: LogIndex(number()?) },
            7 => Self::Rejected {
                index: LogIndex(number()?),
                hint_index: LogIndex(number()?),
                hint_term: Term(number()?),
            },
            8 => Self::Heartbeat { commit: LogIndex(number()?), read: number()? },
            9 => Self::HeartbeatReply { read: number()? },
            10 => Self::Snapshot(Snapshot::decode(bytes)?),
            11 => Self::TimeoutNow,
            12 => {
                let (kind, context) = (number()?, number()?);
                let kind = kind_of(u8::try_from(kind).map_err(|_| DecodeError)?)?;
                Self::Propose { kind, context, data: bytes_of(bytes)? }
            }
            13 => Self::ReadIndex { context: number()? },
            14 => Self::ReadIndexReply { context: number()?, index: LogIndex(number()?) },
            _ => return Err(DecodeError),
        })
    }
}

fn put(out: &mut BytesMut, tag: u8, numbers: &[u64]) {
    out.put_u8(tag);
    numbers.iter().for_each(|number| out.put_u64_le(*number));
}

fn put_bytes(out: &mut impl BufMut, data: &[u8]) {
    out.put_u32_le(u32::try_from(data.len()).expect("entries are smaller than 4 GiB"));
    out.put_slice(data);
}

fn kind_tag(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::Normal => 0,
        EntryKind::Membership => 1,
        EntryKind::Empty => 2,
    }
}

fn kind_of(tag: u8) -> Decoded<EntryKind> {
    match tag {
        0 => Ok(EntryKind::Normal),
        1 => Ok(EntryKind::Membership),
        2 => Ok(EntryKind::Empty),
        _ => Err(DecodeError),
    }
}

fn u8_of(bytes: &mut Bytes) -> Decoded<u8> {
    bytes.try_get_u8().map_err(|_| DecodeError)
}

fn u32_of(bytes: &mut Bytes) -> Decoded<u32> {
    bytes.try_get_u32_le().map_err(|_| DecodeError)
}

fn u64_of(bytes: &mut Bytes) -> Decoded<u64> {
    bytes.try_get_u64_le().map_err(|_| DecodeError)
}

fn bytes_of(bytes: &mut Bytes) -> Decoded<Bytes> {
    let length = u32_of(bytes)? as usize;
    if length > bytes.len() { Err(DecodeError) } else { Ok(bytes.split_to(length)) }
}
