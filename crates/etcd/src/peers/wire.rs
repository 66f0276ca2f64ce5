//! What goes over a connection between members.
//!
//! ```text
//! dialer ── PREFACE · hello ──►           one connection for each direction between two members:
//!        ◄── welcome ─────────            the dialer speaks, the other listens
//!        ── frame · frame · … ──►         frame = length (u32) · kind (u8) · content
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::proto as pb;

/// What a connection that is not HTTP begins with.
pub(super) const PREFACE: &[u8; 8] = b"PHPEER\x00\x01";
/// The longest frame taken: an append is at most 1 MiB and one entry, an entry at most as large as a request may be.
const FRAME_BYTES_MAX: usize = 512 << 20;
/// The longest hello or welcome taken.
const GREETING_BYTES_MAX: usize = 1 << 20;

/// A frame's kind and content.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Frame {
    /// A message of consensus.
    Raft(raft::Message),
    /// A question that is not consensus' business.
    Request(pb::PeerRequest),
    /// The answer to one, on the connection of the other direction.
    Reply(pb::PeerReply),
    /// A piece of a snapshot: records as in a checkpoint.
    Records(Bytes),
    /// The snapshot is complete.
    End,
}

/// The bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed peer message")]
pub(super) struct BadFrame;

impl Frame {
    /// The frame as it goes over the connection.
    pub(super) fn encode(&self) -> Bytes {
        let (kind, content): (u8, Bytes) = match self {
            Self::Raft(message) => (1, message.encode()),
            Self::Request(request) => (2, request.encode_to_vec().into()),
            Self::Reply(reply) => (3, reply.encode_to_vec().into()),
            Self::Records(records) => (4, records.clone()),
            Self::End => (5, Bytes::new()),
        };
        let mut out = BytesMut::with_capacity(5 + content.len());
        out.put_u32_le(u32::try_from(content.len() + 1).expect("frames are smaller than 4 GiB"));
        out.put_u8(kind);
        out.put_slice(&content);
        out.freeze()
    }

    /// Takes one whole frame off the front of what was read, if it is there.
    pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Self>, BadFrame> {
        let Some(length) = buffer.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize) else {
            return Ok(None);
        };
        if length == 0 || length > FRAME_BYTES_MAX {
            return Err(BadFrame);
        }
        if buffer.len() < 4 + length {
            // As much as has been announced, but no more than arrives soon: a liar must not cost memory.
            buffer.reserve((4 + length - buffer.len()).min(1 << 20));
            return Ok(None);
        }
        buffer.advance(4);
        let mut content = buffer.split_to(length).freeze();
        Ok(Some(match content.get_u8() {
            1 => Self::Raft(raft::Message::decode(content).map_err(|_| BadFrame)?),
            2 => Self::Request(pb::PeerRequest::decode(content).map_err(|_| BadFrame)?),
            3 => Self::Reply(pb::PeerReply::decode(content).map_err(|_| BadFrame)?),
            4 => Self::Records(content),
            5 if content.is_empty() => Self::End,
            _ => return Err(BadFrame),
        }))
    }
}

/// Reads frames off a connection.
pub(super) struct FrameReader<R> {
    from: R,
    buffer: BytesMut,
    received: u64,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, buffer: BytesMut::with_capacity(64 << 10), received: 0 }
    }

    /// Bytes read since this was asked last.
    pub(super) fn take_received(&mut self) -> u64 {
        std::mem::take(&mut self.received)
    }

    /// The next frame; nothing at the end. Safe to drop at any moment.
    pub(super) async fn next(&mut self) -> std::io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = Frame::take(&mut self.buffer).map_err(std::io::Error::other)? {
                return Ok(Some(frame));
            }
            match self.from.read_buf(&mut self.buffer).await? {
                0 => return Ok(None),
                read => self.received += read as u64,
            }
        }
    }
}

/// Writes a message that is preceded by its length.
pub(super) async fn write_greeting(
    to: &mut (impl AsyncWrite + Unpin),
    message: &impl prost::Message,
) -> std::io::Result<()> {
    let content = message.encode_to_vec();
    let mut out = BytesMut::with_capacity(4 + content.len());
    out.put_u32_le(u32::try_from(content.len()).map_err(std::io::Error::other)?);
    out.put_slice(&content);
    to.write_all(&out).await?;
    to.flush().await
}

/// Reads a message that is preceded by its length.
pub(super) async fn read_greeting<M: prost::Message + Default>(
    from: &mut (impl AsyncRead + Unpin),
) -> std::io::Result<M> {
    let length = from.read_u32_le().await? as usize;
    if length > GREETING_BYTES_MAX {
        return Err(std::io::Error::other(BadFrame));
    }
    let mut content = vec![0; length];
    from.read_exact(&mut content).await?;
    M::decode(&content[..]).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::{Body, LogIndex, Term};

    #[test]
    fn frames_read_back_whole_however_they_are_cut() {
        let heartbeat = raft::Message { term: Term(3), body: Body::Heartbeat { commit: LogIndex(4), read: 5 } };
        let frames = [
            Frame::Raft(heartbeat),
            Frame::Request(pb::PeerRequest { id: 7, ask: Some(pb::peer_request::Ask::Renew(8)) }),
            Frame::Records(Bytes::from_static(b"abc")),
            Frame::End,
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        for step in [1, 2, 3, 7, bytes.len()] {
            let (mut buffer, mut read) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(step) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = Frame::take(&mut buffer).unwrap() {
                    read.push(frame);
                }
            }
            assert_eq!(read, frames, "in pieces of {step}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_frames_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Frame::take(&mut buffer) {}
        }
    }
}
