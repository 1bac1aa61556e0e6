//! Sets of logical processors as the system numbers them.

use std::fmt;
use std::str::FromStr;

/// Cpu numbers are below this.
pub const CPU_MAX: u32 = 1 << 16;

/// Why a text is no set of cpus.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no set of cpus below {CPU_MAX}")]
pub struct CpuSetError(String);

/// A set of cpu numbers below [`CPU_MAX`]. Its text form is the kernel's list: `0-3,8`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CpuSet {
    /// 64 cpus per word, without zero words at the end.
    words: Vec<u64>,
}

impl CpuSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> CpuSet {
        CpuSet { words: Vec::new() }
    }

    /// Adds `cpu`; one that is not below [`CPU_MAX`] is left out.
    pub fn insert(&mut self, cpu: u32) {
        if cpu < CPU_MAX {
            let word = (cpu / 64) as usize;
            if word >= self.words.len() {
                self.words.resize(word + 1, 0);
            }
            self.words[word] |= 1 << (cpu % 64);
        }
    }

    /// Whether `cpu` is in the set.
    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        self.words.get((cpu / 64) as usize).is_some_and(|word| word >> (cpu % 64) & 1 == 1)
    }

    /// Whether there is no cpu in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// How many cpus there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The smallest cpu.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.iter().next()
    }

    /// The cpus in rising order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0_u32..).step_by(64).zip(&self.words).flat_map(|(base, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(base + bit)
            })
        })
    }

    /// What is in either set.
    #[must_use]
    pub fn union(&self, other: &CpuSet) -> CpuSet {
        let (mut long, short) = if self.words.len() < other.words.len() {
            (other.clone(), self)
        } else {
            (self.clone(), other)
        };
        for (word, more) in long.words.iter_mut().zip(&short.words) {
            *word |= more;
        }
        long
    }

    /// What is in both sets.
    #[must_use]
    pub fn intersection(&self, other: &CpuSet) -> CpuSet {
        CpuSet::from_words(self.words.iter().zip(&other.words).map(|(a, b)| a & b).collect())
    }

    /// Whether all of this set is in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &CpuSet) -> bool {
        self.intersection(other) == *self
    }

    fn from_words(mut words: Vec<u64>) -> CpuSet {
        while words.last() == Some(&0) {
            words.pop();
        }
        CpuSet { words }
    }

    /// The mask as hwloc writes it: groups of 32 bits, the highest first, as `0x1,0x00000000`.
    #[must_use]
    pub fn to_mask(&self) -> String {
        let halves: Vec<u64> = self.words.iter().flat_map(|w| [w & 0xffff_ffff, w >> 32]).collect();
        let used = halves.iter().rposition(|half| *half != 0).map_or(1, |last| last + 1);
        let halves = halves.iter().copied().chain(std::iter::once(0)).take(used);
        let groups: Vec<_> = halves.map(|half| format!("0x{half:08x}")).collect();
        groups.into_iter().rev().collect::<Vec<_>>().join(",")
    }

    /// Reads a mask as hwloc writes it. An infinite one (`0xf...f`) is refused.
    ///
    /// # Errors
    /// [`CpuSetError`] for anything else.
    pub fn parse_mask(text: &str) -> Result<CpuSet, CpuSetError> {
        let error = || CpuSetError(text.chars().take(80).collect());
        let mut set = CpuSet::new();
        // The groups of a mask are as many as needed and no more than a legal set can have.
        let count = text.split(',').count();
        if count > (CPU_MAX / 32) as usize {
            return Err(error());
        }
        for (group, base) in text.rsplit(',').zip((0_u32..).step_by(32)) {
            let digits = group.strip_prefix("0x").unwrap_or(group);
            // hwloc leaves out zeros: `0x1,,0x0` has an empty group, which counts as 0.
            if digits.is_empty() && count > 1 {
                continue;
            }
            if digits.starts_with('+') {
                return Err(error());
            }
            // A mask of one group may be longer than 32 bits.
            let width_ok = digits.len() <= 8 || count == 1 && digits.len() <= 16;
            let bits = u64::from_str_radix(digits, 16).map_err(|_| error())?;
            if !width_ok {
                return Err(error());
            }
            for bit in (0..64).filter(|bit| bits >> bit & 1 == 1) {
                set.insert(base + bit);
            }
        }
        Ok(set)
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> CpuSet {
        let mut set = CpuSet::new();
        for cpu in cpus {
            set.insert(cpu);
        }
        set
    }
}

