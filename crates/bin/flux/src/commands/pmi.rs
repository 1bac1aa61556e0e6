//! `flux pmi`: try the PMI (RFC 13) of the launcher.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use clap::{ArgMatches, Command};
use flux_pmi::{Session, SessionError};

use super::program::{Program, counted, number, text, texts, value, word, words};
use crate::{dispatch::Invocation, failure::Failure, output};

const PROGRAM: Program = Program::binary("flux-pmi");

/// The options of `flux pmi`.
pub(crate) fn command() -> Command {
    Command::new("pmi")
        .about("Try the process management interface of the launcher")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .arg(counted("verbose", 'v', "Say what is done"))
        .arg(value("method", None, "URI", "simple (default) or single"))
        .arg(
            super::program::flag("libpmi-noflux", None, "Refused: no libpmi.so is used").hide(true),
        )
        .subcommand(Command::new("barrier").about("Wait for all tasks").arg(value(
            "test-count",
            None,
            "N",
            "This many times",
        )))
        .subcommand(
            Command::new("exchange")
                .about("Every task tells every other one something")
                .arg(value("count", None, "N", "This many times")),
        )
        .subcommand(
            Command::new("get")
                .about("Show values")
                .arg(words("keys", "KEY", "Keys").required(true))
                .arg(value("ranks", None, "IDSET", "Only on these ranks, or all (default: 0)")),
        )
        .subcommand(
            Command::new("put")
                .about("Set a value")
                .arg(word("pair", "KEY=VALUE", "Key and value"))
                .arg(value("ranks", None, "IDSET", "Only on these ranks, or all (default: all)")),
        )
}

/// The side of this task.
enum Pmi {
    /// A launcher.
    Wire(Session<UnixStream>),
    /// Nobody else: keys that this task set itself.
    Single(std::collections::BTreeMap<String, String>),
}

struct Task {
    pmi: Pmi,
    rank: u32,
    size: u32,
}

/// Runs `flux pmi`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    let verbose = matches.get_count("verbose") > 0;
    if matches.get_flag("libpmi-noflux") {
        return Err(PROGRAM.fail(
            "--libpmi-noflux: no libpmi.so is used here, the launcher is spoken with on PMI_FD",
        ));
    }
    let mut task = start(text(matches, "method"))?;
    if verbose {
        let Task { rank, size, .. } = &task;
        output::error_line(&format!("flux-pmi: rank {rank} of {size}"));
    }
    match matches.subcommand() {
        Some(("barrier", matches)) => task.barriers(matches)?,
        Some(("exchange", matches)) => task.exchanges(matches)?,
        Some(("get", matches)) => task.show(matches)?,
        Some((_, matches)) => task.set(matches)?,
        None => return Ok(1),
    }
    if let Pmi::Wire(session) = task.pmi {
        session.finalize().map_err(failed)?;
    }
    Ok(0)
}

fn failed(error: SessionError) -> Failure {
    PROGRAM.fail(error.to_string())
}

fn start(method: Option<&str>) -> Result<Task, Failure> {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let wire = match method {
        Some("single") => None,
        None | Some("simple") => {
            match (variable("PMI_FD"), variable("PMI_RANK"), variable("PMI_SIZE")) {
                (Some(fd), Some(rank), Some(size)) => Some((fd, rank, size)),
                _ if method.is_some() => {
                    return Err(PROGRAM.fail("simple: PMI_FD, PMI_RANK or PMI_SIZE is not set"));
                }
                _ => None,
            }
        }
        Some(other) => return Err(PROGRAM.fail(format!("{other}: unknown PMI method"))),
    };
    let Some((fd, rank, size)) = wire else {
        return Ok(Task { pmi: Pmi::Single(Default::default()), rank: 0, size: 1 });
    };
    let fd = i32::try_from(fd).map_err(|_| PROGRAM.fail("PMI_FD is no descriptor"))?;
    #[allow(unsafe_code, reason = "a descriptor number from outside can be had in no other way")]
    // SAFETY: only borrowed for the call, which fails on a number that is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let copy: OwnedFd =
        borrowed.try_clone_to_owned().map_err(|error| PROGRAM.fail(format!("PMI_FD: {error}")))?;
    let session = Session::start(UnixStream::from(copy)).map_err(failed)?;
    Ok(Task { pmi: Pmi::Wire(session), rank, size })
}

