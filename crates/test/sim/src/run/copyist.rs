//! Somebody who reads tree objects, keeps them for a while, and puts them somewhere else: what they
//! name may have been collected meanwhile. Then that is refused; what is put is there as a whole.

use flux_api::kvs::{
    Commit, CommitRequest, Lookup, LookupRequest, LookupResponse, Operation, PRIMARY, TREEOBJ,
};
use flux_api::{Body, RpcError};
use flux_proto::{Errno, Message};
use serde_json::Value;

use super::{Phase, Purpose, Run, Task};
use crate::clients::Caller;
use crate::rng::Rng;
use crate::world::SEC;

/// Keys to which something is copied.
const COPIES: u64 = 3;

/// Who copies.
#[derive(Debug)]
pub(super) struct Copyist {
    rng: Rng,
    caller: Option<Caller>,
    /// What was read last.
    object: Option<Value>,
}

impl Copyist {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed ^ 0xc0b1_e5ed), caller: None, object: None }
    }
}

impl Run {
    pub(super) fn begin_copyist(&mut self) {
        if self.scenario.faults.copies {
            self.ring(3 * SEC, Task::Copyist);
        }
    }

    /// The next step: something is read, or what was read is put, or taken away again.
    pub(super) fn copy(&mut self) {
        if self.phase != Phase::Load {
            return;
        }
        let after = self.copyist.rng.range(SEC / 10, 8 * SEC);
        self.ring(after, Task::Copyist);
        let connected = self.copyist.caller.filter(|caller| self.world.is_connected(*caller));
        let Some(caller) = connected else {
            let rank = self.copyist.rng.rank(0, self.scenario.size);
            self.copyist.caller = self.world.connect(rank);
            return;
        };
        let place = format!("copies.k{}", self.copyist.rng.range(0, COPIES));
        let dirent = match self.copyist.object.take() {
            Some(object) => object,
            None if self.copyist.rng.chance(20) => Value::Null,
            None => {
                let keys = ["test", "twin", "checkpoint", "job", "checkpoint.job-active", &place];
                let key = self.copyist.rng.pick(&keys).copied().unwrap_or_default();
                let request = LookupRequest {
                    key: key.to_string(),
                    flags: TREEOBJ,
                    namespace: Some(PRIMARY.to_string()),
                    rootdir: None,
                    rootseq: None,
                    userid: None,
                };
                let tag = self.world.call::<Lookup>(caller, None, &request);
                self.purposes.insert((caller, tag), Purpose::Original);
                return;
            }
        };
        let request = CommitRequest {
            namespace: PRIMARY.to_string(),
            flags: 0,
            ops: vec![Operation { key: place, flags: 0, dirent: dirent.into() }],
        };
        let tag = self.world.call::<Commit>(caller, None, &request);
        self.purposes.insert((caller, tag), Purpose::Copy);
        self.count("copies");
    }

    /// What is to be copied.
    pub(super) fn original(&mut self, message: &Message) {
        if message.errnum() == Errno::OK
            && let Ok(LookupResponse { val }) = LookupResponse::take(message)
        {
            self.copyist.object = Some(val);
        }
    }

    /// It was put, or not.
    pub(super) fn copied(&mut self, message: &Message) {
        match message.errnum() {
            Errno::OK => {
                self.count("copies acknowledged");
                self.world.disk.check_whole();
            }
            Errno::ENOENT => self.count("copies refused"),
            _ => {
                let error = RpcError::of(message).map(|error| error.to_string());
                self.world.trace.line(self.world.now, || format!("copy: {error:?}"));
            }
        }
    }
}
