//! `EndpointOptions`, checked, and what iroh makes of them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use iroh::{
    RelayConfig, RelayMode, RelayUrl, SecretKey,
    address_lookup::{DnsAddressLookup, PkarrPublisher, PkarrResolver, UserData},
    endpoint::{
        AckFrequencyConfig, Builder, ControllerFactory, PortmapperConfig, QuicTransportConfig,
        VarInt, default_relay_mode, presets,
    },
};
use iroh_relay::tls::CaTlsConfig;
use noq_proto::congestion::{Bbr3Config, CubicConfig, NewRenoConfig};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::{
    error::{Failure, Result},
    gate,
};

/// noq 1.4.0 keeps at most 1,024 chunks of a stream before it gives the connection up with "too
/// many gaps in stream buffer", and it does not join chunks that follow each other (quinn issue
/// 2809, mended there by pull request 2814). A window above this lets that many arrive, unread, on a
/// connection where nothing was lost. Raise it when a noq release has the mend.
pub const MAX_STREAM_RECEIVE_WINDOW: u64 = 2 * 1024 * 1024;

/// The largest idle timeout and keep-alive that iroh lets a single path have. A connection whose only
/// path goes quiet still lives for its own idle timeout (measured: 64 s with 60 s set).
const MAX_PATH_IDLE: Duration = Duration::from_secs(15);
const MAX_PATH_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Far above what any path has in flight; a sum of such windows still fits every integer here.
pub const MAX_WINDOW: u64 = 1 << 30;
pub const MAX_STREAMS: u64 = 1 << 20;
pub const MAX_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1000;
pub const MAX_HANDSHAKES: u64 = 1 << 20;

