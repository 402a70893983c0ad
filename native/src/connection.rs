//! `Connection`, and the task that watches over one.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::{self, Either},
};
use iroh::{
    EndpointId, TransportAddr,
    endpoint::{Connection as IrohConnection, ConnectionError, RecvStream, SendStream, Side},
};
use napi::{
    Env,
    bindgen_prelude::{Buffer, BufferSlice, ToNapiValue},
    sys,
};
use napi_derive::napi;
use noq::here::movable;
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::task::TaskTracker;

use crate::{
    endpoint::canonical,
    error::{Code, Failure, Result, quic_code},
    gate::Origin,
    js::{self, Arg},
    lock,
    outbox::{Job, LITTLE, Outbox},
    path::{PathChange, PathInfo, PathNotice},
    promise::{self, Promise},
    queue::{Event, Queue},
    quiet,
    recv::{RecvHalf, Scratch, Sink},
    runtime,
    send::SendHalf,
    stream::{Pair, Stream},
};

/// Streams kept open ahead of whoever wants one, once anybody did: opening one takes noq's lock. They cost
/// the peer nothing until something is sent on them.
const SPARE: usize = 8;

/// Datagrams taken in one go. A connection that is quiet holds room for so many handles, no more.
const DATAGRAMS: usize = 128;

/// Numbers that are unique within an endpoint.
#[derive(Default)]
pub struct Ids(AtomicU64);

