//! `RelayServer`: iroh's own relay, for nodes that find no direct path.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    num::NonZeroU32,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use iroh::{EndpointId, Signature};
use iroh_relay::server::{
    Access, AccessControl, AcmeConfig, CertConfig, ClientRateLimit, ClientRequest, ConnectionId,
    QuicConfig, RelayConfig, RelayService, Server, ServerConfig, SpawnError, TlsConfig,
    reloading_resolver,
};
use iroh_relay::tls::{CaTlsConfig, default_provider};
use napi::{
    Env,
    bindgen_prelude::{Function, Object, ToNapiValue},
    sys,
};
use napi_derive::napi;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::sync::oneshot;

use crate::{
    arguments::node_id,
    batch::Quadruples,
    endpoint::connected_queue,
    error::{Code, Failure, Result},
    js::{self, Arg},
    lock,
    promise::{self, Promise, Resolver},
    queue::{Event, Queue},
    runtime,
};

/// How often the certificate's files are looked at again. Who renews one does so weeks before it ends.
const RELOAD: Duration = Duration::from_secs(60 * 60);

/// How long `close` waits for what is under way.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

const MAX_RATE: u64 = u32::MAX as u64;

/// Where the certificate comes from.
#[derive(Debug, Clone)]
pub enum Certificate {
    Files {
        certificate: PathBuf,
        key: PathBuf,
    },
    Acme {
        domains: Vec<String>,
        contact: Vec<String>,
        /// Where account and certificates are kept.
        folder: PathBuf,
        directory: String,
        /// Certificates in PEM that the directory may have beside those of the web's authorities.
        roots: String,
    },
}

/// `RelayOptions`, checked.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// Where clients connect: HTTP without a certificate, HTTPS with one.
    pub listen: SocketAddr,
    pub certificate: Option<Certificate>,
    /// With a certificate only: plain HTTP for the check for captive portals.
    pub http: Option<SocketAddr>,
    /// With a certificate only: QUIC address discovery.
    pub quic: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    /// Bytes a second that one client may send; 0 for no limit.
    pub client_rate: u32,
    /// None lets everybody in.
    pub allowed: Option<HashSet<EndpointId>>,
}

/// Who may use the relay, and who does.
#[derive(Debug, Default)]
struct Guests(Mutex<GuestList>);

#[derive(Debug, Default)]
struct GuestList {
    allowed: Option<HashSet<EndpointId>>,
    here: HashMap<ConnectionId, Guest>,
}

/// A client, and who vouched for it, if anybody did.
#[derive(Debug, Clone, Copy)]
struct Guest {
    id: EndpointId,
    voucher: Option<EndpointId>,
}

impl GuestList {
    fn lets_in(&self, guest: &Guest) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| {
            allowed.contains(&guest.id)
                || guest
                    .voucher
                    .is_some_and(|voucher| allowed.contains(&voucher))
        })
    }
}

/// What a node on the list signs, before the ID of an endpoint that it vouches for. An endpoint's key may
/// live no longer than its process, and no list could have it.
pub const VOUCHER_CONTEXT: &[u8] = b"tunnel/1 relay guest\0";

/// Who says, by a token of node ID and signature in hex, that `id` may be let in on its account.
fn voucher(token: &str, id: &EndpointId) -> Option<EndpointId> {
    let (voucher, signature) = token.split_at_checked(64)?;
    let voucher: EndpointId = voucher.parse().ok()?;
    let signature = hex(signature)?;
    let signature = Signature::try_from(signature.as_slice()).ok()?;
    let message = [VOUCHER_CONTEXT, id.as_bytes()].concat();
    voucher.verify(&message, &signature).ok()?;
    Some(voucher)
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text
        .chars()
        .map(|char| char.to_digit(16).map(|digit| digit as u8));
    let digits: Vec<u8> = digits.collect::<Option<_>>()?;
    let pairs = digits.chunks(2);
    Some(
        pairs
            .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
            .collect(),
    )
}

impl AccessControl for Guests {
    async fn on_connect(&self, request: &ClientRequest) -> Access {
        let mut list = lock(&self.0);
        let id = request.endpoint_id();
        let token = request.auth_token();
        let guest = Guest {
            id,
            voucher: token.and_then(|token| voucher(&token, &id)),
        };
        if list.lets_in(&guest) {
            list.here.insert(request.connection_id(), guest);
            Access::Allow
        } else {
            Access::Deny {
                reason: Some("this node is not on the relay's list".into()),
            }
        }
    }

