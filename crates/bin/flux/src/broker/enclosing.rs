//! What a nested instance asks of, and tells, the instance that runs it as a job.

use std::thread;
use std::time::Duration;

use flux_api::RpcError;
use flux_api::body::AnyObject;
use flux_api::job::info::{CURRENT, InfoLookup, JSON_DECODE, Lookup, UpdateWatch, UpdateWatch_};
use flux_api::job::manager::{Memo, MemoRequest};
use flux_api::lifecycle::WaitRun;
use flux_api::resource::{Expiration, ExpirationUpdate, Get};
use flux_client::{Client, To};
use flux_id::JobId;
use flux_proto::Errno;
use serde_json::{Map, Value};

/// Time until a broker of the enclosing instance that was lost is looked for again.
const AGAIN: Duration = Duration::from_secs(5);

/// When resources expire, in seconds since the epoch; 0 for never.
fn end_of(r: &Value) -> f64 {
    r.pointer("/execution/expiration").and_then(Value::as_f64).unwrap_or(0.0)
}

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

    /// Follows the end of the job, which may be moved while it runs: the end of this instance moves
    /// with it. From a thread of its own.
    pub(crate) fn follow(&self, local_uri: &str) {
        let (enclosing, local) = (self.clone(), local_uri.to_string());
        let work = move || {
            while let Err(error) = enclosing.follow_once(&local) {
                // It cannot be followed, or the job is over.
                let never = [Errno::ENOSYS, Errno::EPERM, Errno::EINVAL, Errno::ENOENT];
                if never.contains(&error.errno) {
                    return;
                }
                thread::sleep(AGAIN);
            }
        };
        thread::Builder::new().name("follow".to_string()).spawn(work).ok();
    }

    /// Follows it until the stream ends.
    fn follow_once(&self, local_uri: &str) -> Result<(), RpcError> {
        let lost =
            |error: flux_client::OpenError| RpcError::new(Errno::EHOSTUNREACH, error.to_string());
        let own = Client::open(Some(local_uri)).map_err(lost)?;
        own.call::<WaitRun>(To::Any, &Default::default())?;
        let parent = Client::open(Some(&self.uri)).map_err(lost)?;
        let request = UpdateWatch { id: self.id.0, key: "R".to_string(), flags: 0 };
        for item in parent.stream::<UpdateWatch_>(To::Any, &request) {
            let body = item?;
            let Some(expiration) = body.get("R").map(end_of) else { continue };
            let known = own.call::<Get>(To::Rank(0), &AnyObject::default())?;
            if end_of(&known.r) != expiration {
                own.call::<ExpirationUpdate>(To::Rank(0), &Expiration { expiration })?;
            }
        }
        Ok(())
    }
}
