//! What is to be done.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::Failure;
use crate::cluster::Role;

/// The shape of the tree of brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    /// Each broker has up to so many children: 1 is a chain, more than there are brokers is flat.
    Kary(u32),
    /// The parent of a rank is the rank without its lowest bit.
    Binomial,
}

impl Tree {
    /// The rank above one that is not the leader.
    #[must_use]
    pub fn parent(self, rank: u32) -> u32 {
        match self {
            Tree::Kary(fanout) => rank.saturating_sub(1) / fanout.max(1),
            Tree::Binomial => rank & rank.wrapping_sub(1),
        }
    }

    /// Levels below the leader.
    #[must_use]
    pub fn depth(self, size: u32) -> u32 {
        let mut depths = vec![0; size.max(1) as usize];
        for rank in 1..size {
            depths[rank as usize] = depths[self.parent(rank) as usize] + 1;
        }
        depths.into_iter().max().unwrap_or_default()
    }

    /// Whether a rank has children in a tree of `size`.
    #[must_use]
    pub fn has_children(self, rank: u32, size: u32) -> bool {
        (rank + 1..size).any(|other| self.parent(other) == rank)
    }
}

impl FromStr for Tree {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no tree: chain, binary, binomial, flat, kary:N");
        match text.split_once(':') {
            None if text == "chain" => Ok(Tree::Kary(1)),
            None if text == "binary" => Ok(Tree::Kary(2)),
            None if text == "flat" => Ok(Tree::Kary(u32::MAX)),
            None if text == "binomial" => Ok(Tree::Binomial),
            Some(("kary", fanout)) => match fanout.parse() {
                Ok(fanout) if fanout > 0 => Ok(Tree::Kary(fanout)),
                _ => Err(wrong()),
            },
            _ => Err(wrong()),
        }
    }
}

/// What happens besides jobs that end by themselves and brokers that are killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extra {
    /// Some jobs are canceled, before they run or while they do.
    Cancel,
    /// Some jobs wait for a signal, which they are sent.
    Signal,
    /// Some jobs are ended by their time limit.
    Limit,
    /// Events of jobs are waited for.
    Events,
    /// Nodes are drained and undrained.
    Drain,
    /// The queue is stopped and started.
    Queue,
    /// Brokers are suspended for a while.
    Suspend,
    /// The instance is shut down with its jobs left, or one broker alone.
    Shutdown,
    /// Jobs that have ended are looked at and purged while others run.
    Purge,
}

impl Extra {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Extra); 9] = [
        ("cancel", Extra::Cancel),
        ("signal", Extra::Signal),
        ("limit", Extra::Limit),
        ("events", Extra::Events),
        ("drain", Extra::Drain),
        ("queue", Extra::Queue),
        ("suspend", Extra::Suspend),
        ("shutdown", Extra::Shutdown),
        ("purge", Extra::Purge),
    ];

    /// Reads `all`, `none`, or names with commas between them.
    ///
    /// # Errors
    /// A name that is none.
    pub fn parse(text: &str) -> Result<BTreeSet<Extra>, String> {
        let all = Self::ALL.iter().map(|(_, extra)| *extra);
        match text {
            "all" => Ok(all.collect()),
            "none" => Ok(BTreeSet::new()),
            names => names
                .split(',')
                .map(|name| {
                    let found = Self::ALL.iter().find(|(other, _)| *other == name);
                    found.map(|(_, extra)| *extra).ok_or_else(|| {
                        let names: Vec<&str> = Self::ALL.iter().map(|(name, _)| *name).collect();
                        format!("'{name}' is none of all, none, {}", names.join(", "))
                    })
                })
                .collect(),
        }
    }
}

/// A plan.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The `flux` program.
    pub flux: PathBuf,
    /// How long brokers are killed.
    pub time: Duration,
    /// Brokers.
    pub brokers: u32,
    /// How they are joined.
    pub tree: Tree,
    /// Jobs, spread over the time.
    pub jobs: u32,
    /// Clients that submit.
    pub clients: u32,
    /// Clients that follow the output of running jobs with `flux job attach`.
    pub followers: u32,
    /// Pause between kills, from and to.
    pub pause: (Duration, Duration),
    /// Who is killed.
    pub roles: Vec<Role>,
    /// Where the dice begin.
    pub seed: u64,
    /// How long no job may end when the killing is over.
    pub patience: Duration,
    /// No job takes longer, as far as its pauses go.
    pub longest: Duration,
    /// Of a hundred jobs so many need several nodes.
    pub wide: u32,
    /// Configuration, as `TABLE.KEY = VALUE` in TOML.
    pub settings: Vec<String>,
    /// What happens besides.
    pub mix: BTreeSet<Extra>,
    /// Leave the directory of the instance behind.
    pub keep: bool,
}

