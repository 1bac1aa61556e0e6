//! How a process ended, as wait(2) encodes it on Linux.

/// The signal that ended the process, if one did.
#[must_use]
pub fn signal(status: i32) -> Option<i32> {
    let signum = status & 0x7f;
    // 0x7f marks a process that is stopped, not one that ended.
    (signum != 0 && signum != 0x7f).then_some(signum)
}

/// The code that the process ended with, 0 to 255; means nothing where a [`signal`] ended it.
#[must_use]
pub fn code(status: i32) -> i32 {
    (status >> 8) & 0xff
}

/// The code that a shell would give for it: that of the process, or 128 and the signal.
#[must_use]
pub fn exit_code(status: i32) -> i32 {
    signal(status).map_or_else(|| code(status), |signum| 128 + signum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_signals_are_told_apart() {
        for (status, ended_by, exit) in [
            (0, None, 0),
            (7 << 8, None, 7),
            (255 << 8, None, 255),
            (9, Some(9), 137),
            (11 | 0x80, Some(11), 139),
            (143 << 8, None, 143),
            (-1, None, 255),
        ] {
            assert_eq!((signal(status), exit_code(status)), (ended_by, exit), "{status}");
        }
    }
}
