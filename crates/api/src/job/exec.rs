//! `job-exec`: starts the shells of jobs and watches them (RFC 32).

use serde_json::Value;

use crate::body::{AnyObject, Empty};
use crate::sched::JobExpiration;

bodies! {
    /// Body of `job-exec.start`. It has no matchtag: responses are matched by job id.
    pub struct StartRequest {
        /// Job id.
        pub id: u64,
        /// User.
        pub userid: u32,
        /// Jobspec without environment.
        pub jobspec: Value,
        /// The job has been started before.
        pub reattach: bool,
        /// Its resources.
        #[serde(rename = "R")]
        pub r: Value,
        /// What the job's eventlog says, when the request may be the second one for the job.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub resume: Option<Resume>,
    }

    /// How far a job was when the execution service or the instance was restarted.
    pub struct Resume {
        /// The `start` event was recorded: every shell was launched.
        pub started: bool,
        /// Seconds since 1970 when it got its resources.
        pub since: f64,
        /// A fatal exception was raised then, or the job has finished: no shell shall be launched
        /// any more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub ended: Option<f64>,
    }

    /// A response to `job-exec.start`: `start`, `reattached`, `exception`, `finish`, `release`.
    pub struct StartResponse {
        /// Job id.
        pub id: u64,
        /// Kind.
        #[serde(rename = "type")]
        pub kind: String,
        /// Its context.
        pub data: Value,
    }

    /// Body of `job-exec.signal`.
    pub struct Signalled {
        /// Job id.
        pub id: u64,
        /// Number of the signal among all signals; shells take each once.
        pub n: u64,
        /// The signal, 1 to 64.
        pub signum: i32,
    }

    /// Body of `job-exec.critical-ranks`.
    pub struct CriticalRanks {
        /// Job id.
        pub id: u64,
        /// Idset of shell ranks whose loss ends the job.
        pub ranks: String,
    }

    /// Body of `job-exec.shell-barrier`.
    pub struct ShellBarrier {
        /// Job id.
        pub id: u64,
        /// Broker rank of the shell.
        pub rank: u32,
        /// Barriers of this job that the shell has passed already. With it a barrier that some
        /// shells had passed when rank 0 was lost is completed for the others: a shell whose
        /// request ended in EHOSTUNREACH or ECONNRESET asks again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub passed: Option<u32>,
    }
}

api! {
    /// Execution of jobs; rank 0.
    pub enum Exec("job-exec") {
        /// Starts a job.
        Start = "job-exec.start", owner, either, StartRequest => StartResponse;
        /// Moves the end of a running job.
        Expiration = "job-exec.expiration", owner, unary, JobExpiration => Empty;
        /// A signal was published to the shells of a job. Answered when those that could not hear
        /// it will be told whatever happens: it is in the execution log.
        Signal = "job-exec.signal", owner, unary, Signalled => Empty;
        /// Says which shells a job cannot lose.
        CriticalRanks_ = "job-exec.critical-ranks", user, unary, CriticalRanks => Empty;
        /// Answered when every shell of the job has called.
        ShellBarrier_ = "job-exec.shell-barrier", user, unary, ShellBarrier => Empty;
        /// The instance stops and its jobs stay: no node is given up from now on.
        Hold = "job-exec.hold", owner, unary, Empty => Empty;
        /// Settings and running jobs.
        Stats = "job-exec.stats-get", owner, unary, AnyObject => AnyObject;
    }
}
