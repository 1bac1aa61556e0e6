//! Transcripts: scripted scheduler, execution and KVS around the service.

mod bench;
mod lifecycle;
