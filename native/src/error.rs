//! Every failure as a code that JavaScript can branch on; nothing is decided by an error's text.

use std::{borrow::Cow, io};

use iroh::address_lookup::AddressLookupBuilderError;
use iroh::endpoint::{
    BindError, ConnectError, ConnectWithOptsError, ConnectingError, ConnectionError, EndpointError,
    SendDatagramError, TransportErrorCode, VarInt, WriteError,
};

/// TLS alert `no_application_protocol` (RFC 7301), sent by a peer that does not speak our ALPN.
const NO_APPLICATION_PROTOCOL: u8 = 120;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    InvalidArgument,
    BindFailed,
    AddressInUse,
    BadCertificate,
    ConnectFailed,
    ConnectTimeout,
    ProtocolMismatch,
    ConnectionLost,
    StreamClosed,
    StreamStopped,
    TooLarge,
    Unsupported,
    Closed,
    Internal,
}

impl Code {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::BindFailed => "BIND_FAILED",
            Self::AddressInUse => "ADDRESS_IN_USE",
            Self::BadCertificate => "BAD_CERTIFICATE",
            Self::ConnectFailed => "CONNECT_FAILED",
            Self::ConnectTimeout => "CONNECT_TIMEOUT",
            Self::ProtocolMismatch => "PROTOCOL_MISMATCH",
            Self::ConnectionLost => "CONNECTION_LOST",
            Self::StreamClosed => "STREAM_CLOSED",
            Self::StreamStopped => "STREAM_STOPPED",
            Self::TooLarge => "TOO_LARGE",
            Self::Unsupported => "UNSUPPORTED",
            Self::Closed => "CLOSED",
            Self::Internal => "INTERNAL",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub code: Code,
    pub message: Cow<'static, str>,
    /// The QUIC application error code, where the peer sent one.
    pub quic: Option<u64>,
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            quic: None,
        }
    }

    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    pub fn closed() -> Self {
        Self::new(Code::Closed, "the endpoint is closed")
    }

    pub fn stream_closed() -> Self {
        Self::new(
            Code::StreamClosed,
            "the stream is finished, reset or has no such side",
        )
    }

    pub fn stopped(code: u64) -> Self {
        Self {
            quic: Some(code),
            ..Self::new(
                Code::StreamStopped,
                format!("the peer stopped reading with code {code}"),
            )
        }
    }

    /// What a caught panic becomes. Its text went to stderr through the panic hook.
    pub fn internal() -> Self {
        Self::new(Code::Internal, "a panic was caught in the native addon")
    }

    pub fn of(code: Code, error: &dyn std::error::Error) -> Self {
        Self::new(code, describe(error))
    }
}

/// iroh nests its errors; the outermost alone often says no more than "unable to connect".
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let inner = error.to_string();
        if !text.ends_with(&inner) {
            text.push_str(": ");
            text.push_str(&inner);
        }
        source = error.source();
    }
    text
}

impl From<ConnectionError> for Failure {
    fn from(error: ConnectionError) -> Self {
        let quic = match &error {
            ConnectionError::ApplicationClosed(close) => Some(close.error_code.into_inner()),
            _ => None,
        };
        Self {
            quic,
            ..Self::of(Code::ConnectionLost, &error)
        }
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::stopped(code.into_inner()),
            WriteError::ConnectionLost(error) => error.into(),
            WriteError::ClosedStream => Self::stream_closed(),
            WriteError::ZeroRttRejected => Self::of(Code::ConnectionLost, &error),
        }
    }
}

impl From<SendDatagramError> for Failure {
    fn from(error: SendDatagramError) -> Self {
        match error {
            SendDatagramError::UnsupportedByPeer | SendDatagramError::Disabled => {
                Self::of(Code::Unsupported, &error)
            }
            SendDatagramError::TooLarge => Self::of(Code::TooLarge, &error),
            SendDatagramError::ConnectionLost(error) => error.into(),
        }
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        let code = match &error {
            BindError::Sockets { source, .. } | BindError::CreateQuicEndpoint { source, .. } => {
                if source.kind() == io::ErrorKind::AddrInUse {
                    Code::AddressInUse
                } else {
                    Code::BindFailed
                }
            }
            _ => Code::BindFailed,
        };
        Self::of(code, &error)
    }
}