impl Ids {
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseInfo {
    pub kind: &'static str,
    pub code: u64,
    pub reason: String,
}

impl From<&ConnectionError> for CloseInfo {
    fn from(error: &ConnectionError) -> Self {
        let (kind, code, reason) = match error {
            ConnectionError::LocallyClosed => ("local", 0, String::new()),
            ConnectionError::ApplicationClosed(close) => (
                "application",
                close.error_code.into_inner(),
                String::from_utf8_lossy(&close.reason).into_owned(),
            ),
            ConnectionError::TimedOut => ("timeout", 0, String::new()),
            ConnectionError::Reset => ("reset", 0, String::new()),
            ConnectionError::ConnectionClosed(close) => (
                "transport",
                u64::from(close.error_code),
                String::from_utf8_lossy(&close.reason).into_owned(),
            ),
            ConnectionError::TransportError(error) => {
                ("transport", u64::from(error.code), error.reason.clone())
            }
            ConnectionError::VersionMismatch => ("version", 0, String::new()),
            ConnectionError::CidsExhausted => ("exhausted", 0, String::new()),
        };
        Self { kind, code, reason }
    }
}

impl ToNapiValue for CloseInfo {
    unsafe fn to_napi_value(env: sys::napi_env, info: Self) -> napi::Result<sys::napi_value> {
        let value = js::object(env);
        js::set(env, value, c"kind", js::string(env, info.kind));
        js::set(env, value, c"code", js::number(env, info.code as f64));
        js::set(env, value, c"reason", js::string(env, &info.reason));
        Ok(value)
    }
}

/// A connection as everything in here shares it.
pub struct Link {
    pub id: u64,
    pub queue: Arc<Queue>,
    pub outbox: Arc<Outbox>,
    pub ids: Arc<Ids>,
    pub tasks: TaskTracker,
    pub since: Instant,
    remote_id: EndpointId,
    side: Side,
    /// None once the connection has ended, or the endpoint has closed and given its sockets back.
    conn: Mutex<Option<IrohConnection>>,
    /// In the order they are to be used in.
    spare: Mutex<VecDeque<Spare>>,
    /// What to take streams away from then.
    pairs: Mutex<HashMap<u64, Halves>>,
    started: AtomicBool,
    close: Mutex<Option<(u64, String)>>,
    readers: Mutex<Readers>,
    /// Bytes that streams hold outside QUIC's flow control; see `recv.rs`.
    pub hoarded: AtomicUsize,
    /// Datagrams on their way to JavaScript.
    undelivered: AtomicUsize,
    /// There is room for more of them again.
    delivered: Notify,
}

type Spare = (SendStream, RecvStream);
pub type Halves = (Weak<SendHalf>, Weak<RecvHalf>);

#[derive(Default)]
struct Readers {
    /// CLOSED is delivered or about to be: nothing may follow it.
    closed: bool,
    /// Started and not ended. What they hold must be read out before CLOSED.
    open: HashMap<u64, Arc<RecvHalf>>,
}

impl Link {
    pub fn new(
        conn: IrohConnection,
        queue: Arc<Queue>,
        outbox: Arc<Outbox>,
        ids: Arc<Ids>,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: ids.next(),
            queue,
            outbox,
            ids,
            tasks,
            since: Instant::now(),
            remote_id: conn.remote_id(),
            side: conn.side(),
            conn: Mutex::new(Some(conn)),
            spare: Mutex::default(),
            pairs: Mutex::default(),
            started: AtomicBool::new(false),
            close: Mutex::default(),
            readers: Mutex::default(),
            hoarded: AtomicUsize::new(0),
            undelivered: AtomicUsize::new(0),
            delivered: Notify::new(),
        })
    }

    fn conn(&self) -> Result<IrohConnection> {
        lock(&self.conn)
            .clone()
            .ok_or_else(|| ConnectionError::LocallyClosed.into())
    }

    pub fn add_pair(&self, id: u64, halves: Halves) {
        lock(&self.pairs).insert(id, halves);
    }

    pub fn remove_pair(&self, id: u64) {
        lock(&self.pairs).remove(&id);
    }

    /// Lets go of all of iroh's handles, streams included: each of them holds the sockets.
    pub fn release(&self) {
        let pairs = std::mem::take(&mut *lock(&self.pairs));
        for (send, recv) in pairs.into_values() {
            if let Some(send) = send.upgrade() {
                send.lose();
            }
            if let Some(recv) = recv.upgrade() {
                recv.abandon();
            }
        }
        let conn = lock(&self.conn).take();
        // After the connection: nobody must get one, and nobody can put more there.
        let spare = std::mem::take(&mut *lock(&self.spare));
        drop((spare, conn));
    }

    /// Where its peer is now; nowhere once it has ended.
    pub fn origins(&self) -> Vec<Origin> {
        let Ok(conn) = self.conn() else {
            return Vec::new();
        };
        let paths = conn.paths();
        let origins = paths.iter().filter_map(|path| match path.remote_addr() {
            TransportAddr::Ip(address) => Some(Origin::Socket(canonical(*address))),
            TransportAddr::Relay(_) => Some(Origin::Relayed(self.remote_id)),
            _ => None,
        });
        origins.collect()
    }

    /// Answers false where it is too late to read anything.
    pub fn add_reader(&self, reader: Arc<RecvHalf>) -> bool {
        let mut readers = lock(&self.readers);
        if !readers.closed {
            readers.open.insert(reader.id, reader);
        }
        !readers.closed
    }

    pub fn remove_reader(&self, id: u64) {
        let reader = lock(&self.readers).open.remove(&id);
        drop(reader);
    }

    /// Reads what every stream still holds; to be called right before CLOSED is handed over.
    ///
    /// Once that has been seen, all that QUIC has of this connection is let go: JavaScript's handles may
    /// stay for long, since its garbage collector does not know that tens of kilobytes hang on each.
    pub fn drain(self: &Arc<Self>, scratch: &mut Scratch, sink: &mut dyn Sink) {
        let mut open: Vec<_> = {
            let mut readers = lock(&self.readers);
            readers.closed = true;
            readers.open.drain().map(|(_, reader)| reader).collect()
        };
        open.sort_unstable_by_key(|reader| reader.id);
        for reader in open {
            reader.drain(scratch, sink);
        }
        self.queue.push(Event::Ended(self.clone()));
    }

    /// JavaScript has taken `count` datagrams. The engine's thread is woken only where it waits for that.
    pub fn datagrams_taken(&self, count: usize) {
        if self.undelivered.fetch_sub(count, Ordering::AcqRel) >= DATAGRAMS {
            self.delivered.notify_one();
        }
    }

    pub fn start(self: &Arc<Self>) {
        if !self.started.swap(true, Ordering::Relaxed) {
            let Ok(conn) = self.conn() else {
                return;
            };
            self.tasks
                .spawn_on(self.clone().watch(conn), runtime::handle());
        }
    }

    async fn watch(self: Arc<Self>, conn: IrohConnection) {
        let closed = conn.closed();
        // Tasks of their own, so that a stream or a datagram has nothing else looked at.
        let loops = future::join3(
            self.spawn(
                &conn,
                |link, conn| async move { link.accept_bi(&conn).await },
            ),
            self.spawn(&conn, |link, conn| async move {
                link.read_datagrams(&conn).await
            }),
            self.accept_uni(&conn),
        );
        let paths = pin!(async {
            future::join(self.watch_paths(&conn), self.watch_path_notices(&conn)).await;
        });
        // The loops end with the connection; the paths' stream may be slower to notice.
        let (reason, ()) = {
            let done = pin!(future::join(closed, async {
                let (_, _, ()) = loops.await;
            }));
            match future::select(done, paths).await {
                Either::Left((done, _)) => done,
                Either::Right(((), done)) => done.await,
            }
        };
        let mut info = CloseInfo::from(&reason);
        if reason == ConnectionError::LocallyClosed
            && let Some((code, reason)) = lock(&self.close).clone()
        {
            info = CloseInfo {
                code,
                reason,
                ..info
            };
        }
        self.queue.push(Event::Closed(self.clone(), Box::new(info)));
    }

    fn spawn<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        conn: &IrohConnection,
        part: impl FnOnce(Arc<Self>, IrohConnection) -> F,
    ) -> JoinHandle<()> {
        let part = movable(part(self.clone(), conn.clone()));
        self.tasks.spawn_on(part, runtime::handle())
    }

    async fn accept_bi(self: &Arc<Self>, conn: &IrohConnection) {
        while let Ok((send, recv)) = conn.accept_bi().await {
            self.opened(Pair::new(self, Some(send), Some(recv)));
        }
    }

    async fn accept_uni(self: &Arc<Self>, conn: &IrohConnection) {
        while let Ok(recv) = conn.accept_uni().await {
            self.opened(Pair::new(self, None, Some(recv)));
        }
    }

    fn opened(self: &Arc<Self>, pair: Pair) {
        if let Some(recv) = &pair.recv {
            // Read from the start, also where JavaScript never starts it.
            recv.ask();
        }
        self.queue.push(Event::Opened(self.clone(), Box::new(pair)));
    }

    async fn read_datagrams(self: &Arc<Self>, conn: &IrohConnection) {
        let mut slots = vec![Bytes::new(); DATAGRAMS];
        while let Ok(count) = conn.read_many_datagrams(&mut slots).await {
            let batch = slots[..count].iter_mut().map(std::mem::take).collect();
            self.undelivered.fetch_add(count, Ordering::AcqRel);
            self.queue.push(Event::Datagrams(self.clone(), batch));
            // What JavaScript is too slow for is dropped by QUIC's own bounded buffer, oldest first, and
            // not queued here without bound.
            while self.undelivered.load(Ordering::Acquire) >= DATAGRAMS {
                let delivered = pin!(self.delivered.notified());
                let closed = pin!(conn.closed());
                if let Either::Right(_) = future::select(delivered, closed).await {
                    break;
                }
            }
        }
    }

    async fn watch_paths(self: &Arc<Self>, conn: &IrohConnection) {
        let mut last: Option<PathInfo> = None;
        let mut paths = conn.paths_stream();
        while let Some(list) = paths.next().await {
            if let Some(change) = PathChange::between(last.as_ref(), &list) {
                last = Some(change.path.clone());
                self.queue.push(Event::Path(self.clone(), Box::new(change)));
            }
        }
    }

    async fn watch_path_notices(self: &Arc<Self>, conn: &IrohConnection) {
        let mut events = conn.path_events();
        while let Some(event) = events.next().await {
            if let Some(notice) = PathNotice::new(event) {
                self.queue
                    .push(Event::PathNotice(self.clone(), Box::new(notice)));
            }
        }
    }

    pub fn try_open_bi(self: &Arc<Self>) -> Result<Option<Pair>> {
        // Locked for all of it, as in `fill_spare`: a stream that is younger than the spare ones
        // would open all of them at the peer.
        let mut spare = lock(&self.spare);
        let streams = match spare.pop_front() {
            Some(streams) => Some(streams),
            None => self.poll_open_bi()?,
        };
        if spare.len() <= SPARE / 2 {
            self.outbox.push_late(Job::Spare(self.clone()));
        }
        drop(spare);
        let Some((send, recv)) = streams else {
            return Ok(None);
        };
        Ok(Some(Pair::new(self, Some(send), Some(recv))))
    }

    fn poll_open_bi(&self) -> Result<Option<Spare>> {
        let conn = self.conn()?;
        let open = pin!(conn.open_bi());
        match open.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(streams)) => Ok(Some(streams)),
            Poll::Ready(Err(error)) => Err(error.into()),
            Poll::Pending => Ok(None),
        }
    }

    /// On the engine's thread. Where the peer allows no more, or there is no connection, whoever opens the
    /// next stream finds out.
    pub fn fill_spare(&self) {
        // Locked for all of it, as in `try_open_bi`: who finds none must not take the limit for reached.
        let mut spare = lock(&self.spare);
        while spare.len() < SPARE {
            let Ok(Some(streams)) = self.poll_open_bi() else {
                return;
            };
            spare.push_back(streams);
        }
    }

    pub async fn open_bi(self: &Arc<Self>) -> Result<Pair> {
        let spare = lock(&self.spare).pop_front();
        let (send, recv) = match spare {
            Some(streams) => streams,
            None => self.conn()?.open_bi().await?,
        };
        Ok(Pair::new(self, Some(send), Some(recv)))
    }

    pub async fn open_uni(self: &Arc<Self>) -> Result<Pair> {
        let send = self.conn()?.open_uni().await?;
        Ok(Pair::new(self, Some(send), None))
    }

    pub fn send_datagrams(&self, mut datagrams: Vec<Bytes>) -> Result<usize> {
        let conn = self.conn()?;
        if let Some(max) = conn.max_datagram_size()
            && datagrams.iter().any(|datagram| datagram.len() > max)
        {
            return Err(Failure::new(
                Code::TooLarge,
                format!("a datagram on this connection holds {max} bytes at most"),
            ));
        }
        // noq would make room by dropping older ones; the caller is told instead.
        let mut space = conn.datagram_send_buffer_space();
        let fitting = datagrams.iter().take_while(|datagram| {
            let fits = datagram.len() <= space;
            space = space.saturating_sub(datagram.len());
            fits
        });
        let fitting = fitting.count();
        datagrams.truncate(fitting);
        // Also with nothing left to send: this is what notices a lost connection.
        let send = || conn.send_many_datagrams(&datagrams);
        let size: usize = datagrams.iter().map(Bytes::len).sum();
        Ok(if size <= LITTLE {
            quiet::send(send)?
        } else {
            quiet::sent();
            send()?
        })
    }

    pub fn close(&self, code: iroh::endpoint::VarInt, reason: String) {
        lock(&self.close).get_or_insert((code.into_inner(), reason.clone()));
        if let Ok(conn) = self.conn() {
            conn.close(code, reason.as_bytes());
        }
    }

    /// JavaScript let go of the handle. A connection whose events it asked for goes on without; one
    /// that nobody ever listened to could only be left to time out.
    pub fn abandon(&self) {
        if !self.started.load(Ordering::Relaxed)
            && self.conn().is_ok_and(|conn| conn.close_reason().is_none())
        {
            self.close(0u32.into(), "abandoned".into());
        }
    }

    pub fn stats(&self) -> Result<ConnectionStats> {
        let conn = self.conn()?;
        let stats = conn.stats();
        let paths = conn.paths();
        let path = paths.iter().find(|path| path.is_selected());
        let path = path.map(|path| path.stats()).unwrap_or_default();
        Ok(ConnectionStats {
            rtt_ms: path.rtt.as_secs_f64() * 1000.0,
            bytes_sent: stats.udp_tx.bytes as f64,
            bytes_received: stats.udp_rx.bytes as f64,
            packets_sent: stats.sent_packets as f64,
            packets_lost: stats.lost_packets as f64,
            congestion_window: path.cwnd as f64,
            mtu: f64::from(path.current_mtu),
        })
    }

    /// Every open path; none once the connection is gone.
    pub fn paths(&self) -> Vec<PathInfo> {
        self.conn()
            .map(|conn| PathInfo::all(&conn.paths()))
            .unwrap_or_default()
    }
}

