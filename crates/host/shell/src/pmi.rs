//! The exchange of PMI keys between the shells of a job, along a tree over shell ranks.

use std::collections::BTreeMap;

/// Keys and values.
pub type Keys = BTreeMap<String, String>;

/// What a shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send the keys of this shell and of those below it to the parent.
    Up(Up),
    /// Everything is known: let the own tasks go on, and answer the children.
    Done(Keys),
}

/// Keys on their way to the parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Up {
    /// Shell rank of the parent.
    pub parent: u32,
    /// Which exchange, from 1.
    pub round: u64,
    /// Keys.
    pub keys: Keys,
}

/// What to do about the keys of a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Below {
    /// Answer it when the exchange is done; a step may follow now.
    Wait(Option<Step>),
    /// That exchange is done, only the answer was lost: here it is.
    Known(Keys),
    /// Out of turn.
    Refused,
}

/// The part of one shell in one exchange after the other. Keys that are sent again, since nobody
/// knows whether they or the answer arrived, count once.
#[derive(Debug, Clone)]
pub struct Fence {
    parent: Option<u32>,
    children: usize,
    /// Exchanges that are done.
    done: u64,
    own: Option<Keys>,
    from_below: BTreeMap<u32, Keys>,
    /// What was sent to the parent and is not answered.
    up: Option<Up>,
    /// Result of the last exchange.
    last: Keys,
}

impl Fence {
    /// The part of shell `rank` of `size` in a tree in which each has up to `fanout` children.
    #[must_use]
    pub fn new(rank: u32, size: u32, fanout: u32) -> Self {
        let (rank, size, fanout) = (u64::from(rank), u64::from(size), u64::from(fanout.max(1)));
        let parent = (rank > 0).then(|| ((rank - 1) / fanout) as u32);
        let first = rank * fanout + 1;
        let children = size.saturating_sub(first).min(fanout) as usize;
        Self {
            parent,
            children,
            done: 0,
            own: None,
            from_below: BTreeMap::new(),
            up: None,
            last: Keys::new(),
        }
    }

    /// All tasks here are in the barrier.
    pub fn enter(&mut self, keys: Keys) -> Option<Step> {
        self.own = Some(keys);
        self.step()
    }

    /// The keys of a child, which are all of its branch.
    pub fn child(&mut self, from: u32, round: u64, keys: Keys) -> Below {
        if round == self.done + 1 {
            self.from_below.insert(from, keys);
            Below::Wait(self.step())
        } else if round == self.done {
            Below::Known(self.last.clone())
        } else {
            Below::Refused
        }
    }

    fn step(&mut self) -> Option<Step> {
        if self.up.is_some() || self.from_below.len() < self.children {
            return None;
        }
        let mut keys = self.own.clone()?;
        for more in self.from_below.values() {
            keys.extend(more.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
        match self.parent {
            Some(parent) => {
                let up = Up { parent, round: self.done + 1, keys };
                self.up = Some(up.clone());
                Some(Step::Up(up))
            }
            None => Some(self.finish(keys)),
        }
    }

    /// What was sent to the parent and is not answered.
    #[must_use]
    pub fn unanswered(&self) -> Option<&Up> {
        self.up.as_ref()
    }

    /// The parent's answer; nothing when that exchange was answered before.
    pub fn answer(&mut self, round: u64, keys: Keys) -> Option<Step> {
        if self.up.as_ref()?.round != round {
            return None;
        }
        Some(self.finish(keys))
    }

    fn finish(&mut self, keys: Keys) -> Step {
        self.own = None;
        self.from_below.clear();
        self.up = None;
        self.done += 1;
        // Nobody below asks for it again.
        if self.children > 0 {
            self.last = keys.clone();
        }
        Step::Done(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    enum Mail {
        Up(u32, Up),
        Down(u32, u64, Keys),
    }

    /// Runs one exchange in which every shell puts its rank; the result of each shell.
    fn exchange(fences: &mut [Fence], round: u32) -> Vec<Keys> {
        let mut mail = VecDeque::new();
        let mut waiting: Vec<Vec<u32>> = vec![Vec::new(); fences.len()];
        let mut results = vec![Keys::new(); fences.len()];
        let mut take =
            |at: u32, step, mail: &mut VecDeque<Mail>, waiting: &mut Vec<Vec<u32>>| match step {
                Some(Step::Up(up)) => mail.push_back(Mail::Up(at, up)),
                Some(Step::Done(keys)) => {
                    for child in std::mem::take(&mut waiting[at as usize]) {
                        mail.push_back(Mail::Down(child, u64::from(round) + 1, keys.clone()));
                    }
                    results[at as usize] = keys;
                }
                None => {}
            };
        for rank in (0..fences.len() as u32).rev() {
            let keys = Keys::from([(format!("k{rank}.{round}"), rank.to_string())]);
            let step = fences[rank as usize].enter(keys);
            take(rank, step, &mut mail, &mut waiting);
            while let Some(letter) = mail.pop_front() {
                match letter {
                    Mail::Up(from, up) => {
                        let to = up.parent;
                        waiting[to as usize].push(from);
                        let below = fences[to as usize].child(from, up.round, up.keys);
                        let Below::Wait(step) = below else { panic!("{below:?}") };
                        take(to, step, &mut mail, &mut waiting);
                    }
                    Mail::Down(to, round, keys) => {
                        let step = fences[to as usize].answer(round, keys);
                        take(to, step, &mut mail, &mut waiting);
                    }
                }
            }
        }
        results
    }

    #[test]
    fn every_shell_learns_all_keys_again_and_again() {
        for (size, fanout) in [(1, 2), (2, 2), (7, 2), (10, 3), (5, 1), (9, 100)] {
            let mut fences: Vec<Fence> =
                (0..size).map(|rank| Fence::new(rank, size, fanout)).collect();
            for round in 0..3 {
                let results = exchange(&mut fences, round);
                assert!(results.iter().all(|keys| keys.len() == size as usize), "{size} {fanout}");
            }
        }
    }

    #[test]
    fn keys_that_are_sent_again_count_once() {
        let (mut root, mut leaf) = (Fence::new(0, 2, 2), Fence::new(1, 2, 2));
        let keys = |n: u32| Keys::from([(format!("k{n}"), n.to_string())]);
        let Some(Step::Up(up)) = leaf.enter(keys(1)) else { panic!() };
        assert_eq!(root.child(1, up.round, up.keys.clone()), Below::Wait(None));
        // The connection was lost: once more.
        assert_eq!(leaf.unanswered(), Some(&up));
        assert_eq!(root.child(1, up.round, up.keys.clone()), Below::Wait(None));
        let Some(Step::Done(all)) = root.enter(keys(0)) else { panic!() };
        assert_eq!(all.len(), 2);
        // The answer was lost too; the root may be in the next exchange meanwhile.
        assert_eq!(root.enter(keys(2)), None);
        assert_eq!(root.child(1, up.round, up.keys.clone()), Below::Known(all.clone()));
        assert_eq!(leaf.answer(up.round, all.clone()), Some(Step::Done(all.clone())));
        assert_eq!(leaf.answer(up.round, all), None);
        assert_eq!(root.child(1, 3, Keys::new()), Below::Refused);
    }
}
