//! A value that must not be seen: no `Debug`, no `Display`, no `Serialize`, wiped on drop.

use std::io::{self, Write};

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::memory::Kept;

pub struct Secret(Held);

enum Held {
    /// For the time of a request.
    Passing(Zeroizing<Vec<u8>>),
    Kept(Kept),
}

impl Secret {
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self::wiped(Zeroizing::new(bytes))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.expose().is_empty()
    }

    /// Takes bytes over that are wiped already.
    pub(crate) fn wiped(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(Held::Passing(bytes))
    }

    /// For one that stays: moved to memory that is not swapped out, where the system allows it.
    pub(crate) fn kept(self) -> Self {
        match self.0 {
            Held::Passing(bytes) => Self(Held::Kept(Kept::new(bytes))),
            kept @ Held::Kept(_) => Self(kept),
        }
    }

    /// Whether it may end up in the swap.
    pub(crate) fn is_swappable(&self) -> bool {
        !matches!(&self.0, Held::Kept(kept) if kept.is_locked())
    }

    /// For sealing and for requests to a source; never leaves this crate.
    pub(crate) fn expose(&self) -> &[u8] {
        match &self.0 {
            Held::Passing(bytes) => bytes,
            Held::Kept(kept) => kept.bytes(),
        }
    }

    /// The way out of the agent: the body of an answer to whoever asked for it, wiped when it was sent.
    #[must_use]
    pub fn into_body(self) -> Bytes {
        struct Sent(Secret);
        impl AsRef<[u8]> for Sent {
            fn as_ref(&self) -> &[u8] {
                self.0.expose()
            }
        }
        Bytes::from_owner(Sent(self))
    }

    /// The way out: into a file or a pipe that its reader was promised.
    ///
    /// # Errors
    /// What the sink says.
    pub fn write_to(&self, sink: &mut impl Write) -> io::Result<()> {
        sink.write_all(self.expose())
    }
}
