//! The nodes: which can be asked for shells, and what runs there that no job owns.
//!
//! A job may end without a node that is away for too long. Its processes there may run on, so a
//! node that comes (back) is asked what is on record there before anything is started: what no job
//! owns is killed, and only when it is gone is the node ready. So no core is used twice, whatever
//! the scheduler knows.

use std::collections::BTreeMap;

use flux_api::launch::{Attach_, Forget_, Kill_, LaunchAttach, LaunchForget, LaunchKill, List_};
use flux_api::lifecycle::{GroupGet, GroupName};
use flux_api::{Empty, RpcError};
use flux_id::Idset;
use flux_proto::Errno;
use flux_svc::{Cx, Level, Reply, To};

use crate::job::{Stage, Step};
use crate::{ExecService, Wait};

/// Between looks at nodes that are away.
const LOOK_AGAIN: u64 = 500_000;
/// How long records that are of no interest any more are gathered.
const FORGET_AFTER: u64 = 200_000;
/// Records that are forgotten at once when so many were gathered.
const FORGET_MANY: usize = 64;

/// Whether an error says that the node cannot be reached now.
pub(crate) fn is_away(error: &RpcError) -> bool {
    matches!(
        error.errno,
        Errno::EHOSTUNREACH | Errno::EAGAIN | Errno::ETIMEDOUT | Errno::ECONNRESET
    )
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    /// It was asked what is on record.
    Asked,
    /// Shells of jobs that are over are being ended: so many.
    Cleaning(usize),
    /// Shells can be started.
    Ready,
}

impl ExecService {
    /// Follows which nodes are there.
    pub(crate) fn watch_nodes(cx: &mut Cx<'_, Wait>) {
        let request = GroupName { name: "broker.online".to_string() };
        cx.stream::<GroupGet>(To::Rank(0), &request, Wait::Online);
    }

    /// Nodes have come or gone.
    pub(crate) fn online(&mut self, cx: &mut Cx<'_, Wait>, reply: &Reply) {
        let members = match reply.decode::<GroupGet>() {
            Ok(group) => group.members.parse::<Idset>().unwrap_or_default(),
            Err(error) => {
                return cx.log(Level::Debug, format!("groups.get broker.online: {error}"));
            }
        };
        let before = std::mem::replace(&mut self.online, members.clone());
        self.seen = self.seen.union(&members);
        if !self.greeted {
            return;
        }
        for rank in members.ids().filter(|rank| !before.contains(*rank)) {
            self.is_ready(cx, rank);
            self.ask_rank(cx, rank);
        }
    }

    /// The manager has told of every job that may have shells: what else there is, is over.
    pub(crate) fn greeted(&mut self, cx: &mut Cx<'_, Wait>) {
        self.greeted = true;
        for rank in self.online.clone().ids() {
            self.is_ready(cx, rank);
        }
    }

    /// Whether shells can be started on a node. If not, the node is asked, and when it is ready
    /// everything that waits for it is.
    pub(crate) fn is_ready(&mut self, cx: &mut Cx<'_, Wait>, rank: u32) -> bool {
        if !self.greeted {
            return false;
        }
        match self.ranks.get(&rank) {
            Some(Node::Ready) => true,
            Some(_) => false,
            None => {
                self.ranks.insert(rank, Node::Asked);
                cx.call::<List_>(To::Rank(rank), &Empty, Wait::Records(rank));
                false
            }
        }
    }

    /// What is on record on a node.
    pub(crate) fn records(&mut self, cx: &mut Cx<'_, Wait>, rank: u32, reply: &Reply) {
        let list = match reply.decode::<List_>() {
            Ok(list) => list.jobs,
            // A node without launcher refuses what is asked of it, with a reason.
            Err(error) if error.errno == Errno::ENOSYS => Vec::new(),
            // Nothing is started where something may run that nobody knows of.
            Err(error) => {
                if !is_away(&error) {
                    cx.log(Level::Err, format!("launch.list on rank {rank}: {error}"));
                }
                self.ranks.remove(&rank);
                return self.rank_away(cx, rank);
            }
        };
        let mut cleaning = 0;
        for record in list {
            let id = record.id;
            let owned = self.jobs.get(&id).is_some_and(|job| {
                let shell = job.shells.get(&rank);
                if record.state == "running" {
                    // One that was given up is wanted no more, while its job is being recorded.
                    return job.step < Step::Ending
                        && shell.is_some_and(|shell| !shell.has_exited());
                }
                // A status that was told stays on record until that of the job is on disk: a leader
                // that is restarted before asks for it again.
                job.step >= Step::Ending || shell.is_some()
            });
            if owned {
                continue;
            }
            if record.state == "running" {
                let name = flux_id::JobId(id).f58();
                let text = format!("rank {rank}: killing the shell of job {name}, which is over");
                cx.log(Level::Warning, text);
                let kill = LaunchKill { id, signum: 9, all: true };
                cx.call::<Kill_>(To::Rank(rank), &kill, Wait::Signal);
                let attach = LaunchAttach { id, stdout: u64::MAX, stderr: u64::MAX };
                cx.stream::<Attach_>(To::Rank(rank), &attach, Wait::Stray(id, rank));
                cleaning += 1;
            } else {
                self.forget_record(cx, id, rank);
            }
        }
        if cleaning > 0 {
            self.ranks.insert(rank, Node::Cleaning(cleaning));
        } else {
            self.ready(cx, rank);
        }
    }