impl FromStr for CpuSet {
    type Err = CpuSetError;

    fn from_str(text: &str) -> Result<CpuSet, CpuSetError> {
        let error = || CpuSetError(text.chars().take(80).collect());
        let number = |text: &str| match text.parse::<u32>() {
            Ok(cpu) if cpu < CPU_MAX && !text.starts_with('+') => Ok(cpu),
            _ => Err(error()),
        };
        let mut set = CpuSet::new();
        let text_left = text.trim();
        if text_left.is_empty() {
            return Ok(set);
        }
        for range in text_left.split(',') {
            let (low, high) = range.split_once('-').unwrap_or((range, range));
            let (low, high) = (number(low)?, number(high)?);
            if low > high {
                return Err(error());
            }
            (low..=high).for_each(|cpu| set.insert(cpu));
        }
        Ok(set)
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        let mut cpus = self.iter().peekable();
        while let Some(low) = cpus.next() {
            let mut high = low;
            while let Some(next) = cpus.next_if_eq(&(high + 1)) {
                high = next;
            }
            write!(f, "{comma}{low}")?;
            if high > low {
                write!(f, "-{high}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_are_those_of_the_kernel() {
        for text in ["", "0", "0-3", "0-1,3,64-130,65535"] {
            assert_eq!(text.parse::<CpuSet>().unwrap().to_string(), text);
        }
        assert_eq!("0-3\n".parse::<CpuSet>().unwrap().len(), 4);
        for text in ["x", "1-", "3-1", "65536", "-1", "0-4294967295", "1,,2", "+1"] {
            assert!(text.parse::<CpuSet>().is_err(), "{text}");
        }
    }

    #[test]
    fn masks_are_those_of_hwloc() {
        for (list, mask) in [
            ("", "0x00000000"),
            ("0-3", "0x0000000f"),
            ("32", "0x00000001,0x00000000"),
            ("0,95", "0x80000000,0x00000000,0x00000001"),
        ] {
            let set: CpuSet = list.parse().unwrap();
            assert_eq!(set.to_mask(), mask);
            assert_eq!(CpuSet::parse_mask(mask).unwrap(), set);
        }
        assert_eq!(CpuSet::parse_mask("0x1,,0x1").unwrap().to_string(), "0,64");
        assert_eq!(CpuSet::parse_mask("0xffffffffff").unwrap().to_string(), "0-39");
        for mask in ["", "0xf...f", "0x1,0x100000000", "g", "0x+1"] {
            assert!(CpuSet::parse_mask(mask).is_err(), "{mask}");
        }
    }

    #[test]
    fn sets_compare_by_content() {
        let a: CpuSet = "0-3,200".parse().unwrap();
        let b: CpuSet = "2-5".parse().unwrap();
        assert_eq!(a.intersection(&b), "2-3".parse().unwrap());
        assert_eq!(a.union(&b).to_string(), "0-5,200");
        assert!(a.intersection(&b).is_subset(&b) && !a.is_subset(&b) && !b.is_subset(&a));
    }

    proptest! {
        #[test]
        fn text_and_mask_bring_the_set_back(cpus in prop::collection::vec(0..500_u32, 0..40)) {
            let set: CpuSet = cpus.iter().copied().collect();
            prop_assert_eq!(&set.to_string().parse::<CpuSet>().unwrap(), &set);
            prop_assert_eq!(&CpuSet::parse_mask(&set.to_mask()).unwrap(), &set);
            prop_assert!(cpus.iter().all(|cpu| set.contains(*cpu)));
        }

        #[test]
        fn any_text_is_a_set_or_not(text in "\\PC*|[0-9a-fx,-]*") {
            drop(text.parse::<CpuSet>());
            drop(CpuSet::parse_mask(&text));
        }
    }
}
