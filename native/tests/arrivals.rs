//! The thread that packets are for waits for them itself. A process of its own: it is so for all its sockets.
#![cfg(target_os = "linux")]

/// Only a part of it is used here.
#[allow(dead_code)]
mod common;

use std::{thread::sleep, time::Duration};

use common::{Peer, Seen, consumed, hold_the_engine, options, start, write};
use netwatch::waiting;
use tunnel_native::{arrivals, quiet, runtime};

const PLENTY: usize = 1024 * 1024;

/// As the JavaScript thread does it.
fn turn_until_something(peer: &mut Peer) -> Seen {
    loop {
        if let Some(seen) = peer.now() {
            return seen;
        }
        assert!(waiting::is_readable(20_000), "a packet comes");
        quiet::here(waiting::arrived);
    }
}

fn data(seen: Seen) -> Vec<u8> {
    match seen {
        Seen::Data(_, data) => data,
        _ => panic!("data, nothing else"),
    }
}

#[test]
fn packets_are_handled_by_the_thread_that_waits_for_them_and_by_the_engine_where_it_does_not() {
    let engine = runtime::handle();
    let (mut near, mut far) = engine.block_on(async {
        let near = Peer::bind(options()).await.expect("binds");
        (near, Peer::bind(options()).await.expect("binds"))
    });
    let link = engine
        .block_on(near.node.connect(far.address()))
        .expect("connects");
    link.start();
    let here = link.try_open_bi().expect("alive").expect("below the limit");
    start(&here, PLENTY);
    write(&here, "first").expect("open");
    let other = engine.block_on(far.incoming());
    other.start();
    let there = engine.block_on(far.opened());
    start(&there, PLENTY);
    assert_eq!(data(engine.block_on(far.next())), b"first");
    // Until everything about the connection has been said.
    sleep(Duration::from_millis(500));
    waiting::lend();
    sleep(Duration::from_millis(100));

    let held = hold_the_engine();
    write(&here, "there").expect("open");
    assert_eq!(data(turn_until_something(&mut far)), b"there");
    consumed(&there, 10);
    write(&there, "and back").expect("open");
    assert_eq!(data(turn_until_something(&mut near)), b"and back");
    link.send_datagrams(vec!["a".into()]).expect("fits");
    assert!(matches!(turn_until_something(&mut far), Seen::Datagrams(some) if some == ["a"]));
    let second = link.try_open_bi().expect("alive").expect("below the limit");
    start(&second, PLENTY);
    write(&second, "a stream").expect("open");
    let Seen::Opened(opened) = turn_until_something(&mut far) else {
        panic!("a stream is opened");
    };
    start(&opened, PLENTY);
    assert_eq!(data(turn_until_something(&mut far)), b"a stream");
    drop(held);

    // A thread that looks at nothing any more.
    let mut last = None;
    assert!(!arrivals::is_stuck(&mut last), "there is nothing");
    write(&there, "unseen").expect("open");
    assert!(waiting::is_readable(20_000));
    assert!(!arrivals::is_stuck(&mut last), "it may be about to look");
    assert!(arrivals::is_stuck(&mut last));
    waiting::take_back();
    assert_eq!(data(engine.block_on(near.next())), b"unseen");
    assert!(!arrivals::is_stuck(&mut last), "the engine has read it");

    // Where nobody reads, nobody is told for ever.
    waiting::lend();
    engine.block_on(near.node.close());
    near.node.release();
    sleep(Duration::from_millis(100));
    for _ in 0..1000 {
        quiet::here(waiting::arrived);
    }
    assert!(!waiting::is_readable(0));
    assert!(matches!(engine.block_on(far.next()), Seen::Closed(_)));
}
