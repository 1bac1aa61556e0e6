//! How processes ended: texts, and the exit status they make together.

use std::collections::BTreeMap;

use flux_api::RpcError;
use flux_id::Idset;
use flux_proto::Errno;

use flux_model::{signal, wait_status};

/// Exit status of a rank that cannot be reached.
const UNREACHABLE: i32 = 68;

/// Exit status for a process that could not be started.
pub(crate) fn code_of(errno: Errno) -> i32 {
    match errno {
        Errno::ENOENT => 127,
        Errno::EACCES | Errno::EPERM => 126,
        Errno::EHOSTUNREACH => UNREACHABLE,
        _ => 1,
    }
}

/// What to say about a process that could not be started.
pub(crate) fn refusal(rank: u32, command: &[String], error: &RpcError) -> String {
    let program = command.first().map(|program| format!("{program}: ")).unwrap_or_default();
    format!("flux-exec: Error: rank {rank}: {program}{}", error.message())
}

/// Ranks by how their processes ended.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    ended: BTreeMap<i32, Idset>,
    code: i32,
}

impl Summary {
    /// A process ended with a wait(2) status.
    pub(crate) fn add(&mut self, rank: u32, status: i32) {
        self.code = self.code.max(wait_status::exit_code(status));
        if status != 0 {
            self.ended.entry(status).or_default().insert(rank);
        }
    }

    /// A process was not started, or was lost.
    pub(crate) fn failed(&mut self, errno: Errno) {
        self.code = self.code.max(code_of(errno));
    }

    /// A line for each way in which processes ended, but success.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.ended
            .iter()
            .map(|(status, ranks)| {
                let several = ranks.len() > 1;
                let ranks = if several { ranks.to_bracketed() } else { ranks.to_string() };
                match wait_status::signal(*status) {
                    None => format!("{ranks}: Exit {}", wait_status::code(*status)),
                    Some(signum) => format!("{ranks}: {}", signal::describe(signum)),
                }
            })
            .collect()
    }

    /// The highest exit status of all.
    pub(crate) fn code(&self) -> i32 {
        self.code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_grouped_by_their_end() {
        let mut summary = Summary::default();
        for (rank, status) in [(0, 1 << 8), (1, 1 << 8), (2, 0), (3, 9)] {
            summary.add(rank, status);
        }
        assert_eq!(summary.lines(), ["3: Killed", "[0-1]: Exit 1"]);
        assert_eq!(summary.code(), 137);
        let mut summary = Summary::default();
        summary.failed(Errno::EHOSTUNREACH);
        assert_eq!((summary.code(), summary.lines().len()), (68, 0));
    }

    #[test]
    fn a_missing_program_is_told_as_flux_tells_it() {
        let text = "error launching process: No such file or directory";
        let error = RpcError::new(Errno::ENOENT, text);
        assert_eq!(
            refusal(1, &["nosuchcmd".to_owned()], &error),
            "flux-exec: Error: rank 1: nosuchcmd: error launching process: No such file or directory"
        );
        assert_eq!(code_of(error.errno), 127);
    }
}
