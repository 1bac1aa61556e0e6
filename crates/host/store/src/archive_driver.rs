//! `archive`: the file of finished jobs as a service, on a thread of its own.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use flux_api::archive::{Archive, ArchiveIds, ArchivedJobs, CHUNK_MAX};
use flux_api::{Api, Empty, RpcError};
use flux_host::driver::{Driver, DriverHandle};
use flux_proto::{Errno, Message};

use crate::archive::JobArchive;
use crate::error::StoreError;

/// The driver: hands requests to the archive's thread.
#[derive(Debug)]
pub struct ArchiveDriver {
    requests: Sender<(Message, DriverHandle)>,
}

impl ArchiveDriver {
    /// Opens `job-archive.sqlite` in the state directory. The text, if any, is for the user: the
    /// file was damaged and begun anew.
    ///
    /// # Errors
    /// When the file can't be opened or is of a later format, or no thread can be started.
    pub fn open(statedir: &Path) -> Result<(Self, Option<String>), StoreError> {
        Self::serve(JobArchive::open(statedir)?)
    }

    /// The same with this file, and so much patience with others who have it open.
    ///
    /// # Errors
    /// As there.
    pub fn open_file(path: &Path, busy: Duration) -> Result<(Self, Option<String>), StoreError> {
        Self::serve(JobArchive::open_file(path, busy)?)
    }

    fn serve(
        (archive, note): (JobArchive, Option<String>),
    ) -> Result<(Self, Option<String>), StoreError> {
        let path = archive.path().to_path_buf();
        let (requests, queue) = channel();
        thread::Builder::new()
            .name("archive".to_string())
            .spawn(move || serve(archive, &queue))
            .map_err(|error| StoreError::Damaged { path, text: error.to_string() })?;
        Ok((Self { requests }, note))
    }
}

impl Driver for ArchiveDriver {
    fn name(&self) -> &'static str {
        "archive"
    }

    fn deliver(&mut self, message: Message, back: &DriverHandle) {
        if let Err(failed) = self.requests.send((message, back.clone())) {
            let (message, back) = failed.0;
            back.refuse(&message, &RpcError::new(Errno::EIO, "the archive's thread has ended"));
        }
    }
}

fn wire(error: &StoreError) -> RpcError {
    RpcError::new(error.errno(), error.to_string())
}

/// Refuses a request of more than a chunk.
fn bounded(number: usize) -> Result<(), RpcError> {
    if number as u64 <= CHUNK_MAX {
        return Ok(());
    }
    let text = format!("request for {number} jobs exceeds limit of {CHUNK_MAX}");
    Err(RpcError::new(Errno::EINVAL, text))
}

fn serve(mut archive: JobArchive, queue: &Receiver<(Message, DriverHandle)>) {
    while let Ok((message, mut back)) = queue.recv() {
        match Archive::decode(message) {
            Ok(request) => answer(&mut archive, request, &mut back),
            Err((message, error)) => back.refuse(&message, &error),
        }
    }
}

fn answer(archive: &mut JobArchive, request: Archive, back: &mut DriverHandle) {
    let wired = |error| wire(&error);
    match request {
        Archive::ArchivePut(call) => {
            let jobs = &call.request.jobs;
            let done =
                bounded(jobs.len()).and_then(|()| archive.put(jobs).map(|()| Empty).map_err(wired));
            call.answer.respond(back, done);
        }
        Archive::ArchiveRemove(call) => {
            let ids = &call.request.ids;
            let done = bounded(ids.len())
                .and_then(|()| archive.remove(ids).map(|()| Empty).map_err(wired));
            call.answer.respond(back, done);
        }
        Archive::ArchiveComplete(call) => {
            call.answer.respond(back, archive.set_complete().map(|()| Empty).map_err(wired));
        }
        Archive::ArchiveList(call) => {
            let jobs = archive.list(call.request.after.as_ref(), call.request.max);
            call.answer.respond(back, jobs.map(|jobs| ArchivedJobs { jobs }).map_err(wired));
        }
        Archive::ArchiveGet(call) => {
            let ids = &call.request.ids;
            let jobs = bounded(ids.len()).and_then(|()| archive.get(ids).map_err(wired));
            call.answer.respond(back, jobs.map(|jobs| ArchivedJobs { jobs }));
        }
        Archive::ArchiveIds_(call) => {
            let ids = archive.ids_above(call.request.above, call.request.max);
            call.answer.respond(back, ids.map(|ids| ArchiveIds { ids }).map_err(wired));
        }
        Archive::ArchiveOfUser(call) => {
            let ids = archive.of_user(call.request.userid, call.request.max);
            call.answer.respond(back, ids.map(|ids| ArchiveIds { ids }).map_err(wired));
        }
        Archive::ArchiveBeyond_(call) => {
            call.answer.respond(back, archive.beyond(&call.request).map_err(wired));
        }
        Archive::ArchiveInfo_(call) => {
            call.answer.respond(back, archive.info().map_err(wired));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use flux_api::archive::{ArchiveGet, ArchiveInfo_, ArchivePut};
    use flux_api::rpc;
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_is_put_can_be_had() {
        let directory = tempfile::tempdir().unwrap();
        let (mut driver, note) = ArchiveDriver::open(directory.path()).unwrap();
        assert_eq!(note, None);
        let (handle, mut take) = DriverHandle::detached("archive");
        let job = serde_json::json!({
            "id": 5, "userid": 1, "urgency": 1, "t_submit": 1.0, "t_inactive": 2.0, "result": 1});
        let jobs = ArchivedJobs { jobs: vec![serde_json::from_value(job.clone()).unwrap()] };
        driver.deliver(rpc::request::<ArchivePut>(&jobs), &handle);
        driver.deliver(rpc::request::<ArchiveGet>(&ArchiveIds { ids: vec![5, 6] }), &handle);
        let many = ArchiveIds { ids: vec![0; 5000] };
        driver.deliver(rpc::request::<ArchiveGet>(&many), &handle);
        driver.deliver(rpc::request::<ArchiveInfo_>(&Default::default()), &handle);
        let mut responses = Vec::new();
        let limit = Instant::now() + Duration::from_secs(30);
        while responses.len() < 4 && Instant::now() < limit {
            responses.extend(take());
            thread::yield_now();
        }
        assert_eq!(responses[0].errnum().0, 0);
        let got: Value = responses[1].json().unwrap();
        assert_eq!(got["jobs"][0]["id"], job["id"]);
        assert_eq!(responses[2].errnum(), Errno::EINVAL);
        assert_eq!(responses[3].json::<Value>().unwrap()["count"], 1);
    }
}
