//! Followers: roots come from rank 0, commits go there.

use flux_api::kvs::{
    self, Commit, Getroot, Kvs, NamespaceCreate_, NamespaceList_, NamespaceRemove,
    NamespaceRequest, PRIMARY, Relaycommit, RootResponse, Setroot,
};
use flux_api::{Answer, Body, Call, Rpc, RpcError};
use flux_model::blobref::Blobref;
use flux_proto::{Errno, Message};
use flux_svc::{Level, Reply, To};

use super::{Context, KvsService, MAX_WAITING, Wait, refuse};
use crate::error::KvsError;
use crate::space::{Root, Space, VersionWaiter};

/// What waits until a namespace is known.
#[derive(Debug)]
pub(super) enum Parked {
    /// A request that is handled then.
    Call(Box<Kvs>),
    /// A lookup that a link led there.
    Lookup(u64),
}

/// A request that rank 0 answers.
#[derive(Debug)]
pub(super) enum Forward {
    Create(Answer<NamespaceCreate_>),
    Remove(String, Answer<NamespaceRemove>),
    List(Answer<NamespaceList_>),
}

impl KvsService {
    /// Parks something until a namespace is known; equal questions share one request.
    pub(super) fn ask(&mut self, cx: &mut Context<'_>, name: String, parked: Parked) {
        if self.parked >= MAX_WAITING {
            return self.refuse_parked(cx, parked, &KvsError::Busy(MAX_WAITING).into());
        }
        self.ask_root(cx, &name);
        self.parked += 1;
        self.asking.entry(name).or_default().push(parked);
    }

    pub(super) fn ask_root(&mut self, cx: &mut Context<'_>, name: &str) {
        if !self.asking.contains_key(name) {
            self.asking.insert(name.to_string(), Vec::new());
            let request = NamespaceRequest { namespace: name.to_string(), flags: 0 };
            cx.call::<Getroot>(To::Rank(0), &request, Wait::Getroot(name.to_string()));
        }
    }

    pub(super) fn got_root(&mut self, cx: &mut Context<'_>, name: &str, reply: &Reply) {
        let parked = self.asking.remove(name).unwrap_or_default();
        self.parked -= parked.len();
        let result = reply.decode::<Getroot>().and_then(|root| {
            self.learn(cx, &root).map_err(|text| RpcError::new(Errno::EPROTO, text))
        });
        for parked in parked {
            match &result {
                Ok(()) => self.resume(cx, parked),
                Err(error) => self.refuse_parked(cx, parked, error),
            }
        }
    }

    /// What was parked goes on.
    pub(super) fn resume(&mut self, cx: &mut Context<'_>, parked: Parked) {
        match parked {
            Parked::Call(call) => self.dispatch(cx, *call),
            Parked::Lookup(id) => self.lookup_on(cx, id),
        }
    }

    pub(super) fn refuse_parked(&mut self, cx: &mut Context<'_>, parked: Parked, error: &RpcError) {
        match parked {
            Parked::Call(call) => refuse(cx, *call, error.clone()),
            Parked::Lookup(id) => self.lookup_failed(cx, id, error.clone()),
        }
    }

    pub(super) fn learn(&mut self, cx: &mut Context<'_>, root: &kvs::Root) -> Result<(), String> {
        let blobref: Blobref =
            root.rootref.parse().map_err(|error| format!("kvs: bad root: {error}"))?;
        let known = Root { seq: root.rootseq, blobref };
        if self.spaces.contains_key(&root.namespace) {
            self.reach(cx, &root.namespace, known);
        } else {
            let space = Space::new(root.owner, root.flags, known);
            self.spaces.insert(root.namespace.clone(), space);
        }
        Ok(())
    }

    /// An event of rank 0 about a namespace.
    pub(super) fn followed(&mut self, cx: &mut Context<'_>, event: &Message) {
        let topic = event.topic();
        if topic.ends_with("-setroot") {
            match Setroot::take(event).map(|body| (body.rootref.parse::<Blobref>(), body)) {
                Ok((Ok(blobref), body)) => {
                    self.reach(cx, &body.namespace, Root { seq: body.rootseq, blobref });
                }
                Ok((Err(error), _)) => cx.log(Level::Err, format!("{topic}: {error}")),
                Err(error) => cx.log(Level::Err, format!("{topic}: {error}")),
            }
        } else if let Some(name) = topic
            .strip_prefix("kvs.namespace-")
            .and_then(|rest| rest.strip_suffix("-removed"))
            .filter(|name| *name != PRIMARY)
        {
            let name = name.to_string();
            self.drop_space(cx, &name);
        }
    }

