//! Who may submit to which queue (RFC 33, `policy.access`).
//!
//! The configuration has names, jobs have user ids: the `users` driver knows both. What it told is
//! remembered for a while, and forgotten at a reload; a request that needs more waits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flux_api::RpcError;
use flux_api::driver::{Groups, NamesRequest, Numbers, Numbers_, PersonRequest};
use flux_api::job::manager::Manager;
use flux_proto::{Errno, Rolemask};
use flux_svc::{Cx, Level, Reply, To};
use serde_json::Value;

use crate::config::Table;
use crate::service::{JobManager, Wait, refuse};
use crate::submit::system;
use crate::update::QUEUE;

/// How long what the driver told is believed, in microseconds: so long it may take until somebody
/// who became a member of a group may submit.
pub const FRESH_US: u64 = 60_000_000;
/// How long a failure of the driver is.
const FAILURE_US: u64 = 1_000_000;
/// Requests that may wait for the driver; more are refused.
const WAITING_MAX: usize = 1024;
/// Users that are remembered.
const USERS_MAX: usize = 16_384;

/// Who may submit: one `access` table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rule {
    /// Login names.
    pub users: Vec<String>,
    /// Names of groups.
    pub groups: Vec<String>,
}

impl Rule {
    /// Reads `access` of a policy. Without a key in it everybody may submit.
    ///
    /// # Errors
    /// EINVAL: a wrong key or type.
    pub(crate) fn read(policy: &Table<'_>) -> Result<Option<Self>, RpcError> {
        let Some(access) = policy.sub("access")? else { return Ok(None) };
        access.only(&["allow-user", "allow-group"])?;
        let users = access.strings("allow-user")?;
        let groups = access.strings("allow-group")?;
        Ok((!access.keys.is_empty()).then_some(Self { users, groups }))
    }
}

/// The rules of all queues.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    /// For queues without a rule.
    pub general: Option<Rule>,
    /// Of each queue; a virtual queue without one has that of its parent.
    pub queues: BTreeMap<String, Rule>,
}

impl Rules {
    /// The rule of a queue, and the table it stands in.
    fn of(&self, queue: Option<&str>) -> Option<(&Rule, String)> {
        let own = queue.and_then(|queue| Some((self.queues.get(queue)?, queue)));
        match own {
            Some((rule, queue)) => Some((rule, format!("queues.{queue}.policy.access"))),
            None => self.general.as_ref().map(|rule| (rule, "policy.access".to_string())),
        }
    }

    fn is_empty(&self) -> bool {
        self.general.is_none() && self.queues.is_empty()
    }

    fn names(&self) -> NamesRequest {
        let rules = || self.general.iter().chain(self.queues.values());
        let users: BTreeSet<String> = rules().flat_map(|rule| rule.users.clone()).collect();
        let groups: BTreeSet<String> = rules().flat_map(|rule| rule.groups.clone()).collect();
        NamesRequest { users: users.into_iter().collect(), groups: groups.into_iter().collect() }
    }
}

/// A word of the driver, until it is too old.
#[derive(Debug)]
struct Told<T> {
    word: Result<T, RpcError>,
    until_us: u64,
}

impl<T> Told<T> {
    fn new(word: Result<T, RpcError>, now_us: u64) -> Self {
        let fresh = if word.is_ok() { FRESH_US } else { FAILURE_US };
        Self { word, until_us: now_us + fresh }
    }
}

#[derive(Debug)]
struct Member {
    name: Option<String>,
    groups: BTreeSet<u32>,
}

/// What is known of users and groups, and who waits for more.
#[derive(Debug, Default)]
pub struct Access {
    numbers: Option<Told<Numbers>>,
    members: BTreeMap<u32, Told<Member>>,
    asking_numbers: bool,
    asking: BTreeSet<u32>,
    held: VecDeque<Manager>,
    /// Answers to questions from before the last reload do not count.
    generation: u64,
    /// What was last said of unknown names.
    warned: Vec<String>,
}

