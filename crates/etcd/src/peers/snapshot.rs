//! The state of a leader, sent to a member whose log ends before the leader's begins.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mvcc::Snapshot;
use raft::{LogIndex, MemberId};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};

use super::wire::{Frame, FrameReader, read_greeting, write_greeting};
use super::{Inner, Peers, dial};
use crate::checkpoint::{self, Position, Restored, Restorer};
use crate::connector::Wire;
use crate::proto as pb;
use crate::shared::Message;
use pb::peer_welcome::Verdict;

/// Records in one frame, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces made ahead of the connection.
const PIECES_AHEAD: usize = 8;

impl Peers {
    /// Sends the state to a member in the background and tells the state thread how it went.
    pub(crate) fn send_snapshot(&self, to: MemberId, message: raft::Message, position: Position, snapshot: Snapshot) {
        let inner = self.0.clone();
        self.0.network.runtime.spawn(async move {
            let index = position.index;
            tracing::info!(target: "etcd", member = %format_args!("{to:x}"), %index, "sending a snapshot");
            let sent = send(&inner, to, message, position, snapshot).await;
            if let Err(error) = &sent {
                tracing::warn!(target: "etcd", member = %format_args!("{to:x}"), %error, "a snapshot was not delivered");
            }
            let _ = inner.inbox.send(Message::SnapshotSent(to, sent.is_ok().then_some(index)));
        });
    }
}

async fn send(
    inner: &Arc<Inner>,
    to: MemberId,
    message: raft::Message,
    position: Position,
    snapshot: Snapshot,
) -> io::Result<()> {
    let mut stream = dial::snapshot_line(inner, to).await?;
    stream.write_all(&Frame::Raft(message).encode()).await?;
    let (pieces, mut made) = mpsc::channel::<Bytes>(PIECES_AHEAD);
    let making = tokio::task::spawn_blocking(move || make(&position, &snapshot, &pieces));
    let counts = inner.counts.of(to);
    while let Some(piece) = made.recv().await {
        let frame = Frame::Records(piece).encode();
        counts.sent_bytes.add(frame.len() as u64);
        stream.write_all(&frame).await?;
    }
    making.await.map_err(io::Error::other)??;
    stream.write_all(&Frame::End.encode()).await?;
    stream.flush().await?;
    let answer: pb::PeerWelcome = read_greeting(&mut stream).await?;
    match Verdict::try_from(answer.verdict) {
        Ok(Verdict::Welcome) => Ok(()),
        _ => Err(io::Error::other(answer.reason)),
    }
}

/// Cuts the state's records into pieces. Ends early when nobody takes them any more.
fn make(position: &Position, snapshot: &Snapshot, pieces: &mpsc::Sender<Bytes>) -> io::Result<()> {
    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    let mut piece = BytesMut::with_capacity(PIECE_BYTES);
    checkpoint::records(position, snapshot, |kind, record| -> io::Result<()> {
        piece.put_u8(kind);
        piece.put_u32_le(u32::try_from(record.len()).map_err(io::Error::other)?);
        piece.put_slice(record);
        if piece.len() >= PIECE_BYTES {
            pieces.blocking_send(piece.split().freeze()).map_err(gone)?;
        }
        Ok(())
    })?;
    pieces.blocking_send(piece.freeze()).map_err(gone)
}

/// Takes a state that a member sends, hands it to the state thread and answers when it is in force.
pub(super) async fn receive(inner: &Arc<Inner>, from: MemberId, stream: Box<dyn Wire>) -> io::Result<()> {
    let (read, mut write) = tokio::io::split(stream);
    let mut frames = FrameReader::new(read);
    let cut_off = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let Some(Frame::Raft(message)) = frames.next().await? else { return Err(cut_off()) };
    let raft::Body::Snapshot(announced) = &message.body else { return Err(bad()) };
    let announced = announced.clone();
    let mut restorer = Restorer::default();
    let counts = inner.counts.of(from);
    loop {
        match frames.next().await? {
            Some(Frame::Records(records)) => {
                counts.received_bytes.add(frames.take_received());
                take(&mut restorer, records).ok_or_else(bad)?;
            }
            Some(Frame::End) => break,
            _ => return Err(cut_off()),
        }
    }
    let now = inner.clock.now();
    let restored = tokio::task::spawn_blocking(move || restorer.finish(now)).await.map_err(io::Error::other)?;
    let fits = |restored: &Restored| {
        let Position { index, term, members, .. } = &restored.position;
        (*index, *term) == (announced.index, announced.term) && members.consensus() == announced.members
    };
    let restored = Box::new(restored.filter(fits).ok_or_else(bad)?);
    let (reply, done) = oneshot::channel();
    let index: LogIndex = restored.position.index;
    tracing::info!(target: "etcd", member = %format_args!("{from:x}"), %index, "received a snapshot");
    let _ = inner.inbox.send(Message::Snapshot { from, message, restored, reply });
    let verdict = if done.await == Ok(true) { Verdict::Welcome } else { Verdict::WrongMember };
    let reason = "the snapshot was not taken".to_owned();
    write_greeting(&mut write, &pb::PeerWelcome { verdict: verdict.into(), reason, ..pb::PeerWelcome::default() }).await
}

fn bad() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the snapshot contradicts itself")
}

fn take(restorer: &mut Restorer, mut records: Bytes) -> Option<()> {
    while !records.is_empty() {
        let (kind, length) = (records.try_get_u8().ok()?, records.try_get_u32_le().ok()? as usize);
        if length > records.len() {
            return None;
        }
        restorer.push(kind, records.split_to(length))?;
    }
    Some(())
}
