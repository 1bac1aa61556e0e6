//! Forgetting finished jobs: on request, and by the configured limits.
//!
//! Jobs go out of the KVS first, then out of the archive, in batches of bounded size. Until both is
//! done they are in the index of active jobs: a restart that finds one there, and not in the KVS,
//! takes it out of the archive before anybody hears of it.

use std::collections::{BTreeMap, BTreeSet};

use flux_api::archive::{ArchiveBeyond_, ArchiveIds, ArchiveLimits, ArchiveRemove};
use flux_api::job::manager::{CountResponse, Purge, PurgeId_};
use flux_api::{Answer, Call, RpcError};
use flux_id::JobId;
use flux_proto::Errno;
use flux_svc::{Cx, Level, Reply, To};
use serde_json::{Map, json};

use crate::commits::After;
use crate::service::{JobManager, Wait};

/// Event that names purged jobs.
pub const EVENT: &str = "job-purge-inactive";
/// How often the limits are checked, in microseconds.
pub const PERIOD_US: u64 = 2_000_000;
/// When there is more to purge, in microseconds.
pub const PERIOD_BUSY_US: u64 = 50_000;
/// Finished jobs of this memory that are named to the archive at most.
const EXCEPT_MAX: usize = 10_000;
/// Jobs purged at once by the limits.
pub const BATCH: usize = 100;

/// How long to wait after the archive could not be changed, in microseconds.
pub const RETRY_US: u64 = 1_000_000;

/// Who is told when jobs are purged.
#[derive(Debug)]
pub(crate) enum Asker {
    Limits,
    /// The limit for each guest, and whose turn it is.
    Guest(u32),
    Many(Answer<Purge>),
    One(Answer<PurgeId_>),
}

impl Asker {
    pub(crate) fn answer(self, cx: &mut Cx<'_, Wait>, result: Result<u64, RpcError>) {
        let response = result.map(|count| CountResponse { count, errors: 0 });
        match self {
            Self::Limits | Self::Guest(_) => {}
            Self::Many(answer) => answer.respond(cx, response),
            Self::One(answer) => answer.respond(cx, response),
        }
    }
}

/// What may be purged: `None` for no limit.
#[derive(Debug, Clone, Copy)]
struct Limits {
    age: Option<f64>,
    number: Option<usize>,
    /// Only jobs of this user.
    user: Option<u32>,
    /// Jobs to purge at most; only counted without.
    max: Option<usize>,
}

/// Purges that wait for the archive.
#[derive(Debug, Default)]
pub struct Purges {
    /// Which jobs are beyond the limits?
    beyond: BTreeMap<u64, (Limits, Asker)>,
    /// These jobs are out of the KVS, and go out of the archive.
    removing: BTreeMap<u64, (Vec<u64>, Asker)>,
    /// These are still in the archive: it could not be changed.
    left: Vec<u64>,
    left_armed: bool,
    next: u64,
    /// Guests of whom jobs have ended: they may have more than is kept.
    pub(crate) guests: BTreeSet<u32>,
    /// The next time one of them is looked at, and not all jobs.
    guests_turn: bool,
}

fn invalid(text: &str) -> RpcError {
    RpcError::new(Errno::EINVAL, text)
}

impl JobManager {
    /// Finished jobs of this memory, of one user or all, oldest first.
    fn ended(&self, user: Option<u32>) -> impl Iterator<Item = (u64, f64)> {
        let meant = move |id| {
            user.is_none_or(|user| self.inactive.get(id).is_some_and(|job| job.userid == user))
        };
        self.inactive.oldest().filter(move |(id, _)| meant(*id))
    }

    /// Finished jobs of this memory beyond the limits, oldest first, at most `max`.
    fn eligible_for_purge(&self, wall: f64, limits: Limits, max: usize) -> Vec<u64> {
        let Limits { age, number, user, .. } = limits;
        let total = match user {
            None => self.inactive.len(),
            Some(_) => self.ended(user).count(),
        };
        self.ended(user)
            .enumerate()
            .take_while(|(index, (_, t_inactive))| {
                // Without any limit every finished job may go.
                (age.is_none() && number.is_none())
                    || age.is_some_and(|age| wall - t_inactive >= age)
                    || number.is_some_and(|number| total - index > number)
            })
            .take(max)
            .map(|(_, (id, _))| id)
            .collect()
    }

    /// Takes jobs out of memory and, with the next commit, out of the KVS.
    fn purge_jobs(&mut self, ids: Vec<u64>, asker: Asker) {
        for id in &ids {
            self.inactive.remove(*id);
            self.history.remove(*id);
            self.commits.remove(JobId(*id).kvs());
            // Until it is out of the archive, too.
            self.commits.index.add(*id);
            if *id == self.max_jobid {
                // The directory no longer says it.
                self.checkpoint();
            }
        }
        self.commits.after(After::Purged(ids, asker));
    }

