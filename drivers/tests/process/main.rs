//! The process runtime with real processes: what must survive, and what must not.

mod bench;
mod life;
mod measure;
mod output;
mod prepare;
mod promises;
mod rough;