    /// News of a shell that no job owns.
    pub(crate) fn stray(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32, reply: &Reply) {
        if !reply.last {
            return;
        }
        if reply.error().is_some_and(is_away) {
            self.ranks.remove(&rank);
            return self.rank_away(cx, rank);
        }
        self.forget_record(cx, id, rank);
        match self.ranks.get_mut(&rank) {
            Some(Node::Cleaning(1)) => self.ready(cx, rank),
            Some(Node::Cleaning(count)) => *count -= 1,
            _ => {}
        }
    }

    fn ready(&mut self, cx: &mut Cx<'_, Wait>, rank: u32) {
        self.ranks.insert(rank, Node::Ready);
        self.ask_rank(cx, rank);
    }

    /// Asks a node for the shells that are wanted there.
    fn ask_rank(&mut self, cx: &mut Cx<'_, Wait>, rank: u32) {
        for id in self.wanted_on(rank) {
            self.ask_for(cx, id, rank);
        }
    }

    fn wanted_on(&self, rank: u32) -> Vec<u64> {
        let wanted = |id: &u64| {
            self.jobs.get(id).is_some_and(|job| {
                matches!(job.step, Step::Starting | Step::Running)
                    && job.shells.get(&rank).is_some_and(|shell| shell.stage == Stage::Wanted)
            })
        };
        self.at_rank.get(&rank).into_iter().flatten().copied().filter(wanted).collect()
    }

    /// A job has shells on these nodes.
    pub(crate) fn place_job(&mut self, id: u64, ranks: impl Iterator<Item = u32>) {
        for rank in ranks {
            self.at_rank.entry(rank).or_default().insert(id);
        }
    }

    /// A job has no shells any more.
    pub(crate) fn displace_job(&mut self, job: &crate::job::Job) {
        for rank in job.shells.keys() {
            self.away.remove(&(*rank, job.id.0));
            if let Some(ids) = self.at_rank.get_mut(rank) {
                ids.remove(&job.id.0);
                if ids.is_empty() {
                    self.at_rank.remove(rank);
                }
            }
        }
    }

    /// A node cannot be asked: what is wanted there is away.
    fn rank_away(&mut self, cx: &mut Cx<'_, Wait>, rank: u32) {
        for id in self.wanted_on(rank) {
            self.shell_away(cx, id, rank);
        }
    }

    /// Looks for nodes that are away from time to time, and for an end of the patience with them.
    pub(crate) fn watch_away(&mut self, cx: &mut Cx<'_, Wait>) {
        if self.looking.is_none() {
            self.looking = Some(cx.timer(LOOK_AGAIN, Wait::Away));
        }
    }

    pub(crate) fn look_at_away(&mut self, cx: &mut Cx<'_, Wait>) {
        self.looking = None;
        self.give_up_away(cx);
        let mut away: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for (rank, id) in std::mem::take(&mut self.away) {
            let shell = self.jobs.get(&id).and_then(|job| job.shells.get(&rank));
            if shell.is_some_and(|shell| shell.away.is_some() && shell.stage == Stage::Wanted) {
                self.away.insert((rank, id));
                away.entry(rank).or_default().push(id);
            }
        }
        for (rank, ids) in away {
            // Either answer moves all that wait for this node.
            if self.is_ready(cx, rank) {
                for id in ids {
                    self.ask_for(cx, id, rank);
                }
            }
        }
    }

    /// A record of a shell is of no interest any more.
    pub(crate) fn forget_record(&mut self, cx: &mut Cx<'_, Wait>, id: u64, rank: u32) {
        if self.forgotten.is_empty() {
            cx.timer(FORGET_AFTER, Wait::Forget);
        }
        let ids = self.forgotten.entry(rank).or_default();
        ids.push(id);
        if ids.len() >= FORGET_MANY {
            let ids = std::mem::take(ids);
            cx.notify::<Forget_>(To::Rank(rank), &LaunchForget { ids });
        }
    }

    /// Tells the nodes which records can go. One that does not hear of it is told when it is back.
    pub(crate) fn forget_records(&mut self, cx: &mut Cx<'_, Wait>) {
        for (rank, ids) in std::mem::take(&mut self.forgotten) {
            if !ids.is_empty() {
                cx.notify::<Forget_>(To::Rank(rank), &LaunchForget { ids });
            }
        }
    }

    /// Forgets the streams of a job.
    pub(crate) fn unfollow(cx: &mut Cx<'_, Wait>, job: &crate::job::Job) {
        for tag in job.shells.values().filter_map(|shell| shell.tag) {
            cx.forget(tag);
        }
    }
}
