//! `Endpoint`: binding, dialling, accepting and closing.

use std::{
    cell::RefCell,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{
    Stream, StreamExt,
    future::{self, Either},
};
use iroh::{
    Endpoint as IrohEndpoint, EndpointAddr, EndpointId, TransportAddr, Watcher,
    address_lookup::MemoryLookup,
    endpoint::{ConnectingError, Connection as IrohConnection, Incoming},
};
use napi::{
    Env, JsValue,
    bindgen_prelude::{Function, Object, ToNapiValue},
    sys,
    threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode},
};
use napi_derive::napi;
use netwatch::waiting;
use tokio::{sync::Semaphore, time::MissedTickBehavior};
use tokio_util::task::TaskTracker;

use crate::{
    arguments::{self, Addresses},
    arrivals,
    batch::{self, Deliverer, Quadruples},
    connection::{Connection, Ids, Link},
    error::{Failure, Result},
    gate::{self, Gate, Origin, Verdict},
    js::{self, Arg},
    lock,
    lookup::{self, Nearby},
    network::{self, RelayInfo},
    options::Options,
    outbox::Outbox,
    promise::{self, Promise, Resolver},
    queue::{Event, Queue},
    runtime,
};

/// How often is looked who has a connection. It looks at every connection.
const LOOK: Duration = Duration::from_secs(2);

/// How long `close` waits for peers to have heard of it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// An IPv4 peer of a dual-stack socket, written as the IPv4 address it is.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// An endpoint as everything in here shares it.
pub struct Node {
    id: EndpointId,
    /// None once it is closed. iroh's handles hold the sockets, and JavaScript's objects would hold those.
    endpoint: Mutex<Option<IrohEndpoint>>,
    links: Mutex<Vec<Weak<Link>>>,
    memory: MemoryLookup,
    /// Why the services that are off although they were asked for are off.
    lookup_errors: LookupErrors,
    alpn: Vec<u8>,
    queue: Arc<Queue>,
    outbox: Arc<Outbox>,
    ids: Arc<Ids>,
    tasks: TaskTracker,
    /// Incoming connections that failed or were refused before they were any.
    failed_handshakes: AtomicU64,
}

#[napi(object, object_from_js = false)]
#[derive(Debug, Clone, Default)]
pub struct LookupErrors {
    pub lan: Option<String>,
    pub dht: Option<String>,
}

impl Node {
    pub async fn bind(options: Options, queue: Arc<Queue>) -> Result<Arc<Self>> {
        let endpoint = options.builder()?.bind().await?;
        let memory = lookup::memory(&endpoint)?;
        let mut lookup_errors = LookupErrors::default();
        // A network without multicast is no reason not to bind.
        let mut nearby = None;
        if let Some(lan) = &options.lan {
            match lookup::lan(&endpoint, lan).await {
                Ok(seen) => nearby = Some(seen),
                Err(error) => lookup_errors.lan = Some(error.message.into_owned()),
            }
        }
        if let Some(dht) = &options.dht
            && let Err(error) = lookup::dht(&endpoint, dht)
        {
            lookup_errors.dht = Some(error.message.into_owned());
        }
        let node = Arc::new(Self {
            id: endpoint.id(),
            endpoint: Mutex::new(Some(endpoint.clone())),
            links: Mutex::default(),
            memory,
            lookup_errors,
            alpn: options.alpn.into_bytes(),
            queue,
            outbox: Outbox::start(),
            ids: Arc::default(),
            tasks: TaskTracker::new(),
            failed_handshakes: AtomicU64::new(0),
        });
        if let Some(nearby) = nearby {
            node.tasks
                .spawn(node.clone().watch_nearby(endpoint.clone(), nearby));
        }
        node.tasks
            .spawn(node.clone().watch_relays(endpoint.clone()));
        node.tasks
            .spawn(node.clone().accept(endpoint, options.handshakes));
        Ok(node)
    }

    fn endpoint(&self) -> Result<IrohEndpoint> {
        lock(&self.endpoint).clone().ok_or_else(Failure::closed)
    }

    fn link(&self, conn: IrohConnection) -> Arc<Link> {
        let link = Link::new(
            conn,
            self.queue.clone(),
            self.outbox.clone(),
            self.ids.clone(),
            self.tasks.clone(),
        );
        let mut links = lock(&self.links);
        if links.len() == links.capacity() {
            links.retain(|link| link.strong_count() > 0);
        }
        links.push(Arc::downgrade(&link));
        link
    }

