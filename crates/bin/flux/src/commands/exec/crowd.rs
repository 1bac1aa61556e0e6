//! Many processes at once: their output as it comes, the same input for all, signals for all.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use clap::ArgMatches;
use flux_api::RpcError;
use flux_api::rexec::{self, ExecRequest, ExecResponse, KillRequest, WaitRequest};
use flux_client::{Client, RawPending, To};
use flux_id::Idset;
use flux_model::stdio::IoData;
use flux_proto::{Errno, Message};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde::Serialize;
use serde_json::json;

use super::{PROGRAM, summary, summary::Summary};
use crate::{commands::program::text, failure::Failure, output};

/// Most input sent at once.
const PIECE: usize = 4096;

/// A second interrupt within this time ends the processes.
const IMPATIENCE: Duration = Duration::from_secs(2);

/// What to do.
pub(super) struct What {
    request: ExecRequest,
    attach: Option<String>,
    label: bool,
    input: bool,
    quiet: bool,
    verbose: bool,
}

impl What {
    pub(super) fn read(matches: &ArgMatches, request: ExecRequest) -> What {
        let attach = text(matches, "attach").map(str::to_owned);
        What {
            request,
            label: matches.get_flag("labelio"),
            input: !matches.get_flag("noinput") && attach.is_none(),
            attach,
            quiet: matches.get_flag("quiet"),
            verbose: matches.get_count("verbose") > 0,
        }
    }
}

/// A request of a subprocess server.
pub(super) fn message(service: &str, method: &str, body: &impl Serialize) -> Message {
    Message::request(format!("{service}.{method}")).with_json(body)
}

/// A process.
struct Member {
    rank: u32,
    pending: RawPending,
    pid: Option<i32>,
    /// Bytes of input it takes.
    credit: usize,
    /// Output that is not yet a whole line, by stream.
    partial: BTreeMap<String, Vec<u8>>,
}

/// The processes that run.
pub(super) struct Crowd<'a> {
    client: &'a Client,
    service: &'a str,
    what: &'a What,
    /// By matchtag.
    members: BTreeMap<u32, Member>,
    summary: Summary,
    /// Input is read and sent.
    input: bool,
    /// The end of the input is to be told to processes, even to those that start later.
    at_end: bool,
    interrupted: Option<Instant>,
    /// Signals that came before the processes ran.
    early: Vec<i32>,
}

impl<'a> Crowd<'a> {
    pub(super) fn start(
        client: &'a Client,
        service: &'a str,
        ranks: &Idset,
        what: &'a What,
    ) -> Crowd<'a> {
        let message = match &what.attach {
            None => message(service, "exec", &what.request),
            Some(name) => {
                let pid = name.parse().ok();
                let label = pid.is_none().then(|| name.clone());
                let flags = rexec::STDOUT | rexec::STDERR;
                message(service, "attach", &WaitRequest { pid: pid.unwrap_or(0), label, flags })
            }
        };
        let message = message.with_streaming();
        let members = ranks
            .ids()
            .map(|rank| {
                let pending = client.start(To::Rank(rank), message.clone());
                let partial = BTreeMap::new();
                (pending.matchtag(), Member { rank, pending, pid: None, credit: 0, partial })
            })
            .collect();
        Crowd {
            client,
            service,
            what,
            members,
            summary: Summary::default(),
            input: what.input,
            at_end: !what.input && what.attach.is_none(),
            interrupted: None,
            early: Vec::new(),
        }
    }

    /// Follows the processes to their end; the highest exit status.
    pub(super) fn run(mut self) -> Result<i32, Failure> {
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
            mask.add(signal);
        }
        let system = |error: nix::Error| PROGRAM.fail(error.desc());
        mask.thread_block().map_err(system)?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK).map_err(system)?;
        let stdin = std::io::stdin();
        if self.what.verbose {
            output::error_line(&format!("{} processes requested", self.members.len()));
        }
        if self.at_end {
            self.tell_end();
        }
        while !self.members.is_empty() {
            let mut extra = vec![signals.as_fd()];
            let room = self.room();
            if room > 0 {
                extra.push(stdin.as_fd());
            }
            let ready = self.client.wait(&extra, None).map_err(|error| PROGRAM.error(&error))?;
            if ready.extra.get(1) == Some(&true) {
                self.read_input(room)?;
            }
            while let Ok(Some(signal)) = signals.read_signal() {
                self.signal(i32::try_from(signal.ssi_signo).unwrap_or(0));
            }
            for tag in self.client.ready_tags() {
                self.hear(tag);
            }
        }
        if !self.what.quiet {
            self.summary.lines().iter().for_each(|line| output::error_line(line));
        }
        Ok(self.summary.code())
    }

    /// How much input all running processes take now.
    fn room(&self) -> usize {
        let least = self.members.values().map(|member| member.credit).min().unwrap_or(0);
        if self.input { least.min(PIECE) } else { 0 }
    }

    fn read_input(&mut self, room: usize) -> Result<(), Failure> {
        let mut bytes = vec![0; room];
        let got = match std::io::stdin().lock().read(&mut bytes) {
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(PROGRAM.fail(format!("stdin: {error}"))),
        };
        if got == 0 {
            self.input = false;
            self.at_end = true;
            self.tell_end();
            return Ok(());
        }
        for member in self.members.values_mut() {
            member.credit = member.credit.saturating_sub(got);
            let io = IoData::new("stdin", &member.rank.to_string(), &bytes[..got]);
            write(self.client, self.service, member, &io);
        }
        Ok(())
    }

    /// Tells all processes that their input ends.
    fn tell_end(&self) {
        for member in self.members.values() {
            let io = IoData::end("stdin", &member.rank.to_string());
            write(self.client, self.service, member, &io);
        }
    }

    fn signal(&mut self, signum: i32) {
        let mut signum = signum;
        if signum == Signal::SIGINT as i32 {
            let now = Instant::now();
            let again = self.interrupted.is_some_and(|at| now - at < IMPATIENCE);
            self.interrupted = Some(now);
            if again {
                signum = Signal::SIGKILL as i32;
            }
            let name = if again { "SIGKILL" } else { "SIGINT" };
            let count = self.members.len();
            output::error_line(&format!("flux-exec: sending {name} to {count} running processes"));
        }
        if self.members.values().any(|member| member.pid.is_none()) {
            self.early.push(signum);
        }
        for member in self.members.values() {
            kill(self.client, self.service, member, signum);
        }
    }

    /// Takes everything that has come from one process.
    fn hear(&mut self, tag: u32) {
        while let Some(member) = self.members.get_mut(&tag) {
            match member.pending.try_next() {
                None => return,
                Some(Ok(message)) => match message.json::<ExecResponse>() {
                    Ok(response) => self.event(tag, response),
                    Err(error) => {
                        let error = RpcError::new(Errno::EPROTO, error.to_string());
                        self.lost(tag, &error);
                    }
                },
                Some(Err(error)) if error.errno == Errno::ENODATA => self.leave(tag),
                Some(Err(error)) => self.lost(tag, &error),
            }
        }
    }

    fn event(&mut self, tag: u32, response: ExecResponse) {
        let Some(member) = self.members.get_mut(&tag) else { return };
        match response.kind.as_str() {
            "started" | "attached" => {
                member.pid = response.pid;
                for signum in &self.early {
                    kill(self.client, self.service, member, *signum);
                }
                if self.what.verbose {
                    let pid = response.pid.unwrap_or(0);
                    output::error_line(&format!("{}: pid {pid} started", member.rank));
                }
            }
            "add-credit" => {
                let channels = response.channels.unwrap_or_default();
                let credit = channels.get("stdin").and_then(serde_json::Value::as_u64);
                let credit = usize::try_from(credit.unwrap_or(0)).unwrap_or(usize::MAX);
                member.credit = member.credit.saturating_add(credit);
            }
            "output" => {
                let Some(io) = response.io else { return };
                let io = serde_json::from_value::<IoData>(json!(io));
                // Data that cannot be read is the server's fault; it is left out.
                if let Ok(io) = io {
                    member.output(&io, self.what.label);
                }
            }
            "finished" => {
                member.flush(self.what.label);
                let rank = member.rank;
                self.summary.add(rank, response.status.unwrap_or(0));
            }
            _ => {}
        }
    }

    fn lost(&mut self, tag: u32, error: &RpcError) {
        if let Some(member) = self.members.get(&tag) {
            let command = &self.what.request.cmd.cmdline;
            output::error_line(&summary::refusal(member.rank, command, error));
        }
        self.summary.failed(error.errno);
        self.leave(tag);
    }

    fn leave(&mut self, tag: u32) {
        if let Some(mut member) = self.members.remove(&tag) {
            member.flush(self.what.label);
        }
    }
}

