//! `Endpoint`: binding, dialling, accepting and closing.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use iroh::{
    Endpoint as IrohEndpoint, EndpointAddr, PublicKey, TransportAddr,
    endpoint::{Connection as IrohConnection, Incoming},
};
use napi::{
    Either, Env,
    bindgen_prelude::{BufferSlice, Function, Object, ToNapiValue},
    sys,
    threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode},
};
use napi_derive::napi;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::{
    batch::{self, Deliverer, Quadruples},
    connection::{Connection, Ids, Link, canonical},
    error::{Failure, Result},
    guard,
    js::{self, Arg},
    lock,
    options::{Congestion, MAX_STREAMS, MAX_TIMEOUT_MS, MAX_WINDOW, Options, Relay, relay_url},
    promise::{self, Promise, Resolver},
    queue::{Event, Queue},
    runtime,
};

/// Handshakes under way at once; a flood of first packets is refused beyond it.
const HANDSHAKES: usize = 1024;

/// How long `close` waits for peers to have heard of it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// An endpoint as everything in here shares it.
pub struct Node {
    endpoint: IrohEndpoint,
    alpn: Vec<u8>,
    queue: Arc<Queue>,
    ids: Arc<Ids>,
    tasks: TaskTracker,
    /// Incoming connections that failed or were refused before they were any.
    failed_handshakes: AtomicU64,
}

impl Node {
    pub async fn bind(options: Options, queue: Arc<Queue>) -> Result<Arc<Self>> {
        let endpoint = options.builder()?.bind().await?;
        let node = Arc::new(Self {
            endpoint,
            alpn: options.alpn.into_bytes(),
            queue,
            ids: Arc::default(),
            tasks: TaskTracker::new(),
            failed_handshakes: AtomicU64::new(0),
        });
        node.tasks.spawn(node.clone().accept());
        Ok(node)
    }

    fn link(&self, conn: IrohConnection) -> Arc<Link> {
        Link::new(
            conn,
            self.queue.clone(),
            self.ids.clone(),
            self.tasks.clone(),
        )
    }

