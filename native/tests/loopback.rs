//! Two nodes on loopback, through the same functions that the addon's classes call.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Duo, Peer, Seen, consumed, finish, options, start, write};
use tunnel_native::{
    connection::CloseInfo,
    error::{Code, Failure},
    options::{Congestion, MAX_STREAM_RECEIVE_WINDOW},
    stream::Pair,
};

const LARGE: usize = 8 * 1024 * 1024;
const PLENTY: usize = 1 << 30;

fn code<T>(result: Result<T, Failure>) -> Code {
    result.err().expect("fails").code
}

#[tokio::test]
async fn bytes_arrive_in_order_and_end_once_in_both_directions() {
    let mut duo = Duo::new().await;
    let near = duo.open();
    let sent: Vec<u8> = (0..LARGE).map(|index| (index * 31 % 251) as u8).collect();
    write(&near, sent.clone()).unwrap();
    finish(&near);
    start(&near, PLENTY);
    let (mut far, mut there, mut back) = (None, Vec::new(), Vec::new());
    // Each peer is its own event loop; here they take turns.
    loop {
        tokio::select! {
            seen = duo.there.next() => match seen {
                Seen::Opened(pair) => {
                    start(&pair, PLENTY);
                    far = Some(pair);
                }
                Seen::Data(_, data) => {
                    there.extend_from_slice(&data);
                    write(far.as_ref().unwrap(), data).unwrap();
                }
                Seen::End => finish(far.as_ref().unwrap()),
                Seen::Drained => {}
                _ => panic!("nothing else happens there"),
            },
            seen = duo.here.next() => match seen {
                Seen::Data(id, data) => {
                    assert_eq!(id, near.id);
                    back.extend_from_slice(&data);
                }
                Seen::End => break,
                Seen::Drained => {}
                _ => panic!("nothing else happens here"),
            },
        }
    }
    assert!(there == sent, "what arrived there is what was sent");
    assert!(back == sent, "what came back is what was sent");
}

#[tokio::test]
async fn a_dropped_stream_is_a_reset_and_never_an_end() {
    let mut duo = Duo::new().await;
    let near = duo.open();
    write(&near, "all there is?").unwrap();
    let far = duo.there.opened().await;
    start(&far, PLENTY);
    assert!(matches!(duo.there.next().await, Seen::Data(..)));
    drop(near);
    assert!(matches!(duo.there.next().await, Seen::Reset(id, 0) if id == far.id));
}

#[tokio::test]
async fn a_stream_dropped_with_a_write_pending_is_a_reset_too() {
    let mut duo = Duo::new().await;
    let near = duo.open();
    assert!(write(&near, vec![1; LARGE]).unwrap() > 0);
    finish(&near);
    let far = duo.there.opened().await;
    drop(near);
    start(&far, PLENTY);
    loop {
        match duo.there.next().await {
            Seen::Data(..) => {}
            Seen::Reset(_, code) => break assert_eq!(code, 0),
            _ => panic!("neither an end nor anything else"),
        }
    }
}

#[tokio::test]
async fn a_reset_works_while_a_write_is_pending() {
    let mut duo = Duo::new().await;
    let near = duo.open();
    assert!(write(&near, vec![1; LARGE]).unwrap() > 0);
    let far = duo.there.opened().await;
    near.send.as_ref().unwrap().reset(7u32.into());
    assert_eq!(code(write(&near, "more")), Code::StreamClosed);
    start(&far, PLENTY);
    loop {
        match duo.there.next().await {
            Seen::Data(..) => {}
            Seen::Reset(_, code) => break assert_eq!(code, 7),
            _ => panic!("neither an end nor anything else"),
        }
    }
}

#[tokio::test]
async fn a_stop_works_while_a_read_is_pending_and_fails_the_writes_of_the_peer() {
    let mut duo = Duo::new().await;
    let near = duo.open();
    write(&near, "hello").unwrap();
    let far = duo.there.opened().await;
    start(&far, PLENTY);
    assert!(matches!(duo.there.next().await, Seen::Data(..)));
    far.recv.as_ref().unwrap().stop(9u32.into());
    let failure = loop {
        match write(&near, "anybody?") {
            Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(failure) => break failure,
        }
    };
    assert_eq!((failure.code, failure.quic), (Code::StreamStopped, Some(9)));
    near.send
        .as_ref()
        .unwrap()
        .finish(Bytes::new(), false)
        .expect("no error: the peer wants nothing more");
}

#[tokio::test]
async fn a_stop_is_found_by_the_write_that_is_pending() {
    let mut duo = Duo::new().await;
    let near = duo.open();
    assert!(write(&near, vec![1; LARGE]).unwrap() > 0);
    let far = duo.there.opened().await;
    far.recv.as_ref().unwrap().stop(9u32.into());
    assert!(matches!(duo.here.next().await, Seen::Stopped(id, 9) if id == near.id));
}

