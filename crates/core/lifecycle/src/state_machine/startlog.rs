//! `admin.eventlog`: when the instance started and when it ended (RFC 18).
//!
//! A `start` without a `finish` after it is a run that was not ended in order, which the next start
//! tells. Both events are waited for within a bound: the first before rc1, the last before rc3.

use flux_api::kvs::{APPEND, Commit, CommitRequest, Lookup, LookupRequest, Operation, PRIMARY};
use flux_model::eventlog::{Event, Eventlog};
use flux_model::treeobj::Treeobj;
use flux_proto::Errno;
use flux_svc::{Cx, Level, Reply, To};
use serde_json::{Map, Value};

use super::runat::Group;
use super::state::State;
use super::{StateMachineService, Wait};

/// Key of the log in the primary namespace.
const KEY: &str = "admin.eventlog";
/// Seconds that an event may take.
const PATIENCE: f64 = 10.0;

/// How far the log is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Startlog {
    /// Nothing is written.
    #[default]
    Off,
    /// The log so far is being read.
    Reading,
    /// The start is being written.
    Starting,
    /// The start is written.
    Started,
    /// The end is being written.
    Ending,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartlogStep {
    /// The log so far.
    Read,
    /// The start to be written.
    Start,
    /// The end to be written.
    Finish,
}

impl StateMachineService {
    /// The modules are up: reads what was before, writes the start, then goes on with rc1.
    pub(super) fn startlog_begin(&mut self, cx: &mut Cx<'_, Wait>) {
        if cx.rank() > 0 || self.settings.startlog.is_none() {
            return self.run_group(cx, Group::Rc1);
        }
        self.arm(cx, Some(PATIENCE), Wait::GiveUp(State::Init));
        let request = LookupRequest {
            key: KEY.to_string(),
            flags: 0,
            namespace: Some(PRIMARY.to_string()),
            rootdir: None,
            rootseq: None,
            userid: None,
        };
        cx.call::<Lookup>(To::Rank(0), &request, Wait::Startlog(StartlogStep::Read));
        self.startlog = Startlog::Reading;
    }

    /// FINALIZE has begun: writes the end, then goes on with rc3.
    pub(super) fn startlog_end(&mut self, cx: &mut Cx<'_, Wait>) {
        match self.startlog {
            Startlog::Off | Startlog::Ending => self.run_group(cx, Group::Rc3),
            // The answer that is outstanding goes on with the end.
            Startlog::Reading | Startlog::Starting => {
                self.arm(cx, Some(PATIENCE), Wait::GiveUp(State::Finalize));
            }
            Startlog::Started => {
                self.arm(cx, Some(PATIENCE), Wait::GiveUp(State::Finalize));
                self.startlog = Startlog::Ending;
                self.startlog_append(cx, "finish", Map::new(), StartlogStep::Finish);
            }
        }
    }

    /// It takes too long: the log stays as it is, and life goes on.
    pub(super) fn startlog_give_up(&mut self, cx: &mut Cx<'_, Wait>, group: Group) {
        let waiting = match group {
            Group::Rc1 => [Startlog::Reading, Startlog::Starting].contains(&self.startlog),
            _ => self.startlog != Startlog::Off,
        };
        if waiting {
            self.startlog = Startlog::Off;
            cx.log(Level::Err, format!("{KEY}: could not be written"));
            self.run_group(cx, group);
        }
    }

    pub(super) fn startlog_reply(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        step: StartlogStep,
        reply: &Reply,
    ) {
        if self.startlog == Startlog::Off {
            // Given up.
            return;
        }
        match step {
            StartlogStep::Read => {
                match last_event(reply) {
                    Ok(Some(event)) if event.name == "start" => {
                        cx.log(
                            Level::Err,
                            "this instance was not shut down in order before (see flux startlog)",
                        );
                    }
                    Ok(_) => {}
                    Err(text) => cx.log(Level::Err, format!("{KEY}: {text}")),
                }
                self.startlog = Startlog::Starting;
                let mut context = Map::new();
                if let Some(version) = &self.settings.startlog {
                    context.insert("core_version".to_string(), Value::from(version.as_str()));
                }
                self.startlog_append(cx, "start", context, StartlogStep::Start);
            }
            StartlogStep::Start | StartlogStep::Finish => {
                if let Some(error) = reply.error() {
                    cx.log(Level::Err, format!("{KEY}: {error}"));
                }
                if step == StartlogStep::Finish {
                    self.startlog = Startlog::Off;
                    return self.run_group(cx, Group::Rc3);
                }
                self.startlog = Startlog::Started;
                match self.state {
                    State::Init => self.run_group(cx, Group::Rc1),
                    State::Finalize => self.startlog_end(cx),
                    _ => {}
                }
            }
        }
    }

    fn startlog_append(
        &self,
        cx: &mut Cx<'_, Wait>,
        name: &str,
        context: Map<String, Value>,
        step: StartlogStep,
    ) {
        let mut event = Event::new(cx.wall(), name);
        if !context.is_empty() {
            event = event.with_context(context);
        }
        let request = CommitRequest {
            namespace: PRIMARY.to_string(),
            flags: 0,
            ops: vec![Operation {
                key: KEY.to_string(),
                flags: APPEND,
                dirent: Treeobj::val(event.encode().into_bytes()).into(),
            }],
        };
        cx.call::<Commit>(To::Rank(0), &request, Wait::Startlog(step));
    }
}

/// The last event of the log; none when there is no log.
fn last_event(reply: &Reply) -> Result<Option<Event>, String> {
    let found = match reply.decode::<Lookup>() {
        Ok(found) => found,
        Err(error) if error.errno == Errno::ENOENT => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let Ok(Treeobj::Val(text)) = Treeobj::from_value(&found.val) else {
        return Err("is no value".to_string());
    };
    let text = String::from_utf8(text).map_err(|_| "is no text".to_string())?;
    let log = Eventlog::parse(&text).map_err(|error| error.to_string())?;
    Ok(log.events().last().cloned())
}
