//! Promises settled through the endpoint's queue.
//!
//! napi's own deferred makes a threadsafe function, so an async handle, per promise. These ride on
//! the wake-up there already is, and stay in order with the events around them.

use std::ptr;

use futures_util::FutureExt;
use napi::{Env, bindgen_prelude::ToNapiValue, sys};

use crate::{
    error::{Failure, Result},
    js,
    queue::{Event, Queue},
};

/// Only ever touched on the JavaScript thread; other threads just carry it there.
struct Deferred(sys::napi_deferred);

unsafe impl Send for Deferred {}

type Outcome = Box<dyn FnOnce(sys::napi_env) -> Result<sys::napi_value> + Send>;

pub struct Settle {
    deferred: Deferred,
    outcome: Outcome,
}

impl Settle {
    /// On the JavaScript thread only.
    pub(crate) fn run(self, env: sys::napi_env) {
        let outcome = self.outcome;
        match js::catch(|| outcome(env)) {
            Ok(value) => unsafe { sys::napi_resolve_deferred(env, self.deferred.0, value) },
            Err(failure) => {
                let error = js::error_value(env, &failure);
                unsafe { sys::napi_reject_deferred(env, self.deferred.0, error) }
            }
        };
    }
}

/// The half of a promise that settles it.
pub struct Resolver(Deferred);

impl Resolver {
    pub fn with<T: ToNapiValue + Send + 'static>(self, result: Result<T>) -> Settle {
        Settle {
            deferred: self.0,
            outcome: Box::new(move |env| {
                let value = result?;
                unsafe { T::to_napi_value(env, value) }
                    .map_err(|error| js::engine(Env::from_raw(env), error))
            }),
        }
    }
}

/// A promise handed to JavaScript.
pub struct Promise(sys::napi_value);

impl ToNapiValue for Promise {
    unsafe fn to_napi_value(_: sys::napi_env, value: Self) -> napi::Result<sys::napi_value> {
        Ok(value.0)
    }
}

pub fn promise(env: Env) -> (Promise, Resolver) {
    let mut deferred = ptr::null_mut();
    let mut promise = ptr::null_mut();
    unsafe { sys::napi_create_promise(env.raw(), &mut deferred, &mut promise) };
    (Promise(promise), Resolver(Deferred(deferred)))
}

/// Runs an entry point that answers a promise: a failure rejects, it is never thrown.
pub fn entry(env: Env, body: impl FnOnce() -> Result<Promise>) -> Promise {
    js::catch(body).unwrap_or_else(|failure| {
        let (promise, resolver) = promise(env);
        resolver.with::<()>(Err(failure)).run(env.raw());
        promise
    })
}

/// Runs `work` and settles through `queue`; a panic in it rejects with `INTERNAL`.
pub async fn settle<T: ToNapiValue + Send + 'static>(
    queue: &Queue,
    resolver: Resolver,
    work: impl Future<Output = Result<T>>,
) {
    let result = std::panic::AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(Failure::internal()));
    queue.push(Event::Settle(resolver.with(result)));
}