fn write(client: &Client, service: &str, member: &Member, io: &IoData) {
    let body = json!({ "matchtag": member.pending.matchtag(), "io": io });
    let mut message = message(service, "write", &body).with_no_response();
    message.set_nodeid(member.rank);
    // A lost connection shows in what is waited for.
    drop(client.post(message));
}

fn kill(client: &Client, service: &str, member: &Member, signum: i32) {
    let Some(pid) = member.pid else { return };
    let body = KillRequest { pid, signum, label: None };
    let mut message = message(service, "kill", &body).with_no_response();
    message.set_nodeid(member.rank);
    drop(client.post(message));
}

impl Member {
    /// Writes output on: as it is, or with labels in whole lines.
    fn output(&mut self, io: &IoData, label: bool) {
        let data = io.data.as_deref().unwrap_or_default();
        if !label {
            emit(&io.stream, data);
            return;
        }
        let rank = self.rank;
        let partial = self.partial.entry(io.stream.clone()).or_default();
        partial.extend_from_slice(data);
        if let Some(end) = partial.iter().rposition(|byte| *byte == b'\n') {
            let rest = partial.split_off(end + 1);
            let lines = std::mem::replace(partial, rest);
            emit(&io.stream, &labelled(rank, &lines));
        }
        if io.eof && !partial.is_empty() {
            emit(&io.stream, &labelled(rank, &std::mem::take(partial)));
        }
    }

    fn flush(&mut self, label: bool) {
        for (stream, bytes) in std::mem::take(&mut self.partial) {
            if label && !bytes.is_empty() {
                emit(&stream, &labelled(self.rank, &bytes));
            }
        }
    }
}

fn emit(stream: &str, bytes: &[u8]) {
    if stream == "stderr" { output::error_bytes(bytes) } else { output::bytes(bytes) }
}

/// Each line with its rank before it; a last line without newline gets one.
fn labelled(rank: u32, bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes.len() + 16);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        text.extend_from_slice(format!("{rank}: ").as_bytes());
        text.extend_from_slice(line);
    }
    if text.last().is_some_and(|byte| *byte != b'\n') {
        text.push(b'\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_its_label() {
        assert_eq!(labelled(3, b"a\nb\n"), b"3: a\n3: b\n");
        assert_eq!(labelled(0, b"a\nb"), b"0: a\n0: b\n");
        assert_eq!(labelled(0, b""), b"");
    }
}
