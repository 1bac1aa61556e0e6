//! Showing a watcher what was read.

use bytes::Bytes;
use flux_api::content::Load;
use flux_api::kvs::{
    LookupResponse, STREAM, WATCH, WATCH_APPEND, WATCH_FULL, WATCH_INITIAL_SENTINEL, WATCH_UNIQ,
};
use flux_api::{Outbox, Raw, RpcError};
use flux_model::treeobj::Treeobj;
use flux_proto::{Errno, Message};
use flux_svc::{Reply, To};
use serde_json::Value;

use super::append::{self, Appended, Piece, Seen};
use super::{Context, State, WatchService, WatchWait, cut};
use crate::dir::value_object;

/// Pieces that are loaded at a time.
const WINDOW: usize = 8;

/// Largest value in one response, in bytes.
const VALUE_MAX: usize = 512 << 20;

/// A value whose pieces are on their way.
#[derive(Debug)]
pub(super) struct Pieces {
    /// Each piece is answered by itself; otherwise all of them as one.
    pub(super) stream: bool,
    /// Tells this reading from others of the same watcher.
    round: u64,
    pieces: Vec<Piece>,
    next: usize,
    outstanding: usize,
    sent: usize,
    /// Pieces that the leader could not be asked for.
    again: Vec<usize>,
    /// They are the whole value once more.
    pub(super) joined: bool,
    /// What was seen before.
    pub(super) before: Seen,
}

pub(super) fn directory() -> RpcError {
    RpcError::new(Errno::EISDIR, "dirref cannot be streamed")
}

