//! A node without Node: its queue is emptied here the way the JavaScript thread does it.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use iroh::{EndpointAddr, TransportAddr};
use tokio::sync::Notify;
use tunnel_native::{
    connection::{CloseInfo, Link},
    endpoint::Node,
    error::Result,
    gate::{Limits, Rate},
    lookup::Nearby,
    network::RelayInfo,
    options::{Congestion, Options, Relay},
    path::PathChange,
    queue::{Event, Queue},
    recv::{Scratch, Sink},
    send::Progress,
    stream::Pair,
};

pub enum Seen {
    Incoming(Arc<Link>),
    Opened(Pair),
    Data(u64, Vec<u8>),
    End,
    Reset(u64, u64),
    Drained,
    Stopped(u64, u64),
    Datagrams(Vec<Bytes>),
    Closed(CloseInfo),
}

#[derive(Default)]
struct Seens(VecDeque<Seen>);

impl Sink for Seens {
    fn data(&mut self, id: u64, chunks: &[Bytes], len: usize) {
        let data = chunks.concat();
        assert_eq!(data.len(), len);
        self.0.push_back(Seen::Data(id, data));
    }

    fn end(&mut self, _id: u64) {
        self.0.push_back(Seen::End);
    }

    fn reset(&mut self, id: u64, code: u64) {
        self.0.push_back(Seen::Reset(id, code));
    }
}

/// Keeps the engine's thread from everything else until the answer is dropped.
#[allow(dead_code, reason = "only some of the tests need it")]
pub fn hold_the_engine() -> std::sync::mpsc::Sender<()> {
    let (held, wait) = std::sync::mpsc::channel::<()>();
    let (begun, begin) = std::sync::mpsc::channel();
    tunnel_native::runtime::handle().spawn(async move {
        begun.send(()).unwrap();
        let _ = wait.recv();
    });
    begin.recv().unwrap();
    held
}

pub struct Peer {
    pub node: Arc<Node>,
    queue: Arc<Queue>,
    woken: Arc<Notify>,
    seen: Seens,
    scratch: Scratch,
    pub paths: Vec<PathChange>,
    pub nearby: Vec<Nearby>,
    pub relays: Vec<RelayInfo>,
}

pub fn rate(burst: f64) -> Rate {
    Rate {
        per_second: 1.0,
        burst,
    }
}

pub fn options() -> Options {
    static SEED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(1);
    let seed = SEED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Options {
        secret_key: [seed; 32],
        alpn: "test/1".into(),
        bind: vec!["127.0.0.1:0".into()],
        relay: Relay::None,
        address_lookup: false,
        lan: None,
        dht: None,
        relay_roots: String::new(),
        relay_token: String::new(),
        stream_receive_window: 1024 * 1024,
        connection_receive_window: 8 * 1024 * 1024,
        send_window: 1024 * 1024,
        max_streams: 100,
        idle_timeout_ms: 10_000,
        keep_alive_ms: 3_000,
        congestion: Congestion::Cubic,
        ack_eliciting_threshold: 1,
        datagram_receive_buffer: 64 * 1024,
        datagram_send_buffer: 64 * 1024,
        handshakes: Limits {
            all: rate(1000.0),
            per_address: rate(1000.0),
            known: rate(10.0),
            known_after: Duration::from_secs(60),
            under_way: 100,
            timeout: Duration::from_secs(5),
        },
    }
}

impl Peer {
    pub async fn bind(options: Options) -> Result<Self> {
        let queue = Arc::new(Queue::default());
        let woken = Arc::new(Notify::new());
        queue.set_waker(Arc::new({
            let woken = woken.clone();
            move || woken.notify_one()
        }));
        Ok(Self {
            node: Node::bind(options, queue.clone()).await?,
            queue,
            woken,
            seen: Seens::default(),
            scratch: Scratch::default(),
            paths: Vec::new(),
            nearby: Vec::new(),
            relays: Vec::new(),
        })
    }

    /// As a dialler knows it; only its loopback sockets.
    pub fn address(&self) -> EndpointAddr {
        let sockets: Vec<SocketAddr> = self.node.bound_sockets();
        let id = self.node.addr().id;
        EndpointAddr::from_parts(id, sockets.into_iter().map(TransportAddr::Ip))
    }

