//! iroh for Node: endpoints, connections and streams as JavaScript objects, and nothing above them.
//!
//! The contract is `index.d.ts`. Protocol, policy and reconnecting are TypeScript's.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub mod arguments;
pub mod arrivals;
mod batch;
pub mod build_info;
pub mod connection;
pub mod endpoint;
pub mod error;
pub mod gate;
mod js;
pub mod lookup;
pub mod network;
pub mod options;
pub mod outbox;
pub mod path;
pub mod promise;
pub mod queue;
pub mod quiet;
pub mod recv;
pub mod relay;
pub mod runtime;
pub mod send;
pub mod stream;

/// A panic while the lock was held was caught and reported; what it guards is still consistent
/// enough to be closed, and a second panic would help nobody.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
