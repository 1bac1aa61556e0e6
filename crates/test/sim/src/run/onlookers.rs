//! Onlookers: clients at some ranks that watch a key and listen to events for the whole run. They
//! see events in order, and in the end the last value, whatever happened to the brokers between.

use flux_api::broker::{Subscribe, SubscribeRequest};
use flux_api::kvs::{PRIMARY, WAITCREATE, WATCH, WatchLookup, WatchRequest};
use flux_proto::{Errno, Message};

use super::load::value_of;
use super::{Phase, Purpose, Run, Task};
use crate::clients::Caller;
use crate::world::SEC;

/// Time between looks whether an onlooker has to come again.
const LOOK: u64 = 2 * SEC;

/// A watch of this age has seen what there is.
const SETTLED: u64 = 5 * SEC;

/// Somebody who looks on.
#[derive(Debug, Default)]
pub(super) struct Onlooker {
    rank: u32,
    caller: Option<Caller>,
    /// Since when it watches, if it does.
    since: Option<u64>,
    last: Option<u64>,
}

/// Key of the first session.
const KEY: &str = "test.session0.value";

impl Run {
    pub(super) fn begin_onlookers(&mut self) {
        if !self.onlookers.is_empty() {
            return;
        }
        for _ in 0..self.scenario.size.min(3) {
            let rank = self.rng.rank(0, self.scenario.size);
            self.onlookers.push(Onlooker { rank, ..Onlooker::default() });
        }
        self.ring(0, Task::Onlookers);
    }

    /// Those who are not connected, or do not watch, try again.
    pub(super) fn onlook(&mut self) {
        if matches!(self.phase, Phase::Load | Phase::Stopping | Phase::Recovery) {
            for at in 0..self.onlookers.len() {
                self.onlook_one(at);
            }
        }
        if self.phase < Phase::Shutdown || self.again {
            self.ring(LOOK, Task::Onlookers);
        }
    }

    fn onlook_one(&mut self, at: usize) {
        let Some(onlooker) = self.onlookers.get(at) else { return };
        if onlooker.since.is_some() {
            return;
        }
        let caller = match onlooker.caller {
            Some(caller) => caller,
            None => {
                let Some(caller) = self.world.connect(onlooker.rank) else { return };
                let request = SubscribeRequest { topic: String::new() };
                let tag = self.world.call::<Subscribe>(caller, None, &request);
                self.purposes.insert((caller, tag), Purpose::Ignored);
                caller
            }
        };
        let request = WatchRequest {
            namespace: PRIMARY.to_string(),
            key: KEY.to_string(),
            flags: WATCH | WAITCREATE,
        };
        let tag = self.world.stream::<WatchLookup>(caller, None, &request);
        self.purposes.insert((caller, tag), Purpose::Onlook(at));
        let now = self.world.now;
        if let Some(onlooker) = self.onlookers.get_mut(at) {
            *onlooker = Onlooker {
                rank: onlooker.rank,
                caller: Some(caller),
                since: Some(now),
                last: None,
            };
        }
    }

    /// What a watch says.
    pub(super) fn onlooker_hears(&mut self, at: usize, message: &Message) {
        let Some(onlooker) = self.onlookers.get_mut(at) else { return };
        if message.errnum() == Errno::OK {
            onlooker.last = value_of(message);
            self.count("watched changes");
        } else {
            onlooker.since = None;
            self.count("watches ended");
        }
    }

    pub(super) fn onlooker_gone(&mut self, caller: Caller) {
        for onlooker in &mut self.onlookers {
            if onlooker.caller == Some(caller) {
                (onlooker.caller, onlooker.since, onlooker.last) = (None, None, None);
            }
        }
    }

    /// In the end everybody who watches has seen the value that is there.
    pub(super) fn judge_onlookers(&mut self, key: &str, value: Option<u64>) {
        if key != KEY {
            return;
        }
        let now = self.world.now;
        let settled = self.onlookers.iter().filter(|onlooker| {
            onlooker.since.is_some_and(|since| since + SETTLED < now) && onlooker.last != value
        });
        let wrong: Vec<String> = settled
            .map(|onlooker| {
                let Onlooker { rank, last, .. } = onlooker;
                format!("a watch of {key} at rank {rank} shows {last:?}, and it is {value:?}")
            })
            .collect();
        for text in wrong {
            self.world.violation(text);
        }
    }
}