#[napi(object, object_from_js = false)]
pub struct ConnectionStats {
    pub rtt_ms: f64,
    pub bytes_sent: f64,
    pub bytes_received: f64,
    pub packets_sent: f64,
    pub packets_lost: f64,
    pub congestion_window: f64,
    pub mtu: f64,
}

#[napi]
pub struct Connection {
    link: Arc<Link>,
}

impl From<Arc<Link>> for Connection {
    fn from(link: Arc<Link>) -> Self {
        Self { link }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.link.abandon();
    }
}

impl Connection {
    fn open<F>(&self, env: Env, open: impl FnOnce(Arc<Link>) -> F) -> Promise
    where
        F: Future<Output = Result<Pair>> + Send + 'static,
    {
        promise::entry(env, || {
            let (promise, resolver) = promise::promise(env);
            let queue = self.link.queue.clone();
            let open = open(self.link.clone());
            let work = async move { open.await.map(Stream::from) };
            self.link.tasks.spawn_on(
                async move { promise::settle(&queue, resolver, work).await },
                runtime::handle(),
            );
            Ok(promise)
        })
    }
}

#[napi]
impl Connection {
    #[napi(getter)]
    pub fn id(&self) -> f64 {
        self.link.id as f64
    }

    #[napi(getter)]
    pub fn remote_id(&self) -> String {
        self.link.remote_id.to_string()
    }

