//! The process runtime with real processes.

mod driver_contract;
mod lifecycle;
mod measure;
mod output;
mod prepare;
mod resilience;
mod test_preview;
