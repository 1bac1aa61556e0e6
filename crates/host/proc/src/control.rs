//! Requests about processes that run: write, kill, list, wait, attach, disconnect; and stops.

use std::rc::Rc;
use std::time::Duration;

use flux_api::rexec::{
    Attach, Exec, ExecResponse, Kill, List, Process as Entry, ProcessList, Wait,
};
use flux_api::{Answer, Call, Empty, RpcError};
use flux_host::driver::DriverHandle;
use flux_model::stdio::IoData;
use flux_model::subprocess::ExecFlags;
use flux_proto::{Errno, Message};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::driver::{Server, stream_key};
use crate::process::{Follower, Process, response};

/// Time between looks for stopped processes, while children change state.
const STOP_INTERVAL: Duration = Duration::from_millis(100);

fn busy(text: &str) -> RpcError {
    RpcError::new(Errno::EBUSY, text)
}

fn invalid(text: &str) -> RpcError {
    RpcError::new(Errno::EINVAL, text)
}

#[derive(Deserialize)]
struct WriteBody {
    matchtag: u32,
    io: IoData,
}

impl Server {
    /// Input of a foreground process. It has no response, so what is wrong is ignored.
    pub(crate) fn write(&self, message: &Message) {
        let Ok(WriteBody { matchtag, io }) = message.json() else { return };
        let key = (message.first_route().cloned(), matchtag);
        let processes = self.table.borrow().of_stream(&key);
        for process in processes {
            let allowed = process
                .follower
                .borrow()
                .as_ref()
                .is_some_and(|follower| follower.answer.same_sender(message));
            if allowed {
                process.write(&io.stream, io.data.as_deref().unwrap_or_default(), io.eof);
            }
        }
    }

    pub(crate) fn kill(&self, call: Call<Kill>, back: &DriverHandle) {
        let request = &call.request;
        let found = self.table.borrow().find(request.pid, request.label.as_deref(), Errno::ESRCH);
        let result = found.and_then(|process| Ok(process.kill(request.signum)?));
        call.answer.respond(&mut back.clone(), result.map(|()| Empty));
    }

    pub(crate) fn list(&self, call: Call<List>, back: &DriverHandle) {
        let table = self.table.borrow();
        let procs = table.all().map(|process| Entry {
            pid: process.pid,
            cmd: process.cmd.cmdline.first().cloned().unwrap_or_default(),
            label: process.cmd.label.clone().unwrap_or_default(),
            state: if process.has_exited() { "Z" } else { "R" }.to_owned(),
        });
        let list = ProcessList { rank: self.rank, procs: procs.collect() };
        call.answer.ok(&mut back.clone(), &list);
    }

    pub(crate) fn wait(&self, call: Call<Wait>, back: &DriverHandle) {
        let Call { request, answer } = call;
        let found = self.table.borrow().find(request.pid, request.label.as_deref(), Errno::ESRCH);
        let waitable = found.and_then(|process| {
            if !process.waitable {
                Err(invalid("process is not waitable"))
            } else if process.waiter.borrow().is_some() {
                Err(invalid("process is already being waited on"))
            } else if process.follower.borrow().is_some() {
                Err(busy("subprocess has a client attached"))
            } else {
                Ok(process)
            }
        });
        match waitable {
            Err(error) => answer.err(&mut back.clone(), error),
            Ok(process) => {
                self.table.borrow_mut().bind(stream_key(&answer), process.pid);
                *process.waiter.borrow_mut() = Some(answer);
                if process.ended.get() {
                    self.conclude(&process);
                }
            }
        }
    }

    pub(crate) fn attach(&self, call: Call<Attach>, back: &DriverHandle) {
        let Call { request, answer } = call;
        let found = self.table.borrow().find(request.pid, request.label.as_deref(), Errno::ENOENT);
        let free = found.and_then(|process| {
            if !process.background {
                Err(busy("subprocess is not in background mode"))
            } else if process.follower.borrow().is_some() {
                Err(busy("subprocess already has a client attached"))
            } else if process.waiter.borrow().is_some() {
                Err(busy("subprocess is being waited on"))
            } else {
                Ok(process)
            }
        });
        let process = match free {
            Ok(process) => process,
            Err(error) => return answer.err(&mut back.clone(), error),
        };
        // From here on the responses are those of exec.
        let head = answer.head().clone();
        answer.forget();
        let answer = Answer::<Exec>::new(head);
        self.table.borrow_mut().bind(stream_key(&answer), process.pid);
        *process.follower.borrow_mut() = Some(Follower { answer, flags: ExecFlags(request.flags) });
        process.tell(&ExecResponse {
            pid: Some(process.pid),
            cmd: serde_json::to_value(&process.cmd).ok(),
            ..response("attached")
        });
        process.catch_up();
        if process.ended.get() {
            self.conclude(&process);
        }
    }

    /// A client is gone: its foreground processes are killed, others go on without it.
    pub(crate) fn disconnect(&self, message: &Message) {
        let processes = self.table.borrow().of_client(message.first_route());
        for process in processes {
            self.leave(&process, message);
        }
    }

    fn leave(&self, process: &Rc<Process>, message: &Message) {
        let mut table = self.table.borrow_mut();
        let mut follower = process.follower.borrow_mut();
        if let Some(gone) = follower.take_if(|follower| follower.answer.same_sender(message)) {
            table.unbind(&stream_key(&gone.answer), process.pid);
            gone.answer.forget();
            if !process.background {
                // One that has ended already cannot be killed, and need not.
                let _ = process.kill(rustix::process::Signal::KILL.as_raw());
            }
        }
        let mut waiter = process.waiter.borrow_mut();
        if let Some(gone) = waiter.take_if(|answer| answer.same_sender(message)) {
            table.unbind(&stream_key(&gone), process.pid);
            gone.forget();
        }
    }

    /// Makes sure that followers hear of stopped processes.
    pub(crate) fn see_stops(self: &Rc<Self>, back: &DriverHandle) {
        if self.sees_stops.replace(true) {
            return;
        }
        let Ok(mut changes) = signal(SignalKind::child()) else { return };
        let server = Rc::downgrade(self);
        back.spawn_local(async move {
            while changes.recv().await.is_some() {
                // One look for all that change within a short time.
                tokio::time::sleep(STOP_INTERVAL).await;
                let Some(server) = server.upgrade() else { return };
                server.tell_stops();
            }
        });
    }

    fn tell_stops(&self) {
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG;
        // One by one: children of others in this process are not ours to wait for.
        for process in self.table.borrow().all() {
            let id = Id::Pid(Pid::from_raw(process.pid));
            if process.follower.borrow().is_some()
                && let Ok(WaitStatus::Stopped(..)) = waitid(id, flags)
            {
                process.tell(&response("stopped"));
            }
        }
    }
}
