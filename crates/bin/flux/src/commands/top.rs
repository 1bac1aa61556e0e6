//! `flux top`: what an instance does, on a terminal, until q is typed.

mod screen;

use std::io::{IsTerminal, Read, Write, stdin, stdout};
use std::time::{Duration, Instant};

use clap::{ArgMatches, Command};
use flux_client::Client;
use flux_model::job_event::JobState;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::screen::{Amount, Line, View};
use super::program::{Program, color, text, value, wants_color};
use crate::{
    attach,
    dispatch::Invocation,
    failure::Failure,
    jobs::{
        JobRow, Query,
        instance::{self, Instance},
        query::Filter,
        row::UserNames,
    },
    session,
};

const PROGRAM: Program = Program::binary("flux-top");
/// How often it looks.
const PERIOD: Duration = Duration::from_secs(2);
/// How often it looks whether the window has changed.
const GLANCE: Duration = Duration::from_millis(250);
/// Jobs that are asked for at most.
const JOBS: u64 = 1000;
/// Deepest nesting of instances that can be entered.
const DEEPEST: usize = 64;

/// The options of `flux top`.
pub(crate) fn command() -> Command {
    Command::new("top")
        .about("Show jobs and resources as they change")
        .after_help(
            "Keys: q quits, j and k or the arrows choose a job, Enter shows the instance that it \
             is, h or Backspace goes back.",
        )
        .arg(color())
        .arg(value("queue", 'q', "NAME", "Only jobs of this queue"))
        .arg(clap::Arg::new("target").value_name("TARGET").help("Another instance: URI or job id"))
}

/// What somebody typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Quit,
    Up,
    Down,
    Enter,
    Back,
    Redraw,
}

/// Reads keys from what a terminal in raw mode sends.
fn keys(bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'q' | 3 | 4 => keys.push(Key::Quit),
            b'k' | 16 => keys.push(Key::Up),
            b'j' | 14 => keys.push(Key::Down),
            b'\r' | b'\n' | b'l' => keys.push(Key::Enter),
            b'h' | 8 | 127 => keys.push(Key::Back),
            12 | b' ' => keys.push(Key::Redraw),
            27 if matches!(rest.first(), Some(b'[' | b'O')) => {
                // The arrows; anything else of the kind ends with a letter or a tilde.
                let end = rest.iter().skip(1).position(|b| b.is_ascii_alphabetic() || *b == b'~');
                let Some(end) = end else { break };
                match rest[end + 1] {
                    b'A' => keys.push(Key::Up),
                    b'B' => keys.push(Key::Down),
                    b'C' => keys.push(Key::Enter),
                    b'D' => keys.push(Key::Back),
                    _ => {}
                }
                rest = &rest[end + 2..];
            }
            _ => {}
        }
    }
    keys
}

/// The other screen of the terminal, without a cursor; the first one comes back with its drop.
struct Screen {
    _raw: attach::Raw,
}

impl Screen {
    fn enter() -> Self {
        let raw = attach::Raw::enter();
        put("\x1b[?1049h\x1b[?25l");
        Self { _raw: raw }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        put("\x1b[?25h\x1b[?1049l");
    }
}

