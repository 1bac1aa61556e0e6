//! Status of a subtree, and how that of the parts makes that of the whole.

/// Status of a broker with all below it; the numbers travel.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Status {
    Unknown = 0,
    /// Online, all below are full.
    Full = 1,
    /// Some below are offline.
    Partial = 2,
    /// Some below are lost.
    Degraded = 3,
    /// The connection failed.
    Lost = 4,
    /// Not connected yet, or left in order.
    #[default]
    Offline = 5,
}

impl Status {
    /// The status of a number; nothing for numbers that have none.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        [Self::Unknown, Self::Full, Self::Partial, Self::Degraded, Self::Lost, Self::Offline]
            .into_iter()
            .find(|status| *status as u32 == number)
    }

    /// The word in health reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Full => "full",
            Self::Partial => "partial",
            Self::Degraded => "degraded",
            Self::Lost => "lost",
            Self::Offline => "offline",
        }
    }

    pub(crate) fn is_online(self) -> bool {
        matches!(self, Self::Full | Self::Partial | Self::Degraded)
    }

    /// The status of a broker whose children are so many of each status.
    pub(crate) fn rollup(count: &[u32; 6]) -> Self {
        if count[Self::Degraded as usize] + count[Self::Lost as usize] > 0 {
            Self::Degraded
        } else if count[Self::Partial as usize] + count[Self::Offline as usize] > 0 {
            Self::Partial
        } else {
            Self::Full
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_child_decides() {
        assert_eq!(Status::rollup(&[0; 6]), Status::Full);
        assert_eq!(Status::rollup(&[1, 4, 0, 0, 0, 0]), Status::Full);
        assert_eq!(Status::rollup(&[0, 4, 1, 0, 0, 0]), Status::Partial);
        assert_eq!(Status::rollup(&[0, 4, 0, 0, 0, 1]), Status::Partial);
        assert_eq!(Status::rollup(&[0, 4, 0, 0, 1, 1]), Status::Degraded);
        assert_eq!(Status::rollup(&[0, 4, 1, 1, 0, 0]), Status::Degraded);
        assert_eq!(Status::from_number(6), None);
        assert_eq!(Status::from_number(3), Some(Status::Degraded));
    }
}