#[tokio::test]
async fn no_more_than_the_budget_is_delivered_and_not_given_back() {
    let mut duo = Duo::new().await;
    let near = duo.open();
    let sent: Vec<u8> = (0..100_000).map(|index| (index % 256) as u8).collect();
    write(&near, sent.clone()).unwrap();
    finish(&near);
    let far = duo.there.opened().await;
    start(&far, 1000);
    let mut got = Vec::new();
    let mut held = 0;
    loop {
        match duo.there.next().await {
            Seen::Data(_, data) => {
                held += data.len();
                got.extend_from_slice(&data);
                assert!(held <= 1000, "{held} bytes delivered");
                if held == 1000 {
                    consumed(&far, 999);
                    held = 1;
                }
            }
            Seen::End => break,
            _ => panic!("nothing else happens"),
        }
    }
    assert!(got == sent);
}

/// Each write a packet of its own, more of them than noq keeps chunks.
async fn many_small_writes(pair: &Pair) -> usize {
    for _ in 0..4000 {
        assert_eq!(
            write(pair, vec![3; 200]).expect("the connection is alive"),
            0
        );
        tokio::time::sleep(Duration::from_micros(1)).await;
    }
    finish(pair);
    4000 * 200
}

async fn all_of_it(duo: &mut Duo, far: &Pair, sent: usize) {
    let mut got = 0;
    loop {
        match duo.there.next().await {
            Seen::Data(_, data) => {
                got += data.len();
                consumed(far, data.len());
            }
            Seen::End => break assert_eq!(got, sent),
            _ => panic!("nothing else happens"),
        }
    }
}

#[tokio::test]
async fn a_reader_out_of_budget_survives_many_small_packets() {
    let mut duo = Duo::new().await;
    let near = duo.open();
    write(&near, "x").unwrap();
    let far = duo.there.opened().await;
    start(&far, 1);
    assert!(matches!(duo.there.next().await, Seen::Data(..)));
    let sent = tokio::select! {
        sent = many_small_writes(&near) => sent,
        _ = duo.there.next() => panic!("nothing is delivered beyond the budget"),
    };
    consumed(&far, 1000);
    all_of_it(&mut duo, &far, sent).await;
}

#[tokio::test]
async fn a_busy_javascript_thread_survives_many_small_packets() {
    let mut duo = Duo::new().await;
    let near = duo.open();
    write(&near, "x").unwrap();
    let far = duo.there.opened().await;
    start(&far, PLENTY);
    assert!(matches!(duo.there.next().await, Seen::Data(..)));
    let sent = many_small_writes(&near).await;
    all_of_it(&mut duo, &far, sent).await;
}

#[tokio::test]
async fn what_had_arrived_is_delivered_before_the_close() {
    let mut duo = Duo::new().await;
    let near = duo.open();
    write(&near, vec![5; 1000]).unwrap();
    let far = duo.there.opened().await;
    start(&far, 10);
    assert!(matches!(duo.there.next().await, Seen::Data(_, data) if data.len() == 10));
    duo.link.close(5u32.into(), "bye".into());
    assert!(matches!(duo.there.next().await, Seen::Data(_, data) if data == [5; 990]));
    let Seen::Closed(info) = duo.there.next().await else {
        panic!("the close is last");
    };
    let reason = "bye".to_owned();
    assert_eq!(
        info,
        CloseInfo {
            kind: "application",
            code: 5,
            reason
        }
    );
    start(&far, PLENTY);
    // The close has been seen: everything is let go of.
    duo.there.next_event().await;
    assert_eq!(code(write(&far, "late")), Code::ConnectionLost);
    let Seen::Closed(info) = duo.here.next().await else {
        panic!("the close is last here too");
    };
    assert_eq!((info.kind, info.code), ("local", 5));
}

#[tokio::test]
async fn streams_beyond_the_peers_limit_wait() {
    let mut there = options();
    there.max_streams = 2;
    let duo = Duo::with(options(), there).await;
    let (_one, _two) = (duo.open(), duo.open());
    assert!(duo.link.try_open_bi().unwrap().is_none());
}

#[tokio::test]
async fn streams_in_one_direction_have_one_side() {
    let mut duo = Duo::new().await;
    let near = duo.link.open_uni().await.unwrap();
    assert!(near.recv.is_none());
    write(&near, "one way").unwrap();
    finish(&near);
    let far = duo.there.opened().await;
    assert!(far.send.is_none());
    start(&far, PLENTY);
    assert!(matches!(duo.there.next().await, Seen::Data(_, data) if data == b"one way"));
    assert!(matches!(duo.there.next().await, Seen::End));
}

