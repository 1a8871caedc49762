//! A secret value: it has no `Debug`, `Display` or `Serialize`, and is wiped on drop.

use std::io::{self, Write};

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::memory::ProtectedBytes;

pub struct Secret(SecretBytes);

enum SecretBytes {
    /// Lives for one request.
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

    /// Takes ownership of bytes that are already wiped on drop.
    pub(crate) fn from_zeroizing(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(SecretBytes::Transient(bytes))
    }

    /// Moves a long-lived secret to memory that is not swapped out, where the system allows it.
    pub(crate) fn into_protected(self) -> Self {
        match self.0 {
            SecretBytes::Transient(bytes) => Self(SecretBytes::Protected(ProtectedBytes::new(bytes))),
            protected @ SecretBytes::Protected(_) => Self(protected),
        }
    }

    /// Whether it may be written to the swap.
    pub(crate) fn is_swappable(&self) -> bool {
        !matches!(&self.0, SecretBytes::Protected(protected) if protected.is_locked())
    }

    /// The plain bytes, for sealing and for requests to a source. Other crates cannot call it.
    pub(crate) fn expose(&self) -> &[u8] {
        match &self.0 {
            SecretBytes::Transient(bytes) => bytes,
            SecretBytes::Protected(protected) => protected.bytes(),
        }
    }

    /// Converts the secret to the body of a response to its requester. The body is wiped after it was sent.
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

    /// Writes the secret to a file or pipe.
    ///
    /// # Errors
    /// When the sink returns an error.
    pub fn write_to(&self, sink: &mut impl Write) -> io::Result<()> {
        sink.write_all(self.expose())
    }
}
