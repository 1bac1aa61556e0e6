//! An instance that lives as long as its value.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use flux_client::Client;

use crate::{Failure, Plan};

/// A running instance. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Instance {
    child: Child,
    flux: std::path::PathBuf,
    uri: String,
}

impl Instance {
    /// Starts `size` brokers; `options` are more words for `flux start`.
    pub(crate) fn start(plan: &Plan, size: u32, options: &[&str]) -> Result<Self, Failure> {
        let mut command = Command::new(&plan.flux);
        command.args(["start", "-s", &size.to_string()]).args(options);
        // The program of the instance ends when its stdin does.
        command.args(["sh", "-c", "echo $FLUX_URI; exec cat >/dev/null"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut uri = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut uri)?;
        }
        let uri = uri.trim().to_string();
        let instance = Self { child, flux: plan.flux.clone(), uri };
        if instance.uri.is_empty() {
            return Err("the instance did not start".into());
        }
        Ok(instance)
    }

    /// Runs a command in the instance.
    pub(crate) fn flux(&self, words: &[&str]) -> Result<Output, Failure> {
        let output = Command::new(&self.flux)
            .args(words)
            .env("FLUX_URI", &self.uri)
            .stdin(Stdio::null())
            .output()?;
        if output.status.success() {
            return Ok(output);
        }
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!("flux {}: {}", words.join(" "), text.trim()).into())
    }

    /// A connection.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Ok(Client::open(Some(&self.uri))?)
    }

    /// Resident bytes of the broker of rank 0.
    pub(crate) fn memory(&self) -> Result<f64, Failure> {
        let pid = self.client()?.get_attr("broker.pid")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next())
            .ok_or("no VmRSS")?;
        Ok(kib.parse::<f64>()? * 1024.0)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ends with its program; how does not matter any more.
        drop(self.child.wait());
    }
}