    fn on_disconnect(&self, _: EndpointId, connection_id: ConnectionId) {
        lock(&self.0).here.remove(&connection_id);
    }
}

impl Guests {
    /// Answers who is here and no longer may be.
    fn set(&self, allowed: Option<HashSet<EndpointId>>) -> Vec<(EndpointId, ConnectionId)> {
        let mut list = lock(&self.0);
        list.allowed = allowed;
        list.here
            .iter()
            .filter(|(_, guest)| !list.lets_in(guest))
            .map(|(connection, guest)| (guest.id, *connection))
            .collect()
    }

    fn clients(&self) -> usize {
        lock(&self.0).here.len()
    }
}

/// Counters since the relay was started, and the clients of this moment.
#[napi(object, object_from_js = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct RelayStats {
    pub clients: f64,
    pub connections: f64,
    pub bytes_received: f64,
    pub bytes_sent: f64,
    pub packets_received: f64,
    pub packets_sent: f64,
    pub packets_dropped: f64,
    /// Bytes that waited because their client sent more than it may.
    pub bytes_limited: f64,
    pub address_discoveries: f64,
}

/// The relay as everything in here shares it.
pub struct Relay {
    guests: Arc<Guests>,
    service: RelayService,
    metrics: Arc<iroh_relay::server::Metrics>,
    listen: SocketAddr,
    http: Option<SocketAddr>,
    quic: Option<SocketAddr>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
}

impl Relay {
    /// Answers the relay, and what resolves when it has ended, with the reason where nobody asked it to.
    pub async fn start(
        options: RelayOptions,
    ) -> Result<(Arc<Self>, impl Future<Output = Option<String>> + use<>)> {
        let guests = Arc::new(Guests::default());
        guests.set(options.allowed);
        let mut relay = RelayConfig::new(options.http.unwrap_or(options.listen));
        relay.access = guests.clone();
        relay.limits.client_rx = NonZeroU32::new(options.client_rate).map(ClientRateLimit::new);
        let mut config = ServerConfig::default();
        config.metrics_addr = options.metrics;
        if let Some(certificate) = options.certificate {
            relay.tls = Some(TlsConfig::new(
                options.listen,
                cert_config(certificate).await?,
            ));
            config.quic = options.quic.map(QuicConfig::new);
        }
        config.relay = Some(relay);
        let mut server = Server::spawn(config).await?;
        let (stop, stopped) = oneshot::channel();
        let secure = server.https_addr();
        let plain = server.http_addr();
        let this = Arc::new(Self {
            guests,
            service: server
                .relay_service()
                .cloned()
                .ok_or_else(Failure::closed)?,
            metrics: server.metrics().server.clone(),
            listen: secure.or(plain).ok_or_else(Failure::closed)?,
            http: secure.and(plain),
            quic: server.quic_addr(),
            stop: Mutex::new(Some(stop)),
        });
        let service = this.service.clone();
        let ended = async move {
            let reason = tokio::select! {
                _ = stopped => None,
                ended = server.join() => Some(match ended {
                    Ok(Ok(())) => "the relay ended by itself".into(),
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                }),
            };
            if reason.is_none() {
                // Clients are served by tasks of their own, which outlive the listener.
                let ending = async {
                    service.shutdown().await;
                    let _ = server.shutdown().await;
                };
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, ending).await;
            }
            reason
        };
        Ok((this, ended))
    }

    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Replaces the list; whoever is connected and not on it is disconnected.
    pub fn set_allowed(&self, allowed: Option<HashSet<EndpointId>>) {
        for (id, connection) in self.guests.set(allowed) {
            self.service.clients().disconnect(id, Some(connection));
        }
    }

    pub fn stats(&self) -> RelayStats {
        let metrics = &self.metrics;
        RelayStats {
            clients: self.guests.clients() as f64,
            connections: metrics.accepts.get() as f64,
            bytes_received: metrics.bytes_recv.get() as f64,
            bytes_sent: metrics.bytes_sent.get() as f64,
            packets_received: metrics.send_packets_recv.get() as f64,
            packets_sent: metrics.send_packets_sent.get() as f64,
            packets_dropped: metrics.send_packets_dropped.get() as f64,
            bytes_limited: metrics.bytes_rx_ratelimited_total.get() as f64,
            address_discoveries: metrics.qad_connections.get() as f64,
        }
    }

    pub fn stop(&self) {
        if let Some(stop) = lock(&self.stop).take() {
            let _ = stop.send(());
        }
    }
}

