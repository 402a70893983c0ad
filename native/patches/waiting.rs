//! In netwatch, in the place of tokio's UDP socket: one whose packets the runtime waits for, or another thread.
//!
//! A thread that has a loop of its own, and that most packets are for in the end, need not be woken by the
//! runtime's thread where it waits for them itself (`lend`, on Linux). Else the runtime does.
//!
//! And it is registered for reading alone. For one that is registered for writing too, the system wakes whoever
//! waits for packets each time that one has left, which is a wake-up for every packet that another thread sends.
//! This one is registered for writing only while it has no room.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Handle,
};

/// All sockets, and whether a thread outside of the runtime waits for their packets.
#[derive(Default)]
struct Sockets {
    all: Vec<Weak<Socket>>,
    lent: bool,
}

/// Told so many times, whoever reads a socket is busy elsewhere, or gone.
const DEAF: u16 = 10_000;

static SOCKETS: Mutex<Sockets> = Mutex::new(Sockets {
    all: Vec::new(),
    lent: false,
});

/// From now on the caller waits for the packets, of later sockets too: see `descriptor` and `arrived`.
pub fn lend() {
    let mut sockets = lock(&SOCKETS);
    sockets.lent = true;
    sockets.each(Socket::lend);
}

/// From now on the runtime waits for the packets.
pub fn take_back() {
    let mut sockets = lock(&SOCKETS);
    sockets.lent = false;
    sockets.each(Socket::take_back);
}

/// Whether it is the caller of `lend` who waits.
pub fn is_lent() -> bool {
    lock(&SOCKETS).lent
}

/// Something is readable: wakes those who read it, once for each time that this is called.
pub fn arrived() {
    for descriptor in epoll::readable(0) {
        let socket = lock(&SOCKETS).find(descriptor);
        if let Some(socket) = socket {
            socket.arrived();
        }
    }
}

/// Whether a socket that has been lent is readable, now or within so many milliseconds.
pub fn is_readable(timeout_ms: i32) -> bool {
    epoll::readable(timeout_ms).next().is_some()
}

/// Readable where a socket is that has been lent. None where the system knows no such thing.
pub fn descriptor() -> Option<RawFd> {
    epoll::descriptor()
}

impl Sockets {
    fn each(&mut self, change: impl Fn(&Arc<Socket>)) {
        self.all.retain(|socket| {
            let socket = socket.upgrade();
            if let Some(socket) = &socket {
                change(socket);
            }
            socket.is_some()
        });
    }

    fn find(&self, descriptor: RawFd) -> Option<Arc<Socket>> {
        let mut all = self.all.iter().filter_map(Weak::upgrade);
        all.find(|socket| socket.own.as_raw_fd() == descriptor)
    }
}

#[derive(Debug)]
pub(crate) struct UdpSocket(Arc<Socket>);

#[derive(Debug)]
struct Socket {
    /// Before the socket itself, which is open until it is not registered any more.
    reading: Mutex<Reading>,
    /// There while the socket has no room: a descriptor of its own, because one cannot be registered twice.
    full: Mutex<Option<AsyncFd<std::net::UdpSocket>>>,
    own: std::net::UdpSocket,
    runtime: Handle,
}

#[derive(Debug)]
struct Reading {
    waits: Waits,
    /// Of who reads, since there was nothing.
    reader: Option<Waker>,
}

#[derive(Debug)]
enum Waits {
    Runtime(AsyncFd<Descriptor>),
    /// Another thread, which has said so many times that there is something, and nobody has read it.
    Lent { told: u16 },
}

