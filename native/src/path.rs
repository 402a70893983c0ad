//! Paths: the ways a connection's packets can take, which of them they take, and what becomes of them.

use iroh::{
    TransportAddr,
    endpoint::{LocalTransportAddr, Path, PathEvent, PathList, PathStats},
};
use napi_derive::napi;

use crate::endpoint::canonical;

/// One path, as it is at this moment.
#[napi(object, object_from_js = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct PathInfo {
    pub kind: &'static str,
    pub remote: String,
    pub local: Option<String>,
    pub selected: bool,
    pub rtt_ms: f64,
    pub congestion_window: f64,
    pub mtu: f64,
    pub packets_sent: f64,
    pub packets_lost: f64,
    pub bytes_sent: f64,
    pub bytes_received: f64,
}

impl PathInfo {
    fn new(path: &Path<'_>) -> Option<Self> {
        let (kind, remote) = remote(path.remote_addr())?;
        let stats = path.stats();
        Some(Self {
            kind,
            remote,
            local: local(path.local_addr()),
            selected: path.is_selected(),
            rtt_ms: stats.rtt.as_secs_f64() * 1000.0,
            congestion_window: stats.cwnd as f64,
            mtu: f64::from(stats.current_mtu),
            packets_sent: stats.sent_packets as f64,
            packets_lost: lost(&stats),
            bytes_sent: stats.udp_tx.bytes as f64,
            bytes_received: stats.udp_rx.bytes as f64,
        })
    }

    pub fn all(paths: &PathList<'_>) -> Vec<Self> {
        paths.iter().filter_map(|path| Self::new(&path)).collect()
    }

    pub fn selected(paths: &PathList<'_>) -> Option<Self> {
        Self::new(&paths.iter().find(Path::is_selected)?)
    }

    fn same_path(&self, other: &Self) -> bool {
        self.kind == other.kind && self.remote == other.remote
    }
}

/// The path that is selected now, and why it is no longer the one before.
#[napi(object, object_from_js = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct PathChange {
    pub path: PathInfo,
    /// `first`, `closed` (the one before is gone) or `preferred` (it is still there).
    pub reason: &'static str,
}

impl PathChange {
    /// What the list says of a change since `last`, if there was one.
    pub fn between(last: Option<&PathInfo>, paths: &PathList<'_>) -> Option<Self> {
        let path = PathInfo::selected(paths)?;
        let reason = match last {
            None => "first",
            Some(last) if last.same_path(&path) => return None,
            Some(last) => {
                let open = paths
                    .iter()
                    .filter_map(|path| remote(path.remote_addr()))
                    .any(|(kind, remote)| kind == last.kind && remote == last.remote);
                if open { "preferred" } else { "closed" }
            }
        };
        Some(Self { path, reason })
    }
}

/// A path that was opened or closed, whether or not it was the selected one.
#[napi(object, object_from_js = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct PathNotice {
    pub opened: bool,
    pub kind: &'static str,
    pub remote: String,
    pub local: Option<String>,
}

impl PathNotice {
    pub fn new(event: PathEvent) -> Option<Self> {
        let (opened, remote_addr, local_addr) = match event {
            PathEvent::Opened {
                remote_addr,
                local_addr,
                ..
            } => (true, remote_addr, local_addr),
            PathEvent::Closed {
                remote_addr,
                local_addr,
                ..
            } => (false, remote_addr, local_addr),
            // What is selected comes with its reason from the list of paths.
            _ => return None,
        };
        let (kind, remote) = remote(&remote_addr)?;
        Some(Self {
            opened,
            kind,
            remote,
            local: local(&local_addr),
        })
    }
}

/// Without the probes for a larger MTU: that one of them is lost is how the limit is found.
pub fn lost(stats: &PathStats) -> f64 {
    stats.lost_packets.saturating_sub(stats.lost_plpmtud_probes) as f64
}

fn remote(address: &TransportAddr) -> Option<(&'static str, String)> {
    match address {
        TransportAddr::Relay(url) => Some(("relay", url.to_string())),
        TransportAddr::Ip(address) => Some(("direct", canonical(*address).to_string())),
        _ => None,
    }
}

fn local(address: &LocalTransportAddr) -> Option<String> {
    match address {
        LocalTransportAddr::Ip(ip) => ip.map(|ip| ip.to_canonical().to_string()),
        LocalTransportAddr::Relay(url) => Some(url.to_string()),
        _ => None,
    }
}
