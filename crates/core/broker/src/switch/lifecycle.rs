//! Starting the modules one after the other, and stopping them in reverse.

use std::collections::VecDeque;

use flux_api::broker::{ModuleLoad, ModuleLoad_, ModuleRemove, StartModules, StopModules};
use flux_api::rpc::Answer;
use flux_api::{Empty, RpcError};
use flux_proto::Errno;
use flux_svc::Module;
use serde_json::{Map, Value};

use crate::node::{Node, Work};
use crate::switch::seat::Phase;

/// The start of the modules.
#[derive(Default)]
pub(crate) struct Boot {
    pending: VecDeque<Box<dyn Module>>,
    pub(crate) starting: Option<usize>,
    pub(crate) answers: Vec<Answer<StartModules>>,
    failed: Option<RpcError>,
    /// All were started.
    up: bool,
}

impl Boot {
    pub(crate) fn new(modules: Vec<Box<dyn Module>>) -> Self {
        Self { pending: modules.into(), ..Self::default() }
    }

    /// Whether the services of this broker are up.
    pub(crate) fn is_up(&self) -> bool {
        self.up
    }
}

/// The end of the modules.
#[derive(Default)]
pub(crate) struct Stop {
    pub(crate) draining: Option<usize>,
    pub(crate) answers: Vec<Answer<StopModules>>,
}

/// The module here that does what one of flux-core's does under another name.
fn here(name: &str) -> &str {
    match name {
        "sched-simple" => "sched",
        name => name,
    }
}

impl Node {
    /// Starts the modules with this configuration; an empty one leaves the former.
    pub(crate) fn start_modules(
        &mut self,
        config: Map<String, Value>,
        answer: Answer<StartModules>,
    ) {
        if !config.is_empty()
            && let Err(error) = self.configure(config)
        {
            return self.reply(answer, Err(error));
        }
        self.online = true;
        self.boot.answers.push(answer);
        if self.boot.starting.is_none() {
            self.work.push_back(Work::Boot);
        }
    }

    /// Starts the next module when the one before is up; answers when none is left.
    pub(crate) fn boot_next(&mut self) {
        if self.boot.starting.is_some() {
            return;
        }
        if let Some(module) = self.boot.pending.pop_front() {
            let at = self.seat(module, false);
            self.boot.starting = Some(at);
            self.work.push_back(Work::Start(at));
            return;
        }
        self.boot.up = self.boot.failed.is_none();
        self.tell_way();
        for answer in std::mem::take(&mut self.boot.answers) {
            let result = self.boot.failed.clone().map_or(Ok(Empty), Err);
            self.reply(answer, result);
        }
    }

    /// A module did not come up: the rest is not started.
    pub(crate) fn boot_failed(&mut self, error: &RpcError) {
        self.boot.pending.clear();
        self.boot.failed = Some(error.clone());
        self.work.push_back(Work::Boot);
    }

    pub(crate) fn stop_modules(&mut self, answer: Answer<StopModules>) {
        self.stop.answers.push(answer);
        if !self.boot.pending.is_empty() || self.boot.starting.is_some() {
            self.boot.starting = None;
            self.boot_failed(&RpcError::new(Errno::ECANCELED, "modules are being stopped"));
        }
        if self.stop.draining.is_none() {
            self.work.push_back(Work::Stop);
        }
    }

    /// Stops the module that was started last; answers when none is left.
    pub(crate) fn stop_next(&mut self) {
        if self.stop.draining.is_some() {
            return;
        }
        let next = self.seats.iter().rposition(|seat| !seat.builtin && seat.phase != Phase::Exited);
        if let Some(at) = next {
            self.stop.draining = Some(at);
            self.finish_seat(at);
            return;
        }
        for answer in std::mem::take(&mut self.stop.answers) {
            self.reply(answer, Ok(Empty));
        }
    }

    /// Asks a module to settle, once.
    fn finish_seat(&mut self, at: usize) {
        if let Some(seat) = self.seats.get_mut(at)
            && seat.phase < Phase::Finishing
        {
            seat.phase = Phase::Finishing;
            self.work.push_back(Work::Drain(at));
        }
    }

    pub(crate) fn load_module(&mut self, request: &ModuleLoad, answer: Answer<ModuleLoad_>) {
        // A path of flux-core's kind ends with the name of the module.
        let file = request.path.rsplit('/').next().unwrap_or_default();
        let name = here(file.split('.').next().unwrap_or_default());
        let taken = |seat: &crate::switch::seat::Seat| {
            seat.phase != Phase::Exited && seat.name == request.name.as_deref().unwrap_or(name)
        };
        if self.seats.iter().any(taken) {
            return self.reply(answer, Err(RpcError::bare(Errno::EEXIST)));
        }
        let module = self.loader.as_ref().and_then(|load| load(name, &request.args));
        let Some(module) = module else {
            let text = format!("{}: module not found in search path", request.path);
            return self.reply(answer, Err(RpcError::new(Errno::ENOENT, text)));
        };
        if let Some(service) =
            module.services().iter().find(|service| self.registry.contains_key(**service))
        {
            let text = format!("{name}: service '{service}' is already registered");
            return self.reply(answer, Err(RpcError::new(Errno::EEXIST, text)));
        }
        let at = self.seat(module, false);
        if let Some(seat) = self.seats.get_mut(at) {
            seat.loading = Some(answer);
            if let Some(name) = &request.name {
                seat.name.clone_from(name);
            }
        }
        self.work.push_back(Work::Start(at));
    }

    pub(crate) fn remove_module(&mut self, name: &str, answer: Answer<ModuleRemove>) {
        let name = here(name);
        let at =
            self.seats.iter().position(|seat| seat.phase != Phase::Exited && seat.name == name);
        let Some(at) = at else {
            let text = format!("{name}: no such module");
            return self.reply(answer, Err(RpcError::new(Errno::ENOENT, text)));
        };
        let Some(seat) = self.seats.get_mut(at) else {
            return;
        };
        if seat.builtin {
            let text = format!("{name}: a builtin module cannot be removed");
            return self.reply(answer, Err(RpcError::new(Errno::EINVAL, text)));
        }
        seat.removing.push(answer);
        self.finish_seat(at);
    }

    /// The broker ends: nobody will be answered any more.
    pub(crate) fn forget_answers(&mut self) {
        self.boot.answers.drain(..).for_each(Answer::forget);
        self.stop.answers.drain(..).for_each(Answer::forget);
        for seat in &mut self.seats {
            seat.loading.take().into_iter().for_each(Answer::forget);
            seat.removing.drain(..).for_each(Answer::forget);
        }
        self.overlay.forget_answers();
    }
}