    /// The jobs are out of the KVS.
    pub(crate) fn purged(&mut self, cx: &mut Cx<'_, Wait>, ids: Vec<u64>, asker: Asker) {
        if !self.archive {
            return self.announce_purge(cx, &ids, asker);
        }
        let ticket = self.purges.next;
        self.purges.next += 1;
        cx.call::<ArchiveRemove>(To::Any, &ArchiveIds { ids: ids.clone() }, Wait::Removed(ticket));
        self.purges.removing.insert(ticket, (ids, asker));
    }

    /// The jobs are out of the archive too.
    pub(crate) fn removed(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64, reply: &Reply) {
        let Some((ids, asker)) = self.purges.removing.remove(&ticket) else { return };
        match reply.error() {
            None => {
                self.archived = self.archived.saturating_sub(ids.len() as u64);
                ids.iter().for_each(|id| self.commits.index.remove(*id));
                self.announce_purge(cx, &ids, asker);
            }
            Some(error) => {
                let text = format!("cannot purge jobs from the archive: {error}");
                if self.purges.left.is_empty() {
                    cx.log(Level::Err, format!("{text}; tried again until it works"));
                }
                asker.answer(cx, Err(RpcError::new(error.errno, text)));
                self.still_archived(cx, ids);
            }
        }
    }

    /// These jobs have no place in the archive any more: they go when it can be changed.
    pub(crate) fn still_archived(&mut self, cx: &mut Cx<'_, Wait>, ids: Vec<u64>) {
        self.purges.left.extend(ids);
        if !self.purges.left_armed {
            self.purges.left_armed = true;
            cx.timer(RETRY_US, Wait::PurgeLeft);
        }
    }

    /// The time to try again is over.
    pub(crate) fn purge_left(&mut self, cx: &mut Cx<'_, Wait>) {
        self.purges.left_armed = false;
        for ids in std::mem::take(&mut self.purges.left).chunks(BATCH) {
            self.purged(cx, ids.to_vec(), Asker::Limits);
        }
    }

    /// The purge is durable.
    fn announce_purge(&mut self, cx: &mut Cx<'_, Wait>, ids: &[u64], asker: Asker) {
        let mut body = Map::new();
        body.insert("jobs".into(), json!(ids));
        // Ids of jobs are for those who may see the jobs.
        cx.publish(EVENT, &body, true);
        asker.answer(cx, Ok(ids.len() as u64));
    }

    /// `job-manager.purge`.
    pub(crate) fn purge(&mut self, cx: &mut Cx<'_, Wait>, call: Call<Purge>) {
        let request = &call.request;
        let checked = if request.age_limit < 0.0 && request.age_limit != -1.0 {
            Err(invalid("if set, age limit must be >= 0"))
        } else if request.num_limit < -1 {
            Err(invalid("if set, num limit must be >= 0"))
        } else if !(1..=100).contains(&request.batch) {
            Err(invalid("batch must be >= 1 and <= 100"))
        } else if request.force {
            self.commits.check()
        } else {
            Ok(())
        };
        if let Err(error) = checked {
            return call.answer.err(cx, error);
        }
        let max = usize::try_from(request.batch).unwrap_or(BATCH);
        let limits = Limits {
            age: (request.age_limit >= 0.0).then_some(request.age_limit),
            number: usize::try_from(request.num_limit).ok(),
            user: None,
            max: request.force.then_some(max),
        };
        self.purge_within(cx, limits, Asker::Many(call.answer));
    }

    /// Purges what is beyond the limits, or counts it.
    fn purge_within(&mut self, cx: &mut Cx<'_, Wait>, limits: Limits, asker: Asker) {
        // As long as very many jobs are not in the archive, its turn has not come.
        if !self.archive || self.inactive.len() > EXCEPT_MAX {
            return self.purge_found(cx, limits, asker, 0, Vec::new());
        }
        // Jobs may be in the archive before that is said here: those are not counted twice.
        let except: Vec<u64> = self.ended(limits.user).map(|(id, _)| id).collect();
        let keep = limits.number.map(|number| number.saturating_sub(except.len()) as u64);
        let request = ArchiveLimits {
            ended_before: limits.age.map(|age| cx.wall() - age),
            keep,
            max: limits.max.unwrap_or(0) as u64,
            except,
            userid: limits.user,
        };
        let ticket = self.purges.next;
        self.purges.next += 1;
        self.purges.beyond.insert(ticket, (limits, asker));
        cx.call::<ArchiveBeyond_>(To::Any, &request, Wait::Beyond(ticket));
    }

