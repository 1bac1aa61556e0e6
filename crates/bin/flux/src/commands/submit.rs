//! `flux submit`: submit jobs and print their ids.

use std::{cell::RefCell, collections::BTreeMap, fs::File, rc::Rc};

use clap::{ArgMatches, Command};
use flux_client::Client;
use flux_id::JobId;

use super::program::Program;
use crate::{
    dispatch::Invocation,
    failure::Failure,
    follow::{Follower, Sink, Sinks, Want, bar::Bar},
    output, session,
    submission::{
        Context, Job, SubmitError,
        cc::{self, Copies},
        options::{self, Common, one},
        resources::Unit,
        send::Sender,
        spec,
    },
};

/// The options of `flux submit`.
pub(crate) fn command() -> Command {
    let command = Command::new("submit").about("Submit a job");
    options::copies(options::tasks(options::common(command)))
}

/// Runs `flux submit`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    if options::plugins_listed(&invocation.matches) {
        return Ok(0);
    }
    let fail = |error: SubmitError| Failure::script("flux-submit", error.to_string());
    let matches = &invocation.matches;
    let context = Context::gather().map_err(fail)?;
    let plan = Plan::read(matches).map_err(fail)?;
    if matches.get_flag("dry-run") {
        for index in 0..plan.len() {
            output::line(&plan.job(&context, index).map_err(fail)?.text());
        }
        return Ok(0);
    }
    // Mistakes are told before there is a connection to fail.
    plan.job(&context, 0).map_err(fail)?;
    submit_all("flux-submit", &context, std::slice::from_ref(&plan), matches)
}

/// The jobs of one command line: one, or one for each id of `--cc`.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    common: Common,
    words: Vec<String>,
    copies: Option<Copies>,
    log: [Option<String>; 2],
}

impl Plan {
    /// Reads the options.
    ///
    /// # Errors
    /// Whatever is wrong with them by themselves.
    pub(crate) fn read(matches: &ArgMatches) -> Result<Plan, SubmitError> {
        let words = options::words(matches);
        if words.is_empty() {
            return Err(SubmitError::NoCommand);
        }
        let copies = Copies::read(one(matches, "cc").as_deref(), one(matches, "bcc").as_deref())?;
        let log = [one(matches, "log"), one(matches, "log-stderr")];
        Ok(Plan { common: options::read(matches)?, words, copies, log })
    }

    /// How many jobs there are.
    pub(crate) fn len(&self) -> usize {
        self.copies.as_ref().map_or(1, |copies| copies.ids().len())
    }

    fn copy(&self, index: usize) -> Option<(u32, bool)> {
        let copies = self.copies.as_ref()?;
        Some((*copies.ids().get(index)?, copies.tell))
    }

    /// One of the jobs. They are made one by one, since a million of them need not fit into memory.
    ///
    /// # Errors
    /// Whatever is wrong with the job.
    pub(crate) fn job(&self, context: &Context, index: usize) -> Result<Job, SubmitError> {
        let mut words = self.words.clone();
        let Some((id, tell)) = self.copy(index) else {
            let extra = spec::Extra::default();
            return spec::build(context, &self.common, Unit::Task, words, extra);
        };
        let put = |text: &mut String| *text = cc::substitute(text, id);
        words.iter_mut().for_each(put);
        let mut common = self.common.clone();
        common.each_text(put);
        let env = tell.then(|| format!("FLUX_JOB_CC={id}"));
        let extra = spec::Extra { env, ..spec::Extra::default() };
        spec::build(context, &common, Unit::Task, words, extra)
    }

    /// The files of `--log` and `--log-stderr` of one of the jobs.
    fn logs(&self, index: usize) -> [Option<String>; 2] {
        let copy = self.copy(index);
        self.log.clone().map(|name| {
            name.map(|name| match copy {
                Some((id, _)) => cc::substitute(&name, id),
                None => name,
            })
        })
    }
}

/// The log files that are open.
#[derive(Default)]
struct Files {
    open: BTreeMap<String, Sink>,
}

impl Files {
    fn sink(&mut self, path: &str) -> Result<Sink, SubmitError> {
        if let Some(sink) = self.open.get(path) {
            return Ok(Rc::clone(sink));
        }
        let file = File::create(path).map_err(|error| SubmitError::file("log", path, &error))?;
        let sink = Rc::new(RefCell::new(file));
        self.open.insert(path.to_owned(), Rc::clone(&sink));
        Ok(sink)
    }

    fn sinks(&mut self, [out, err]: [Option<String>; 2]) -> Result<Sinks, SubmitError> {
        let out = out.map(|path| self.sink(&path)).transpose()?;
        let err = err.map(|path| self.sink(&path)).transpose()?.or_else(|| out.clone());
        Ok(Sinks { out, err })
    }
}

/// What `--wait`, `--watch` and `--wait-event` ask for; `None` when nothing is followed.
fn wanted(matches: &ArgMatches) -> Option<Want> {
    let event = one(matches, "wait-event");
    let output = matches.get_flag("watch");
    let any = output || event.is_some() || matches.get_flag("wait");
    let progress = matches.get_flag("progress") || matches.get_flag("jps");
    (any || progress).then(|| Want {
        output,
        // Output and the end both need the whole job.
        event: event.filter(|_| !output),
        label: matches.get_flag("label-io"),
        verbose: matches.get_count("verbose") > 0,
    })
}