#[derive(Debug)]
struct Descriptor(RawFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl Socket {
    fn lend(self: &Arc<Self>) {
        let mut reading = lock(&self.reading);
        if matches!(reading.waits, Waits::Runtime(_)) && epoll::add(self.own.as_raw_fd()) {
            reading.waits = Waits::Lent { told: 1 };
            wake(reading);
        }
    }

    fn take_back(self: &Arc<Self>) {
        let mut reading = lock(&self.reading);
        if matches!(reading.waits, Waits::Lent { .. })
            && let Ok(registered) = self.register()
        {
            epoll::remove(self.own.as_raw_fd());
            reading.waits = Waits::Runtime(registered);
            wake(reading);
        }
    }

    fn arrived(self: &Arc<Self>) {
        let mut reading = lock(&self.reading);
        let Waits::Lent { told } = &mut reading.waits else {
            return;
        };
        *told += 1;
        if *told < DEAF {
            wake(reading);
        } else {
            // Who would be told for ever.
            drop(reading);
            self.take_back();
        }
    }

    fn register(&self) -> io::Result<AsyncFd<Descriptor>> {
        let _runtime = self.runtime.enter();
        let own = Descriptor(self.own.as_raw_fd());
        // SAFETY: it is the one descriptor of a socket that is open for longer.
        Ok(unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) }?)
    }

    /// What is there is read once: of the rest, the other thread is told again.
    fn read<R>(&self, operation: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        match &mut lock(&self.reading).waits {
            Waits::Runtime(registered) => registered.try_io(Interest::READABLE, |_| operation()),
            Waits::Lent { told } => {
                *told = 0;
                operation()
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Waits::Lent { .. } = lock(&self.reading).waits {
            epoll::remove(self.own.as_raw_fd());
        }
    }
}

/// Outside of the lock, which the reader takes.
fn wake(mut reading: MutexGuard<'_, Reading>) {
    let reader = reading.reader.take();
    drop(reading);
    if let Some(reader) = reader {
        reader.wake();
    }
}

impl UdpSocket {
    pub(crate) fn from_std(own: std::net::UdpSocket) -> io::Result<Self> {
        let runtime = Handle::current();
        let descriptor = Descriptor(own.as_raw_fd());
        // SAFETY: such a socket has one descriptor, open for as long as it lives.
        let registered =
            unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
        let socket = Arc::new(Socket {
            reading: Mutex::new(Reading {
                waits: Waits::Runtime(registered),
                reader: None,
            }),
            full: Mutex::new(None),
            own,
            runtime,
        });
        let mut sockets = lock(&SOCKETS);
        sockets.all.retain(|socket| socket.strong_count() > 0);
        sockets.all.push(Arc::downgrade(&socket));
        if sockets.lent {
            socket.lend();
        }
        Ok(Self(socket))
    }

    /// For who wants to choose where it is closed.
    pub(crate) fn into_std(self) -> Self {
        self
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.own.local_addr()
    }

    pub(crate) fn poll_recv_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut reading = lock(&self.0.reading);
        let is_ready = match &reading.waits {
            Waits::Runtime(registered) => registered.poll_read_ready(cx)?.is_ready(),
            Waits::Lent { told } => *told > 0,
        };
        if is_ready {
            return Poll::Ready(Ok(()));
        }
        let reader = cx.waker();
        if !reading.reader.as_ref().is_some_and(|old| old.will_wake(reader)) {
            reading.reader = Some(reader.clone());
        }
        Poll::Pending
    }

    pub(crate) fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut full = lock(&self.0.full);
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
            return self.0.read(operation);
        }
        let result = operation();
        if result
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        {
            let mut full = lock(&self.0.full);
            if full.is_none() {
                let _runtime = self.0.runtime.enter();
                let own = self.0.own.try_clone()?;
                // SAFETY: as in `from_std`.
                let writing = unsafe { AsyncFd::register_with_interest(own, Interest::WRITABLE) };
                *full = Some(writing?);
            }
        }
        result
    }

    pub(crate) fn try_recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(|| self.0.own.recv(buffer))
    }

    pub(crate) fn try_recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.0.read(|| self.0.own.recv_from(buffer))
    }

    pub(crate) fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_io(Interest::WRITABLE, || self.0.own.send(bytes))
    }

    pub(crate) fn try_send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.try_io(Interest::WRITABLE, || self.0.own.send_to(bytes, to))
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.own.as_fd()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(target_os = "linux")]
mod epoll {
    use std::{os::fd::RawFd, sync::OnceLock};

    /// Told of in one go; there are rarely more than one for each family of addresses.
    const MANY: usize = 8;

    pub(super) fn descriptor() -> Option<RawFd> {
        static DESCRIPTOR: OnceLock<Option<RawFd>> = OnceLock::new();
        *DESCRIPTOR.get_or_init(|| {
            // SAFETY: no pointers.
            let descriptor = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
            (descriptor >= 0).then_some(descriptor)
        })
    }

    pub(super) fn add(socket: RawFd) -> bool {
        control(libc::EPOLL_CTL_ADD, socket)
    }

    pub(super) fn remove(socket: RawFd) {
        control(libc::EPOLL_CTL_DEL, socket);
    }

    fn control(operation: libc::c_int, socket: RawFd) -> bool {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: socket as u64,
        };
        // SAFETY: `event` lives until the call returns.
        descriptor().is_some_and(|epoll| unsafe {
            libc::epoll_ctl(epoll, operation, socket, &mut event) == 0
        })
    }

    pub(super) fn readable(timeout_ms: i32) -> impl Iterator<Item = RawFd> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; MANY];
        // SAFETY: there is room for as many as are asked for.
        let count = descriptor().map_or(0, |epoll| unsafe {
            libc::epoll_wait(epoll, events.as_mut_ptr(), MANY as libc::c_int, timeout_ms)
        });
        events
            .into_iter()
            .take(count.max(0) as usize)
            .map(|event| event.u64 as RawFd)
    }
}

#[cfg(not(target_os = "linux"))]
mod epoll {
    use std::os::fd::RawFd;

    pub(super) fn descriptor() -> Option<RawFd> {
        None
    }

    pub(super) fn add(_: RawFd) -> bool {
        false
    }

    pub(super) fn remove(_: RawFd) {}

    pub(super) fn readable(_: i32) -> impl Iterator<Item = RawFd> {
        std::iter::empty()
    }
}
