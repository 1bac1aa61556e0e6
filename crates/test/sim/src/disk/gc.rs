//! Collections of the simulated store: as the real one does them, a few blobs at a time, with
//! commits in between; and the check that nothing alive is ever gone.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use flux_api::content::{BackingCollect, BackingHold, Collected, HoldRequest};
use flux_api::{Answer, Call, Empty, RpcError};
use flux_model::blobref::Blobref;
use flux_model::treeobj::References;
use flux_proto::{Errno, Message};

use super::Disk;

/// Blobs that a step looks at.
const STEP: usize = 24;

/// Passes after which what was held is held no longer, or after as many again.
const HELD: u64 = 20;

/// What is being done.
#[derive(Debug)]
enum Phase {
    /// Directories and pieces of values still to be marked.
    Mark(Vec<Blobref>, Vec<Blobref>),
    /// The last blob looked at.
    Sweep(Option<Bytes>),
}

/// Marks by digest, as `host/store/marks.rs` has them by row.
#[derive(Debug, Default)]
pub(super) struct Gc {
    this: BTreeSet<Bytes>,
    before: Option<BTreeSet<Bytes>>,
    /// What commits are about to refer to, lately and before.
    held: [BTreeSet<Bytes>; 2],
    /// Reached by this walk, or old: reached by two walks before.
    walked: BTreeSet<Bytes>,
    /// The same of the pass before.
    settled: Option<BTreeSet<Bytes>>,
    whole: bool,
    pass: Option<(Phase, Answer<BackingCollect>)>,
    deleted: u64,
    /// Digests that were deleted: whoever asks for one had a right to it, or not.
    gone: BTreeSet<Bytes>,
    /// Whole passes since the start.
    pub(super) passes: u64,
    /// Bytes that the last pass found alive.
    pub(super) live: u64,
    /// Bytes that were added since the last pass began.
    pub(super) added: u64,
    /// What directories refer to, so that each is parsed once.
    known: BTreeMap<Bytes, Rc<References>>,
}

fn name(blobref: &Blobref) -> Bytes {
    Bytes::copy_from_slice(blobref.digest())
}

impl Gc {
    pub(super) fn reach(&mut self, digest: &Bytes) {
        self.this.insert(digest.clone());
        self.gone.remove(digest);
    }

    fn give_up(&mut self) {
        self.whole = false;
        self.before = None;
    }

    /// The process is gone, and what it had marked.
    pub(super) fn crash(&mut self) {
        if let Some((_, answer)) = self.pass.take() {
            answer.forget();
        }
        let (gone, known) = (std::mem::take(&mut self.gone), std::mem::take(&mut self.known));
        *self = Self { gone, known, ..Self::default() };
    }
}

impl Disk {
    /// Whether a pass goes on, whose next step must be planned. It is planned once.
    pub(crate) fn has_step(&mut self) -> bool {
        self.gc.pass.is_some() && !std::mem::replace(&mut self.stepping, true)
    }

    pub(super) fn check_load(&mut self, digest: &Bytes) {
        if self.gc.gone.contains(digest) && !self.late_readers {
            self.violations.push(format!("a blob was collected and then asked for: {digest:?}"));
        }
    }

    pub(super) fn begin_pass(&mut self, call: Call<BackingCollect>, out: &mut Vec<Message>) {
        if self.gc.pass.is_some() {
            return call.answer.err(out, Errno::EBUSY);
        }
        if self.gc.passes.is_multiple_of(HELD) {
            self.gc.held = [BTreeSet::new(), std::mem::take(&mut self.gc.held[0])];
        }
        let roots = self.roots().into_iter();
        let pins = call.request.pins.iter().filter_map(|text| text.parse().ok());
        let roots: Vec<Blobref> = roots.chain(pins).collect();
        let last = std::mem::take(&mut self.gc.this);
        let walked = std::mem::take(&mut self.gc.walked);
        let settled = self.gc.settled.take();
        self.gc.before = self.gc.whole.then_some(last);
        if self.gc.whole {
            if call.request.young {
                self.gc.walked = match &settled {
                    Some(settled) => walked.intersection(settled).cloned().collect(),
                    None => walked.clone(),
                };
                self.young += 1;
            }
            self.gc.settled = Some(walked);
        }
        self.gc.whole = false;
        self.gc.deleted = 0;
        self.gc.added = 0;
        self.gc.pass = Some((Phase::Mark(roots, Vec::new()), call.answer));
    }

    fn roots(&self) -> Vec<Blobref> {
        let newest = self.checkpoints.last();
        let named = newest
            .into_iter()
            .flat_map(|newest| std::iter::once(&newest.rootref).chain(newest.namespaces.as_ref()));
        named.filter_map(|text| text.parse().ok()).collect()
    }

    /// Whether everything is there that a commit is about to refer to; it is kept for a while.
    pub(super) fn hold(&mut self, call: Call<BackingHold>, out: &mut Vec<Message>) {
        match self.held(&call.request) {
            Ok(()) => call.answer.ok(out, &Empty),
            Err(text) => call.answer.err(out, RpcError::new(Errno::ENOENT, text)),
        }
    }

