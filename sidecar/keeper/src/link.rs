//! One end of a stream of frames between keeper and monitor or agent. Sockets block by default; every call here says itself
//! whether it waits.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use keeper::codec::{self, FrameReader};
use keeper::wire::Notice;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// One read: some forty small messages; a burst takes several.
const READ_BYTES: usize = 8 << 10;

/// One end.
pub(crate) struct Link {
    fd: OwnedFd,
    reader: FrameReader,
    out: Vec<u8>,
}

impl Link {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, reader: FrameReader::default(), out: Vec::new() }
    }

    /// A link that goes on where another process image left it.
    pub(crate) fn resume(fd: OwnedFd, pending: &[u8], out: Vec<u8>) -> Self {
        let mut reader = FrameReader::default();
        reader.feed(pending);
        Self { fd, reader, out }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes not yet cut into frames, and bytes not yet sent.
    pub(crate) fn unfinished(&self) -> (&[u8], &[u8]) {
        (self.reader.pending(), &self.out)
    }

    /// Whether something (the peer's end, too) arrives in that time.
    pub(crate) fn is_readable_within(&self, time: &Timespec) -> bool {
        poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(time)) != Ok(0)
    }

    /// Reads once. False: the peer is gone.
    pub(crate) fn receive(&mut self, wait: bool) -> bool {
        // Not cleared: an idle monitor waits in here, and pages that nothing touches are not its own.
        let mut buffer = [MaybeUninit::uninit(); READ_BYTES];
        let flags = if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        match recv(&self.fd, &mut buffer[..], flags) {
            Ok(((received, _), _)) => {
                self.reader.feed(received);
                !received.is_empty()
            }
            Err(error) => matches!(error, rustix::io::Errno::AGAIN | rustix::io::Errno::INTR),
        }
    }

    /// The next whole body received.
    pub(crate) fn take(&mut self) -> Result<Option<Vec<u8>>, codec::Error> {
        Ok(self.reader.take()?.map(<[u8]>::to_vec))
    }

    /// Queues a body; [`flush`](Self::flush) sends.
    pub(crate) fn push(&mut self, body: &[u8]) {
        codec::push_frame(&mut self.out, body);
    }

    pub(crate) fn notify(&mut self, notice: &Notice) {
        self.push(&codec::encode_notice(notice));
    }

    /// Bytes queued and not sent.
    pub(crate) fn backlog(&self) -> usize {
        self.out.len()
    }

    /// Sends what is queued, as far as the socket takes it.
    pub(crate) fn flush(&mut self, wait: bool) -> io::Result<()> {
        let flags = if wait { SendFlags::NOSIGNAL } else { SendFlags::NOSIGNAL | SendFlags::DONTWAIT };
        let mut sent = 0;
        let result = loop {
            if sent == self.out.len() {
                break Ok(());
            }
            match send(&self.fd, &self.out[sent..], flags) {
                Ok(count) => sent += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        self.out.drain(..sent);
        result
    }
}
