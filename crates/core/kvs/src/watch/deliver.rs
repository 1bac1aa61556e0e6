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
    stream: bool,
    pieces: Vec<Piece>,
    next: usize,
    outstanding: usize,
    sent: usize,
    /// Pieces that the leader could not be asked for.
    again: Vec<usize>,
    /// They are the whole value once more, of which this was seen.
    joined: Option<Seen>,
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
        let mut joined = None;
        let pieces = if stream {
            match object {
                Treeobj::Val(data) => Ok(vec![Piece::Data(data.into())]),
                Treeobj::Valref(refs) => Ok(refs.into_iter().map(Piece::Ref).collect()),
                Treeobj::Dir(_) | Treeobj::Dirref(_) => Err(directory()),
                Treeobj::Symlink { .. } => {
                    Err(RpcError::new(Errno::EINVAL, "symlink cannot be streamed"))
                }
            }
        } else {
            append::appended(&watcher.seen, object).map(|new| {
                let Appended { pieces, seen, joined: again } = new;
                let before = std::mem::replace(&mut watcher.seen, seen);
                joined = again.then_some(before);
                pieces
            })
        };
        match pieces {
            Err(error) => self.end(cx, id, error),
            Ok(pieces) if pieces.is_empty() => self.go_on(cx, id, false),
            Ok(pieces) => {
                let again = Vec::new();
                let pieces =
                    Pieces { stream, pieces, next: 0, outstanding: 0, sent: 0, again, joined };
                watcher.state = State::Loading(pieces);
                self.load_more(cx, id);
            }
        }
    }

    pub(super) fn piece(&mut self, cx: &mut Context<'_>, id: u64, at: usize, reply: &Reply) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        let endures = watcher.endures() && cx.rank() > 0;
        let State::Loading(loading) = &mut watcher.state else { return };
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
                self.end(cx, id, RpcError::new(errno, text));
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
                cx.call::<Load>(To::Any, &Raw(digest), WatchWait::Piece(id, at));
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
                cx.call::<Load>(To::Any, &Raw(digest), WatchWait::Piece(id, at));
            }
        }
        if loading.stream {
            while loading.sent < loading.next {
                let Piece::Data(data) = &mut loading.pieces[loading.sent] else { break };
                let data = std::mem::take(data);
                loading.sent += 1;
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
        if let Some(seen) = loading.joined.take() {
            match append::beyond(&data, &seen, &watcher.lengths) {
                Ok(length) => begin = length,
                Err(error) => return self.end(cx, id, error),
            }
            watcher.lengths.clear();
        }
        watcher.lengths.extend(parts.iter().map(Bytes::len));
        if begin > 0 && begin == data.len() {
            return self.go_on(cx, id, false);
        }
        let data = data.get(begin..).unwrap_or_default();
        watcher.answer.item(cx, &LookupResponse { val: value_object(data) });
        if !watcher.answered && watcher.has(WATCH_INITIAL_SENTINEL) {
            cx.send(Message::response_to(watcher.answer.head()));
        }
        watcher.answered = true;
        self.go_on(cx, id, false);
    }
}