    fn held(&mut self, request: &HoldRequest) -> Result<(), String> {
        let read = |texts: &[String]| -> Result<Vec<Blobref>, String> {
            texts.iter().map(|text| text.parse().map_err(|_| text.clone())).collect()
        };
        let (mut dirs, mut data) = (read(&request.dirs)?, read(&request.data)?);
        let mut all = BTreeSet::new();
        while let Some(blobref) = dirs.pop() {
            let digest = name(&blobref);
            let found = self.references(&digest).ok_or_else(|| blobref.to_string())?;
            if all.insert(digest) {
                dirs.extend(&found.dirs);
                data.extend(&found.data);
            }
        }
        for blobref in data {
            let digest = name(&blobref);
            if !self.blobs.contains_key(&digest) {
                return Err(blobref.to_string());
            }
            all.insert(digest);
        }
        self.gc.held[0].extend(all);
        Ok(())
    }

    /// Looks at a few blobs.
    pub(crate) fn collect_step(&mut self, out: &mut Vec<Message>) {
        self.stepping = false;
        let Some((phase, answer)) = self.gc.pass.take() else { return };
        if let Some(errno) = self.fails {
            self.gc.give_up();
            return answer.err(out, errno);
        }
        let next = match phase {
            Phase::Mark(dirs, data) => self.mark_some(dirs, data),
            Phase::Sweep(at) => self.sweep_some(at).map(|at| Phase::Sweep(Some(at))),
        };
        match next {
            Some(phase) => self.gc.pass = Some((phase, answer)),
            None if self.gc.whole => {
                self.gc.before = None;
                self.gc.passes += 1;
                self.passes += 1;
                let live = self.gc.this.iter().filter_map(|digest| self.blobs.get(digest));
                self.gc.live = live.map(|blob| blob.len() as u64).sum();
                self.check_whole();
                let done = Collected {
                    live: self.gc.this.len() as u64,
                    live_bytes: self.gc.live,
                    deleted: self.gc.deleted,
                    ..Collected::default()
                };
                answer.ok(out, &done);
            }
            None => {
                self.gc.give_up();
                let text = "a blob is missing";
                self.violations.push("a collection found a blob missing".to_string());
                answer.err(out, RpcError::new(Errno::EIO, text));
            }
        }
    }

    /// What a directory refers to; nothing when it is gone, or no directory.
    fn references(&mut self, digest: &Bytes) -> Option<Rc<References>> {
        let blob = self.blobs.get(digest)?;
        if let Some(known) = self.gc.known.get(digest) {
            return Some(known.clone());
        }
        let found = Rc::new(References::of(blob).ok()?);
        self.gc.known.insert(digest.clone(), found.clone());
        Some(found)
    }

    fn mark_some(&mut self, mut dirs: Vec<Blobref>, mut data: Vec<Blobref>) -> Option<Phase> {
        for _ in 0..STEP {
            if let Some(blobref) = data.pop() {
                let digest = name(&blobref);
                if !self.blobs.contains_key(&digest) {
                    return None;
                }
                self.gc.walked.insert(digest);
            } else if let Some(blobref) = dirs.pop() {
                let digest = name(&blobref);
                let found = self.references(&digest)?;
                if self.gc.walked.insert(digest) {
                    dirs.extend(&found.dirs);
                    data.extend(&found.data);
                }
            } else {
                self.gc.whole = true;
                self.gc.this.extend(self.gc.walked.iter().cloned());
                return Some(Phase::Sweep(None));
            }
        }
        Some(Phase::Mark(dirs, data))
    }

    fn sweep_some(&mut self, at: Option<Bytes>) -> Option<Bytes> {
        let before = self.gc.before.as_ref()?;
        let from = at.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let range = self.blobs.range::<Bytes, _>((from, std::ops::Bound::Unbounded));
        let some: Vec<Bytes> = range.take(STEP).map(|(digest, _)| digest.clone()).collect();
        let last = some.last()?.clone();
        for digest in some {
            let held = self.gc.held.iter().any(|held| held.contains(&digest));
            if !self.gc.this.contains(&digest) && !before.contains(&digest) && !held {
                self.blobs.remove(&digest);
                self.gc.known.remove(&digest);
                self.gc.gone.insert(digest);
                self.gc.deleted += 1;
                self.collected += 1;
            }
        }
        Some(last)
    }

    /// Everything in reach of the newest checkpoint is there.
    pub(crate) fn check_whole(&mut self) {
        let mut seen: BTreeSet<Blobref> = BTreeSet::new();
        let mut dirs = self.roots();
        while let Some(blobref) = dirs.pop() {
            if !seen.insert(blobref) {
                continue;
            }
            let Some(found) = self.references(&name(&blobref)) else {
                self.violations.push(format!("live directory {blobref} is gone"));
                continue;
            };
            dirs.extend(&found.dirs);
            for piece in &found.data {
                if seen.insert(*piece) && !self.blobs.contains_key(piece.digest()) {
                    self.violations.push(format!("live piece {piece} is gone"));
                }
            }
        }
    }
}
