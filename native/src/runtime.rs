//! The one tokio runtime of the process.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle, Runtime};

/// One worker is as fast as several on loopback and costs less CPU: the connections' drivers would
/// only wait for each other's locks. Many connections at once on many cores may want more.
const WORKERS: usize = 1;

pub fn handle() -> &'static Handle {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            let workers = std::env::var("TUNNEL_NATIVE_WORKERS")
                .ok()
                .and_then(|value| value.parse().ok())
                .filter(|workers| (1..=64).contains(workers))
                .unwrap_or(WORKERS);
            Builder::new_multi_thread()
                .worker_threads(workers)
                .thread_name("tunnel-native")
                .enable_all()
                .build()
                .expect("the system lets a process have a thread")
        })
        .handle()
}
