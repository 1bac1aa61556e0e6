//! The exchange of PMI keys between the shells of a job, along a tree over shell ranks.

use std::collections::BTreeMap;

/// Keys and values.
pub type Keys = BTreeMap<String, String>;

/// What a shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send the keys of this shell and of those below it to the parent.
    Up {
        /// Shell rank.
        parent: u32,
        /// Keys.
        keys: Keys,
    },
    /// Everything is known: let the own tasks go on, and answer the children.
    Done(Keys),
}

/// The part of one shell in one exchange after the other.
#[derive(Debug, Clone)]
pub struct Fence {
    parent: Option<u32>,
    children: usize,
    own: Option<Keys>,
    from_below: Vec<Keys>,
    sent: bool,
}

impl Fence {
    /// The part of shell `rank` of `size` in a tree in which each has up to `fanout` children.
    #[must_use]
    pub fn new(rank: u32, size: u32, fanout: u32) -> Self {
        let (rank, size, fanout) = (u64::from(rank), u64::from(size), u64::from(fanout.max(1)));
        let parent = (rank > 0).then(|| ((rank - 1) / fanout) as u32);
        let first = rank * fanout + 1;
        let children = size.saturating_sub(first).min(fanout) as usize;
        Self { parent, children, own: None, from_below: Vec::new(), sent: false }
    }

    /// All tasks here are in the barrier.
    pub fn enter(&mut self, keys: Keys) -> Option<Step> {
        self.own = Some(keys);
        self.step()
    }

    /// A child's keys, which are all of its branch.
    pub fn child(&mut self, keys: Keys) -> Option<Step> {
        self.from_below.push(keys);
        self.step()
    }

    fn step(&mut self) -> Option<Step> {
        if self.sent || self.from_below.len() < self.children {
            return None;
        }
        let mut keys = self.own.clone()?;
        for more in &self.from_below {
            keys.extend(more.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
        self.sent = true;
        match self.parent {
            Some(parent) => Some(Step::Up { parent, keys }),
            None => Some(self.finish(keys)),
        }
    }

    /// The parent's answer.
    pub fn answer(&mut self, keys: Keys) -> Step {
        self.finish(keys)
    }

    fn finish(&mut self, keys: Keys) -> Step {
        self.own = None;
        self.from_below.clear();
        self.sent = false;
        Step::Done(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    enum Mail {
        Up(u32, u32, Keys),
        Down(u32, Keys),
    }

    /// Runs one exchange in which every shell puts its rank; the result of each shell.
    fn exchange(fences: &mut [Fence], round: u32) -> Vec<Keys> {
        let mut mail = VecDeque::new();
        let mut waiting: Vec<Vec<u32>> = vec![Vec::new(); fences.len()];
        let mut results = vec![Keys::new(); fences.len()];
        let mut take =
            |at: u32, step, mail: &mut VecDeque<Mail>, waiting: &mut Vec<Vec<u32>>| match step {
                Some(Step::Up { parent, keys }) => mail.push_back(Mail::Up(at, parent, keys)),
                Some(Step::Done(keys)) => {
                    for child in std::mem::take(&mut waiting[at as usize]) {
                        mail.push_back(Mail::Down(child, keys.clone()));
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
                    Mail::Up(from, to, keys) => {
                        waiting[to as usize].push(from);
                        let step = fences[to as usize].child(keys);
                        take(to, step, &mut mail, &mut waiting);
                    }
                    Mail::Down(to, keys) => {
                        let step = Some(fences[to as usize].answer(keys));
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
}
