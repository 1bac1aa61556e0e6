//! Starting a shell, and what it says.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::Instant;

use flux_api::launch::LaunchStart;
use flux_proc::descriptors;
use flux_proc::{Direct, Launch, Launcher, Stdio};
use flux_proto::Errno;
use rustix::event::epoll;
use rustix::fs::{Mode, OFlags, fcntl_setfl, open};
use rustix::pipe::{PipeFlags, pipe_with};

use super::fork::Child;
use super::{Supervisor, drain};
use crate::journal::{End, Record};
use crate::output::Stream;
use crate::proc;
use crate::protocol::Event;

/// Most bytes of a shell's stdin: what a pipe takes at once.
const INPUT_MAX: usize = 64 << 10;

/// How far a shell is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stage {
    Running,
    /// It has ended with this status; what it left behind is being killed, since then.
    Leaving(i32, Instant),
    Ended,
}

/// A shell that was started by this supervisor.
pub(super) struct Shell {
    pub(super) pid: i32,
    pub(super) stage: Stage,
    /// stdout and stderr.
    streams: [Stream; 2],
    pipes: [Option<File>; 2],
    tokens: [u64; 2],
}

impl Shell {
    /// What it has said so far.
    pub(super) fn said(&self, id: u64) -> Vec<Event> {
        let streams = self.streams.iter().zip([1, 2]).filter(|(stream, _)| stream.offset() > 0);
        streams
            .map(|(stream, fd)| Event::Output {
                id,
                fd,
                offset: stream.offset(),
                data: stream.text.clone(),
            })
            .collect()
    }
}

struct Refused(Errno, String);

fn refused(errno: Errno) -> Refused {
    Refused(errno, format!("error launching process: {}", errno.text()))
}

fn errno(error: &std::io::Error) -> Errno {
    Errno(error.raw_os_error().map_or(Errno::EIO.0, i32::unsigned_abs))
}

fn text(text: &str) -> Result<CString, Refused> {
    CString::new(text).map_err(|_| refused(Errno::EINVAL))
}

/// [`input`] for another keeper: errno and sentence on failure.
pub(crate) fn shell_input(request: &LaunchStart) -> Result<OwnedFd, (Errno, String)> {
    input(request).map_err(|Refused(errno, text)| (errno, text))
}

/// A shell's stdin.
fn input(request: &LaunchStart) -> Result<OwnedFd, Refused> {
    let failed = |error: rustix::io::Errno| refused(Errno(error.raw_os_error().unsigned_abs()));
    let Some(input) = &request.input else {
        return open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed);
    };
    if input.len() > INPUT_MAX {
        let text = format!("input of {} bytes: at most {INPUT_MAX} are taken", input.len());
        return Err(Refused(Errno::E2BIG, text));
    }
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    fcntl_setfl(&write, OFlags::NONBLOCK).map_err(failed)?;
    let mut write = File::from(write);
    write.write_all(input.as_bytes()).map_err(|error| refused(errno(&error)))?;
    Ok(read)
}

impl Supervisor {
    pub(super) fn start(&mut self, request: &LaunchStart) {
        let id = request.id;
        if self.records.contains_key(&id) {
            // The driver knows what is on record.
            return;
        }
        if let Err(Refused(errno, text)) = self.try_start(request) {
            self.tell(&Event::Failed { id, errno: errno.0, text });
        }
    }

