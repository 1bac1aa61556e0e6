//! Commands of `flux` at brokers that come and go.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::Cluster;

/// Longer than this no command may hang.
pub const HANG: Duration = Duration::from_secs(60);

/// How a command has ended.
#[derive(Debug)]
pub struct Done {
    /// Exit code 0.
    pub ok: bool,
    /// Its standard output.
    pub out: String,
    /// What it said otherwise.
    pub said: String,
}

/// Runs a command at a broker. What it writes has to fit into pipes.
///
/// # Errors
/// It hangs; a sentence.
pub fn flux(cluster: &Cluster, rank: u32, words: &[&str], limit: Duration) -> Result<Done, String> {
    let failed = |error: std::io::Error| format!("flux {}: {error}", words.join(" "));
    let mut child = Command::new(cluster.flux())
        .args(words)
        .env("FLUX_URI", cluster.uri(rank))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let begun = Instant::now();
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if begun.elapsed() > limit => {
                drop(child.kill());
                drop(child.wait());
                let words = words.join(" ");
                return Err(format!("flux {words} at rank {rank} hangs for {} s", limit.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let (mut out, mut said) = (String::new(), String::new());
    if let Some(mut pipe) = child.stdout.take() {
        drop(pipe.read_to_string(&mut out));
    }
    if let Some(mut pipe) = child.stderr.take() {
        drop(pipe.read_to_string(&mut said));
    }
    Ok(Done { ok: status.success(), out, said })
}
