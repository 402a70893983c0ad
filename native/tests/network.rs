//! Relays, look-ups and what a closed endpoint leaves behind, through the functions of the addon's classes.

/// Only a part of it is used here.
#[allow(dead_code)]
mod common;

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};

use common::{Duo, Peer, Seen, finish, options, write};
use iroh::EndpointAddr;
use tunnel_native::{
    error::Code,
    options::{Dht, Options, Relay},
    relay::{Relay as RelayServer, RelayOptions},
};

fn relay_options() -> RelayOptions {
    RelayOptions {
        listen: "127.0.0.1:0".parse().expect("an address"),
        certificate: None,
        http: None,
        quic: None,
        metrics: None,
        client_rate: 0,
        allowed: None,
    }
}

async fn relay(
    options: RelayOptions,
) -> (Arc<RelayServer>, tokio::task::JoinHandle<Option<String>>) {
    let (relay, ended) = RelayServer::start(options).await.expect("starts");
    (relay, tokio::spawn(ended))
}

fn relayed(relay: &RelayServer, bind: &str) -> Options {
    Options {
        bind: vec![bind.into()],
        relay: Relay::Urls(vec![format!("http://{}", relay.listen())]),
        ..options()
    }
}

async fn online(peer: &mut Peer) {
    while !peer.relays.iter().any(|relay| relay.connected) {
        let _ = tokio::time::timeout(Duration::from_millis(100), peer.next_event()).await;
    }
}

#[tokio::test]
async fn a_node_is_reached_by_its_id_and_a_relay() {
    let (server, ended) = relay(relay_options()).await;
    let mut there = Peer::bind(relayed(&server, "127.0.0.1:0")).await.unwrap();
    let here = Peer::bind(relayed(&server, "127.0.0.1:0")).await.unwrap();
    online(&mut there).await;
    let url = there.relays[0].url.parse().unwrap();
    let address = EndpointAddr::new(there.node.addr().id).with_relay_url(url);
    let link = here.node.connect(address).await.expect("connects");
    link.start();
    there.incoming().await.start();
    let pair = link.try_open_bi().unwrap().unwrap();
    write(&pair, "hello").unwrap();
    finish(&pair);
    there.opened().await;
    let paths = link.paths();
    assert!(paths.iter().any(|path| path.kind == "relay"));
    assert_eq!(paths.iter().filter(|path| path.selected).count(), 1);
    assert_eq!(server.stats().clients, 2.0);
    assert!(server.stats().bytes_received > 0.0);
    here.node.close().await;
    there.node.close().await;
    server.stop();
    assert_eq!(ended.await.unwrap(), None);
}

#[tokio::test]
async fn a_relay_lets_in_only_who_is_on_its_list() {
    let allowed = Some(HashSet::new());
    let (server, ended) = relay(RelayOptions {
        allowed,
        ..relay_options()
    })
    .await;
    let mut peer = Peer::bind(relayed(&server, "127.0.0.1:0")).await.unwrap();
    while !peer.relays.iter().any(|relay| relay.denied.is_some()) {
        let _ = tokio::time::timeout(Duration::from_millis(100), peer.next_event()).await;
    }
    server.set_allowed(Some(HashSet::from([peer.node.addr().id])));
    online(&mut peer).await;
    server.set_allowed(Some(HashSet::new()));
    while !peer.relays.iter().any(|relay| relay.denied.is_some()) {
        let _ = tokio::time::timeout(Duration::from_millis(100), peer.next_event()).await;
    }
    assert_eq!(server.stats().clients, 0.0);
    peer.node.close().await;
    server.stop();
    assert_eq!(ended.await.unwrap(), None);
}

#[tokio::test]
async fn a_relay_names_a_port_that_is_taken() {
    let (server, ended) = relay(relay_options()).await;
    let again = RelayServer::start(RelayOptions {
        listen: server.listen(),
        ..relay_options()
    })
    .await;
    assert_eq!(again.err().expect("fails").code, Code::AddressInUse);
    server.stop();
    assert_eq!(ended.await.unwrap(), None);
}

#[tokio::test]
async fn a_closed_endpoint_gives_its_sockets_back_whatever_is_still_held() {
    let duo = Duo::new().await;
    let near = duo.open();
    write(&near, "held").unwrap();
    let bound: SocketAddr = duo.here.node.bound_sockets()[0];
    duo.here.node.close().await;
    duo.here.node.release();
    // iroh's own tasks end a moment later.
    let released = std::time::Instant::now();
    while std::net::UdpSocket::bind(bound).is_err() {
        assert!(
            released.elapsed() < Duration::from_secs(5),
            "the socket stays bound"
        );
        tokio::task::yield_now().await;
    }
    assert_eq!(write(&near, "late").unwrap_err().code, Code::ConnectionLost);
    assert!(duo.link.stats().is_err());
    assert!(duo.link.paths().is_empty());
    assert!(duo.here.node.bound_sockets().is_empty());
    duo.there.node.close().await;
}

#[tokio::test]
async fn a_node_is_found_in_the_dht() {
    let net = n0_mainline::Testnet::new(5).await.expect("five nodes");
    let with_dht = || Options {
        dht: Some(Dht {
            publish_addresses: true,
            bootstrap: net.bootstrap.clone(),
        }),
        ..options()
    };
    let mut there = Peer::bind(with_dht()).await.unwrap();
    let here = Peer::bind(with_dht()).await.unwrap();
    let id = there.node.addr().id;
    let dialling = async {
        loop {
            // It takes a moment until it is published.
            if let Ok(link) = here.node.connect(EndpointAddr::new(id)).await {
                return link;
            }
        }
    };
    let link = tokio::time::timeout(Duration::from_secs(30), dialling)
        .await
        .expect("found within 30 s");
    assert!(matches!(there.next().await, Seen::Incoming(_)));
    assert!(link.paths().iter().all(|path| path.kind == "direct"));
    here.node.close().await;
    there.node.close().await;
}
