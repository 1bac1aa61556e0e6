//! What the machine can do without an instance.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::table::{Design, Table, median};
use crate::{Failure, Plan};

/// How long each rate is measured.
const TIME: Duration = Duration::from_secs(1);

fn run_true() -> std::io::Result<()> {
    let mut command = Command::new("/bin/true");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().map(drop)
}

/// Processes per second of so many threads.
fn spawn_rate(threads: usize) -> Result<f64, Failure> {
    let begun = Instant::now();
    let run = move || {
        let mut count = 0u32;
        while begun.elapsed() < TIME {
            run_true()?;
            count += 1;
        }
        Ok::<u32, std::io::Error>(count)
    };
    let threads: Vec<_> = (0..threads).map(|_| thread::spawn(run)).collect();
    let mut all = 0;
    for thread in threads {
        all += thread.join().map_err(|_| "a thread panicked")??;
    }
    Ok(f64::from(all) / begun.elapsed().as_secs_f64())
}

/// Syncs per second of appends of 4 KiB.
fn sync_rate() -> Result<f64, Failure> {
    let mut file = tempfile::tempfile()?;
    let begun = Instant::now();
    let mut count = 0u32;
    while begun.elapsed() < TIME {
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}

/// One byte there and back over a unix socket, between two threads.
fn round_trip(times: usize) -> Result<Duration, Failure> {
    let (mut here, mut there) = UnixStream::pair()?;
    let echo = thread::spawn(move || {
        let mut byte = [0];
        while there.read_exact(&mut byte).and_then(|()| there.write_all(&byte)).is_ok() {}
    });
    let time = median(times, || {
        here.write_all(&[1])?;
        here.read_exact(&mut [0])
    })?;
    drop(here);
    echo.join().map_err(|_| "the echo panicked")?;
    Ok(time)
}

pub(crate) fn measure(_: &Plan, table: &mut Table) -> Result<(), Failure> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    table.row("floor: spawn true", spawn_rate(1)?, "/s", Design::Free, "1 thread");
    let settings = format!("{cpus} threads");
    table.row("floor: spawn true", spawn_rate(cpus)?, "/s", Design::Free, &settings);
    table.row("floor: fdatasync", sync_rate()?, "/s", Design::Free, "appends of 4 KiB");
    let time = round_trip(5_000)?.as_secs_f64() * 1e6;
    table.row("floor: socket round trip", time, "us", Design::Free, "unix socket, median of 5000");
    Ok(())
}