impl Task {
    fn barrier(&mut self) -> Result<(), Failure> {
        match &mut self.pmi {
            Pmi::Wire(session) => session.barrier().map_err(failed),
            Pmi::Single(_) => Ok(()),
        }
    }

    fn get(&mut self, key: &str) -> Result<String, Failure> {
        match &mut self.pmi {
            Pmi::Wire(session) => {
                session.get(key).map_err(|error| PROGRAM.fail(format!("get {key}: {error}")))
            }
            Pmi::Single(keys) => keys
                .get(key)
                .cloned()
                .ok_or_else(|| PROGRAM.fail(format!("get {key}: no such key"))),
        }
    }

    fn put(&mut self, key: &str, value: &str) -> Result<(), Failure> {
        match &mut self.pmi {
            Pmi::Wire(session) => {
                session.put(key, value).map_err(|error| PROGRAM.fail(format!("put {key}: {error}")))
            }
            Pmi::Single(keys) => {
                keys.insert(key.to_owned(), value.to_owned());
                Ok(())
            }
        }
    }

    /// The name of the job, as tasks of a job in a launcher of Flux know it.
    fn job(&self) -> String {
        match &self.pmi {
            Pmi::Wire(session) => session.kvsname().to_owned(),
            Pmi::Single(_) => self.rank.to_string(),
        }
    }

    fn completed(&self, what: &str, start: Instant) {
        if self.rank == 0 {
            let seconds = start.elapsed().as_secs_f64();
            let (job, size) = (self.job(), self.size);
            output::line(&format!("{job}: completed pmi {what} on {size} tasks in {seconds:.3}s."));
        }
    }

    fn barriers(&mut self, matches: &ArgMatches) -> Result<(), Failure> {
        let count: u32 = number(PROGRAM, matches, "test-count")?.unwrap_or(1);
        // The first one gathers the tasks, so that the time is that of the barrier.
        self.barrier()?;
        for _ in 0..count {
            let start = Instant::now();
            self.barrier()?;
            self.completed("barrier", start);
        }
        Ok(())
    }

    fn exchanges(&mut self, matches: &ArgMatches) -> Result<(), Failure> {
        let count: u32 = number(PROGRAM, matches, "count")?.unwrap_or(1);
        self.barrier()?;
        for round in 0..count {
            let start = Instant::now();
            let key = |rank: u32| format!("exchange.{round}.{rank}");
            self.put(&key(self.rank), &self.rank.to_string())?;
            self.barrier()?;
            for rank in 0..self.size {
                let value = self.get(&key(rank))?;
                if value != rank.to_string() {
                    return Err(PROGRAM.fail(format!("exchange: rank {rank} has value {value}")));
                }
            }
            self.barrier()?;
            self.completed("exchange", start);
        }
        Ok(())
    }

    fn chosen(&self, matches: &ArgMatches, default: &str) -> Result<bool, Failure> {
        let ranks = text(matches, "ranks").unwrap_or(default);
        if ranks == "all" {
            return Ok(true);
        }
        let set: flux_id::Idset =
            ranks.parse().map_err(|_| PROGRAM.fail("could not parse --ranks"))?;
        Ok(set.contains(self.rank))
    }

    fn show(&mut self, matches: &ArgMatches) -> Result<(), Failure> {
        let chosen = self.chosen(matches, "0")?;
        self.barrier()?;
        for key in texts(matches, "keys").into_iter().filter(|_| chosen) {
            let value = self.get(key)?;
            output::line(&value);
        }
        Ok(())
    }

    fn set(&mut self, matches: &ArgMatches) -> Result<(), Failure> {
        let pair = text(matches, "pair").unwrap_or_default();
        let (key, value) =
            pair.split_once('=').ok_or_else(|| PROGRAM.fail("the value must be KEY=VALUE"))?;
        if self.chosen(matches, "all")? {
            self.put(key, value)?;
        }
        self.barrier()
    }
}