    /// The archive said what of it is beyond the limits.
    pub(crate) fn beyond(&mut self, cx: &mut Cx<'_, Wait>, ticket: u64, reply: &Reply) {
        let Some((limits, asker)) = self.purges.beyond.remove(&ticket) else { return };
        match reply.decode::<ArchiveBeyond_>() {
            Ok(found) => self.purge_found(cx, limits, asker, found.count, found.ids),
            Err(error) => {
                cx.log(Level::Err, format!("purge: {error}"));
                self.purge_again(cx, &asker, 0);
                asker.answer(cx, Err(error));
            }
        }
    }

    /// Adds the newest jobs, which are not in the archive, to those of the archive.
    fn purge_found(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        limits: Limits,
        asker: Asker,
        count: u64,
        mut ids: Vec<u64>,
    ) {
        let Some(max) = limits.max else {
            let here = self.eligible_for_purge(cx.wall(), limits, usize::MAX).len();
            return asker.answer(cx, Ok(count + here as u64));
        };
        if let Err(error) = self.commits.check() {
            self.purge_again(cx, &asker, 0);
            return asker.answer(cx, Err(error));
        }
        // The archive may have heard of an end that was never stored: the job runs again, or has
        // yet to end again, since the leader was restarted.
        ids.retain(|id| !self.jobs.contains_key(id));
        let room = max.saturating_sub(ids.len());
        ids.extend(self.eligible_for_purge(cx.wall(), limits, room));
        self.purge_again(cx, &asker, ids.len());
        if ids.is_empty() {
            return asker.answer(cx, Ok(0));
        }
        self.purge_jobs(ids, asker);
    }

    /// `job-manager.purge-id`.
    pub(crate) fn purge_id(&mut self, cx: &mut Cx<'_, Wait>, call: Call<PurgeId_>) {
        let id = call.request.id;
        if self.finished(id).is_none() {
            let error = if self.jobs.contains_key(&id) {
                invalid("cannot purge active job")
            } else {
                RpcError::new(Errno::ENOENT, "id not found")
            };
            return call.answer.err(cx, error);
        }
        if call.request.force == 0 {
            return call.answer.ok(cx, &CountResponse { count: 1, errors: 0 });
        }
        if let Err(error) = self.commits.check() {
            return call.answer.err(cx, error);
        }
        self.purge_jobs(vec![id], Asker::One(call.answer));
    }

    /// Applies the configured limits, then waits for the next time.
    pub(crate) fn purge_by_limits(&mut self, cx: &mut Cx<'_, Wait>) {
        let (age, number) = (self.settings.inactive_age_limit, self.settings.inactive_num_limit);
        let general = age.is_some() || number.is_some();
        if self.settings.guests.finished.is_none() {
            self.purges.guests.clear();
            if !general {
                self.purge_armed = false;
                return;
            }
        }
        self.purge_armed = true;
        if self.commits.failure.is_some() {
            cx.timer(PERIOD_US, Wait::Purge);
            return;
        }
        let guest = std::mem::take(&mut self.purges.guests_turn) || !general;
        match self.purges.guests.first().copied().filter(|_| guest) {
            Some(user) => {
                self.purges.guests.remove(&user);
                let number = self.settings.guests.finished;
                let limits = Limits { age: None, number, user: Some(user), max: Some(BATCH) };
                self.purge_within(cx, limits, Asker::Guest(user));
            }
            None if general => {
                let limits = Limits { age, number, user: None, max: Some(BATCH) };
                self.purge_within(cx, limits, Asker::Limits);
            }
            None => {
                cx.timer(PERIOD_US, Wait::Purge);
            }
        }
    }

    /// The limits are looked at again, soon when there may be more beyond them.
    fn purge_again(&mut self, cx: &mut Cx<'_, Wait>, asker: &Asker, count: usize) {
        match asker {
            Asker::Limits => self.purges.guests_turn = true,
            Asker::Guest(user) if count >= BATCH => drop(self.purges.guests.insert(*user)),
            Asker::Guest(_) => {}
            Asker::Many(_) | Asker::One(_) => return,
        }
        let more = count >= BATCH || !self.purges.guests.is_empty();
        cx.timer(if more { PERIOD_BUSY_US } else { PERIOD_US }, Wait::Purge);
    }

    /// The service goes down.
    pub(crate) fn purges_end(&mut self, cx: &mut Cx<'_, Wait>) {
        let purges = std::mem::take(&mut self.purges);
        let waiting = purges.beyond.into_values().map(|(_, asker)| asker);
        for asker in waiting.chain(purges.removing.into_values().map(|(_, asker)| asker)) {
            asker.answer(cx, Err(RpcError::new(Errno::ENOSYS, "job-manager is unloading")));
        }
    }
}