impl Access {
    /// Whether this user may submit to this queue, as far as it is known.
    ///
    /// # Errors
    /// EPERM: no. EAGAIN: it cannot be found out.
    fn decide(&self, rules: &Rules, userid: u32, queue: Option<&str>) -> Result<(), RpcError> {
        let Some((rule, table)) = rules.of(queue) else { return Ok(()) };
        let unknown = |error: &RpcError| {
            RpcError::new(Errno::EAGAIN, format!("{table}: cannot look up who you are: {error}"))
        };
        let missing = RpcError::from(Errno::EAGAIN);
        let numbers = self.numbers.as_ref().map_or(Err(&missing), |told| told.word.as_ref());
        let numbers = numbers.map_err(unknown)?;
        let member = self.members.get(&userid).map_or(Err(&missing), |told| told.word.as_ref());
        let member = member.map_err(unknown)?;
        let named = rule.users.iter().any(|name| numbers.users.get(name) == Some(&userid));
        let belongs = || {
            let mut groups = rule.groups.iter().filter_map(|name| numbers.groups.get(name));
            groups.any(|group| member.groups.contains(group))
        };
        if named || belongs() {
            return Ok(());
        }
        let who = member.name.clone().unwrap_or_else(|| userid.to_string());
        let queue = queue.filter(|_| table != "policy.access");
        let place = queue.map(|queue| format!(" to queue {queue}")).unwrap_or_default();
        let text = format!("user {who} is not allowed to submit jobs{place} ({table})");
        Err(RpcError::new(Errno::EPERM, text))
    }
}

impl JobManager {
    /// Whether this user may submit to this queue. The owner always may.
    ///
    /// # Errors
    /// EPERM: no. EAGAIN: it cannot be found out now.
    pub(crate) fn may_submit(
        &self,
        cx: &Cx<'_, Wait>,
        userid: u32,
        queue: Option<&str>,
    ) -> Result<(), RpcError> {
        if userid == cx.owner() {
            return Ok(());
        }
        let queue = queue.filter(|_| self.queues.is_named());
        self.access.decide(&self.settings.access, userid, queue)
    }

    /// Users whose groups matter to a request.
    fn strangers(&self, cx: &Cx<'_, Wait>, call: &Manager) -> BTreeSet<u32> {
        let rules = &self.settings.access;
        if rules.is_empty() {
            return BTreeSet::new();
        }
        let mut users = BTreeSet::new();
        match call {
            Manager::Submit(call) => {
                for job in &call.request.jobs {
                    let queue = system(&job.jobspec, "queue").and_then(Value::as_str);
                    if rules.of(queue).is_some() {
                        users.insert(job.userid);
                    }
                }
            }
            Manager::Update(call) if !call.answer.cred().rolemask.contains(Rolemask::OWNER) => {
                let queue = call.request.updates.get(QUEUE).and_then(Value::as_str);
                if queue.is_some_and(|queue| rules.of(Some(queue)).is_some()) {
                    users.insert(call.answer.cred().userid);
                }
            }
            _ => {}
        }
        users.remove(&cx.owner());
        users
    }

    /// Keeps a request back until the users that it is about are known; gives it back when they are.
    pub(crate) fn with_names(&mut self, cx: &mut Cx<'_, Wait>, call: Manager) -> Option<Manager> {
        let users = self.strangers(cx, &call);
        if users.is_empty() {
            return Some(call);
        }
        let now = cx.now_us();
        if self.access.numbers.as_ref().is_none_or(|told| told.until_us <= now) {
            self.ask_numbers(cx);
        }
        let old = |access: &Access, user: &u32| {
            access.members.get(user).is_none_or(|told| told.until_us <= now)
        };
        let missing: Vec<u32> = users.into_iter().filter(|user| old(&self.access, user)).collect();
        for userid in &missing {
            if self.access.asking.insert(*userid) {
                let wait = Wait::Member(*userid, self.access.generation);
                cx.call::<Groups>(To::Any, &PersonRequest { userid: *userid }, wait);
            }
        }
        if missing.is_empty() && !self.access.asking_numbers {
            return Some(call);
        }
        if self.access.held.len() >= WAITING_MAX {
            let text = "too many requests wait for the names of users: try again";
            refuse(cx, call, RpcError::new(Errno::EAGAIN, text));
        } else {
            self.access.held.push_back(call);
        }
        None
    }

