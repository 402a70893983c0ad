//! In netwatch, in the place of tokio's: a UDP socket that is registered for reading alone.
//!
//! For one that is registered for writing too, the system wakes whoever waits for packets each time that one
//! has left, which is a wake-up for every packet that another thread sends. This one is registered for writing
//! only while it has no room.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::Mutex,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Handle,
};

#[derive(Debug)]
pub(crate) struct UdpSocket {
    reading: AsyncFd<std::net::UdpSocket>,
    /// There while the socket has no room: a descriptor of its own, because one cannot be registered twice.
    full: Mutex<Option<AsyncFd<std::net::UdpSocket>>>,
    runtime: Handle,
}

impl UdpSocket {
    pub(crate) fn from_std(socket: std::net::UdpSocket) -> io::Result<Self> {
        Ok(Self {
            reading: register(socket, Interest::READABLE)?,
            full: Mutex::new(None),
            runtime: Handle::current(),
        })
    }

    pub(crate) fn into_std(self) -> std::net::UdpSocket {
        self.reading.into_inner()
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.reading.get_ref().local_addr()
    }

    pub(crate) fn poll_recv_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let guard = ready!(self.reading.poll_read_ready(cx))?;
        drop(guard);
        Poll::Ready(Ok(()))
    }

    pub(crate) fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut full = self.full.lock().expect("nobody panics with it");
        if let Some(writing) = &*full {
            let guard = ready!(writing.poll_write_ready(cx))?;
            drop(guard);
            *full = None;
        }
        Poll::Ready(Ok(()))
    }

    pub(crate) fn try_io<R>(
        &self,
        interest: Interest,
        operation: impl FnOnce() -> io::Result<R>,
    ) -> io::Result<R> {
        if interest.is_readable() {
            return self.reading.try_io(interest, |_| operation());
        }
        let result = operation();
        if result
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        {
            let mut full = self.full.lock().expect("nobody panics with it");
            if full.is_none() {
                let _runtime = self.runtime.enter();
                let socket = self.reading.get_ref().try_clone()?;
                *full = Some(register(socket, Interest::WRITABLE)?);
            }
        }
        result
    }

    pub(crate) fn try_recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reading
            .try_io(Interest::READABLE, |socket| socket.recv(buffer))
    }

    pub(crate) fn try_recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.reading
            .try_io(Interest::READABLE, |socket| socket.recv_from(buffer))
    }

    pub(crate) fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_io(Interest::WRITABLE, || self.reading.get_ref().send(bytes))
    }

    pub(crate) fn try_send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.try_io(Interest::WRITABLE, || {
            self.reading.get_ref().send_to(bytes, to)
        })
    }
}

fn register(
    socket: std::net::UdpSocket,
    interest: Interest,
) -> io::Result<AsyncFd<std::net::UdpSocket>> {
    // SAFETY: such a socket has one descriptor, open for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reading.get_ref().as_fd()
    }
}
