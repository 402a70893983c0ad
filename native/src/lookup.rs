//! Where a node is: the services that an endpoint asks, and tells, beside those of the internet.

use std::{
    fmt,
    net::{Ipv4Addr, UdpSocket},
    sync::Mutex,
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream::BoxStream};
use iroh::{
    Endpoint, EndpointAddr, EndpointId,
    address_lookup::{
        AddrFilter, AddressLookup, EndpointData, Error, Item, MemoryLookup, UserData,
    },
};
use iroh_mainline_address_lookup::DhtAddressLookup;
use iroh_mdns_address_lookup::{DiscoveryEvent, MdnsAddressLookup};
use napi_derive::napi;
use swarm_discovery::{Discoverer, DropGuard, IpClass};

use crate::{
    endpoint::canonical,
    error::Result,
    lock,
    options::{Dht, Lan},
    runtime,
};

/// Name and addresses of a node that was seen on the local network, or that it is there no more.
#[napi(object, object_from_js = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct Nearby {
    pub node_id: String,
    pub here: bool,
    pub name: Option<String>,
    pub direct: Vec<String>,
    pub relays: Vec<String>,
}

impl Nearby {
    fn new(event: DiscoveryEvent) -> Option<Self> {
        match event {
            DiscoveryEvent::Discovered { endpoint_info, .. } => Some(Self {
                node_id: endpoint_info.endpoint_id.to_string(),
                here: true,
                name: endpoint_info.user_data().map(ToString::to_string),
                direct: endpoint_info
                    .ip_addrs()
                    .map(|address| canonical(*address).to_string())
                    .collect(),
                relays: endpoint_info
                    .relay_urls()
                    .map(ToString::to_string)
                    .collect(),
            }),
            DiscoveryEvent::Expired { endpoint_id } => Some(Self {
                node_id: endpoint_id.to_string(),
                here: false,
                name: None,
                direct: Vec::new(),
                relays: Vec::new(),
            }),
            _ => None,
        }
    }
}

/// mDNS with a name of its own. iroh's own user data would go to every service, and so to the internet.
#[derive(Debug)]
struct Named {
    mdns: MdnsAddressLookup,
    name: Option<UserData>,
    queries: Ipv6Queries,
}

impl AddressLookup for Named {
    fn publish(&self, data: &EndpointData) {
        let mut data = data.clone();
        data.set_user_data(self.name.clone());
        self.mdns.publish(&data);
        self.queries.follow();
    }

    fn resolve(
        &self,
        endpoint_id: EndpointId,
    ) -> Option<BoxStream<'static, std::result::Result<Item, Error>>> {
        self.mdns.resolve(endpoint_id)
    }
}

/// iroh's mDNS answers by both families, and asks by IPv4 alone: it always has such a socket, also where the system has no
/// route for it. There, this asks by IPv6. It announces nothing, and what is answered reaches iroh's.
struct Ipv6Queries {
    service: String,
    asking: Mutex<Option<DropGuard>>,
}

impl Ipv6Queries {
    /// Less than the 700 ms of iroh's, which is deaf to these questions for a moment after each of its own.
    const CADENCE: Duration = Duration::from_millis(500);

    /// To be called when the addresses have changed.
    fn follow(&self) {
        let mut asking = lock(&self.asking);
        if has_ipv4_multicast() {
            *asking = None;
        } else if asking.is_none() {
            // It fails where there is no IPv6 either.
            *asking = Discoverer::new_interactive(self.service.clone(), "queries".into())
                .with_cadence(Self::CADENCE)
                .with_ip_class(IpClass::V6Only)
                .spawn(runtime::handle())
                .ok();
        }
    }
}

impl fmt::Debug for Ipv6Queries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ipv6Queries")
    }
}

/// Whether the system has a route to the group of mDNS. Sends nothing.
fn has_ipv4_multicast() -> bool {
    let group = Ipv4Addr::new(224, 0, 0, 251);
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket.connect((group, 5353)))
        .is_ok()
}

/// Starts mDNS for an endpoint; answers what it sees from now on. Fails where there is no multicast.
pub async fn lan(
    endpoint: &Endpoint,
    lan: &Lan,
) -> Result<impl Stream<Item = Nearby> + Unpin + use<>> {
    let mdns = MdnsAddressLookup::builder()
        .advertise(lan.announce)
        .service_name(&lan.service)
        .build(endpoint.id())?;
    let seen = mdns.subscribe().await;
    endpoint.address_lookup()?.add(Named {
        mdns,
        name: lan.name.clone(),
        queries: Ipv6Queries {
            service: lan.service.clone(),
            asking: Mutex::default(),
        },
    });
    Ok(seen.filter_map(|event| std::future::ready(Nearby::new(event))))
}

/// Starts a node of the mainline DHT for an endpoint.
pub fn dht(endpoint: &Endpoint, options: &Dht) -> Result<()> {
    let filter = if options.publish_addresses {
        AddrFilter::unfiltered()
    } else {
        AddrFilter::relay_only()
    };
    let mut node = n0_mainline::DhtBuilder::default();
    if !options.bootstrap.is_empty() {
        node.bootstrap(&options.bootstrap);
    }
    let dht = DhtAddressLookup::builder()
        .dht_builder(node)
        .secret_key(endpoint.secret_key().clone())
        .addr_filter(filter)
        .build()?;
    endpoint.address_lookup()?.add(dht);
    Ok(())
}

/// Addresses told by hand.
pub fn memory(endpoint: &Endpoint) -> Result<MemoryLookup> {
    let memory = MemoryLookup::with_provenance("told");
    endpoint.address_lookup()?.add(memory.clone());
    Ok(memory)
}

pub fn tell(memory: &MemoryLookup, address: EndpointAddr) {
    memory.add_endpoint_info(address);
}
