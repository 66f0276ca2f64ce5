//! The socket pair between the fleet and one child process: JSON messages, each with open files attached.
//!
//! A child's end is its standard input, so possession is inherited and nothing can connect from outside
//! (unix(7): `SOCK_SEQPACKET` keeps message borders, `SCM_RIGHTS` passes descriptors).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// What one packet carries; a longer message travels in several. A Unix socket's own limit is about 208 KiB.
const PACKET_BYTES_MAX: usize = 32 * 1024;
/// Far longer than the longest, which tells an instance of thousands of nodes.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// The last byte of a packet: whether another one of the same message follows.
const LAST: u8 = 0;
const MORE: u8 = 1;
/// At most so many descriptors travel with one message.
const FILES_MAX: usize = 8;

/// One end of a channel.
pub(crate) struct Channel {
    /// tokio only waits on it; messages are sent and received by system calls of our own.
    socket: UnixStream,
    /// The packets of a message stay together.
    sending: tokio::sync::Mutex<()>,
    /// What has come of a message: whoever waits for it may be cut off between two packets.
    partial: Mutex<(Vec<u8>, Vec<OwnedFd>)>,
}

/// Both ends; give the second one to the child as standard input.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// A connected pair of byte streams, for a door between two processes.
pub(crate) fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// An end of a pair, for this runtime. Needs one.
pub(crate) fn stream(end: OwnedFd) -> io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(end);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

impl Channel {
    /// Takes one end. Needs a tokio runtime.
    pub(crate) fn new(end: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket: stream(end)?, sending: tokio::sync::Mutex::default(), partial: Mutex::default() })
    }

    /// The child's end: its standard input.
    pub(crate) fn from_stdin() -> io::Result<Self> {
        Self::new(std::io::stdin().as_fd().try_clone_to_owned()?)
    }

    /// Sends a message with files.
    ///
    /// # Errors
    /// When the other side is gone.
    pub(crate) async fn send(&self, message: &impl Serialize, files: &[OwnedFd]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        assert!(bytes.len() <= MESSAGE_BYTES_MAX && files.len() <= FILES_MAX, "messages are small");
        let _one = self.sending.lock().await;
        let (mut packets, mut files) = (bytes.chunks(PACKET_BYTES_MAX).peekable(), files);
        while let Some(packet) = packets.next() {
            let mark = if packets.peek().is_some() { MORE } else { LAST };
            self.send_packet(packet, mark, files).await?;
            files = &[];
        }
        Ok(())
    }

    async fn send_packet(&self, packet: &[u8], mark: u8, files: &[OwnedFd]) -> io::Result<()> {
        let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        self.socket
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !borrowed.is_empty() {
                    assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)), "the space fits FILES_MAX");
                }
                let parts = [IoSlice::new(packet), IoSlice::new(std::slice::from_ref(&mark))];
                rustix::net::sendmsg(&self.socket, &parts, &mut control, SendFlags::NOSIGNAL)?;
                Ok(())
            })
            .await
    }

    /// The next message and its files; `None` when the other side closed its end. Nothing is lost when the caller stops
    /// waiting; only one may wait at a time.
    ///
    /// # Errors
    /// When a message is not of the expected form.
    pub(crate) async fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut packet = vec![0; PACKET_BYTES_MAX + 1];
        loop {
            let (length, files) =
                self.socket.async_io(Interest::READABLE, || receive_once(&self.socket, &mut packet)).await?;
            let Some((mark, content)) = packet[..length].split_last() else { return Ok(None) };
            let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
            partial.0.extend_from_slice(content);
            partial.1.extend(files);
            if partial.0.len() > MESSAGE_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a message that is too long"));
            }
            if *mark == LAST {
                let (bytes, files) = std::mem::take(&mut *partial);
                return Ok(Some((serde_json::from_slice(&bytes)?, files)));
            }
        }
    }
}

fn receive_once(socket: &UnixStream, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let message = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
    let mut files = Vec::new();
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = ancillary {
            files.extend(received);
        }
    }
    Ok((message.bytes, files))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_message_arrives_whole_with_its_open_file() {
        let (a, b) = pair().unwrap();
        let (sender, receiver) = (Channel::new(a).unwrap(), Channel::new(b).unwrap());
        let (mut near, far) = UnixStream::pair().unwrap();
        sender.send(&"hello", &[far.into()]).await.unwrap();
        let (text, mut files): (String, _) = receiver.receive().await.unwrap().unwrap();
        assert_eq!((text.as_str(), files.len()), ("hello", 1));
        near.write_all(b"x").unwrap();
        let mut byte = [0];
        UnixStream::from(files.remove(0)).read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        drop(sender);
        assert!(receiver.receive::<String>().await.unwrap().is_none());
    }
    #[tokio::test]
    async fn a_message_longer_than_a_packet_arrives_whole_also_when_its_reader_was_cut_off() {
        let (a, b) = pair().unwrap();
        let (sender, receiver) = (Arc::new(Channel::new(a).unwrap()), Channel::new(b).unwrap());
        let long = "x".repeat(10 * PACKET_BYTES_MAX);
        let (sending, text) = (Arc::clone(&sender), long.clone());
        let (_near, far) = UnixStream::pair().unwrap();
        let task = tokio::spawn(async move { sending.send(&text, &[far.into()]).await });
        let other = tokio::spawn(async move { sender.send(&"short", &[]).await });
        let mut all = Vec::new();
        while all.len() < 2 {
            let received = tokio::select! {
                biased;
                received = receiver.receive::<String>() => received.unwrap().unwrap(),
                () = tokio::task::yield_now() => continue,
            };
            all.push((received.0.len(), received.1.len()));
        }
        all.sort_unstable();
        assert_eq!(all, [(5, 0), (long.len(), 1)]);
        task.await.unwrap().unwrap();
        other.await.unwrap().unwrap();
    }
}
