//! A value that must not be seen: no `Debug`, no `Display`, no `Serialize`, wiped on drop.

use std::io::{self, Write};

use zeroize::Zeroizing;

pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes bytes over that are wiped already.
    pub(crate) fn wiped(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// For sealing and for requests to a source; never leaves this crate.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The way out: into a file or a pipe that its reader was promised.
    ///
    /// # Errors
    /// What the sink says.
    pub fn write_to(&self, sink: &mut impl Write) -> io::Result<()> {
        sink.write_all(&self.0)
    }
}