    #[napi(getter)]
    pub fn side(&self) -> &'static str {
        match self.link.side {
            Side::Client => "client",
            Side::Server => "server",
        }
    }

    #[napi]
    pub fn start(&self, env: Env) -> napi::Result<()> {
        js::guard(env, || {
            self.link.start();
            Ok(())
        })
    }

    #[napi]
    pub fn try_open_bi(&self, env: Env) -> napi::Result<Option<Stream>> {
        js::guard(env, || Ok(self.link.try_open_bi()?.map(Stream::from)))
    }

    #[napi]
    pub fn open_bi(&self, env: Env) -> Promise {
        self.open(env, |link| async move { link.open_bi().await })
    }

    #[napi]
    pub fn open_uni(&self, env: Env) -> Promise {
        self.open(env, |link| async move { link.open_uni().await })
    }

    #[napi]
    pub fn send_datagrams(
        &self,
        env: Env,
        datagrams: Arg<Vec<BufferSlice<'_>>>,
    ) -> napi::Result<f64> {
        js::guard(env, || {
            let datagrams = datagrams.get("datagrams")?;
            let datagrams = datagrams
                .iter()
                .map(|bytes| Bytes::copy_from_slice(bytes))
                .collect();
            Ok(self.link.send_datagrams(datagrams)? as f64)
        })
    }

    #[napi]
    pub fn max_datagram_size(&self, env: Env) -> napi::Result<f64> {
        js::guard(env, || {
            let size = self.link.conn()?.max_datagram_size();
            Ok(size.unwrap_or(0) as f64)
        })
    }

    #[napi]
    pub fn path(&self, env: Env) -> napi::Result<Option<PathInfo>> {
        js::guard(env, || Ok(PathInfo::selected(&self.link.conn()?.paths())))
    }

    #[napi]
    pub fn paths(&self, env: Env) -> napi::Result<Vec<PathInfo>> {
        js::guard(env, || Ok(self.link.paths()))
    }

    #[napi]
    pub fn stats(&self, env: Env) -> napi::Result<ConnectionStats> {
        js::guard(env, || self.link.stats())
    }

    #[napi]
    pub fn export_keying_material(
        &self,
        env: Env,
        label: Arg<String>,
        length: Arg<f64>,
    ) -> napi::Result<Buffer> {
        js::guard(env, || {
            let (label, length) = (label.get("label")?, length.get("length")?);
            if !(1.0..=4096.0).contains(&length) || length.fract() != 0.0 {
                return Err(Failure::invalid(
                    "the length is a whole number from 1 to 4096",
                ));
            }
            let mut secret = vec![0; length as usize];
            self.link
                .conn()?
                .export_keying_material(&mut secret, label.as_bytes(), b"")
                .map_err(|_| Failure::invalid("the TLS stack derives no secret of this length"))?;
            Ok(secret.into())
        })
    }

    #[napi]
    pub fn close(&self, env: Env, code: Arg<f64>, reason: Arg<String>) -> napi::Result<()> {
        js::guard(env, || {
            self.link
                .close(quic_code(code.get("code")?)?, reason.get("reason")?);
            Ok(())
        })
    }
}