impl WatchService {
    pub(super) fn deliver(&mut self, cx: &mut Context<'_>, id: u64, val: Value, listed: bool) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        if watcher.has(WATCH_APPEND | STREAM) {
            return match Treeobj::from_value(&val) {
                Ok(object) => self.pieces(cx, id, object),
                Err(error) => {
                    let text = format!("kvs-watch: key '{}': {error}", watcher.key);
                    self.end(cx, id, RpcError::new(Errno::EPROTO, text));
                }
            };
        }
        if !watcher.has(WATCH) {
            if let Some(watcher) = self.take(cx, id) {
                watcher.answer.ok(cx, &LookupResponse { val });
            }
            return;
        }
        let compare = watcher.has(WATCH_UNIQ) || !listed;
        if !(compare && watcher.previous.as_ref() == Some(&val)) {
            let response = LookupResponse { val };
            watcher.answer.item(cx, &response);
            watcher.answered = true;
            // A follower may have to tell whether something was changed that it did not hear of.
            if watcher.has(WATCH_UNIQ | WATCH_FULL) || cx.rank() > 0 {
                watcher.previous = Some(response.val);
            }
        }
        self.go_on(cx, id, false);
    }

    fn pieces(&mut self, cx: &mut Context<'_>, id: u64, object: Treeobj) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        let stream = watcher.has(STREAM);
        let mut joined = false;
        let mut before = Seen::Nothing;
        // A stream that goes on in a later version has seen something.
        let pieces = if stream && watcher.seen == Seen::Nothing {
            match object {
                Treeobj::Val(data) => Ok(vec![Piece::Data(data.into())]),
                Treeobj::Valref(refs) => {
                    watcher.seen = Seen::Refs(refs.clone());
                    Ok(refs.into_iter().map(Piece::Ref).collect())
                }
                Treeobj::Dir(_) | Treeobj::Dirref(_) => Err(directory()),
                Treeobj::Symlink { .. } => {
                    Err(RpcError::new(Errno::EINVAL, "symlink cannot be streamed"))
                }
            }
        } else {
            append::appended(&watcher.seen, object).map(|new| {
                let Appended { pieces, seen, joined: again } = new;
                before = std::mem::replace(&mut watcher.seen, seen);
                joined = again;
                pieces
            })
        };
        match pieces {
            Err(error) => self.end(cx, id, error),
            Ok(pieces) if pieces.is_empty() => self.shown(cx, id, stream),
            Ok(pieces) => {
                self.next += 1;
                watcher.state = State::Loading(Pieces {
                    stream,
                    round: self.next,
                    pieces,
                    next: 0,
                    outstanding: 0,
                    sent: 0,
                    again: Vec::new(),
                    joined,
                    before,
                });
                self.load_more(cx, id);
            }
        }
    }

    pub(super) fn piece(
        &mut self,
        cx: &mut Context<'_>,
        (id, round, at): (u64, u64, usize),
        reply: &Reply,
    ) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        let endures = watcher.endures() && cx.rank() > 0;
        let State::Loading(loading) = &mut watcher.state else { return };
        if loading.round != round {
            return;
        }
        match reply.decode::<Load>() {
            Ok(Raw(data)) => {
                loading.outstanding -= 1;
                if let Some(piece) = loading.pieces.get_mut(at) {
                    *piece = Piece::Data(data);
                }
                self.load_more(cx, id);
            }
            Err(error) if endures && cut::is_cut(&error) => {
                loading.outstanding -= 1;
                loading.again.push(at);
                cx.timer(cut::RETRY_US, WatchWait::Retry(id));
            }
            Err(error) => {
                let errno = match error.errno {
                    Errno::ENOENT => Errno::ENOTRECOVERABLE,
                    errno => errno,
                };
                let text =
                    format!("kvs-watch: cannot load a piece of key '{}': {error}", watcher.key);
                let error = RpcError::new(errno, text);
                if errno == Errno::ENOTRECOVERABLE {
                    self.gone(cx, id, error);
                } else {
                    self.end(cx, id, error);
                }
            }
        }
    }

    /// Asks again for pieces that the leader could not be asked for.
    pub(super) fn load_again(&mut self, cx: &mut Context<'_>, id: u64) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        let State::Loading(loading) = &mut watcher.state else { return };
        for at in std::mem::take(&mut loading.again) {
            if let Some(Piece::Ref(blobref)) = loading.pieces.get(at) {
                loading.outstanding += 1;
                let digest = Bytes::copy_from_slice(blobref.digest());
                let wait = WatchWait::Piece(id, loading.round, at);
                cx.call::<Load>(To::Any, &Raw(digest), wait);
            }
        }
    }

    /// Answers what is here, in order, and asks for what comes next.
    fn load_more(&mut self, cx: &mut Context<'_>, id: u64) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        let State::Loading(loading) = &mut watcher.state else { return };
        while loading.next < loading.pieces.len() && loading.outstanding < WINDOW {
            let at = loading.next;
            loading.next += 1;
            if let Piece::Ref(blobref) = loading.pieces[at] {
                loading.outstanding += 1;
                let digest = Bytes::copy_from_slice(blobref.digest());
                let wait = WatchWait::Piece(id, loading.round, at);
                cx.call::<Load>(To::Any, &Raw(digest), wait);
            }
        }
        if loading.stream && !loading.joined {
            while loading.sent < loading.next {
                let Piece::Data(data) = &mut loading.pieces[loading.sent] else { break };
                let data = std::mem::take(data);
                loading.sent += 1;
                watcher.lengths.push(data.len());
                watcher.answer.item(cx, &LookupResponse { val: value_object(&data) });
                watcher.answered = true;
            }
            if loading.sent == loading.pieces.len() {
                self.end(cx, id, Errno::ENODATA);
            }
            return;
        }
        if loading.outstanding > 0
            || !loading.again.is_empty()
            || loading.next < loading.pieces.len()
        {
            return;
        }
        let parts: Vec<Bytes> = std::mem::take(&mut loading.pieces)
            .into_iter()
            .map(|piece| match piece {
                Piece::Data(data) => data,
                Piece::Ref(_) => Bytes::new(),
            })
            .collect();
        if parts.iter().map(Bytes::len).sum::<usize>() > VALUE_MAX {
            let text = format!(
                "kvs-watch: the value of '{}' has more than {VALUE_MAX} bytes; read it as a stream",
                watcher.key
            );
            return self.end(cx, id, RpcError::new(Errno::EOVERFLOW, text));
        }
        let data = parts.concat();
        let mut begin = 0;
        if loading.joined {
            match append::beyond(&data, &loading.before, &watcher.lengths) {
                Ok(length) => begin = length,
                Err(error) => return self.end(cx, id, error),
            }
            watcher.lengths.clear();
        }
        watcher.lengths.extend(parts.iter().map(Bytes::len));
        let stream = loading.stream;
        if begin > 0 && begin == data.len() {
            return self.shown(cx, id, stream);
        }
        let data = data.get(begin..).unwrap_or_default();
        watcher.answer.item(cx, &LookupResponse { val: value_object(data) });
        if !watcher.answered && watcher.has(WATCH_INITIAL_SENTINEL) {
            cx.send(Message::response_to(watcher.answer.head()));
        }
        watcher.answered = true;
        self.shown(cx, id, stream);
    }

    fn shown(&mut self, cx: &mut Context<'_>, id: u64, stream: bool) {
        if stream {
            self.end(cx, id, Errno::ENODATA);
        } else {
            self.go_on(cx, id, false);
        }
    }
}