    pub async fn next(&mut self) -> Seen {
        tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                if let Some(seen) = self.seen.0.pop_front() {
                    return seen;
                }
                let events = self.queue.take(Vec::new());
                if events.is_empty() {
                    self.woken.notified().await;
                }
                for event in events {
                    self.take(event);
                }
            }
        })
        .await
        .expect("something happens within 20 s")
    }

    /// What has happened by now.
    #[allow(dead_code, reason = "only some of the tests need it")]
    pub fn now(&mut self) -> Option<Seen> {
        for event in self.queue.take(Vec::new()) {
            self.take(event);
        }
        self.seen.0.pop_front()
    }

    /// As `next`, for what is no `Seen`: takes whatever comes first.
    #[allow(dead_code, reason = "only some of the tests need it")]
    pub async fn next_event(&mut self) {
        let events = self.queue.take(Vec::new());
        if events.is_empty() {
            self.woken.notified().await;
        }
        for event in events {
            self.take(event);
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Incoming(link) => self.seen.0.push_back(Seen::Incoming(link)),
            Event::Opened(_, pair) => self.seen.0.push_back(Seen::Opened(*pair)),
            Event::Readable(half) => half.pump(&mut self.seen),
            Event::Written(_, Progress::Drained) => self.seen.0.push_back(Seen::Drained),
            Event::Written(id, Progress::Stopped(code)) => {
                self.seen.0.push_back(Seen::Stopped(id, code));
            }
            Event::Datagrams(link, datagrams) => {
                link.datagrams_taken(datagrams.len());
                self.seen.0.push_back(Seen::Datagrams(datagrams));
            }
            Event::Closed(link, info) => {
                link.drain(&mut self.scratch, &mut self.seen);
                self.seen.0.push_back(Seen::Closed(*info));
            }
            Event::Ended(link) => link.release(),
            Event::Path(_, change) => self.paths.push(*change),
            Event::Nearby(node) => self.nearby.push(*node),
            Event::Relays(relays) => self.relays = relays,
            Event::PathNotice(..)
            | Event::RelayEnded(_)
            | Event::Settle(_)
            | Event::Finished(_) => {}
        }
    }

    pub async fn incoming(&mut self) -> Arc<Link> {
        match self.next().await {
            Seen::Incoming(link) => link,
            _ => panic!("a connection is the first thing to come in"),
        }
    }

    pub async fn opened(&mut self) -> Pair {
        loop {
            match self.next().await {
                Seen::Opened(pair) => return pair,
                Seen::Drained => {}
                _ => panic!("a stream comes next"),
            }
        }
    }
}

/// Two peers with a connection between them, started at both ends.
pub struct Duo {
    pub here: Peer,
    pub there: Peer,
    pub link: Arc<Link>,
    /// Held so that the connection is not dropped there.
    _back: Arc<Link>,
}

impl Duo {
    pub async fn new() -> Self {
        Self::with(options(), options()).await
    }

    pub async fn with(here: Options, there: Options) -> Self {
        let here = Peer::bind(here).await.expect("binds");
        let mut there = Peer::bind(there).await.expect("binds");
        let link = here.node.connect(there.address()).await.expect("connects");
        let back = there.incoming().await;
        link.start();
        back.start();
        Self {
            here,
            there,
            link,
            _back: back,
        }
    }

    pub fn open(&self) -> Pair {
        let pair = self.link.try_open_bi().expect("the connection is alive");
        pair.expect("the limit is not reached")
    }
}

pub fn write(pair: &Pair, bytes: impl Into<Bytes>) -> Result<usize> {
    pair.send.as_ref().expect("writable").write(bytes.into())
}

pub fn finish(pair: &Pair) {
    pair.send
        .as_ref()
        .expect("writable")
        .finish(Bytes::new(), false)
        .expect("open");
}

pub fn start(pair: &Pair, budget: usize) {
    pair.recv
        .as_ref()
        .expect("readable")
        .start(budget)
        .expect("starts");
}

pub fn consumed(pair: &Pair, bytes: usize) {
    pair.recv.as_ref().expect("readable").consumed(bytes);
}