#[derive(Debug, Clone)]
pub enum Relay {
    Default,
    None,
    Urls(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Congestion {
    Cubic,
    Bbr,
    NewReno,
}

/// mDNS on the local network.
#[derive(Debug, Clone)]
pub struct Lan {
    /// Whether others find this node; it finds them in either case.
    pub announce: bool,
    /// The name this node shows.
    pub name: Option<UserData>,
    /// Nodes of one service find each other, no others.
    pub service: String,
}

/// The mainline DHT.
#[derive(Debug, Clone)]
pub struct Dht {
    /// Whether to publish IP addresses too, or the home relay only.
    pub publish_addresses: bool,
    /// `host:port` of the first nodes to ask; empty for the public ones.
    pub bootstrap: Vec<String>,
}

#[derive(Clone)]
pub struct Options {
    pub secret_key: [u8; 32],
    pub alpn: String,
    pub bind: Vec<String>,
    pub relay: Relay,
    pub address_lookup: bool,
    pub lan: Option<Lan>,
    pub dht: Option<Dht>,
    /// Certificates in PEM that a relay may have beside those of the web's authorities.
    pub relay_roots: String,
    /// What relays that are named by their URL are shown; empty for nothing.
    pub relay_token: String,
    pub stream_receive_window: u64,
    pub connection_receive_window: u64,
    pub send_window: u64,
    pub max_streams: u64,
    pub idle_timeout_ms: u64,
    pub keep_alive_ms: u64,
    pub congestion: Congestion,
    pub ack_eliciting_threshold: u64,
    pub datagram_receive_buffer: u64,
    pub datagram_send_buffer: u64,
    pub handshakes: gate::Limits,
}

impl Options {
    pub fn builder(&self) -> Result<Builder> {
        if self.alpn.is_empty() || self.alpn.len() > 255 {
            return Err(Failure::invalid("`alpn` has 1 to 255 bytes"));
        }
        let mut builder = Builder::new(presets::Minimal)
            .secret_key(SecretKey::from_bytes(&self.secret_key))
            .alpns(vec![self.alpn.clone().into_bytes()])
            .transport_config(self.transport()?)
            .proxy_from_env()
            .relay_mode(self.relay_mode()?);
        if !self.relay_roots.is_empty() {
            let roots = CertificateDer::pem_slice_iter(self.relay_roots.as_bytes())
                .collect::<std::result::Result<Vec<_>, _>>()
                .map_err(|error| Failure::invalid(format!("`relayRoots`: {error}")))?;
            builder = builder.ca_tls_config(CaTlsConfig::default().with_extra_roots(roots));
        }
        if self.address_lookup {
            builder = builder
                .address_lookup(PkarrPublisher::n0_dns())
                .address_lookup(PkarrResolver::n0_dns())
                .address_lookup(DnsAddressLookup::n0_dns());
        }
        let addresses = self.addresses()?;
        if !addresses.is_empty() {
            if addresses.iter().all(|address| address.ip().is_loopback()) {
                // No gateway forwards anything to a loopback address.
                builder = builder.portmapper_config(PortmapperConfig::Disabled);
            }
            builder = builder.clear_ip_transports();
            for address in addresses {
                builder = builder
                    .bind_addr(address)
                    .map_err(|error| Failure::invalid(format!("`bind`: {address}: {error}")))?;
            }
        }
        Ok(builder)
    }

    fn addresses(&self) -> Result<Vec<SocketAddr>> {
        self.bind
            .iter()
            .map(|text| {
                text.parse()
                    .map_err(|_| Failure::invalid(format!("`bind`: {text} is no `ip:port`")))
            })
            .collect()
    }

    fn relay_mode(&self) -> Result<RelayMode> {
        Ok(match &self.relay {
            Relay::Default => default_relay_mode(),
            Relay::None => RelayMode::Disabled,
            Relay::Urls(urls) => {
                let relays: Vec<_> = urls
                    .iter()
                    .map(|url| Ok(self.relay_config(relay_url(url)?)))
                    .collect::<Result<_>>()?;
                RelayMode::Custom(relays.into_iter().collect())
            }
        })
    }

    fn relay_config(&self, url: RelayUrl) -> RelayConfig {
        // QUIC address discovery needs TLS: a relay without it has none, and asking would take time.
        let quic = (url.scheme() == "https").then(Default::default);
        let config = RelayConfig::new(url, quic);
        if self.relay_token.is_empty() {
            config
        } else {
            config.with_auth_token(&self.relay_token)
        }
    }

    pub fn transport(&self) -> Result<QuicTransportConfig> {
        if self.stream_receive_window > MAX_STREAM_RECEIVE_WINDOW {
            return Err(Failure::invalid(format!(
                "`streamReceiveWindow` is {MAX_STREAM_RECEIVE_WINDOW} bytes at most"
            )));
        }
        let streams = var_int(self.max_streams);
        let idle = Duration::from_millis(self.idle_timeout_ms.max(1));
        let keep_alive = Duration::from_millis(self.keep_alive_ms.max(1));
        let controller: Arc<dyn ControllerFactory + Send + Sync> = match self.congestion {
            Congestion::Cubic => Arc::new(CubicConfig::default()),
            Congestion::Bbr => Arc::new(Bbr3Config::default()),
            Congestion::NewReno => Arc::new(NewRenoConfig::default()),
        };
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(var_int(self.ack_eliciting_threshold))
            // A gap is told at once, as without this extension.
            .reordering_threshold(VarInt::from_u32(1));
        Ok(QuicTransportConfig::builder()
            .ack_frequency_config(Some(acks))
            .max_concurrent_bidi_streams(streams)
            .max_concurrent_uni_streams(streams)
            .stream_receive_window(var_int(self.stream_receive_window))
            .receive_window(var_int(self.connection_receive_window))
            .send_window(self.send_window)
            .max_idle_timeout(Some(
                idle.try_into()
                    .map_err(|_| Failure::invalid("`idleTimeoutMs` is out of range"))?,
            ))
            .keep_alive_interval(keep_alive)
            .default_path_max_idle_timeout(idle.min(MAX_PATH_IDLE))
            .default_path_keep_alive_interval(keep_alive.min(MAX_PATH_KEEP_ALIVE))
            .congestion_controller_factory(controller)
            .datagram_receive_buffer_size(Some(self.datagram_receive_buffer as usize))
            .datagram_send_buffer_size(self.datagram_send_buffer as usize)
            .build())
    }
}

fn var_int(value: u64) -> VarInt {
    VarInt::from_u64(value).unwrap_or(VarInt::MAX)
}

pub fn relay_url(url: &str) -> Result<RelayUrl> {
    url.parse()
        .map_err(|_| Failure::invalid(format!("{url} is no relay URL")))
}
