//! Values and errors across the boundary.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
};

use napi::{
    Env, JsValue, Status,
    bindgen_prelude::{FromNapiValue, Object},
    sys,
};

use crate::error::{Code, Failure, Result};

/// Runs an entry point: a failure is thrown as a coded error, and so is a panic, which must not
/// reach Node's frames.
pub fn guard<T>(env: Env, body: impl FnOnce() -> Result<T>) -> napi::Result<T> {
    catch(body).map_err(|failure| {
        let error = error_value(env.raw(), &failure);
        // Throwing it ourselves keeps `quicCode`, which napi's own error type has no room for.
        unsafe { sys::napi_throw(env.raw(), error) };
        napi::Error::new(Status::PendingException, failure.message.into_owned())
    })
}

pub fn catch<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(Failure::internal()))
}

pub fn error_value(env: sys::napi_env, failure: &Failure) -> sys::napi_value {
    let code = string(env, failure.code.as_str());
    let message = string(env, &failure.message);
    let mut error = ptr::null_mut();
    unsafe { sys::napi_create_error(env, code, message, &mut error) };
    if let Some(quic) = failure.quic {
        set(env, error, c"quicCode", number(env, quic as f64));
    }
    error
}

pub fn string(env: sys::napi_env, text: &str) -> sys::napi_value {
    let mut value = ptr::null_mut();
    unsafe {
        sys::napi_create_string_utf8(env, text.as_ptr().cast(), text.len() as isize, &mut value)
    };
    value
}

pub fn number(env: sys::napi_env, number: f64) -> sys::napi_value {
    let mut value = ptr::null_mut();
    unsafe { sys::napi_create_double(env, number, &mut value) };
    value
}

pub fn object(env: sys::napi_env) -> sys::napi_value {
    let mut value = ptr::null_mut();
    unsafe { sys::napi_create_object(env, &mut value) };
    value
}

pub fn set(
    env: sys::napi_env,
    object: sys::napi_value,
    name: &std::ffi::CStr,
    value: sys::napi_value,
) {
    unsafe { sys::napi_set_named_property(env, object, name.as_ptr(), value) };
}

/// An argument, checked in the body of the entry point rather than on the way into it, so that a wrong
/// type is an `INVALID_ARGUMENT` as well.
pub struct Arg<T>(Option<T>);

impl<T: FromNapiValue> FromNapiValue for Arg<T> {
    unsafe fn from_napi_value(env: sys::napi_env, value: sys::napi_value) -> napi::Result<Self> {
        let argument = unsafe { T::from_napi_value(env, value) };
        Ok(Self(argument.map_err(|_| clear(env)).ok()))
    }
}

impl<T> Arg<T> {
    pub fn get(self, name: &str) -> Result<T> {
        self.0
            .ok_or_else(|| Failure::invalid(format!("`{name}` is missing or of the wrong type")))
    }
}

/// A property of the right type, or `INVALID_ARGUMENT`.
pub fn property<T: FromNapiValue>(object: &Object<'_>, name: &str) -> Result<T> {
    object
        .get::<T>(name)
        .map_err(|_| clear(object.value().env))
        .ok()
        .flatten()
        .ok_or_else(|| Failure::invalid(format!("`{name}` is missing or of the wrong type")))
}

/// A whole number from 0 to `max`.
pub fn whole(object: &Object<'_>, name: &str, max: u64) -> Result<u64> {
    let value: f64 = property(object, name)?;
    if value >= 0.0 && value <= max as f64 && value.fract() == 0.0 {
        Ok(value as u64)
    } else {
        Err(Failure::invalid(format!(
            "`{name}` is not a whole number from 0 to {max}"
        )))
    }
}

/// Forgets the exception that a failed call may have left behind.
fn clear(env: sys::napi_env) {
    take_exception(env);
}

fn take_exception(env: sys::napi_env) -> Option<sys::napi_value> {
    let mut pending = false;
    let mut exception = ptr::null_mut();
    unsafe {
        sys::napi_is_exception_pending(env, &mut pending);
        if pending {
            sys::napi_get_and_clear_last_exception(env, &mut exception);
        }
    }
    pending.then_some(exception)
}

/// Turns a failed call into Node-API, which leaves an exception behind, into one of ours.
pub fn engine(env: Env, error: napi::Error) -> Failure {
    clear(env.raw());
    Failure::new(Code::Internal, error.reason)
}

/// Calls a function of JavaScript from the event loop, where nobody waits for its result: `prepare` answers
/// which, and with what. What it throws is an uncaught exception.
pub fn call_from_loop(
    env: sys::napi_env,
    prepare: impl FnOnce() -> napi::Result<(sys::napi_value, sys::napi_value)>,
) {
    let mut scope = ptr::null_mut();
    unsafe { sys::napi_open_handle_scope(env, &mut scope) };
    let called = prepare().map(|(function, argument)| {
        let (mut this, mut result) = (ptr::null_mut(), ptr::null_mut());
        let context = ptr::null_mut();
        unsafe {
            sys::napi_get_global(env, &mut this);
            sys::napi_make_callback(env, context, this, function, 1, &argument, &mut result);
        }
    });
    let failure =
        |error: napi::Error| error_value(env, &Failure::new(Code::Internal, error.reason));
    if let Some(thrown) = take_exception(env).or_else(|| called.err().map(failure)) {
        unsafe { sys::napi_fatal_exception(env, thrown) };
    }
    unsafe { sys::napi_close_handle_scope(env, scope) };
}