const USAGE: &str = "usage: flux-chaos [--minutes N | --seconds N] [--brokers N] [--tree TREE] [--jobs N] [--wide PERCENT] \
    [--clients N] [--followers N] [--pause MIN-MAX] [--roles leader,router,leaf] [--seed N] \
    [--mix all|none|cancel,signal,limit,events,drain,queue,suspend,shutdown,purge] \
    [--patience SECONDS] [--set TABLE.KEY=VALUE]... [--keep] [--flux PROGRAM]";

impl Plan {
    /// A plan with the figures of the acceptance test.
    #[must_use]
    pub fn new(flux: PathBuf) -> Self {
        Self {
            flux,
            time: Duration::from_secs(300),
            brokers: 7,
            tree: Tree::Kary(2),
            jobs: 3000,
            clients: 4,
            followers: 2,
            pause: (Duration::from_secs(1), Duration::from_secs(2)),
            roles: vec![Role::Leader, Role::Router, Role::Leaf],
            seed: 1,
            patience: Duration::from_secs(180),
            longest: Duration::from_secs(60),
            wide: 8,
            settings: Vec::new(),
            mix: Extra::ALL.iter().map(|(_, extra)| *extra).collect(),
            keep: false,
        }
    }

    /// Reads the command line.
    ///
    /// # Errors
    /// The word that is wrong, and the usage.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut plan = Self::new(std::env::current_exe()?.with_file_name("flux"));
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"));
            match word.as_str() {
                "--minutes" => {
                    plan.time = Duration::try_from_secs_f64(value()?.parse::<f64>()? * 60.0)?;
                }
                "--seconds" => plan.time = Duration::try_from_secs_f64(value()?.parse()?)?,
                "--brokers" => plan.brokers = value()?.parse()?,
                "--tree" => plan.tree = value()?.parse()?,
                "--wide" => plan.wide = value()?.parse()?,
                "--jobs" => plan.jobs = value()?.parse()?,
                "--clients" => plan.clients = value()?.parse()?,
                "--followers" => plan.followers = value()?.parse()?,
                "--seed" => plan.seed = value()?.parse()?,
                "--patience" => plan.patience = Duration::from_secs(value()?.parse()?),
                "--flux" => plan.flux = value()?.into(),
                "--set" => plan.settings.push(value()?),
                "--mix" => plan.mix = Extra::parse(&value()?)?,
                "--keep" => plan.keep = true,
                "--pause" => {
                    let value = value()?;
                    let (from, to) = value.split_once('-').unwrap_or((&value, &value));
                    let seconds = |text: &str| -> Result<Duration, Failure> {
                        Ok(Duration::try_from_secs_f64(text.parse()?)?)
                    };
                    plan.pause = (seconds(from)?, seconds(to)?);
                }
                "--roles" => {
                    let value = value()?;
                    let names = value.split(',').filter(|name| !name.is_empty() && *name != "none");
                    plan.roles = names.map(str::parse).collect::<Result<_, _>>()?;
                }
                other => return Err(format!("unknown option '{other}'\n{USAGE}").into()),
            }
        }
        if plan.brokers == 0 || plan.clients == 0 || plan.pause.0 > plan.pause.1 {
            return Err(USAGE.into());
        }
        if !plan.flux.is_file() {
            let text = "build it with: cargo build --release -p flux";
            return Err(format!("{}: no such program; {text}", plan.flux.display()).into());
        }
        Ok(plan)
    }
}

/// Numbers that look random and are the same again with the same seed (xorshift).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Dice that begin at `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end.max(1)
    }

    /// A time between two.
    pub fn between(&mut self, (from, to): (Duration, Duration)) -> Duration {
        let span = u64::try_from(to.saturating_sub(from).as_millis()).unwrap_or(u64::MAX);
        from + Duration::from_millis(self.below(span + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_all_or_nothing_or_names() {
        assert_eq!(Extra::parse("none"), Ok(BTreeSet::new()));
        assert_eq!(Extra::parse("all").unwrap().len(), Extra::ALL.len());
        let two = BTreeSet::from([Extra::Drain, Extra::Purge]);
        assert_eq!(Extra::parse("purge,drain"), Ok(two));
        assert!(Extra::parse("purge,x").unwrap_err().starts_with("'x' is none of"));
    }

    fn parents(tree: &str) -> Vec<u32> {
        let tree: Tree = tree.parse().unwrap_or(Tree::Binomial);
        (1..8).map(|rank| tree.parent(rank)).collect()
    }

    #[test]
    fn trees_have_the_shape_of_their_name() {
        assert_eq!(parents("chain"), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(parents("binary"), [0, 0, 1, 1, 2, 2, 3]);
        assert_eq!(parents("binomial"), [0, 0, 2, 0, 4, 4, 6]);
        assert_eq!(parents("flat"), [0; 7]);
        assert_eq!(parents("kary:3"), [0, 0, 0, 1, 1, 1, 2]);
        assert!("kary:0".parse::<Tree>().is_err() && "oak".parse::<Tree>().is_err());
        assert_eq!((Tree::Kary(1).depth(7), Tree::Kary(2).depth(7)), (6, 2));
        assert!(Tree::Binomial.has_children(6, 8) && !Tree::Binomial.has_children(6, 7));
    }
}