async fn cert_config(certificate: Certificate) -> Result<CertConfig> {
    let builder = rustls::ServerConfig::builder_with_provider(default_provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::new(Code::Internal, error.to_string()))?
        .with_no_client_auth();
    Ok(match certificate {
        Certificate::Files { certificate, key } => {
            let resolver = reloading_resolver(&default_provider(), certificate, key, RELOAD)
                .await
                .map_err(|error| Failure::new(Code::BadCertificate, format!("{error:#}")))?;
            CertConfig::Manual {
                server_config: builder.with_cert_resolver(resolver),
            }
        }
        Certificate::Acme {
            domains,
            contact,
            folder,
            directory,
            roots,
        } => {
            let roots = CertificateDer::pem_slice_iter(roots.as_bytes())
                .collect::<std::result::Result<Vec<_>, _>>()
                .map_err(|error| Failure::invalid(format!("`acme.roots`: {error}")))?;
            let acme_config = AcmeConfig::new(directory)
                .domains(domains)
                .contact(contact)
                .cache_path(folder)
                .tls_config(CaTlsConfig::default().with_extra_roots(roots));
            CertConfig::LetsEncrypt {
                acme_config,
                server_config_builder: builder,
            }
        }
    })
}

impl From<SpawnError> for Failure {
    fn from(error: SpawnError) -> Self {
        let mut source: Option<&dyn std::error::Error> = Some(&error);
        let mut code = Code::BindFailed;
        while let Some(error) = source {
            if let Some(error) = error.downcast_ref::<std::io::Error>()
                && error.kind() == std::io::ErrorKind::AddrInUse
            {
                code = Code::AddressInUse;
            }
            source = error.source();
        }
        Self::of(code, &error)
    }
}

fn address(object: &Object<'_>, name: &str) -> Result<Option<SocketAddr>> {
    let text: String = js::property(object, name)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| Failure::invalid(format!("`{name}`: {text} is no `ip:port`")))
}

fn allowed(ids: Option<Vec<String>>) -> Result<Option<HashSet<EndpointId>>> {
    ids.map(|ids| ids.iter().map(|id| node_id(id)).collect())
        .transpose()
}

fn options(object: &Object<'_>) -> Result<RelayOptions> {
    let certificate = match js::property::<String>(object, "tls")?.as_str() {
        "none" => None,
        "files" => Some(Certificate::Files {
            certificate: js::property::<String>(object, "certificate")?.into(),
            key: js::property::<String>(object, "key")?.into(),
        }),
        "acme" => Some(Certificate::Acme {
            domains: js::property(object, "acmeDomains")?,
            contact: js::property(object, "acmeContact")?,
            folder: js::property::<String>(object, "acmeFolder")?.into(),
            directory: js::property(object, "acmeDirectory")?,
            roots: js::property(object, "acmeRoots")?,
        }),
        _ => return Err(Failure::invalid("`tls` is 'none', 'files' or 'acme'")),
    };
    Ok(RelayOptions {
        listen: address(object, "listen")?
            .ok_or_else(|| Failure::invalid("`listen` is an `ip:port`"))?,
        certificate,
        http: address(object, "http")?,
        quic: address(object, "quic")?,
        metrics: address(object, "metrics")?,
        client_rate: js::whole(object, "clientRate", MAX_RATE)? as u32,
        allowed: match object.get::<Option<Vec<String>>>("allowed") {
            Ok(ids) => allowed(ids.flatten())?,
            Err(_) => return Err(Failure::invalid("`allowed` is null or node IDs")),
        },
    })
}

/// Like an endpoint, it lives until it is closed, whether or not JavaScript still holds it.
#[napi]
pub struct RelayServer {
    relay: Arc<Relay>,
    queue: Arc<Queue>,
    /// Who waits for the end; none once it has come.
    waiting: Arc<Mutex<Option<Vec<Resolver>>>>,
}

