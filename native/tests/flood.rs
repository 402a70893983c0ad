//! Dials beyond what the limits allow, on real endpoints.

#[allow(dead_code)]
mod common;

use std::time::{Duration, Instant};

use common::{Peer, Seen, options, rate};
use tunnel_native::{
    error::Code,
    gate::{Limits, Rate},
};

async fn listening(limits: impl FnOnce(&mut Limits)) -> Peer {
    let mut listening = options();
    limits(&mut listening.handshakes);
    Peer::bind(listening).await.unwrap()
}

fn turned_away(peer: &Peer) -> u64 {
    peer.node.failed_handshakes()
}

#[tokio::test]
async fn an_address_that_has_had_its_share_is_refused_at_once() {
    let mut there = listening(|limits| limits.per_address = rate(3.0)).await;
    let here = Peer::bind(options()).await.unwrap();
    let mut links = Vec::new();
    let started = Instant::now();
    let mut refused = 0;
    // Unproven and proven, each has a share.
    for _ in 0..20 {
        match here.node.connect(there.address()).await {
            Ok(link) => links.push(link),
            Err(_) => refused += 1,
        }
    }
    let refilled = started.elapsed().as_secs() as usize * 2;
    assert!((6..=6 + refilled).contains(&links.len()), "{}", links.len());
    assert_eq!(turned_away(&there), refused);
    for _ in &links {
        there.incoming().await;
    }
}

#[tokio::test]
async fn whoever_has_a_connection_gets_another_beside_a_flood() {
    let mut there = listening(|limits| {
        limits.per_address = Rate {
            per_second: 0.0,
            burst: 1.0,
        };
        limits.known_after = Duration::ZERO;
    })
    .await;
    let here = Peer::bind(options()).await.unwrap();
    let _link = here.node.connect(there.address()).await.unwrap();
    let _far = there.incoming().await;
    let attacker = Peer::bind(options()).await.unwrap();
    // What is left of the share of this machine's address, and nothing after it.
    let _last = attacker.node.connect(there.address()).await.unwrap();
    let _far_last = there.incoming().await;
    let late = Peer::bind(options()).await.unwrap();
    let failure = late.node.connect(there.address()).await.err().unwrap();
    assert_ne!(failure.code, Code::Closed);
    let again = async {
        // Who has a connection is looked up now and then only.
        while here.node.connect(there.address()).await.is_err() {}
        there.incoming().await;
    };
    tokio::time::timeout(Duration::from_secs(20), again)
        .await
        .unwrap();
    assert!(late.node.connect(there.address()).await.is_err());
}

#[tokio::test]
async fn a_dial_that_must_prove_its_address_does_so_by_every_path_it_has() {
    let mut everywhere = options();
    everywhere.bind = vec!["127.0.0.1:0".into(), "[::1]:0".into()];
    everywhere.handshakes.all = Rate {
        per_second: 0.0,
        burst: 64.0,
    };
    // Unproven ones have no half of this.
    let mut there = Peer::bind(everywhere).await.unwrap();
    let mut both = options();
    both.bind = vec!["127.0.0.1:0".into(), "[::1]:0".into()];
    let here = Peer::bind(both).await.unwrap();
    for dial in 0..60 {
        let link = here.node.connect(there.address()).await;
        assert!(link.is_ok(), "dial {dial}");
        there.incoming().await;
    }
    assert_eq!(turned_away(&there), 0);
}

#[tokio::test]
async fn a_handshake_that_does_not_come_to_an_end_gives_its_place_back() {
    let there = listening(|limits| {
        limits.timeout = Duration::ZERO;
        limits.under_way = 1;
    })
    .await;
    let here = Peer::bind(options()).await.unwrap();
    for dial in 1..=10 {
        // Where there was no place for it nobody would answer; either end may be the first to be done.
        let dialling = here.node.connect(there.address());
        let answered = tokio::time::timeout(Duration::from_secs(10), dialling).await;
        assert!(answered.is_ok(), "dial {dial}");
    }
    assert!(turned_away(&there) > 0, "none ran out of time");
}

#[tokio::test]
async fn a_connection_that_has_ended_is_let_go_of_although_its_handle_is_held() {
    let mut there = listening(|_| {}).await;
    let mut here = Peer::bind(options()).await.unwrap();
    let near = here.node.connect(there.address()).await.unwrap();
    let far = there.incoming().await;
    near.start();
    far.start();
    assert!(far.stats().is_ok());
    near.close(1u32.into(), "over".into());
    for peer in [&mut here, &mut there] {
        assert!(matches!(peer.next().await, Seen::Closed(_)));
        peer.next_event().await;
    }
    assert!(near.stats().is_err());
    assert!(far.stats().is_err());
}
