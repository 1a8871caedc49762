//! The process the editor starts.