/// Writes to the terminal; without it there is nobody to tell.
fn put(text: &str) {
    let mut out = stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// One instance that is looked at.
struct Place {
    client: Client,
    /// What it is called: the way of job ids to it.
    name: String,
    /// Place of the chosen job in the list.
    chosen: usize,
}

/// Runs `flux top`.
pub(crate) fn run(invocation: &Invocation) -> Result<i32, Failure> {
    let matches = &invocation.matches;
    for (is, name) in
        [(stdin().is_terminal(), "standard input"), (stdout().is_terminal(), "standard output")]
    {
        if !is {
            return Err(PROGRAM.fail(format!("FATAL: {name} is not a terminal")));
        }
    }
    let client = match text(matches, "target") {
        None => PROGRAM.open()?,
        Some(target) => {
            let uri = super::uri::resolve(PROGRAM, target)?;
            Client::open(Some(&uri)).map_err(|error| PROGRAM.fail(error.detail()))?
        }
    };
    let name = client.get_attr("jobid").ok().filter(|id| !id.is_empty());
    let name = name.unwrap_or_else(|| "flux".to_string());
    let screen = Screen::enter();
    let result = watch(matches, vec![Place { client, name, chosen: 0 }]);
    drop(screen);
    result.map(|()| 0)
}

fn watch(matches: &ArgMatches, mut places: Vec<Place>) -> Result<(), Failure> {
    let colors = wants_color(matches);
    let mut names = UserNames::default();
    let mut drawn = None;
    let (mut view, mut rows) = (View::default(), Vec::new());
    let mut looked: Option<Instant> = None;
    loop {
        let Some(place) = places.last_mut() else { return Ok(()) };
        if looked.is_none_or(|at| at.elapsed() >= PERIOD) {
            match look(place, matches, &mut names) {
                Ok(found) => (view, rows) = found,
                // An instance inside of this one has ended.
                Err(_) if places.len() > 1 => {
                    places.pop();
                    looked = None;
                    continue;
                }
                Err(failure) => return Err(failure),
            }
            looked = Some(Instant::now());
            drawn = None;
        }
        let Some(place) = places.last_mut() else { return Ok(()) };
        place.chosen = place.chosen.min(rows.len().saturating_sub(1));
        let window = attach::size();
        if drawn != Some((window, place.chosen)) {
            let lines = view.lines(window, place.chosen);
            put(&screen::paint(&lines, colors));
            drawn = Some((window, place.chosen));
        }
        let mut typed = [0; 256];
        let Some(count) = read(&mut typed)? else { continue };
        if count == 0 {
            return Ok(());
        }
        for key in keys(&typed[..count]) {
            let depth = places.len();
            let Some(place) = places.last_mut() else { return Ok(()) };
            match key {
                Key::Quit => return Ok(()),
                Key::Up => place.chosen = place.chosen.saturating_sub(1),
                Key::Down => place.chosen = place.chosen.saturating_add(1),
                Key::Redraw => (drawn, looked) = (None, None),
                Key::Back if depth > 1 => {
                    places.pop();
                    looked = None;
                }
                Key::Back => {}
                Key::Enter => {
                    let inner = rows.get(place.chosen).and_then(|row| inside(place, row));
                    if let Some(inner) = inner.filter(|_| depth < DEEPEST) {
                        places.push(inner);
                        looked = None;
                    }
                }
            }
        }
    }
}

/// The instance that a job is, when it can be reached.
fn inside(place: &Place, row: &JobRow) -> Option<Place> {
    let client = row.uri().and_then(instance::connect)?;
    Some(Place { client, name: format!("{}/{}", place.name, row.id()), chosen: 0 })
}

/// What was typed within a moment; 0 when the terminal is gone.
fn read(typed: &mut [u8]) -> Result<Option<usize>, Failure> {
    let fail = |error: std::io::Error| PROGRAM.fail(format!("terminal: {error}"));
    let input = stdin();
    let mut fds = [PollFd::new(&input, PollFlags::IN)];
    let moment = Timespec { tv_sec: 0, tv_nsec: i64::from(GLANCE.subsec_nanos()) };
    match poll(&mut fds, Some(&moment)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(fail(error.into())),
        Ok(_) => match input.lock().read(typed) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(fail(error)),
            Ok(count) => Ok(Some(count)),
        },
    }
}

/// Asks an instance.
fn look(
    place: &Place,
    matches: &ArgMatches,
    names: &mut UserNames,
) -> Result<(View, Vec<JobRow>), Failure> {
    let client = &place.client;
    let query = Query {
        count: JOBS,
        filter: Filter::ACTIVE,
        user: None,
        name: None,
        queues: text(matches, "queue").map(str::to_string).into_iter().collect(),
        include: None,
        since: 0.0,
    };
    let now = session::now();
    let jobs = query.run(client).map_err(|error| PROGRAM.error(&error))?;
    let mut rows: Vec<JobRow> = jobs.into_iter().map(|job| JobRow::new(job, now, names)).collect();
    // What runs first, the latest at the top; then what waits, in its order.
    rows.sort_by(|a, b| {
        let running = |row: &JobRow| matches!(row.state(), Some(JobState::Run | JobState::Cleanup));
        running(b).cmp(&running(a)).then_with(|| match running(a) {
            true => a.runtime().total_cmp(&b.runtime()),
            false => std::cmp::Ordering::Equal,
        })
    });
    let known = Instance::ask(client);
    let amount = |kind: usize| Amount {
        used: known.amount("allocated", kind),
        all: known.amount("all", kind),
        down: known.amount("down", kind),
    };
    let attribute = |name: &str| client.get_attr(name).unwrap_or_default();
    let start = attribute("broker.starttime").parse::<f64>().ok();
    let view = View {
        name: place.name.clone(),
        size: attribute("size"),
        depth: attribute("instance-level"),
        version: attribute("version"),
        uptime: start.map(|start| (now - start).max(0.0)),
        amounts: [amount(2), amount(0), amount(1)],
        stats: known.stats.clone(),
        jobs: rows.iter().map(Line::of).collect(),
    };
    Ok((view, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_letters_controls_and_arrows() {
        assert_eq!(keys(b"jk\x1b[A\x1b[B\x1bOC\r"), {
            use Key::{Down, Enter, Up};
            [Down, Up, Up, Down, Enter, Enter]
        });
        assert_eq!(keys(b"\x1b[15~x\x1b[1;5Dq"), [Key::Back, Key::Quit]);
        assert_eq!(keys(&[3]), [Key::Quit]);
        for odd in [&b"\x1b"[..], b"\x1b[", b"\x1b[1;", b"\x1bO", b"\xff\0"] {
            assert!(keys(odd).is_empty(), "{odd:?}");
        }
    }
}
