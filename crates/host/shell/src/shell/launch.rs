//! Starts the tasks.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use flux_pmi::LineBuffer;

use super::{Feed, Shell, Task, pty};
use crate::affinity;
use crate::environment;
use crate::log::Level;
use crate::output;
use crate::poller::Source;
use crate::stream::Pieces;
use crate::task::{self, Process, Start, Stdin};

impl Shell {
    fn stdin_of(&self, rank: u32, index: u32) -> Result<Stdin, (i32, String)> {
        let Some(template) = &self.options.stdin_path else {
            return Ok(Stdin::Pipe);
        };
        let path = self.tags.render(template, Some((rank, index)));
        File::open(path.as_ref()).map(Stdin::File).map_err(|error| {
            (1, format!("error opening input file '{path}': {}", output::reason(&error)))
        })
    }

    /// The older form of batch jobs: writes `attributes.system.batch.script`. Returns the broker
    /// options and the path of the script.
    fn batch_script(&self) -> Result<Option<(Vec<String>, String)>, (i32, String)> {
        let Some(batch) = self.job.jobspec.system().and_then(|system| system.get("batch")) else {
            return Ok(None);
        };
        let text = batch.get("script").and_then(|script| script.as_str());
        let text = text.ok_or_else(|| (1, "batch: script is missing".to_string()))?;
        let options = batch.get("broker-opts").and_then(|options| options.as_array());
        let options = options.into_iter().flatten().filter_map(|option| option.as_str());
        let path = format!("{}/script", self.tags.tmpdir);
        let mut open = std::fs::OpenOptions::new();
        let written = open
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o700)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| (1, format!("batch: {path}: {}", output::reason(&error))))?;
        Ok(Some((options.map(str::to_string).collect(), path)))
    }

    pub(super) fn start_tasks(&mut self) -> Result<(), (i32, String)> {
        let node = self.layout.nodes[self.rank as usize].clone();
        let ntasks = node.tasks.len() as usize;
        let gpus = match affinity::gpus(&self.options.gpu_affinity, &node.gpus, ntasks) {
            Ok(gpus) => gpus,
            Err(error) => {
                self.log(Level::Warn, "gpu-affinity", &error.to_string());
                None
            }
        };
        let commands = self.job.jobspec.command().to_vec();
        let script = self.batch_script()?;
        for (rank, index) in node.tasks.ids().zip(0u32..) {
            let terminal = self
                .options
                .pty
                .as_ref()
                .filter(|pty| pty.ranks.as_ref().is_none_or(|ranks| ranks.contains(rank)));
            let mut env = self.env.clone();
            environment::for_task(&mut env, rank, index);
            if terminal.is_some() {
                env.insert("FLUX_TERMINUS_SESSION".to_string(), rank.to_string());
            }
            if let Some(gpus) = gpus.as_ref().and_then(|gpus| gpus.get(index as usize)) {
                env.insert("CUDA_VISIBLE_DEVICES".to_string(), environment::visible(gpus));
            }
            let batch = script.as_ref().map(|(options, script)| {
                batch_command(options, (rank == 0).then_some(script), &commands)
            });
            let argv: Vec<String> = batch
                .as_ref()
                .unwrap_or(&commands)
                .iter()
                .map(|word| self.tags.render(word, Some((rank, index))).into_owned())
                .collect();
            let start = Start {
                rank,
                size: self.layout.ntasks,
                argv: &argv,
                env,
                own_group: !self.options.nosetpgrp,
                pmi: self.pmi.is_some(),
                terminal: terminal.is_some(),
                stdin: self.stdin_of(rank, index)?,
                limits: &self.limits,
            };
            let cpus = self.affinity.tasks.get(index as usize);
            let started = affinity::around(cpus, || Process::start(start));
            let process = started.map_err(|error| {
                let text = format!(
                    "task {rank} (host {}): start failed: {}: {}",
                    node.host,
                    argv.first().map_or("", String::as_str),
                    output::reason(&error)
                );
                (task::start_failure_code(&error), text)
            })?;
            let terminal =
                terminal.map(|pty| pty::Terminal::new(pty.capture, pty.interactive && rank == 0));
            self.adopt(rank, index, process, terminal).map_err(|error| (1, error.to_string()))?;
        }
        Ok(())
    }

    /// Watches a process that was started.
    fn adopt(
        &mut self,
        rank: u32,
        index: u32,
        process: Process,
        terminal: Option<pty::Terminal>,
    ) -> std::io::Result<()> {
        let at = self.tasks.len();
        let line = |stream: &crate::options::OutputStream| Pieces::new(stream.line_buffered);
        let output = &self.options.output;
        let task = Task {
            rank,
            index,
            status: None,
            out: process.stdout.is_some().then(|| line(&output.stdout)),
            err: process.stderr.is_some().then(|| line(&output.stderr)),
            pmi: process.pmi.is_some().then(LineBuffer::new),
            feed: Feed { queue: VecDeque::new(), eof: false, watched: false },
            reported: false,
            terminal,
            orphaned: None,
            process,
        };
        self.tasks.push(task);
        let process = &self.tasks[at].process;
        self.poller.add(&process.exit, Source::Exit(at))?;
        if let Some(fd) = &process.stdout {
            self.poller.add(fd, Source::Stdout(at))?;
        }
        if let Some(fd) = &process.stderr {
            self.poller.add(fd, Source::Stderr(at))?;
        }
        if let Some(fd) = &process.pmi {
            self.poller.add(fd, Source::Pmi(at))?;
        }
        if let (Some(fd), Some(terminal)) = (&process.terminal, &self.tasks[at].terminal)
            && !terminal.waits()
        {
            self.poller.add(fd, Source::Terminal(at))?;
        }
        Ok(())
    }
}

/// What a task of the older form of batch jobs runs: a broker, on task 0 with the script as its
/// initial program.
fn batch_command(options: &[String], script: Option<&String>, given: &[String]) -> Vec<String> {
    let words: Vec<&str> = given.iter().take(2).map(String::as_str).collect();
    if let ["flux", "broker" | "start"] = words.as_slice() {
        return given.to_vec();
    }
    let mut command: Vec<String> = ["flux", "broker"].map(str::to_string).to_vec();
    command.extend_from_slice(options);
    if let Some(script) = script {
        command.push(script.clone());
        command.extend_from_slice(given.get(1..).unwrap_or_default());
    }
    command
}
