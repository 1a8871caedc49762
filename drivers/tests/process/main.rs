//! The process runtime with real processes: what must survive, and what must not.

mod driver_contract;
mod lifecycle;
mod measure;
mod output;
mod prepare;
mod resilience;
mod test_preview;
