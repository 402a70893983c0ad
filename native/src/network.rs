//! What iroh knows of the network an endpoint is in.

use iroh::{
    Watcher,
    endpoint::RelayStatus,
    unstable_net_report::{NetReport, Probe},
};
use napi_derive::napi;

/// Whether a home relay is connected, and if not, what the last try came to.
#[napi(object, object_from_js = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct RelayInfo {
    pub url: String,
    pub connected: bool,
    pub error: Option<String>,
    /// The relay's own words where it does not let this node in.
    pub denied: Option<String>,
}

impl From<&RelayStatus> for RelayInfo {
    fn from(status: &RelayStatus) -> Self {
        Self {
            url: status.url().to_string(),
            connected: status.is_connected(),
            error: status.last_error().map(|error| format!("{error:#}")),
            denied: status.auth_denied_reason().map(Into::into),
        }
    }
}

#[napi(object, object_from_js = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct RelayLatency {
    pub url: String,
    /// `https`, `udp4` or `udp6`.
    pub probe: &'static str,
    pub latency_ms: f64,
}

#[napi(object, object_from_js = false)]
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkReport {
    pub udp_v4: bool,
    pub udp_v6: bool,
    pub public_v4: Option<String>,
    pub public_v6: Option<String>,
    pub varies_by_destination_v4: Option<bool>,
    pub varies_by_destination_v6: Option<bool>,
    pub captive_portal: Option<bool>,
    pub preferred_relay: Option<String>,
    pub relays: Vec<RelayLatency>,
}

impl From<&NetReport> for NetworkReport {
    fn from(report: &NetReport) -> Self {
        let latencies = report.relay_latency.iter();
        let relays = latencies.filter_map(|(probe, url, latency)| {
            let probe = match probe {
                Probe::Https => "https",
                Probe::QadIpv4 => "udp4",
                Probe::QadIpv6 => "udp6",
                _ => return None,
            };
            Some(RelayLatency {
                url: url.to_string(),
                probe,
                latency_ms: latency.as_secs_f64() * 1000.0,
            })
        });
        let relays = relays.collect();
        Self {
            udp_v4: report.udp_v4,
            udp_v6: report.udp_v6,
            public_v4: report.global_v4.map(|address| address.to_string()),
            public_v6: report.global_v6.map(|address| address.to_string()),
            varies_by_destination_v4: report.mapping_varies_by_dest_ipv4,
            varies_by_destination_v6: report.mapping_varies_by_dest_ipv6,
            captive_portal: report.captive_portal,
            preferred_relay: report.preferred_relay.as_ref().map(ToString::to_string),
            relays,
        }
    }
}

/// The last report, or the first one as soon as there is one. None where the endpoint is closed first.
pub async fn report(endpoint: &iroh::Endpoint) -> Option<NetworkReport> {
    let closed = endpoint.closed();
    let mut reports = endpoint.net_report();
    let first = closed.run_until(reports.initialized()).await;
    first.map(|report| NetworkReport::from(&report))
}