    async fn watch_nearby(
        self: Arc<Self>,
        endpoint: IrohEndpoint,
        mut nearby: impl Stream<Item = Nearby> + Unpin,
    ) {
        let watching = async {
            while let Some(node) = nearby.next().await {
                self.queue.push(Event::Nearby(Box::new(node)));
            }
        };
        endpoint.closed().run_until(watching).await;
    }

    async fn watch_relays(self: Arc<Self>, endpoint: IrohEndpoint) {
        let mut updates = endpoint.home_relay_status().stream();
        let watching = async {
            let mut last = Vec::new();
            while let Some(relays) = updates.next().await {
                let relays: Vec<_> = relays.iter().map(RelayInfo::from).collect();
                if relays != last {
                    last = relays.clone();
                    self.queue.push(Event::Relays(relays));
                }
            }
        };
        endpoint.closed().run_until(watching).await;
    }

    async fn accept(self: Arc<Self>, endpoint: IrohEndpoint, limits: gate::Limits) {
        let slots = Arc::new(Semaphore::new(limits.under_way));
        let mut gate = Gate::new(limits, Instant::now());
        let mut turns = None;
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (tick, accepted) = (pin!(look.tick()), pin!(endpoint.accept()));
            let incoming = match future::select(tick, accepted).await {
                Either::Left(_) => {
                    gate.know(self.origins(limits.known_after), Instant::now());
                    if arrivals::is_stuck(&mut turns) {
                        waiting::take_back();
                    }
                    continue;
                }
                Either::Right((Some(incoming), _)) => incoming,
                Either::Right((None, _)) => break,
            };
            let verdict = match Origin::new(&incoming.remote_addr()) {
                Some(origin) => {
                    let validated = incoming.remote_addr_validated() || origin.is_relayed();
                    gate.judge(origin, validated, Instant::now())
                }
                None => Verdict::Refuse,
            };
            match verdict {
                Verdict::Accept => {}
                Verdict::Validate => {
                    if let Err(error) = incoming.retry() {
                        self.turned_away();
                        error.into_incoming().refuse();
                    }
                    continue;
                }
                Verdict::Refuse => {
                    self.turned_away();
                    incoming.refuse();
                    continue;
                }
                Verdict::Ignore => {
                    self.turned_away();
                    incoming.ignore();
                    continue;
                }
            }
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                self.turned_away();
                incoming.ignore();
                continue;
            };
            let node = self.clone();
            self.tasks.spawn(async move {
                node.handshake(incoming, limits.timeout).await;
                drop(slot);
            });
        }
    }

    /// Anybody can send a first packet; that it came to nothing is nobody's error here.
    fn turned_away(&self) {
        self.failed_handshakes.fetch_add(1, Ordering::Relaxed);
    }

    async fn handshake(&self, incoming: Incoming, timeout: Duration) {
        let conn = async { incoming.accept().map_err(ConnectingError::from)?.await };
        match tokio::time::timeout(timeout, conn).await {
            Ok(Ok(conn)) => self.queue.push(Event::Incoming(self.link(conn))),
            _ => self.turned_away(),
        }
    }

    /// Where the peers are whose connections are that old.
    fn origins(&self, age: Duration) -> Vec<Origin> {
        let links: Vec<_> = lock(&self.links).iter().filter_map(Weak::upgrade).collect();
        let old = links.iter().filter(|link| link.since.elapsed() >= age);
        old.flat_map(|link| link.origins()).collect()
    }

    pub async fn connect(&self, address: EndpointAddr) -> Result<Arc<Link>> {
        let conn = self.endpoint()?.connect(address, &self.alpn).await?;
        Ok(self.link(conn))
    }

    /// Empty once it is closed.
    pub fn bound_sockets(&self) -> Vec<SocketAddr> {
        self.endpoint()
            .map(|endpoint| endpoint.bound_sockets())
            .unwrap_or_default()
    }

    /// Without any address once it is closed.
    pub fn addr(&self) -> EndpointAddr {
        self.endpoint()
            .map(|endpoint| endpoint.addr())
            .unwrap_or_else(|_| EndpointAddr::new(self.id))
    }

    pub fn failed_handshakes(&self) -> u64 {
        self.failed_handshakes.load(Ordering::Relaxed)
    }

    pub fn tell(&self, address: EndpointAddr) {
        lookup::tell(&self.memory, address);
    }

    pub async fn close(&self) {
        if let Ok(endpoint) = self.endpoint() {
            // What is cut off here has told its peers nothing; they find out by their idle timeout.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, endpoint.close()).await;
        }
        self.tasks.close();
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.tasks.wait()).await;
        self.outbox.finish();
    }

    /// Gives the sockets back, whoever still holds an object of this endpoint. To be called after
    /// `close`, when all that its streams received has been read out.
    pub fn release(&self) {
        let _runtime = runtime::handle().enter();
        let endpoint = lock(&self.endpoint).take();
        let links = std::mem::take(&mut *lock(&self.links));
        for link in links.iter().filter_map(Weak::upgrade) {
            link.release();
        }
        drop(endpoint);
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
pub fn connected_queue(callback: &Function<'_, Quadruples, ()>) -> Result<Arc<Queue>> {
    Ok(connect(callback)?.0)
}

fn connect(
    callback: &Function<'_, Quadruples, ()>,
) -> Result<(Arc<Queue>, Rc<RefCell<Deliverer>>)> {
    let queue = Arc::new(Queue::default());
    let deliverer = Rc::new(RefCell::new(Deliverer::new(queue.clone())));
    let delivering = deliverer.clone();
    let wake: Wake = callback
        .build_threadsafe_function::<()>()
        .build_callback(move |context| {
            arrivals::look();
            batch::deliver(&mut delivering.borrow_mut(), context.env)
        })
        .map_err(|error| Failure::invalid(format!("`onEvents`: {}", error.reason)))?;
    let own = Arc::as_ptr(&queue) as usize;
    queue.set_waker(Arc::new(move || {
        if !arrivals::is_receiving(own as *const Queue) {
            // Refused only when the environment is going away, and then there is nobody to tell.
            let _ = wake.call((), ThreadsafeFunctionCallMode::NonBlocking);
        }
    }));
    Ok((queue, deliverer))
}

/// As `connected_queue`. What packets bring that the JavaScript thread has handled by itself is delivered
/// without a wake-up.
fn receiving_queue(env: Env, callback: &Function<'_, Quadruples, ()>) -> Result<Arc<Queue>> {
    let (queue, deliverer) = connect(callback)?;
    let callback = callback
        .create_ref()
        .map_err(|error| js::engine(env, error))?;
    let deliver = move || {
        js::call_from_loop(env.raw(), || {
            let mut deliverer = deliverer.borrow_mut();
            deliverer.begin_turn();
            let events = batch::deliver(&mut deliverer, env)?;
            Ok((callback.borrow_back(&env)?.raw(), events.0))
        });
    };
    arrivals::add(env.raw(), queue.clone(), Rc::new(deliver));
    Ok(queue)
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
            let options = arguments::options(&options)?;
            let queue = receiving_queue(env, &callback)?;
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
        self.node.id.to_string()
    }

    #[napi(getter)]
    pub fn failed_handshakes(&self) -> f64 {
        self.node.failed_handshakes() as f64
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
            let address = arguments::remote(&node_id.get("nodeId")?, &hints.get("hints")?)?;
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
                node.endpoint()?.network_change().await;
                Ok(())
            };
            self.spawn(resolver, work);
            Ok(promise)
        })
    }

    #[napi]
    pub fn add_addresses(
        &self,
        env: Env,
        node_id: Arg<String>,
        hints: Arg<Addresses>,
    ) -> napi::Result<()> {
        js::guard(env, || {
            self.node.tell(arguments::remote(
                &node_id.get("nodeId")?,
                &hints.get("hints")?,
            )?);
            Ok(())
        })
    }

    #[napi]
    pub fn lookup_errors(&self) -> LookupErrors {
        self.node.lookup_errors.clone()
    }

    #[napi]
    pub fn net_report(&self, env: Env) -> Promise {
        promise::entry(env, || {
            let endpoint = self.node.endpoint()?;
            let (promise, resolver) = promise::promise(env);
            self.spawn(
                resolver,
                async move { Ok(network::report(&endpoint).await) },
            );
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
        let ending = node.clone();
        node.queue.push(Event::Finished(Box::new(move || {
            ending.release();
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
