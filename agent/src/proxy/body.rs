//! The two bodies that the proxy forwards: request bodies and response bodies. Frames are forwarded as they arrive, so
//! back-pressure reaches the sender and no body is buffered.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::pool::ConnectionLease;

/// Whether a request body was read to its end. Before that, the connection to the service cannot be reused.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestBodyEnd(Arc<AtomicBool>);

impl RequestBodyEnd {
    pub(super) fn is_reached(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The body of a request to a service.
#[derive(Debug)]
pub(super) enum RequestBody {
    Empty,
    Stream(Incoming, RequestBodyEnd),
}

impl RequestBody {
    pub(super) fn new(body: Incoming) -> Self {
        if body.is_end_stream() { Self::Empty } else { Self::Stream(body, RequestBodyEnd::default()) }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    pub(super) fn end(&self) -> Option<RequestBodyEnd> {
        match self {
            Self::Empty => None,
            Self::Stream(_, end) => Some(end.clone()),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self::Stream(body, end) = self.get_mut() else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *body).poll_frame(context));
        if frame.is_none() || body.is_end_stream() {
            end.0.store(true, Ordering::Release);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(body, _) => body.size_hint(),
        }
    }
}

/// The body of a response: a page of the proxy, or a service's stream with the connection it comes from.
#[derive(Debug)]
pub(super) enum ResponseBody {
    Page(Option<Bytes>),
    Stream(Incoming, Option<ConnectionLease>),
}

impl ResponseBody {
    pub(super) fn empty() -> Self {
        Self::Page(None)
    }

    pub(super) fn page(text: String) -> Self {
        Self::Page(Some(Bytes::from(text)).filter(|bytes| !bytes.is_empty()))
    }

    pub(super) fn stream(body: Incoming, lease: Option<ConnectionLease>) -> Self {
        if body.is_end_stream() {
            if let Some(lease) = lease {
                lease.return_to_pool();
            }
            return Self::Stream(body, None);
        }
        Self::Stream(body, lease)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Page(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(body, lease) => {
                let frame = ready!(Pin::new(&mut *body).poll_frame(context));
                // After an error the lease stays here; dropping it closes the broken connection.
                let ended = frame.is_none() || (matches!(frame, Some(Ok(_))) && body.is_end_stream());
                if ended && let Some(lease) = lease.take() {
                    lease.return_to_pool();
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Page(bytes) => bytes.is_none(),
            Self::Stream(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Page(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(body, _) => body.size_hint(),
        }
    }
}
