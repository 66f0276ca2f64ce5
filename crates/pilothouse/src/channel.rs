//! The socket pair between the fleet and one child process: JSON messages, each with open files attached.
//!
//! A child's end is its standard input, so possession is inherited and nothing can connect from outside
//! (unix(7): `SOCK_SEQPACKET` keeps message borders, `SCM_RIGHTS` passes descriptors).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Larger than any message that is sent; a Unix socket's own default limit is about 208 KiB.
const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// At most so many descriptors travel with one message.
const FILES_MAX: usize = 4;

/// One end of a channel.
pub(crate) struct Channel {
    /// tokio only waits on it; messages are sent and received by system calls of our own.
    socket: UnixStream,
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

impl Channel {
    /// Takes one end. Needs a tokio runtime.
    pub(crate) fn new(end: OwnedFd) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixStream::from(end);
        socket.set_nonblocking(true)?;
        Ok(Self { socket: UnixStream::from_std(socket)? })
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
        let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        self.socket
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !borrowed.is_empty() {
                    assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)), "the space fits FILES_MAX");
                }
                let flags = SendFlags::NOSIGNAL;
                rustix::net::sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, flags)?;
                Ok(())
            })
            .await
    }

    /// The next message and its files; `None` when the other side closed its end.
    ///
    /// # Errors
    /// When a message is not of the expected form.
    pub(crate) async fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let (length, files) =
            self.socket.async_io(Interest::READABLE, || receive_once(&self.socket, &mut bytes)).await?;
        if length == 0 {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&bytes[..length])?, files)))
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
}
