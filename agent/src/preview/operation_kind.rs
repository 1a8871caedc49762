//! The operations of a preview's actor.

use protocol::request::UpRequest;

#[derive(Clone, PartialEq)]
pub(super) enum OperationKind {
    Up(Box<UpRequest>),
    Down { volumes: bool },
    Restart,
    Stop,
}
