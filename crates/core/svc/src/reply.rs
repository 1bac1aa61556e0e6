//! A response, as a service sees it.

use flux_api::{Body, Rpc, RpcError};
use flux_proto::{Errno, Message};

use crate::wait::Tag;

/// One response to a request of this service.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Tag of the request.
    pub tag: Tag,
    /// The response message, or why there is none.
    pub result: Result<Message, RpcError>,
    /// Whether this is the last response to the request.
    pub last: bool,
}

impl Reply {
    /// The typed body. A body that does not decode is EPROTO.
    pub fn decode<R: Rpc>(&self) -> Result<R::Response, RpcError> {
        match &self.result {
            Ok(message) => R::Response::take(message).map_err(|text| {
                RpcError::new(Errno::EPROTO, format!("{} response: {text}", R::TOPIC))
            }),
            Err(error) => Err(error.clone()),
        }
    }

    /// Whether this is the normal end of a stream.
    #[must_use]
    pub fn is_end(&self) -> bool {
        matches!(&self.result, Err(error) if error.errno == Errno::ENODATA)
    }

    /// The error, if it is one.
    #[must_use]
    pub fn error(&self) -> Option<&RpcError> {
        self.result.as_ref().err()
    }
}
