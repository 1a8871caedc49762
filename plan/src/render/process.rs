//! Local processes. A process has no runtime object: its driver starts a
//! [`ProcessSpec`](crate::application::ProcessSpec) as it is.

pub(super) mod capabilities;
