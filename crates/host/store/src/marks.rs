//! Which rows a collection may delete: one bit per row and pass.
//!
//! A row lives while this pass or the one before reached it, or it was stored since the pass
//! before began. So whatever a client has stored, and has not yet committed to a root, outlives
//! at least the time between two passes, as does whatever a reader had found through a root that
//! is no longer the newest.

/// Bits by row id.
#[derive(Debug)]
struct Bits {
    base: i64,
    words: Vec<u64>,
}

impl Default for Bits {
    /// No row has a place: nothing is kept before the first pass.
    fn default() -> Self {
        Self::new(i64::MAX)
    }
}

impl Bits {
    fn new(base: i64) -> Self {
        Self { base, words: Vec::new() }
    }

    fn place(&self, row: i64) -> Option<(usize, u64)> {
        let at = usize::try_from(row.checked_sub(self.base)?).ok()?;
        Some((at / 64, 1 << (at % 64)))
    }

    /// False when it was set already, or lies before the base.
    fn set(&mut self, row: i64) -> bool {
        let Some((word, bit)) = self.place(row) else { return false };
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        new
    }

    fn has(&self, row: i64) -> bool {
        self.place(row)
            .is_some_and(|(word, bit)| self.words.get(word).is_some_and(|bits| bits & bit != 0))
    }
}

/// What the passes have reached.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// Reached by this pass, or stored since it began.
    this: Bits,
    /// The same of the pass before, if there was one.
    before: Option<Bits>,
    /// Directories whose references this pass has followed.
    walked: Bits,
    /// Whether `this` is of a whole pass.
    whole: bool,
    /// Passes that came to their end.
    pub(crate) passes: i64,
}

impl Marks {
    /// Notes a row that was stored, or that a pass has reached. False when it was known.
    pub(crate) fn reach(&mut self, row: i64) -> bool {
        self.this.set(row)
    }

    /// Notes a directory whose references are followed now. False when that was done already.
    pub(crate) fn walk(&mut self, row: i64) -> bool {
        self.walked.set(row)
    }

    /// A row has a new id.
    pub(crate) fn moved(&mut self, from: i64, to: i64) {
        if self.this.has(from) {
            self.this.set(to);
        }
        if let Some(before) = &mut self.before
            && before.has(from)
        {
            before.set(to);
        }
    }

    /// Begins a pass; no row has an id below `base`.
    pub(crate) fn begin(&mut self, base: i64) {
        let last = std::mem::replace(&mut self.this, Bits::new(base));
        self.before = self.whole.then_some(last);
        self.walked = Bits::new(base);
        self.whole = false;
    }

    /// The walk has reached everything.
    pub(crate) fn marked(&mut self) {
        self.whole = true;
        self.walked = Bits::default();
    }

    /// The pass is over.
    pub(crate) fn end(&mut self) {
        self.before = None;
        self.passes += 1;
    }

    /// The pass did not come to its end: what was known before it still holds.
    pub(crate) fn give_up(&mut self) {
        self.walked = Bits::default();
        self.whole = false;
        self.before = None;
    }

    /// Whether this pass reached a row, or it was stored since it began.
    pub(crate) fn reached(&self, row: i64) -> bool {
        self.this.has(row)
    }

    /// Whether a row must stay: every one does in the first pass, which knows of none before it.
    pub(crate) fn alive(&self, row: i64) -> bool {
        self.this.has(row) || self.before.as_ref().is_none_or(|before| before.has(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_dies_in_the_second_pass_that_does_not_reach_it() {
        let mut marks = Marks::default();
        marks.begin(1);
        assert!(marks.reach(1) && !marks.reach(1) && marks.reach(100));
        marks.marked();
        assert!(marks.alive(2));
        marks.end();
        // Stored between the passes.
        marks.reach(101);
        marks.begin(1);
        marks.reach(1);
        marks.marked();
        assert!(marks.alive(1) && marks.alive(100) && marks.alive(101));
        assert!(!marks.alive(2) && !marks.alive(102));
        marks.moved(100, 103);
        marks.end();
        marks.begin(1);
        marks.reach(1);
        marks.marked();
        assert!(marks.alive(1) && !marks.alive(100) && !marks.alive(101) && !marks.alive(103));
    }

    #[test]
    fn after_a_pass_that_was_given_up_two_more_are_needed() {
        let mut marks = Marks::default();
        marks.begin(1);
        marks.marked();
        marks.end();
        marks.begin(1);
        marks.give_up();
        marks.begin(1);
        marks.marked();
        assert!(marks.alive(7));
        marks.end();
        marks.begin(1);
        marks.marked();
        assert!(!marks.alive(7));
    }
}