    fn environment(&self, request: &LaunchStart) -> Result<Vec<CString>, Refused> {
        let own: BTreeMap<&str, String> = request
            .env
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?.to_string())))
            .chain([("FLUX_LAUNCH_ID", request.id.to_string())])
            .collect();
        let base = self.env.iter().filter(|(name, _)| !own.contains_key(name.as_str()));
        base.map(|(name, value)| text(&format!("{name}={value}")))
            .chain(own.iter().map(|(name, value)| text(&format!("{name}={value}"))))
            .collect()
    }

    fn try_start(&mut self, request: &LaunchStart) -> Result<(), Refused> {
        if !self.same_version {
            let text = "the supervisor of the running shells is of another version: new ones can be \
                        started when those have ended";
            return Err(Refused(Errno::EBUSY, text.to_string()));
        }
        if self.going_down.is_some() {
            return Err(Refused(Errno::ECANCELED, "the node goes down".to_string()));
        }
        let id = request.id;
        let argv: Vec<CString> =
            request.cmdline.iter().map(|word| text(word)).collect::<Result<_, _>>()?;
        let env = self.environment(request)?;
        let cwd = text(request.cwd.as_deref().unwrap_or("/"))?;
        let stdin = input(request)?;
        let pipe = || -> Result<(File, OwnedFd), Refused> {
            let failed =
                |error: rustix::io::Errno| refused(Errno(error.raw_os_error().unsigned_abs()));
            let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
            fcntl_setfl(&read, OFlags::NONBLOCK).map_err(failed)?;
            Ok((File::from(read), write))
        };
        let ((out, stdout), (err, stderr)) = (pipe()?, pipe()?);
        let stdio = [stdin, stdout, stderr];
        self.journal.start(id, &request.signaller).map_err(|error| {
            Refused(errno(&error), format!("the shell cannot be put on record: {error}"))
        })?;
        let plan = self.fork.as_ref().filter(|_| request.cwd.is_none());
        let plan = plan.and_then(|fork| Some((fork, fork.plan(&request.cmdline, &env)?)));
        let started = match plan {
            Some((fork, plan)) => {
                let cmdline = &request.cmdline;
                let child = Child { cmdline, env: &env, cwd: &cwd, stdio: &stdio };
                descriptors::as_given(|| fork.start(&plan, &child))
                    .map_err(|errno| Errno(errno.unsigned_abs()))
            }
            None => Direct.launch(&Launch {
                argv,
                env,
                cwd: Some(cwd),
                stdio: Stdio::Given(stdio),
                channels: Vec::new(),
                own_group: true,
                limits: descriptors::as_limits(),
            }),
        };
        let pid = match started {
            Ok(pid) => pid,
            Err(errno) => {
                // At worst the next supervisor finds a record of a process that it does not know.
                drop(self.journal.gone(id));
                return Err(refused(errno));
            }
        };
        if self.spared {
            proc::spare_no_more(pid);
        }
        let born = proc::born(pid).unwrap_or(0);
        // The line before says that it was started: a successor knows that much.
        drop(self.journal.runs(id, pid, born));
        let signaller = request.signaller.clone();
        self.records.insert(id, Record { pid, born, signaller, end: None });
        self.pids.insert(pid, id);
        let mut shell = Shell {
            pid,
            stage: Stage::Running,
            streams: Default::default(),
            pipes: [Some(out), Some(err)],
            tokens: [0; 2],
        };
        for at in 0..2 {
            self.next_stream += 1;
            let token = self.next_stream;
            if let Some(pipe) = &shell.pipes[at] {
                let data = epoll::EventData::new_u64(token);
                // Without it the stream is read when the shell ends.
                let _ = epoll::add(&self.epoll, pipe, data, epoll::EventFlags::IN);
            }
            shell.tokens[at] = token;
            self.streams.insert(token, (id, at));
        }
        self.shells.insert(id, shell);
        self.tell(&Event::Started { id, pid });
        Ok(())
    }

    pub(super) fn stream_ready(&mut self, token: u64) {
        if let Some(&(id, at)) = self.streams.get(&token) {
            self.read_stream(id, at);
        }
    }

    /// Reads what a shell has written.
    pub(super) fn read_stream(&mut self, id: u64, at: usize) {
        let Some(shell) = self.shells.get_mut(&id) else { return };
        let Shell { streams, pipes, tokens, .. } = shell;
        let (Some(stream), Some(pipe)) = (streams.get_mut(at), pipes.get_mut(at)) else { return };
        let Some(file) = pipe else { return };
        let before = stream.text.len();
        let ended = drain(file, &mut self.buffer, |bytes| {
            stream.push(bytes);
        });
        if ended {
            stream.end();
            // A shell that was just forked has the pipe open for a moment longer, and as long it
            // would be told here again and again that the stream has ended.
            let _ = epoll::delete(&self.epoll, file);
            *pipe = None;
            self.streams.remove(&tokens[at]);
        }
        if let Some(data) = stream.text.get(before..).filter(|data| !data.is_empty()) {
            let fd = if at == 0 { 1 } else { 2 };
            let event = Event::Output { id, fd, offset: stream.offset(), data: data.to_string() };
            self.tell(&event);
        }
    }

    /// A shell and all that came from it is gone.
    pub(super) fn finished(&mut self, id: u64, status: i32, left: u32) {
        for at in 0..2 {
            self.read_stream(id, at);
        }
        if let Some(shell) = self.shells.get_mut(&id) {
            shell.stage = Stage::Ended;
            for pipe in shell.pipes.iter_mut().filter_map(Option::take) {
                let _ = epoll::delete(&self.epoll, &pipe);
            }
            for token in shell.tokens {
                self.streams.remove(&token);
            }
        }
        // Where everything is ended nothing has ended by itself.
        let lost = self.going_down.map(|_| "the node went down".to_string());
        let end = lost.clone().map_or(End::Exited(status, left), End::Lost);
        if let Some(record) = self.records.get_mut(&id) {
            record.end = Some(end);
            self.ended.insert(id);
        }
        self.leaving.remove(&id);
        self.write_end(id);
        self.tell(&match lost {
            Some(note) => Event::Lost { id, note },
            None => Event::Finished { id, status, left },
        });
    }

    pub(super) fn drop_shell(&mut self, id: u64) {
        self.leaving.remove(&id);
        if let Some(shell) = self.shells.remove(&id) {
            for token in shell.tokens {
                self.streams.remove(&token);
            }
        }
    }
}
