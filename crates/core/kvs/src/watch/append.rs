//! What was appended to a value since it was last seen, told from its list of blobs.

use bytes::Bytes;
use flux_api::RpcError;
use flux_model::blobref::Blobref;
use flux_model::treeobj::Treeobj;
use flux_proto::Errno;

/// What a watcher was shown of the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    Nothing,
    Val(Bytes),
    Refs(Vec<Blobref>),
}

/// A part of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Data(Bytes),
    Ref(Blobref),
}

pub(super) fn directory() -> RpcError {
    RpcError::new(Errno::EISDIR, "dirref cannot be watched with WATCH_APPEND")
}

fn broken(what: &str) -> RpcError {
    let text = format!("value of key watched with WATCH_APPEND {what}");
    RpcError::new(Errno::EINVAL, text)
}

/// The pieces that `object` has beyond `seen`, and what is seen then.
///
/// A log that is complete becomes one piece, or fewer than it had: then all of it is read again,
/// and [`beyond`] tells what is new.
pub(super) fn appended(seen: &Seen, object: Treeobj) -> Result<Appended, RpcError> {
    let more = |(pieces, seen)| Appended { pieces, seen, joined: false };
    let joined = |new: Vec<Blobref>| Appended {
        pieces: new.iter().copied().map(Piece::Ref).collect(),
        seen: Seen::Refs(new),
        joined: true,
    };
    match (seen, object) {
        (Seen::Refs(old), Treeobj::Valref(new))
            if !new.starts_with(old) && !old.starts_with(&new) =>
        {
            Ok(joined(new))
        }
        // It is short.
        (Seen::Refs(_), Treeobj::Val(new)) => {
            let new = Bytes::from(new);
            let pieces = vec![Piece::Data(new.clone())];
            Ok(Appended { pieces, seen: Seen::Val(new), joined: true })
        }
        (Seen::Val(old), Treeobj::Valref(new))
            if !new.first().is_some_and(|first| first.addresses(old)) =>
        {
            Ok(joined(new))
        }
        (_, object) => added(seen, object).map(more),
    }
}

/// What a value has that was not seen.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Appended {
    pub(super) pieces: Vec<Piece>,
    pub(super) seen: Seen,
    /// They begin with what was seen, if all is well.
    pub(super) joined: bool,
}

/// The part of a value behind what was seen of it: pieces with these names and lengths.
pub(super) fn beyond(value: &[u8], seen: &Seen, lengths: &[usize]) -> Result<usize, RpcError> {
    let mut at = 0;
    for (piece, length) in lengths.iter().enumerate() {
        let part = value.get(at..at + length);
        let same = part.is_some_and(|part| match seen {
            Seen::Nothing => false,
            Seen::Val(old) => old == part,
            Seen::Refs(old) => old.get(piece).is_some_and(|name| name.addresses(part)),
        });
        if !same {
            return Err(broken("overwritten"));
        }
        at += length;
    }
    Ok(at)
}

fn added(seen: &Seen, object: Treeobj) -> Result<(Vec<Piece>, Seen), RpcError> {
    let refs = |list: &[Blobref]| list.iter().copied().map(Piece::Ref).collect();
    match (seen, object) {
        (_, Treeobj::Dir(_) | Treeobj::Dirref(_)) => Err(directory()),
        (_, Treeobj::Symlink { .. }) => Err(broken("is not a plain value")),
        (Seen::Nothing, Treeobj::Val(data)) => {
            let data = Bytes::from(data);
            Ok((vec![Piece::Data(data.clone())], Seen::Val(data)))
        }
        (Seen::Nothing, Treeobj::Valref(new)) => Ok((refs(&new), Seen::Refs(new))),
        (Seen::Val(old), Treeobj::Val(new)) if *old == new => Ok((Vec::new(), seen.clone())),
        (Seen::Val(old), Treeobj::Valref(new))
            if new.first().is_some_and(|first| first.addresses(old)) =>
        {
            Ok((refs(&new[1..]), Seen::Refs(new)))
        }
        (Seen::Refs(old), Treeobj::Valref(new)) if new.starts_with(old) => {
            Ok((refs(&new[old.len()..]), Seen::Refs(new)))
        }
        (Seen::Refs(old), Treeobj::Valref(new)) if old.starts_with(&new) => {
            Err(broken("truncated"))
        }
        (_, Treeobj::Val(_) | Treeobj::Valref(_)) => Err(broken("overwritten")),
    }
}
