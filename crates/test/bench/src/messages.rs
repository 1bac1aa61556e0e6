//! Messages and commits: round trips by hop, rates with many in flight.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use flux_api::kvs::{Commit, CommitRequest, Operation, PRIMARY};
use flux_client::{Client, Pending, To};
use flux_model::treeobj::Treeobj;
use serde_json::json;

use crate::instance::Instance;
use crate::table::{Design, Table, median};
use crate::{Failure, Plan};

/// How long each rate is measured.
const TIME: Duration = Duration::from_secs(1);

/// Messages in flight.
const IN_FLIGHT: usize = 64;

fn ping(client: &Client, rank: u32, pad: &str) -> Result<(), Failure> {
    let body = json!({ "seq": 0, "pad": pad });
    client.rpc("broker.ping", To::Rank(rank), Some(&body))?;
    Ok(())
}

fn ping_rate(client: &Client, rank: u32) -> Result<f64, Failure> {
    let begun = Instant::now();
    let request = || {
        let body = json!({ "seq": 0, "pad": "" });
        client.start(To::Rank(rank), flux_proto::Message::request("broker.ping").with_json(&body))
    };
    let mut waiting: VecDeque<_> = (0..IN_FLIGHT).map(|_| request()).collect();
    let mut count = 0u32;
    while let Some(mut oldest) = waiting.pop_front() {
        oldest.next_until(None)?;
        count += 1;
        if begun.elapsed() < TIME {
            waiting.push_back(request());
        }
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}

pub(crate) fn put(client: &Client, number: u32) -> Pending<Commit> {
    let request = CommitRequest {
        namespace: PRIMARY.to_string(),
        flags: 0,
        ops: vec![Operation {
            key: format!("bench.{}.{}", number / 64 % 64, number % 64),
            flags: 0,
            dirent: Treeobj::val(number.to_string()).into(),
        }],
    };
    client.send::<Commit>(To::Any, &request)
}

/// Commits per second of so many that are in flight at a time.
pub(crate) fn commit_rate(client: &Client, in_flight: u32) -> Result<f64, Failure> {
    let begun = Instant::now();
    let mut waiting: VecDeque<_> = (0..in_flight).map(|number| put(client, number)).collect();
    let (mut sent, mut count) = (in_flight, 0u32);
    while let Some(oldest) = waiting.pop_front() {
        oldest.wait()?;
        count += 1;
        if begun.elapsed() < TIME {
            waiting.push_back(put(client, sent));
            sent += 1;
        }
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}

fn hops(plan: &Plan, table: &mut Table) -> Result<(), Failure> {
    let instance = Instance::start(plan, 4, &["-Stbon.topo=kary:1"])?;
    let client = instance.client()?;
    for rank in 0..4 {
        let design = match rank {
            0 => Design::AtMost(40.0),
            1 => Design::AtMost(120.0),
            _ => Design::Free,
        };
        let time = median(2_000, || ping(&client, rank, ""))?.as_secs_f64() * 1e6;
        let settings = format!("{rank} hops, chain of 4 brokers, median of 2000");
        table.row("ping round trip", time, "us", design, &settings);
    }
    for rank in [0, 1, 3] {
        let design = if rank == 0 { Design::AtLeast(200_000.0) } else { Design::Free };
        let settings = format!("{rank} hops, {IN_FLIGHT} in flight, 1 client");
        table.row("ping rate", ping_rate(&client, rank)?, "/s", design, &settings);
    }
    let pad = "x".repeat(1 << 20);
    let time = median(plan.repeat, || ping(&client, 0, &pad))?.as_secs_f64() * 1e3;
    table.row("ping of 1 MiB", time, "ms", Design::AtMost(2.0), "0 hops");
    Ok(())
}

pub(crate) fn measure(plan: &Plan, table: &mut Table) -> Result<(), Failure> {
    hops(plan, table)?;
    let statedir = tempfile::tempdir()?;
    let durable = format!("-Sstatedir={}", statedir.path().display());
    for (option, settings) in [(Some(durable.as_str()), "durable"), (None, "until the end")] {
        let options: Vec<&str> = option.into_iter().collect();
        let instance = Instance::start(plan, 1, &options)?;
        let client = instance.client()?;
        for (in_flight, least) in [(1, 1_000.0), (16, 10_000.0)] {
            let rate = commit_rate(&client, in_flight)?;
            let design = if option.is_some() { Design::AtLeast(least) } else { Design::Free };
            let settings = format!("{in_flight} in flight, {settings}");
            table.row("KVS commits", rate, "/s", design, &settings);
        }
    }
    Ok(())
}
