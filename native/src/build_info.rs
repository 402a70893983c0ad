//! What this build is made of.

use napi_derive::napi;

#[napi(object, object_from_js = false)]
pub struct BuildInfo {
    pub version: &'static str,
    pub iroh: &'static str,
    pub target: &'static str,
    pub source_hash: &'static str,
}

#[napi]
pub fn build_info() -> BuildInfo {
    BuildInfo {
        version: env!("CARGO_PKG_VERSION"),
        iroh: env!("TUNNEL_NATIVE_IROH"),
        target: env!("TUNNEL_NATIVE_TARGET"),
        source_hash: env!("TUNNEL_NATIVE_SOURCE_HASH"),
    }
}