    fn ask_numbers(&mut self, cx: &mut Cx<'_, Wait>) {
        if !std::mem::replace(&mut self.access.asking_numbers, true) {
            let wait = Wait::Numbers(self.access.generation);
            cx.call::<Numbers_>(To::Any, &self.settings.access.names(), wait);
        }
    }

    /// The driver told the numbers of the names in the configuration.
    pub(crate) fn numbers_told(&mut self, cx: &mut Cx<'_, Wait>, generation: u64, reply: &Reply) {
        if generation == self.access.generation {
            let word = reply.decode::<Numbers_>();
            self.warn_of_strange_names(cx, &word);
            self.access.asking_numbers = false;
            self.access.numbers = Some(Told::new(word, cx.now_us()));
            self.release_held(cx);
        }
    }

    /// The driver told of a user.
    pub(crate) fn member_told(
        &mut self,
        cx: &mut Cx<'_, Wait>,
        userid: u32,
        generation: u64,
        reply: &Reply,
    ) {
        if generation == self.access.generation {
            let word = reply.decode::<Groups>().map(|person| Member {
                name: person.name,
                groups: person.groups.into_iter().collect(),
            });
            self.access.asking.remove(&userid);
            if self.access.members.len() >= USERS_MAX {
                self.access.members.clear();
            }
            self.access.members.insert(userid, Told::new(word, cx.now_us()));
            self.release_held(cx);
        }
    }

    /// Requests that waited are tried again; they may have to wait for something else.
    fn release_held(&mut self, cx: &mut Cx<'_, Wait>) {
        for call in std::mem::take(&mut self.access.held) {
            self.route(cx, call);
        }
    }

    /// Names that mean nobody let nobody in: that may be a slip.
    fn warn_of_strange_names(&mut self, cx: &mut Cx<'_, Wait>, told: &Result<Numbers, RpcError>) {
        let mut texts = Vec::new();
        match told {
            Err(error) => texts.push(format!("policy.access: cannot look up names: {error}")),
            Ok(numbers) => {
                let wanted = self.settings.access.names();
                for name in wanted.users.iter().filter(|name| !numbers.users.contains_key(*name)) {
                    texts.push(format!("policy.access.allow-user: there is no user '{name}'"));
                }
                for name in wanted.groups.iter().filter(|name| !numbers.groups.contains_key(*name))
                {
                    texts.push(format!("policy.access.allow-group: there is no group '{name}'"));
                }
            }
        }
        for text in texts.iter().filter(|text| !self.access.warned.contains(text)) {
            cx.log(Level::Warning, text.as_str());
        }
        self.access.warned = texts;
    }

    /// The configuration is new, or is loaded again: users and groups may have changed, too.
    pub(crate) fn access_changed(&mut self, cx: &mut Cx<'_, Wait>) {
        self.access.generation += 1;
        self.access.numbers = None;
        self.access.members.clear();
        self.access.asking.clear();
        self.access.asking_numbers = false;
        self.access.warned.clear();
        if !self.settings.access.is_empty() {
            self.ask_numbers(cx);
        }
        self.release_held(cx);
    }

    /// The service goes down.
    pub(crate) fn access_end(&mut self, cx: &mut Cx<'_, Wait>) {
        for call in std::mem::take(&mut self.access.held) {
            refuse(cx, call, RpcError::new(Errno::ENOSYS, "job-manager is unloading"));
        }
    }
}
