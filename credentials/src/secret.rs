//! A value that must not be seen: no `Debug`, no `Display`, no `Serialize`, wiped on drop.

use std::io::{self, Write};

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::memory::ProtectedBytes;

pub struct Secret(SecretBytes);

enum SecretBytes {
    /// For the time of a request.
    Transient(Zeroizing<Vec<u8>>),
    Protected(ProtectedBytes),
}

impl Secret {
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self::from_zeroizing(Zeroizing::new(bytes))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.expose().is_empty()
    }

    /// Takes bytes over that are wiped already.
    pub(crate) fn from_zeroizing(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(SecretBytes::Transient(bytes))
    }

    /// For one that stays: moved to memory that is not swapped out, where the system allows it.
    pub(crate) fn into_protected(self) -> Self {
        match self.0 {
            SecretBytes::Transient(bytes) => Self(SecretBytes::Protected(ProtectedBytes::new(bytes))),
            kept @ SecretBytes::Protected(_) => Self(kept),
        }
    }

    /// Whether it may end up in the swap.
    pub(crate) fn is_swappable(&self) -> bool {
        !matches!(&self.0, SecretBytes::Protected(kept) if kept.is_locked())
    }

    /// For sealing and for requests to a source; never leaves this crate.
    pub(crate) fn expose(&self) -> &[u8] {
        match &self.0 {
            SecretBytes::Transient(bytes) => bytes,
            SecretBytes::Protected(kept) => kept.bytes(),
        }
    }

    /// The way out of the agent: the body of an answer to whoever asked for it, wiped when it was sent.
    #[must_use]
    pub fn into_body(self) -> Bytes {
        struct BodyOwner(Secret);
        impl AsRef<[u8]> for BodyOwner {
            fn as_ref(&self) -> &[u8] {
                self.0.expose()
            }
        }
        Bytes::from_owner(BodyOwner(self))
    }

    /// The way out: into a file or a pipe that its reader was promised.
    ///
    /// # Errors
    /// What the sink says.
    pub fn write_to(&self, sink: &mut impl Write) -> io::Result<()> {
        sink.write_all(self.expose())
    }
}