    async fn accept(self: Arc<Self>) {
        let slots = Arc::new(Semaphore::new(HANDSHAKES));
        while let Some(incoming) = self.endpoint.accept().await {
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                self.failed_handshakes.fetch_add(1, Ordering::Relaxed);
                incoming.refuse();
                continue;
            };
            let node = self.clone();
            self.tasks.spawn(async move {
                node.handshake(incoming).await;
                drop(slot);
            });
        }
    }

    async fn handshake(&self, incoming: Incoming) {
        let conn = async { incoming.accept()?.await }.await;
        match conn {
            Ok(conn) => self.queue.push(Event::Incoming(self.link(conn))),
            // Anybody can send a first packet; that it came to nothing is nobody's error here.
            Err::<_, iroh::endpoint::ConnectingError>(_) => {
                self.failed_handshakes.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub async fn connect(&self, address: EndpointAddr) -> Result<Arc<Link>> {
        let conn = self.endpoint.connect(address, &self.alpn).await?;
        Ok(self.link(conn))
    }

    pub fn bound_sockets(&self) -> Vec<SocketAddr> {
        self.endpoint.bound_sockets()
    }

    pub fn addr(&self) -> EndpointAddr {
        self.endpoint.addr()
    }

    pub async fn close(&self) {
        // What is cut off here has told its peers nothing; they find out by their idle timeout.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.endpoint.close()).await;
        self.tasks.close();
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.tasks.wait()).await;
    }
}

enum Life {
    Open,
    Closing(Vec<Resolver>),
    Closed,
}

/// Like a listening server, it lives until it is closed, whether or not JavaScript still holds it: a
/// close that depends on the garbage collector would come when nobody expects it.
#[napi]
pub struct Endpoint {
    node: Arc<Node>,
    life: Arc<Mutex<Life>>,
}

type Wake = ThreadsafeFunction<(), (), Quadruples, napi::Status, false>;

/// The queue whose events end up in `callback`.
fn connected_queue(callback: &Function<'_, Quadruples, ()>) -> Result<Arc<Queue>> {
    let queue = Arc::new(Queue::default());
    guard::install(&queue);
    let mut deliverer = Deliverer::new(queue.clone());
    let wake: Wake = callback
        .build_threadsafe_function::<()>()
        .build_callback(move |context| batch::deliver(&mut deliverer, context.env))
        .map_err(|error| Failure::invalid(format!("`onEvents`: {}", error.reason)))?;
    queue.set_waker(Arc::new(move || {
        // Refused only when the environment is going away, and then there is nobody to tell.
        let _ = wake.call((), ThreadsafeFunctionCallMode::NonBlocking);
    }));
    Ok(queue)
}

fn options(object: &Object<'_>) -> Result<Options> {
    let secret_key: BufferSlice<'_> = js::property(object, "secretKey")?;
    let secret_key = <[u8; 32]>::try_from(&*secret_key)
        .map_err(|_| Failure::invalid("`secretKey` is 32 bytes"))?;
    let relay = match js::property::<Either<String, Vec<String>>>(object, "relay")? {
        Either::A(name) if name == "default" => Relay::Default,
        Either::A(name) if name == "none" => Relay::None,
        Either::A(_) => return Err(Failure::invalid("`relay` is 'default', 'none' or URLs")),
        Either::B(urls) => Relay::Urls(urls),
    };
    let congestion = match js::property::<String>(object, "congestion")?.as_str() {
        "cubic" => Congestion::Cubic,
        "bbr" => Congestion::Bbr,
        _ => return Err(Failure::invalid("`congestion` is 'cubic' or 'bbr'")),
    };
    Ok(Options {
        secret_key,
        alpn: js::property(object, "alpn")?,
        bind: js::property(object, "bind")?,
        relay,
        address_lookup: js::property(object, "addressLookup")?,
        stream_receive_window: js::whole(object, "streamReceiveWindow", MAX_WINDOW)?,
        connection_receive_window: js::whole(object, "connectionReceiveWindow", MAX_WINDOW)?,
        send_window: js::whole(object, "sendWindow", MAX_WINDOW)?,
        max_streams: js::whole(object, "maxStreams", MAX_STREAMS)?,
        idle_timeout_ms: js::whole(object, "idleTimeoutMs", MAX_TIMEOUT_MS)?,
        keep_alive_ms: js::whole(object, "keepAliveMs", MAX_TIMEOUT_MS)?,
        congestion,
        datagram_receive_buffer: js::whole(object, "datagramReceiveBuffer", MAX_WINDOW)?,
        datagram_send_buffer: js::whole(object, "datagramSendBuffer", MAX_WINDOW)?,
    })
}

fn remote(node_id: &str, hints: &Addresses) -> Result<EndpointAddr> {
    let id: PublicKey = node_id
        .parse()
        .map_err(|_| Failure::invalid(format!("{node_id} is no node ID")))?;
    let mut address = EndpointAddr::new(id);
    for text in &hints.direct {
        let direct: SocketAddr = text
            .parse()
            .map_err(|_| Failure::invalid(format!("{text} is no `ip:port`")))?;
        address = address.with_ip_addr(direct);
    }
    for url in &hints.relays {
        address = address.with_relay_url(relay_url(url)?);
    }
    Ok(address)
}

/// How a node can be reached.
#[napi(object)]
pub struct Addresses {
    pub direct: Vec<String>,
    pub relays: Vec<String>,
}

impl Endpoint {
    fn check(&self) -> Result<()> {
        match *lock(&self.life) {
            Life::Open => Ok(()),
            _ => Err(Failure::closed()),
        }
    }
}

#[napi]
impl Endpoint {
    #[napi]
    pub fn bind(env: Env, options: Arg<Object<'_>>) -> Promise {
        promise::entry(env, || {
            let options = options.get("options")?;
            let callback: Function<'_, Quadruples, ()> = js::property(&options, "onEvents")?;
            let options = self::options(&options)?;
            let queue = connected_queue(&callback)?;
            let life = Arc::new(Mutex::new(Life::Open));
            let (promise, resolver) = promise::promise(env);
            runtime::handle().spawn(async move {
                let bound = Node::bind(options, queue.clone()).await;
                let failed = bound.is_err();
                let bound = async { Ok(Bound(Endpoint { node: bound?, life })) };
                promise::settle(&queue, resolver, bound).await;
                if failed {
                    queue.push(Event::Finished(Box::new(Vec::new)));
                }
            });
            Ok(promise)
        })
    }

    #[napi(getter)]
    pub fn node_id(&self) -> String {
        self.node.endpoint.id().to_string()
    }

    #[napi(getter)]
    pub fn failed_handshakes(&self) -> f64 {
        self.node.failed_handshakes.load(Ordering::Relaxed) as f64
    }

    #[napi]
    pub fn bound_addresses(&self, env: Env) -> napi::Result<Vec<String>> {
        js::guard(env, || {
            let sockets = self.node.bound_sockets();
            Ok(sockets.iter().map(ToString::to_string).collect())
        })
    }

    #[napi]
    pub fn addresses(&self, env: Env) -> napi::Result<Addresses> {
        js::guard(env, || {
            let mut addresses = Addresses {
                direct: Vec::new(),
                relays: Vec::new(),
            };
            for address in self.node.addr().addrs {
                match address {
                    TransportAddr::Ip(ip) => addresses.direct.push(canonical(ip).to_string()),
                    TransportAddr::Relay(url) => addresses.relays.push(url.to_string()),
                    _ => {}
                }
            }
            Ok(addresses)
        })
    }

    #[napi]
    pub fn connect(&self, env: Env, node_id: Arg<String>, hints: Arg<Addresses>) -> Promise {
        promise::entry(env, || {
            self.check()?;
            let address = remote(&node_id.get("nodeId")?, &hints.get("hints")?)?;
            let (promise, resolver) = promise::promise(env);
            let node = self.node.clone();
            let work = async move { node.connect(address).await.map(Connection::from) };
            self.spawn(resolver, work);
            Ok(promise)
        })
    }

    #[napi]
    pub fn network_change(&self, env: Env) -> Promise {
        promise::entry(env, || {
            self.check()?;
            let (promise, resolver) = promise::promise(env);
            let node = self.node.clone();
            let work = async move {
                node.endpoint.network_change().await;
                Ok(())
            };
            self.spawn(resolver, work);
            Ok(promise)
        })
    }

    #[napi]
    pub fn close(&self, env: Env) -> Promise {
        promise::entry(env, || {
            let (promise, resolver) = promise::promise(env);
            let mut life = lock(&self.life);
            match &mut *life {
                Life::Closed => resolver.with(Ok(())).run(env.raw()),
                Life::Closing(waiting) => waiting.push(resolver),
                Life::Open => {
                    *life = Life::Closing(vec![resolver]);
                    shut_down(self.node.clone(), self.life.clone());
                }
            }
            Ok(promise)
        })
    }
}

impl Endpoint {
    fn spawn<T: ToNapiValue + Send + 'static>(
        &self,
        resolver: Resolver,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) {
        let queue = self.node.queue.clone();
        self.node.tasks.spawn_on(
            async move { promise::settle(&queue, resolver, work).await },
            runtime::handle(),
        );
    }
}

fn shut_down(node: Arc<Node>, life: Arc<Mutex<Life>>) {
    runtime::handle().spawn(async move {
        node.close().await;
        node.queue.push(Event::Finished(Box::new(move || {
            match std::mem::replace(&mut *lock(&life), Life::Closed) {
                Life::Closing(waiting) => waiting,
                _ => Vec::new(),
            }
        })));
    });
}

/// An endpoint on its way to JavaScript for the first time.
struct Bound(Endpoint);

impl ToNapiValue for Bound {
    unsafe fn to_napi_value(env: sys::napi_env, value: Self) -> napi::Result<sys::napi_value> {
        let endpoint = value.0;
        // A worker thread may end with its endpoints open. The runtime does not end with it.
        let weak = (Arc::downgrade(&endpoint.node), endpoint.life.clone());
        Env::from_raw(env).add_env_cleanup_hook(weak, |(node, life)| {
            if let Some(node) = node.upgrade() {
                node.queue.finish();
                if matches!(*lock(&life), Life::Open) {
                    shut_down(node, life);
                }
            }
        })?;
        unsafe { Endpoint::to_napi_value(env, endpoint) }
    }
}