/// Submits the jobs of all plans over one connection, follows them if asked to, and returns the exit
/// status of the command.
///
/// # Errors
/// There is no instance, the connection is lost, or a job cannot be made.
pub(crate) fn submit_all(
    program: &'static str,
    context: &Context,
    plans: &[Plan],
    matches: &ArgMatches,
) -> Result<i32, Failure> {
    let client = Program::script(program).open()?;
    let sender =
        Sender::new(&client).map_err(|error| Failure::bare(session::raw_error(&error), 1))?;
    let total = plans.iter().map(|plan| plan.len() as u64).sum();
    let want = wanted(matches);
    let progress = matches.get_flag("progress") || matches.get_flag("jps");
    let work = Work {
        client: &client,
        sender,
        follower: want.map(|want| Follower::new(program, &client, want)),
        files: Files::default(),
        sinks: BTreeMap::new(),
        quiet: matches.get_flag("quiet") || (progress && !matches.get_flag("watch")),
        refused: 0,
        answered: 0,
        total,
        bar: Bar::new(progress, total, matches.get_flag("jps")),
    };
    let lost = |text: String| Failure::script(program, text);
    let jobs = plans.iter().flat_map(|plan| (0..plan.len()).map(move |index| (plan, index)));
    work.run(context, jobs).map_err(lost)
}

struct Work<'a> {
    client: &'a Client,
    sender: Sender<'a>,
    follower: Option<Follower>,
    files: Files,
    /// Log files by number of the job, where it has any.
    sinks: BTreeMap<u64, Sinks>,
    quiet: bool,
    refused: u64,
    answered: u64,
    total: u64,
    bar: Bar,
}

impl<'a> Work<'a> {
    fn run<'p>(
        mut self,
        context: &Context,
        mut jobs: impl Iterator<Item = (&'p Plan, usize)>,
    ) -> Result<i32, String> {
        let mut sent = 0;
        let mut more = true;
        loop {
            while more && !self.sender.is_full() {
                let Some((plan, index)) = jobs.next() else {
                    more = false;
                    break;
                };
                let logs = plan.logs(index);
                if logs.iter().any(Option::is_some) {
                    let sinks = self.files.sinks(logs).map_err(|error| error.to_string())?;
                    self.sinks.insert(sent, sinks);
                }
                let job = plan.job(context, index).map_err(|error| error.to_string())?;
                self.sender.push(&job).map_err(|error| error.message())?;
                sent += 1;
            }
            let followed = self.follower.as_ref().is_none_or(Follower::is_done);
            if !more && self.sender.is_empty() && followed {
                break;
            }
            match &mut self.follower {
                // Every id is known: from here on the instance may go away and come back.
                Some(follower) if !more && self.sender.is_empty() => {
                    follower.wait()?;
                    follower.take_ready();
                    self.bar.show(&follower.tally, self.total - self.refused);
                }
                _ => {
                    self.client.wait(&[], None).map_err(|error| error.message())?;
                    self.take();
                }
            }
        }
        self.bar.finish();
        let code = self.follower.map_or(0, |follower| follower.code());
        Ok(if self.refused > 0 { code.max(1) } else { code })
    }

    fn take(&mut self) {
        for tag in self.client.ready_tags() {
            if !self.sender.take(tag)
                && let Some(follower) = &mut self.follower
            {
                follower.take(tag);
            }
        }
        // All ids of a turn leave in one write.
        let mut ids = String::new();
        while let Some(answer) = self.sender.next() {
            let sinks = self.sinks.remove(&self.answered);
            self.answered += 1;
            match answer {
                Ok(id) => {
                    let line = format!("{}\n", JobId(id));
                    match &sinks {
                        Some(sinks) if !self.quiet => sinks.write(false, line.as_bytes()),
                        None if !self.quiet => ids.push_str(&line),
                        _ => {}
                    }
                    if let Some(follower) = &mut self.follower {
                        follower.add(id, sinks.unwrap_or_default());
                    }
                }
                Err(error) => {
                    self.refused += 1;
                    let line = format!("{}\n", session::raw_error(&error));
                    sinks.unwrap_or_default().write(true, line.as_bytes());
                }
            }
        }
        if !ids.is_empty() {
            output::raw(&ids);
        }
        if let Some(follower) = &self.follower {
            self.bar.show(&follower.tally, self.total - self.refused);
        }
    }
}

/// All jobs of one command line.
#[cfg(test)]
pub(crate) fn jobs(context: &Context, matches: &ArgMatches) -> Result<Vec<Job>, SubmitError> {
    let plan = Plan::read(matches)?;
    (0..plan.len()).map(|index| plan.job(context, index)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn submit(words: &[&str]) -> Vec<Value> {
        let words = ["--dry-run", "--env=-*", "--rlimit=-*"].iter().chain(words);
        let matches = command().no_binary_name(true).try_get_matches_from(words).expect("valid");
        let jobs = jobs(&Context::fixed(), &matches).expect("valid");
        jobs.into_iter().map(|job| job.jobspec.into_value()).collect()
    }

    #[test]
    fn copies_know_their_id() {
        let jobs = submit(&["--cc=1-2", "--output=o.{cc}", "echo", "{cc}", "{{id}}"]);
        assert_eq!(jobs.len(), 2);
        assert_eq!(jobs[1]["tasks"][0]["command"], json!(["echo", "2", "{{id}}"]));
        let system = &jobs[1]["attributes"]["system"];
        assert_eq!(system["environment"], json!({"FLUX_JOB_CC": "2"}));
        assert_eq!(system["shell"]["options"]["output"]["stdout"]["path"], "o.2");
        let jobs = submit(&["--bcc=7", "echo", "{cc}"]);
        assert_eq!(jobs[0]["tasks"][0]["command"], json!(["echo", "7"]));
        assert_eq!(jobs[0]["attributes"]["system"].get("environment"), None);
    }
}