impl From<AddressLookupBuilderError> for Failure {
    fn from(error: AddressLookupBuilderError) -> Self {
        Self::of(Code::Unsupported, &error)
    }
}

impl From<EndpointError> for Failure {
    fn from(_: EndpointError) -> Self {
        Self::closed()
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let (code, quic) = match &error {
            ConnectError::Connection { source, .. }
            | ConnectError::Connecting {
                source: ConnectingError::ConnectionError { source, .. },
                ..
            } => connect_code(source),
            ConnectError::Connect {
                source: ConnectWithOptsError::EndpointClosed { .. },
                ..
            } => (Code::Closed, None),
            ConnectError::Connect {
                source: ConnectWithOptsError::SelfConnect { .. },
                ..
            } => (Code::InvalidArgument, None),
            _ => (Code::ConnectFailed, None),
        };
        Self {
            quic,
            ..Self::of(code, &error)
        }
    }
}

fn connect_code(error: &ConnectionError) -> (Code, Option<u64>) {
    let refused = TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL);
    match error {
        ConnectionError::TimedOut => (Code::ConnectTimeout, None),
        ConnectionError::LocallyClosed => (Code::Closed, None),
        ConnectionError::ConnectionClosed(close) if close.error_code == refused => {
            (Code::ProtocolMismatch, None)
        }
        ConnectionError::TransportError(error) if error.code == refused => {
            (Code::ProtocolMismatch, None)
        }
        ConnectionError::VersionMismatch => (Code::ProtocolMismatch, None),
        ConnectionError::ApplicationClosed(close) => {
            (Code::ConnectFailed, Some(close.error_code.into_inner()))
        }
        _ => (Code::ConnectFailed, None),
    }
}

/// JavaScript numbers are exact up to 2^53 only, which is less than a QUIC code can hold.
pub fn quic_code(code: f64) -> Result<VarInt> {
    if (0.0..9_007_199_254_740_992.0).contains(&code) && code.fract() == 0.0 {
        Ok(VarInt::from_u64(code as u64).expect("2^53 is below 2^62"))
    } else {
        Err(Failure::invalid(
            "a code is a whole number from 0 to 2^53 - 1",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_whole_and_exact() {
        assert_eq!(quic_code(0.0).unwrap().into_inner(), 0);
        let largest = 9_007_199_254_740_991.0;
        assert_eq!(quic_code(largest).unwrap().into_inner(), largest as u64);
        for wrong in [-1.0, 0.5, largest + 1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(quic_code(wrong).unwrap_err().code, Code::InvalidArgument);
        }
    }

    #[test]
    fn what_a_write_meets_is_told_apart() {
        let stopped = Failure::from(WriteError::Stopped(4u32.into()));
        assert_eq!((stopped.code, stopped.quic), (Code::StreamStopped, Some(4)));
        let lost = Failure::from(WriteError::ConnectionLost(ConnectionError::TimedOut));
        assert_eq!((lost.code, lost.quic), (Code::ConnectionLost, None));
        let closed = Failure::from(WriteError::ClosedStream);
        assert_eq!(closed.code, Code::StreamClosed);
    }

    #[test]
    fn datagram_errors_have_codes_of_their_own() {
        let code = |error| Failure::from(error).code;
        assert_eq!(code(SendDatagramError::TooLarge), Code::TooLarge);
        assert_eq!(
            code(SendDatagramError::UnsupportedByPeer),
            Code::Unsupported
        );
        assert_eq!(code(SendDatagramError::Disabled), Code::Unsupported);
    }

    #[test]
    fn a_timeout_while_connecting_is_no_lost_connection() {
        assert_eq!(
            connect_code(&ConnectionError::TimedOut),
            (Code::ConnectTimeout, None)
        );
        assert_eq!(
            connect_code(&ConnectionError::VersionMismatch).0,
            Code::ProtocolMismatch
        );
        assert_eq!(connect_code(&ConnectionError::Reset).0, Code::ConnectFailed);
    }
}
