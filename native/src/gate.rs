//! What becomes of a dial before it costs a handshake. Who dials is not known yet, only from where.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use iroh::{EndpointId, endpoint::IncomingAddr};

use crate::endpoint::canonical;

/// Sources whose share is remembered; those that have it whole again are forgotten first.
const MAX_SOURCES: usize = 8192;
/// How long, and of how many, is remembered where they had a connection: a peer dials again after a loss.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);
const MAX_KNOWN: usize = 8192;

#[derive(Debug, Clone, Copy)]
pub struct Rate {
    pub per_second: f64,
    pub burst: f64,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub all: Rate,
    pub per_address: Rate,
    /// For who has a connection here already, or had one lately, beyond the others.
    pub known: Rate,
    /// How old a connection is before its peer counts as known.
    pub known_after: Duration,
    pub under_way: usize,
    pub timeout: Duration,
}

/// Where a dial comes from, exactly: what a peer that has a connection here dials from again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    Socket(SocketAddr),
    Relayed(EndpointId),
}

impl Origin {
    pub fn new(address: &IncomingAddr) -> Option<Self> {
        match address {
            IncomingAddr::Ip(address) => Some(Self::Socket(canonical(*address))),
            IncomingAddr::Relay { endpoint_id, .. } => Some(Self::Relayed(*endpoint_id)),
            _ => None,
        }
    }

    /// The relay has let this key in, so that nobody else dials in its name.
    pub fn is_relayed(&self) -> bool {
        matches!(self, Self::Relayed(_))
    }

    fn source(&self) -> Source {
        match self {
            Self::Relayed(id) => Source::Relayed(*id),
            Self::Socket(address) => match address.ip() {
                IpAddr::V4(ip) => Source::V4(ip),
                IpAddr::V6(ip) => {
                    let [a, b, c, d, ..] = ip.segments();
                    Source::V6([a, b, c, d])
                }
            },
        }
    }
}

/// Who shares a share: an IPv4 address, the /64 of an IPv6 one, since whoever has one of it has all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    V4(Ipv4Addr),
    V6([u16; 4]),
    Relayed(EndpointId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    /// Let it show that it can be reached at the address it dials from: QUIC's Retry.
    Validate,
    Refuse,
    /// Say nothing: its next try, which comes by itself, may be luckier.
    Ignore,
}

pub struct Gate {
    limits: Limits,
    all: Bucket,
    reserve: Bucket,
    /// When each of those that are known had a connection last.
    known: HashMap<Origin, Instant>,
    /// An address that is not proven may be forged, so that what is done in its name is counted apart.
    shares: HashMap<(Source, bool), Bucket>,
}

impl Gate {
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            all: Bucket::full(limits.all, now),
            reserve: Bucket::full(limits.known, now),
            known: HashMap::new(),
            shares: HashMap::new(),
        }
    }

    /// Tells who has a connection now.
    pub fn know(&mut self, origins: Vec<Origin>, now: Instant) {
        self.known
            .extend(origins.into_iter().map(|origin| (origin, now)));
        self.known
            .retain(|_, last| now.saturating_duration_since(*last) < REMEMBERED_FOR);
        if self.known.len() > MAX_KNOWN {
            self.known.retain(|_, last| *last == now);
        }
    }

    pub fn judge(&mut self, origin: Origin, validated: bool, now: Instant) -> Verdict {
        let verdict = self.judge_stranger(origin.source(), validated, now);
        if verdict == Verdict::Accept || !self.known.contains_key(&origin) {
            verdict
        } else if !validated {
            // The addresses of peers can be guessed and forged: their reserve is not for that.
            Verdict::Validate
        } else if self.reserve.take(self.limits.known, now) {
            Verdict::Accept
        } else {
            Verdict::Ignore
        }
    }

    fn judge_stranger(&mut self, source: Source, validated: bool, now: Instant) -> Verdict {
        if validated {
            if !self.take_share((source, true), now) {
                Verdict::Refuse
            } else if self.all.take(self.limits.all, now) {
                Verdict::Accept
            } else {
                Verdict::Ignore
            }
        } else if self.is_used_up(source, now) {
            Verdict::Refuse
        } else if self.all.level(self.limits.all, now) >= self.limits.all.burst / 2.0
            && self.take_share((source, false), now)
            && self.all.take(self.limits.all, now)
        {
            Verdict::Accept
        } else {
            Verdict::Validate
        }
    }

    /// Whether that address has had its share, provably so.
    fn is_used_up(&mut self, source: Source, now: Instant) -> bool {
        let rate = self.limits.per_address;
        self.shares
            .get_mut(&(source, true))
            .is_some_and(|share| share.level(rate, now) < 1.0)
    }

    fn take_share(&mut self, key: (Source, bool), now: Instant) -> bool {
        let rate = self.limits.per_address;
        if self.shares.len() >= MAX_SOURCES && !self.shares.contains_key(&key) {
            self.shares
                .retain(|_, share| share.level(rate, now) < rate.burst);
            if self.shares.len() >= MAX_SOURCES
                && let Some(key) = self.shares.keys().next().copied()
            {
                self.shares.remove(&key);
            }
        }
        self.shares
            .entry(key)
            .or_insert_with(|| Bucket::full(rate, now))
            .take(rate, now)
    }
}