#[tokio::test]
async fn datagrams_are_taken_until_the_buffer_is_full() {
    let mut duo = Duo::new().await;
    assert_eq!(
        duo.link
            .send_datagrams(vec!["a".into(), "b".into()])
            .unwrap(),
        2
    );
    let mut got = Vec::new();
    while got.len() < 2 {
        match duo.there.next().await {
            Seen::Datagrams(datagrams) => got.extend(datagrams),
            _ => panic!("nothing else happens"),
        }
    }
    assert_eq!(got, ["a", "b"]);
    let flood = vec![vec![0; 1000].into(); 1000];
    assert!(duo.link.send_datagrams(flood).unwrap() < 1000);
    let huge = vec![vec![0; 10_000].into()];
    assert_eq!(code(duo.link.send_datagrams(huge)), Code::TooLarge);
}

#[tokio::test]
async fn a_bound_address_is_reported_as_in_use() {
    let first = Peer::bind(options()).await.unwrap();
    let mut second = options();
    second.bind = vec![first.node.bound_sockets()[0].to_string()];
    assert_eq!(code(Peer::bind(second).await), Code::AddressInUse);
}

#[tokio::test]
async fn another_protocol_is_a_mismatch() {
    let here = Peer::bind(options()).await.unwrap();
    let mut other = options();
    other.alpn = "other/1".into();
    let there = Peer::bind(other).await.unwrap();
    let result = here.node.connect(there.address()).await;
    assert_eq!(code(result), Code::ProtocolMismatch);
}

#[tokio::test]
async fn nobody_there_is_a_timeout() {
    let mut quick = options();
    quick.idle_timeout_ms = 200;
    let here = Peer::bind(quick).await.unwrap();
    let there = Peer::bind(options()).await.unwrap();
    let address = there.address();
    there.node.close().await;
    drop(there);
    assert_eq!(code(here.node.connect(address).await), Code::ConnectTimeout);
}

#[tokio::test]
async fn options_out_of_range_are_refused() {
    let mut large = options();
    large.stream_receive_window = MAX_STREAM_RECEIVE_WINDOW + 1;
    assert_eq!(code(Peer::bind(large).await), Code::InvalidArgument);
    let mut nameless = options();
    nameless.bind = vec!["localhost".into()];
    assert_eq!(code(Peer::bind(nameless).await), Code::InvalidArgument);
    let mut bbr = options();
    bbr.congestion = Congestion::Bbr;
    assert!(Peer::bind(bbr).await.is_ok());
}

#[tokio::test]
async fn a_closed_endpoint_closes_its_connections_and_connects_no_more() {
    let mut duo = Duo::new().await;
    let pair = duo.open();
    write(&pair, "hello").unwrap();
    let _far = duo.there.opened().await;
    duo.here.node.close().await;
    assert!(matches!(duo.there.next().await, Seen::Closed(info) if info.kind == "application"));
    assert_eq!(
        code(duo.here.node.connect(duo.there.address()).await),
        Code::Closed
    );
    // As the addon does once everything has been read out.
    duo.here.node.release();
    assert_eq!(code(write(&pair, "hello")), Code::ConnectionLost);
}

#[tokio::test]
async fn what_is_little_is_sent_by_the_thread_that_has_it_and_what_is_much_by_the_engine() {
    let mut duo = Duo::new().await;
    let near = duo.open();
    write(&near, vec![1]).unwrap();
    let far = duo.there.opened().await;
    start(&far, PLENTY);
    assert!(matches!(duo.there.next().await, Seen::Data(_, _)));
    // Until everything about the connection has been said.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let sent = |link: &tunnel_native::connection::Link| link.stats().unwrap().packets_sent;

    let held = common::hold_the_engine();
    let before = sent(&duo.link);
    write(&near, vec![2; 10]).unwrap();
    assert!(sent(&duo.link) > before, "a little of a stream is sent");
    let before = sent(&duo.link);
    duo.link.send_datagrams(vec!["a".into()]).unwrap();
    assert!(sent(&duo.link) > before, "a datagram is sent");
    let before = sent(&duo.link);
    write(&near, vec![3; 100_000]).unwrap();
    duo.link
        .send_datagrams(vec![vec![0; 1000].into(); 5])
        .unwrap();
    assert_eq!(sent(&duo.link), before, "much of either is not");
    drop(held);

    let (mut bytes, mut datagrams) = (0, 0);
    while bytes < 100_010 || datagrams < 6 {
        match duo.there.next().await {
            Seen::Data(_, data) => {
                bytes += data.len();
                consumed(&far, data.len());
            }
            Seen::Datagrams(some) => datagrams += some.len(),
            _ => panic!("nothing else happens"),
        }
    }
}
