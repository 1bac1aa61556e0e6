//! Transcripts: scripted scheduler, execution and KVS around the service.

mod access;
mod archive;
mod bench;
mod dependencies;
mod housekeeping;
mod journal;
mod lifecycle;
mod perilog;
mod property;
mod queues;
mod requests;
mod restart;
mod storage;
