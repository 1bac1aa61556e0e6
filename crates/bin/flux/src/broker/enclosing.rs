//! What a nested instance asks of, and tells, the instance that runs it as a job.

use std::thread;

use flux_api::job::info::{CURRENT, InfoLookup, JSON_DECODE, Lookup};
use flux_api::job::manager::{Memo, MemoRequest};
use flux_api::lifecycle::WaitRun;
use flux_client::{Client, To};
use flux_id::JobId;
use serde_json::{Map, Value};

/// The job that this instance is, in the instance around it.
#[derive(Debug, Clone)]
pub(crate) struct Enclosing {
    /// URI of the broker that runs this one.
    pub(crate) uri: String,
    /// The job.
    pub(crate) id: JobId,
}

impl Enclosing {
    /// R of the job.
    ///
    /// # Errors
    /// The sentence to show.
    pub(crate) fn resources(&self) -> Result<Value, String> {
        let client = Client::open(Some(&self.uri)).map_err(|error| error.to_string())?;
        let request =
            InfoLookup { id: self.id.0, keys: vec!["R".to_string()], flags: JSON_DECODE | CURRENT };
        let mut body =
            client.call::<Lookup>(To::Any, &request).map_err(|error| error.to_string())?;
        body.shift_remove("R").ok_or_else(|| "the enclosing instance sent no R".to_string())
    }

    /// Tells the job's URI when this instance runs, from a thread of its own. Failures are not
    /// this instance's: it works without.
    pub(crate) fn announce(&self, local_uri: &str, hostname: &str) {
        let (enclosing, local) = (self.clone(), local_uri.to_string());
        let path = local_uri.strip_prefix("local://").unwrap_or(local_uri);
        let uri = format!("ssh://{hostname}{path}");
        let work = move || -> Option<()> {
            let own = Client::open(Some(&local)).ok()?;
            own.call::<WaitRun>(To::Any, &Default::default()).ok()?;
            let parent = Client::open(Some(&enclosing.uri)).ok()?;
            let mut memo = Map::new();
            memo.insert("uri".to_string(), Value::String(uri));
            let request = MemoRequest { id: enclosing.id.0, memo, volatile: false };
            parent.call::<Memo>(To::Any, &request).ok()?;
            Some(())
        };
        thread::Builder::new().name("announce".to_string()).spawn(work).ok();
    }
}
