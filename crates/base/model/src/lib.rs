//! The documents of the Flux interfaces: parsed, validated and written, without I/O.

pub mod archive;
pub mod blobref;
pub mod constraint;
pub mod directive;
pub mod eventlog;
pub mod job_event;
pub mod jobspec;
pub mod kv;
pub mod resource_set;
pub mod roster;
pub mod shape;
pub mod sign;
pub mod signal;
pub mod stdio;
pub mod subprocess;
pub mod taskmap;
pub mod treeobj;
pub mod unit_limit;
pub mod wait_status;
