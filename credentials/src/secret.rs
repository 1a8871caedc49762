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

    /// The one way out inside this crate: into a file that its reader was promised.
    pub(crate) fn write_to(&self, sink: &mut impl Write) -> io::Result<()> {
        sink.write_all(&self.0)
    }
}
