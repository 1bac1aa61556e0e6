//! Sets of job states on the command line.

use flux_model::job_event::StateMask;

/// Reads names of states, separated by commas; the error is the name that is none.
pub(in crate::commands) fn states(text: &str) -> Result<u32, String> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    names
        .map(|name| StateMask::parse(name).map(|mask| mask.0).map_err(|_| name.to_owned()))
        .try_fold(0, |all, mask| mask.map(|mask| all | mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_states_make_a_set() {
        assert_eq!(states("run,SCHED"), Ok(16 | 8));
        assert_eq!(states("active"), Ok(62));
        assert_eq!(states("pd,nosuch"), Err("nosuch".into()));
    }
}
