//! Which rows a collection may delete: one bit per row and pass.
//!
//! A row lives while this pass or the one before reached it, or it was stored since the pass
//! before began. So whatever a reader had found through a root that is no longer the newest
//! outlives at least the time between two passes. What was stored by itself, and waits for a
//! commit that refers to it, is kept for the grace time beside that ([`Marks::keep`]).
//!
//! Most of what dies is young: directories that the next commits write again. So a pass need not
//! walk all that lives. A row that two walks after each other have reached is *old*: all that it
//! refers to was reached by both of them, too, and is old. A young pass takes what is old for
//! reached, and does not look into it; what it leaves of garbage is deleted after the next pass
//! that walks everything.

use std::time::{Duration, Instant};

/// Bits by row id.
#[derive(Debug, Clone)]
struct Bits {
    /// Id of the first bit, a multiple of 64.
    base: i64,
    words: Vec<u64>,
}

impl Bits {
    fn new(base: i64) -> Self {
        Self { base: base & !63, words: Vec::new() }
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

    fn moved(&mut self, from: i64, to: i64) {
        if self.has(from) {
            self.set(to);
        }
    }

    /// The 64 bits from this row id on, which is a multiple of 64.
    fn word(&self, row: i64) -> u64 {
        self.place(row).and_then(|(word, _)| self.words.get(word)).copied().unwrap_or(0)
    }

    /// What is in both, from `base` on.
    fn common(&self, other: &Self, base: i64) -> Self {
        let mut bits = Self::new(base);
        let end = self.end().min(other.end());
        let ids = (bits.base..end).step_by(64);
        bits.words = ids.map(|id| self.word(id) & other.word(id)).collect();
        bits
    }

    /// Adds what is in the other, which begins at the same row.
    fn add(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    fn end(&self) -> i64 {
        let bits = i64::try_from(self.words.len()).unwrap_or(i64::MAX);
        self.base.saturating_add(bits.saturating_mul(64))
    }
}

/// How long what a commit is about to refer to is kept at least.
const HELD: Duration = Duration::from_secs(60);

/// Rows that are kept for a while.
#[derive(Debug)]
struct Kept {
    grace: Duration,
    /// When `this` began to be filled; `before` is what it held until then.
    since: Instant,
    this: Bits,
    before: Bits,
}

impl Kept {
    fn new(grace: Duration, base: i64) -> Self {
        Self { grace, since: Instant::now(), this: Bits::new(base), before: Bits::new(base) }
    }

    fn has(&self, row: i64) -> bool {
        self.this.has(row) || self.before.has(row)
    }

    /// Forgets what was noted more than a grace time ago, once in that time.
    fn age(&mut self, now: Instant, base: i64) {
        if now.saturating_duration_since(self.since) >= self.grace {
            self.before = std::mem::replace(&mut self.this, Bits::new(base));
            self.since = now;
        }
    }
}

/// What the passes have reached.
#[derive(Debug)]
pub(crate) struct Marks {
    /// Reached by this pass, or stored since it began.
    this: Bits,
    /// The same of the pass before, if there was one.
    before: Option<Bits>,
    /// Reached by the walk of this pass, or old.
    walked: Bits,
    /// The same of the pass before, if there was one.
    settled: Option<Bits>,
    /// What was stored by itself lately.
    kept: Kept,
    /// What a commit is about to refer to.
    held: Kept,
    /// Whether `this` and `walked` are of a whole pass.
    whole: bool,
    /// A pass is going on.
    running: bool,
    /// Whether the walk of this pass, and of the one before, looks into everything.
    thorough: [bool; 2],
    /// The highest rows when the last passes began, this one first.
    begins: [i64; 4],
    /// Passes that came to their end.
    pub(crate) passes: i64,
}

impl Marks {
    /// Nothing is known yet of a file whose rows begin with this id.
    pub(crate) fn new(base: i64) -> Self {
        let bits = || Bits::new(base);
        Self {
            this: bits(),
            before: None,
            walked: bits(),
            settled: None,
            kept: Kept::new(Duration::ZERO, base),
            held: Kept::new(HELD, base),
            whole: false,
            running: false,
            thorough: [true; 2],
            begins: [i64::MIN; 4],
            passes: 0,
        }
    }

    /// Notes a row that was stored. False when it was known.
    pub(crate) fn reach(&mut self, row: i64) -> bool {
        self.this.set(row)
    }

    /// Notes a row that was stored by itself: it is kept for the grace time. False when this pass
    /// knew it.
    pub(crate) fn keep(&mut self, row: i64) -> bool {
        self.kept.this.set(row);
        self.reach(row)
    }

    /// Notes a row that a commit is about to refer to.
    pub(crate) fn hold(&mut self, row: i64) {
        self.held.this.set(row);
    }

    /// Whether the last walk that came to its end has reached a row, and so all that it refers to:
    /// it outlives the next pass.
    pub(crate) fn is_settled(&self, row: i64) -> bool {
        match (self.whole, &self.settled) {
            (true, _) => self.walked.has(row),
            (false, Some(settled)) => settled.has(row),
            (false, None) => false,
        }
    }

    /// Sets how long what was stored by itself is kept, from the next pass on.
    pub(crate) fn set_grace(&mut self, grace: Duration) {
        self.kept.grace = grace;
    }

    /// Notes a row that the walk has reached. False when that was done already, or it is old: its
    /// references need not be followed.
    pub(crate) fn walk(&mut self, row: i64) -> bool {
        self.walked.set(row)
    }

    /// A row has a new id.
    pub(crate) fn moved(&mut self, from: i64, to: i64) {
        let some = [
            Some(&mut self.this),
            Some(&mut self.walked),
            Some(&mut self.kept.this),
            Some(&mut self.kept.before),
            Some(&mut self.held.this),
            Some(&mut self.held.before),
            self.before.as_mut(),
            self.settled.as_mut(),
        ];
        for bits in some.into_iter().flatten() {
            bits.moved(from, to);
        }
    }

    /// Begins a pass; no row has an id below `base`, or above `highest`. Only what is not old is
    /// looked into, if there is anything old and it is not to be `thorough`.
    pub(crate) fn begin(&mut self, base: i64, highest: i64, thorough: bool, now: Instant) {
        self.kept.age(now, base);
        self.held.age(now, base);
        let last = std::mem::replace(&mut self.this, Bits::new(base));
        let walked = std::mem::replace(&mut self.walked, Bits::new(base));
        let settled = self.settled.take();
        self.before = self.whole.then_some(last);
        if self.whole {
            if !thorough {
                // What a first walk has reached is old by itself: it refers to nothing else.
                self.walked = walked.common(settled.as_ref().unwrap_or(&walked), base);
            }
            self.settled = Some(walked);
        }
        self.thorough = [thorough || !self.whole, self.thorough[0]];
        self.begins = [highest, self.begins[0], self.begins[1], self.begins[2]];
        self.whole = false;
        self.running = true;
    }

    /// Whether the pass that was begun is still known: not after the file was opened anew.
    pub(crate) fn running(&self) -> bool {
        self.running
    }

    /// The walk has reached everything.
    pub(crate) fn marked(&mut self) {
        self.whole = true;
        self.this.add(&self.walked);
    }

    /// Rows up to this one are old, or garbage that only a thorough pass finds: whatever was
    /// stored before the third pass before this one. None when everything is to be looked at,
    /// since this walk or the one before was thorough.
    pub(crate) fn settled_rows(&self) -> Option<i64> {
        (self.thorough == [false; 2]).then_some(self.begins[3])
    }

    /// The pass is over.
    pub(crate) fn end(&mut self) {
        self.before = None;
        self.running = false;
        self.passes += 1;
    }

    /// The pass did not come to its end: two more are needed until something is deleted.
    pub(crate) fn give_up(&mut self) {
        self.whole = false;
        self.running = false;
        self.before = None;
    }

    /// Whether this pass reached a row, or it was stored since it began.
    pub(crate) fn reached(&self, row: i64) -> bool {
        self.this.has(row)
    }

    /// Whether a row must stay: every one does in the first pass, which knows of none before it.
    pub(crate) fn alive(&self, row: i64) -> bool {
        self.this.has(row)
            || self.before.as_ref().is_none_or(|before| before.has(row))
            || self.kept.has(row)
            || self.held.has(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pass that reaches these rows, and is at its sweep.
    fn pass(marks: &mut Marks, thorough: bool, rows: &[i64]) {
        marks.begin(1, 1_000, thorough, Instant::now());
        for row in rows {
            marks.walk(*row);
        }
        marks.marked();
    }

    #[test]
    fn a_row_dies_in_the_second_pass_that_does_not_reach_it() {
        let mut marks = Marks::new(1);
        pass(&mut marks, true, &[1, 100]);
        assert!(marks.alive(2) && marks.reached(1) && !marks.reached(2));
        marks.end();
        // Stored between the passes.
        assert!(marks.reach(101) && !marks.reach(101));
        pass(&mut marks, true, &[1]);
        assert!(marks.alive(1) && marks.alive(100) && marks.alive(101));
        assert!(!marks.alive(2) && !marks.alive(102));
        marks.moved(100, 103);
        marks.end();
        pass(&mut marks, true, &[1]);
        assert!(marks.alive(1) && !marks.alive(100) && !marks.alive(101) && !marks.alive(103));
    }

    #[test]
    fn after_a_pass_that_was_given_up_two_more_are_needed() {
        let mut marks = Marks::new(1);
        pass(&mut marks, true, &[]);
        marks.end();
        marks.begin(1, 1, false, Instant::now());
        marks.give_up();
        pass(&mut marks, false, &[]);
        assert!(marks.alive(7) && marks.settled_rows().is_none());
        marks.end();
        pass(&mut marks, false, &[]);
        assert!(!marks.alive(7));
    }

    #[test]
    fn what_two_walks_have_reached_is_old_and_not_walked_again() {
        let mut marks = Marks::new(1);
        pass(&mut marks, false, &[1, 2]);
        marks.end();
        marks.begin(1, 1_000, false, Instant::now());
        // The first walk since the start counts as two.
        assert!(!marks.walk(1) && !marks.walk(2) && marks.walk(3) && marks.walk(70));
        marks.marked();
        marks.moved(2, 200);
        marks.end();
        marks.begin(1, 1_000, false, Instant::now());
        assert!(!marks.walk(1) && !marks.walk(200) && marks.walk(3));
        marks.marked();
        assert!(marks.alive(70) && marks.reached(200));
        marks.end();
        marks.begin(1, 1_000, false, Instant::now());
        assert!(!marks.walk(1) && !marks.walk(3) && marks.walk(70));
        marks.end();
    }

    #[test]
    fn what_is_old_and_dead_goes_after_a_thorough_pass() {
        let mut marks = Marks::new(1);
        for thorough in [false, false, false] {
            pass(&mut marks, thorough, &[1, 2]);
            marks.end();
        }
        pass(&mut marks, false, &[1]);
        assert!(marks.reached(2), "a young pass knows nothing of it");
        marks.end();
        pass(&mut marks, true, &[1]);
        assert!(!marks.reached(2) && marks.alive(2) && marks.settled_rows().is_none());
        marks.end();
        pass(&mut marks, false, &[]);
        assert!(marks.alive(1) && !marks.alive(2) && marks.settled_rows().is_none());
        marks.end();
        pass(&mut marks, false, &[]);
        assert!(marks.settled_rows().is_some());
    }

    #[test]
    fn what_was_stored_by_itself_is_kept_for_the_grace_time() {
        let mut marks = Marks::new(1);
        marks.set_grace(Duration::from_secs(10));
        let began = marks.kept.since;
        let at = |seconds: u64, marks: &mut Marks| {
            marks.begin(1, 1_000, true, began + Duration::from_secs(seconds));
            marks.marked();
            let alive = marks.alive(5);
            marks.end();
            alive
        };
        assert!(at(9, &mut marks));
        marks.keep(5);
        assert!(at(10, &mut marks) && at(11, &mut marks) && at(19, &mut marks));
        marks.moved(5, 6);
        assert!(marks.kept.before.has(6) && !at(20, &mut marks));
    }

    #[test]
    fn what_a_commit_is_about_to_refer_to_is_kept_for_a_minute() {
        let mut marks = Marks::new(1);
        let began = marks.held.since;
        let at = |seconds: u64, marks: &mut Marks| {
            marks.begin(1, 1_000, true, began + Duration::from_secs(seconds));
            marks.walk(1);
            marks.marked();
            let alive = marks.alive(5);
            marks.end();
            alive
        };
        assert!(at(1, &mut marks) && !at(2, &mut marks));
        assert!(marks.is_settled(1) && !marks.is_settled(5));
        marks.hold(5);
        assert!(at(59, &mut marks) && at(60, &mut marks) && at(119, &mut marks));
        marks.moved(5, 6);
        assert!(marks.held.has(6) && !at(120, &mut marks));
        // While a walk goes on the one before it counts.
        marks.begin(1, 1_000, true, began);
        marks.walk(2);
        assert!(marks.is_settled(1) && !marks.is_settled(2));
        marks.marked();
        assert!(!marks.is_settled(1) && marks.is_settled(2));
    }
}