    pub(super) fn relay(&mut self, cx: &mut Context<'_>, call: Call<Commit>) {
        if self.relays.len() >= MAX_WAITING {
            return call.answer.err(cx, KvsError::Busy(MAX_WAITING));
        }
        let ticket = self.ticket();
        let cred = call.answer.cred();
        let kvs::CommitRequest { namespace, flags, ops } = call.request;
        let name = format!("transaction_req.{}.{ticket}", self.rank);
        let request = kvs::RelayCommit {
            name,
            userid: cred.userid,
            rolemask: cred.rolemask.0,
            namespace: namespace.clone(),
            flags,
            ops,
        };
        self.relays.insert(ticket, (namespace, call.answer));
        cx.call::<Relaycommit>(To::Rank(0), &request, Wait::Relay(ticket));
    }

    /// Rank 0 answered a commit: the client is answered when this rank shows its root.
    pub(super) fn relay_answered(&mut self, cx: &mut Context<'_>, ticket: u64, reply: &Reply) {
        let Some((name, answer)) = self.relays.remove(&ticket) else { return };
        let response: RootResponse = match reply.decode::<Relaycommit>() {
            Ok(response) => response,
            Err(error) => return answer.err(cx, error),
        };
        if let Ok(blobref) = response.rootref.parse::<Blobref>() {
            self.reach(cx, &name, Root { seq: response.rootseq, blobref });
        }
        match self.spaces.get_mut(&name) {
            // The root changes of this rank are held back.
            Some(space) if space.root.seq < response.rootseq => {
                let key = (response.rootseq, ticket);
                space.waiters.insert(key, VersionWaiter::Commit(answer, response));
            }
            _ => answer.ok(cx, &response),
        }
    }

    pub(super) fn forward<R: Rpc>(
        &mut self,
        cx: &mut Context<'_>,
        request: &R::Request,
        forward: Forward,
    ) {
        if self.forwards.len() >= MAX_WAITING {
            let error = KvsError::Busy(MAX_WAITING);
            return match forward {
                Forward::Create(answer) => answer.err(cx, error),
                Forward::Remove(_, answer) => answer.err(cx, error),
                Forward::List(answer) => answer.err(cx, error),
            };
        }
        let ticket = self.ticket();
        self.forwards.insert(ticket, forward);
        cx.call::<R>(To::Rank(0), request, Wait::Forward(ticket));
    }

    pub(super) fn forward_answered(&mut self, cx: &mut Context<'_>, ticket: u64, reply: &Reply) {
        match self.forwards.remove(&ticket) {
            Some(Forward::Create(answer)) => answer.respond(cx, reply.decode::<NamespaceCreate_>()),
            Some(Forward::Remove(name, answer)) => {
                let result = reply.decode::<NamespaceRemove>();
                if result.is_ok() {
                    self.drop_space(cx, &name);
                }
                answer.respond(cx, result);
            }
            Some(Forward::List(answer)) => answer.respond(cx, reply.decode::<NamespaceList_>()),
            None => {}
        }
    }

    /// The service goes down: whoever still waits for something that this rank would have to ask
    /// for is told so.
    pub(super) fn end_requests(&mut self, cx: &mut Context<'_>) {
        let behind = std::mem::take(&mut self.behind).into_values().flat_map(|it| it.parked);
        let asking = std::mem::take(&mut self.asking).into_values().flatten();
        for parked in asking.chain(behind) {
            self.refuse_parked(cx, parked, &KvsError::Stopping.into());
        }
        self.parked = 0;
        for (_, answer) in std::mem::take(&mut self.relays).into_values() {
            answer.err(cx, KvsError::Stopping);
        }
        for forward in std::mem::take(&mut self.forwards).into_values() {
            match forward {
                Forward::Create(answer) => answer.err(cx, KvsError::Stopping),
                Forward::Remove(_, answer) => answer.err(cx, KvsError::Stopping),
                Forward::List(answer) => answer.err(cx, KvsError::Stopping),
            }
        }
        let mut waiters = Vec::new();
        for space in self.spaces.values_mut() {
            waiters.extend(std::mem::take(&mut space.waiters).into_values());
        }
        for waiter in waiters {
            match waiter {
                VersionWaiter::Version(answer) => answer.err(cx, KvsError::Stopping),
                // The commit is durable; only this rank never showed it.
                VersionWaiter::Commit(answer, response) => answer.ok(cx, &response),
                VersionWaiter::Lookup(id) => self.lookup_failed(cx, id, KvsError::Stopping),
            }
        }
        for (_, reading) in std::mem::take(&mut self.readings) {
            reading.fail(cx, KvsError::Stopping);
        }
    }
}
