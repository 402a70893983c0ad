//! What JavaScript passes in, checked.

use std::{net::SocketAddr, time::Duration};

use iroh::{EndpointAddr, PublicKey, address_lookup::UserData};
use napi::{
    Either,
    bindgen_prelude::{BufferSlice, Object},
};
use napi_derive::napi;

use crate::{
    error::{Failure, Result},
    gate::{Limits, Rate},
    js,
    options::{
        Congestion, Dht, Lan, MAX_HANDSHAKES, MAX_STREAMS, MAX_TIMEOUT_MS, MAX_WINDOW, Options,
        Relay, relay_url,
    },
};

/// How a node can be reached.
#[napi(object)]
pub struct Addresses {
    pub direct: Vec<String>,
    pub relays: Vec<String>,
}

pub fn options(object: &Object<'_>) -> Result<Options> {
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
        "newreno" => Congestion::NewReno,
        _ => {
            return Err(Failure::invalid(
                "`congestion` is 'cubic', 'bbr' or 'newreno'",
            ));
        }
    };
    Ok(Options {
        secret_key,
        alpn: js::property(object, "alpn")?,
        bind: js::property(object, "bind")?,
        relay,
        address_lookup: js::property(object, "addressLookup")?,
        lan: lan(object)?,
        dht: dht(object)?,
        relay_roots: js::property(object, "relayRoots")?,
        relay_token: js::property(object, "relayToken")?,
        stream_receive_window: js::whole(object, "streamReceiveWindow", MAX_WINDOW)?,
        connection_receive_window: js::whole(object, "connectionReceiveWindow", MAX_WINDOW)?,
        send_window: js::whole(object, "sendWindow", MAX_WINDOW)?,
        max_streams: js::whole(object, "maxStreams", MAX_STREAMS)?,
        idle_timeout_ms: js::whole(object, "idleTimeoutMs", MAX_TIMEOUT_MS)?,
        keep_alive_ms: js::whole(object, "keepAliveMs", MAX_TIMEOUT_MS)?,
        congestion,
        ack_eliciting_threshold: js::whole(object, "ackElicitingThreshold", MAX_STREAMS)?,
        datagram_receive_buffer: js::whole(object, "datagramReceiveBuffer", MAX_WINDOW)?,
        datagram_send_buffer: js::whole(object, "datagramSendBuffer", MAX_WINDOW)?,
        handshakes: handshakes(&js::property(object, "handshakes")?)?,
    })
}

fn handshakes(object: &Object<'_>) -> Result<Limits> {
    let number = |name| js::whole(object, name, MAX_HANDSHAKES);
    let rate = |per_second, burst| -> Result<Rate> {
        Ok(Rate {
            per_second: number(per_second)? as f64,
            burst: number(burst)? as f64,
        })
    };
    let time = |name| js::whole(object, name, MAX_TIMEOUT_MS).map(Duration::from_millis);
    Ok(Limits {
        all: rate("perSecond", "burst")?,
        per_address: rate("perSecondPerAddress", "burstPerAddress")?,
        known: rate("perSecondOfKnown", "burstOfKnown")?,
        known_after: time("knownAfterMs")?,
        under_way: number("underWay")? as usize,
        timeout: time("timeoutMs")?,
    })
}

fn lan(object: &Object<'_>) -> Result<Option<Lan>> {
    let announce = match js::property::<String>(object, "lan")?.as_str() {
        "off" => return Ok(None),
        "find" => false,
        "announce" => true,
        _ => return Err(Failure::invalid("`lan` is 'off', 'find' or 'announce'")),
    };
    let name: String = js::property(object, "lanName")?;
    let name = Some(name).filter(|name| !name.is_empty());
    let service: String = js::property(object, "lanService")?;
    if !is_service(&service) {
        return Err(Failure::invalid(format!(
            "`lanService`: {service} is not 1 to 15 letters, digits and hyphens"
        )));
    }
    Ok(Some(Lan {
        announce,
        name: name
            .map(UserData::try_from)
            .transpose()
            .map_err(|error| Failure::invalid(format!("`lanName`: {error}")))?,
        service,
    }))
}

/// RFC 6335, section 5.1.
fn is_service(name: &str) -> bool {
    let bytes = name.as_bytes();
    (1..=15).contains(&bytes.len())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

fn dht(object: &Object<'_>) -> Result<Option<Dht>> {
    let publish_addresses = match js::property::<String>(object, "dht")?.as_str() {
        "off" => return Ok(None),
        "relay" => false,
        "addresses" => true,
        _ => return Err(Failure::invalid("`dht` is 'off', 'relay' or 'addresses'")),
    };
    Ok(Some(Dht {
        publish_addresses,
        bootstrap: js::property(object, "dhtBootstrap")?,
    }))
}

pub fn node_id(text: &str) -> Result<PublicKey> {
    text.parse()
        .map_err(|_| Failure::invalid(format!("{text} is no node ID")))
}

pub fn remote(id: &str, hints: &Addresses) -> Result<EndpointAddr> {
    let mut address = EndpointAddr::new(node_id(id)?);
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