struct Bucket {
    level: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Self {
            level: rate.burst,
            at: now,
        }
    }

    fn level(&mut self, rate: Rate, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + passed * rate.per_second).min(rate.burst);
        self.at = now;
        self.level
    }

    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let there = self.level(rate, now) >= 1.0;
        if there {
            self.level -= 1.0;
        }
        there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        all: Rate {
            per_second: 100.0,
            burst: 200.0,
        },
        per_address: Rate {
            per_second: 10.0,
            burst: 20.0,
        },
        known: Rate {
            per_second: 5.0,
            burst: 10.0,
        },
        known_after: Duration::from_secs(20),
        under_way: 100,
        timeout: Duration::from_secs(10),
    };

    fn from(address: &str) -> Origin {
        Origin::Socket(address.parse().unwrap())
    }

    /// How many of `dials` from there were let in.
    fn accepted(gate: &mut Gate, origin: Origin, validated: bool, dials: u32, at: Instant) -> u32 {
        let judged = (0..dials).filter(|_| gate.judge(origin, validated, at) == Verdict::Accept);
        judged.count() as u32
    }

    #[test]
    fn one_address_has_its_share_and_others_theirs() {
        let start = Instant::now();
        let mut gate = Gate::new(LIMITS, start);
        let flood = from("192.0.2.1:4000");
        assert_eq!(accepted(&mut gate, flood, true, 1000, start), 20);
        assert_eq!(
            gate.judge(from("192.0.2.1:5000"), true, start),
            Verdict::Refuse
        );
        assert_eq!(
            accepted(&mut gate, from("192.0.2.2:4000"), true, 5, start),
            5
        );
        let later = start + Duration::from_secs(1);
        assert_eq!(accepted(&mut gate, flood, true, 1000, later), 10);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let start = Instant::now();
        let mut gate = Gate::new(LIMITS, start);
        let judged = (0..1000u16).filter(|host| {
            let origin = from(&format!("[2001:db8:0:1::{host:x}]:4000"));
            gate.judge(origin, true, start) == Verdict::Accept
        });
        assert_eq!(judged.count(), 20);
        assert_eq!(
            accepted(&mut gate, from("[2001:db8:0:2::1]:1"), true, 5, start),
            5
        );
    }

    #[test]
    fn forged_addresses_are_asked_to_prove_themselves_and_take_nothing_from_their_owners() {
        let start = Instant::now();
        let mut gate = Gate::new(LIMITS, start);
        let owner = from("192.0.2.1:4000");
        assert_eq!(accepted(&mut gate, owner, false, 1000, start), 20);
        assert_eq!(gate.judge(owner, false, start), Verdict::Validate);
        assert_eq!(gate.judge(owner, true, start), Verdict::Accept);
        // From many: half of what there is for all stays for those that prove theirs.
        for host in 0..250 {
            gate.judge(from(&format!("198.51.100.{host}:1")), false, start);
        }
        assert_eq!(
            gate.judge(from("203.0.113.1:1"), false, start),
            Verdict::Validate
        );
        assert_eq!(
            gate.judge(from("203.0.113.1:1"), true, start),
            Verdict::Accept
        );
    }

    #[test]
    fn a_flood_from_everywhere_is_bounded_and_who_is_known_gets_in_beside_it() {
        let start = Instant::now();
        let mut gate = Gate::new(LIMITS, start);
        let mut let_in = 0;
        for host in 0..50_000u32 {
            let address = SocketAddr::new(Ipv4Addr::from(0x0a00_0000 + host).into(), 1);
            let_in += accepted(&mut gate, Origin::Socket(address), true, 1, start);
        }
        assert_eq!(let_in, 200);
        assert!(gate.shares.len() <= MAX_SOURCES);
        let peer = from("192.0.2.1:4000");
        assert_eq!(gate.judge(peer, true, start), Verdict::Ignore);
        gate.know(vec![peer], start);
        assert_eq!(gate.judge(peer, false, start), Verdict::Validate);
        assert_eq!(gate.judge(peer, true, start), Verdict::Accept);
        // From the same address, but not the socket that has the connection.
        assert_ne!(
            gate.judge(from("192.0.2.1:4001"), true, start),
            Verdict::Accept
        );
        let more = (0..100).filter(|_| gate.judge(peer, true, start) == Verdict::Accept);
        assert_eq!(more.count(), 9);
        gate.know(vec![], start + REMEMBERED_FOR);
        assert!(gate.known.is_empty());
    }
}