#[napi]
impl RelayServer {
    #[napi]
    pub fn start(env: Env, options: Arg<Object<'_>>) -> Promise {
        promise::entry(env, || {
            let options = options.get("options")?;
            let callback: Function<'_, Quadruples, ()> = js::property(&options, "onEvents")?;
            let options = self::options(&options)?;
            let queue = connected_queue(&callback)?;
            let (promise, resolver) = promise::promise(env);
            runtime::handle().spawn(async move {
                let waiting = Arc::new(Mutex::new(Some(Vec::new())));
                let (server, ended) = match Relay::start(options).await {
                    Ok((relay, ended)) => {
                        let server = Self {
                            relay: relay.clone(),
                            queue: queue.clone(),
                            waiting: waiting.clone(),
                        };
                        (Ok(Started(server)), Some((relay, ended)))
                    }
                    Err(failure) => (Err(failure), None),
                };
                promise::settle(&queue, resolver, async { server }).await;
                if let Some((_relay, ended)) = ended
                    && let Some(reason) = ended.await
                {
                    queue.push(Event::RelayEnded(reason));
                }
                queue.push(Event::Finished(Box::new(move || {
                    lock(&waiting).take().unwrap_or_default()
                })));
            });
            Ok(promise)
        })
    }

    #[napi]
    pub fn addresses(&self) -> RelayAddresses {
        RelayAddresses {
            listen: self.relay.listen.to_string(),
            http: self.relay.http.map(|address| address.to_string()),
            quic: self.relay.quic.map(|address| address.to_string()),
        }
    }

    #[napi]
    pub fn set_allowed(&self, env: Env, ids: Arg<Option<Vec<String>>>) -> napi::Result<()> {
        js::guard(env, || {
            self.relay.set_allowed(allowed(ids.get("ids")?)?);
            Ok(())
        })
    }

    #[napi]
    pub fn stats(&self) -> RelayStats {
        self.relay.stats()
    }

    #[napi]
    pub fn close(&self, env: Env) -> Promise {
        promise::entry(env, || {
            let (promise, resolver) = promise::promise(env);
            match &mut *lock(&self.waiting) {
                Some(waiting) => waiting.push(resolver),
                None => resolver.with(Ok(())).run(env.raw()),
            }
            self.relay.stop();
            Ok(promise)
        })
    }
}

/// `ip:port` of what is bound.
#[napi(object, object_from_js = false)]
pub struct RelayAddresses {
    pub listen: String,
    pub http: Option<String>,
    pub quic: Option<String>,
}

/// A relay on its way to JavaScript for the first time.
struct Started(RelayServer);

impl ToNapiValue for Started {
    unsafe fn to_napi_value(env: sys::napi_env, value: Self) -> napi::Result<sys::napi_value> {
        let ending = (Arc::downgrade(&value.0.relay), value.0.queue.clone());
        // A worker thread may end with its relay running. The runtime does not end with it.
        Env::from_raw(env).add_env_cleanup_hook(ending, |(relay, queue)| {
            queue.finish();
            if let Some(relay) = relay.upgrade() {
                relay.stop();
            }
        })?;
        unsafe { RelayServer::to_napi_value(env, value.0) }
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;

    #[test]
    fn a_voucher_is_for_one_endpoint_and_by_who_signed_it() {
        let [member, guest, other] = [1, 2, 3].map(|seed| SecretKey::from_bytes(&[seed; 32]));
        let message = [VOUCHER_CONTEXT, guest.public().as_bytes()].concat();
        let signature = member.sign(&message).to_bytes();
        let signature: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
        let token = format!("{}{signature}", member.public());
        assert_eq!(voucher(&token, &guest.public()), Some(member.public()));
        assert_eq!(voucher(&token, &other.public()), None);
        let forged = format!("{}{signature}", other.public());
        assert_eq!(voucher(&forged, &guest.public()), None);
        for broken in [
            "",
            "zz",
            &token[..64],
            &token[..191],
            &format!("{token}00"),
            "ü",
        ] {
            assert_eq!(voucher(broken, &guest.public()), None);
        }
    }
}
