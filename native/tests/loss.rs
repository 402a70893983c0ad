//! What the receiver of a fast transfer sends must leave: acknowledgements and credit. See `patch.js`.

/// Only a part of it is used here.
#[allow(dead_code)]
mod common;

use std::thread;

use common::{Peer, Seen, consumed, finish, options, start, write};
use tokio::{runtime::Builder, sync::oneshot};

const TOTAL: usize = 64 * 1024 * 1024;
const BUDGET: usize = 1024 * 1024;

/// Each side has a thread and a runtime of its own, so that packets pile up as they do between two
/// processes. With one of both, no turn begins with enough of them.
#[test]
fn a_fast_transfer_loses_nothing_of_what_its_receiver_sends() {
    let (tell, told) = oneshot::channel();
    let receiver = thread::spawn(|| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut peer = Peer::bind(options()).await.expect("binds");
            let _ = tell.send(peer.address());
            let link = peer.incoming().await;
            link.start();
            let pair = peer.opened().await;
            start(&pair, BUDGET);
            let mut received = 0;
            loop {
                match peer.next().await {
                    Seen::Data(_, data) => {
                        received += data.len();
                        consumed(&pair, data.len());
                    }
                    Seen::End => break,
                    _ => panic!("data and its end, nothing else"),
                }
            }
            let stats = link.stats().expect("not released");
            finish(&pair);
            while !matches!(peer.next().await, Seen::Closed(_)) {}
            (received, stats.packets_sent, stats.packets_lost)
        })
    });
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut peer = Peer::bind(options()).await.expect("binds");
        let address = told.await.expect("the receiver is bound");
        let link = peer.node.connect(address).await.expect("connects");
        link.start();
        let pair = link.try_open_bi().expect("alive").expect("below the limit");
        start(&pair, BUDGET);
        for _ in 0..TOTAL / BUDGET {
            if write(&pair, vec![7; BUDGET]).expect("open") > 0 {
                while !matches!(peer.next().await, Seen::Drained) {}
            }
        }
        finish(&pair);
        while !matches!(peer.next().await, Seen::End) {}
        link.close(0u32.into(), String::new());
        peer.node.close().await;
    });
    let (received, sent, lost) = receiver.join().expect("the receiver ends well");
    assert_eq!(received, TOTAL);
    assert!(lost < sent / 100.0, "{lost} of {sent} packets were lost");
}
