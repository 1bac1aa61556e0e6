//! The other nodes, asked through the instance: who is there, ids, clocks, MUNGE both ways, files.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flux_sign::munge::Munge;

use super::Site;
use super::finding::Report;
use super::network::Place;

/// Seconds by which clocks may differ before credentials and logs suffer.
const SKEW: f64 = 5.0;
/// How long the others may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What one node says of itself.
type Facts = BTreeMap<String, String>;

/// Asks every node that is there.
pub(crate) fn ask(site: &Site, place: Option<&Place>, report: &mut Report) {
    const NAME: &str = "cluster";
    if !site.runs {
        return report.ok(NAME, "no broker runs here: the other nodes are not asked");
    }
    let me = nix::unistd::geteuid();
    let owner = site.owner.as_ref().map(|owner| owner.uid);
    if !(me.is_root() || Some(me) == owner) {
        return report.ok(NAME, "only the owner can ask the other nodes");
    }
    let started = wall();
    let munge = Munge::open(None).ok();
    let credential = munge.as_ref().and_then(|munge| munge.encode(b"doctor").ok());
    let script = format!(
        "echo host=$(uname -n); echo time=$(date +%s.%N); echo uid=$(id -u {user}); \
         echo conf=$(cat {conf}/*.toml 2>/dev/null | sha256sum | cut -c1-12); \
         echo version=$(flux --version | tr -s '\\t\\n ' ' '); \
         echo '{cred}' | unmunge >/dev/null 2>&1 && echo munge=yes; \
         echo cred=$(munge -n 2>/dev/null)",
        user = site.user,
        conf = site.config_path.display(),
        cred = credential.as_deref().unwrap_or("none"),
    );
    let nodes = match everywhere(&script) {
        Ok(nodes) if !nodes.is_empty() => nodes,
        Ok(_) => return report.fail(NAME, "no node answers", "look at: flux overlay status"),
        Err(error) => {
            return report.fail(NAME, error, "allow-root-owner = true, or ask as the owner");
        }
    };
    let ended = wall();
    let named = |filter: &dyn Fn(&Facts) -> bool| -> String {
        let names: Vec<&str> = nodes
            .values()
            .filter(|facts| filter(facts))
            .map(|facts| facts.get("host").map_or("?", String::as_str))
            .collect();
        names.join(", ")
    };
    let size = place.map_or(nodes.len(), |place| place.hosts.len());
    if nodes.len() < size {
        let text = format!("{} of {size} brokers answer", nodes.len());
        report.warn(NAME, text, "see which with flux overlay status; start flux there");
    } else {
        report.ok(NAME, format!("all {size} brokers answer"));
    }
    same(&nodes, "uid", "owner", "give the owner the same uid on all nodes", report);
    same(&nodes, "version", "version", "install the same package on all nodes", report);
    same(&nodes, "conf", "configuration", "copy the files of the leader to all nodes", report);
    let apart = named(&|facts| {
        let time = facts.get("time").and_then(|time| time.parse::<f64>().ok());
        time.is_some_and(|time| time < started - SKEW || time > ended + SKEW)
    });
    if apart.is_empty() {
        report.ok("clocks", format!("all agree within {SKEW} s"));
    } else {
        report.fail("clocks", format!("{apart}: more than {SKEW} s apart"), "run chrony or ntpd");
    }
    let Some(munge) = munge.filter(|_| credential.is_some()) else { return };
    let deaf = named(&|facts| facts.get("munge").is_none());
    let dumb = named(&|facts| {
        facts.get("cred").is_none_or(|credential| munge.decode(credential).is_err())
    });
    if deaf.is_empty() && dumb.is_empty() {
        report.ok("munge", "credentials are understood both ways, on all nodes");
    } else {
        let text = format!("does not understand ours: [{deaf}]; not understood here: [{dumb}]");
        let advice = "give all nodes the same /etc/munge/munge.key, restart munge, check clocks";
        report.fail("munge", text, advice);
    }
}

/// All nodes say the same of `key`.
fn same(nodes: &BTreeMap<String, Facts>, key: &str, name: &str, advice: &str, report: &mut Report) {
    let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for facts in nodes.values() {
        let value = facts.get(key).map_or("", String::as_str);
        values.entry(value).or_default().push(facts.get("host").map_or("?", String::as_str));
    }
    if values.len() <= 1 {
        return report.ok(name, format!("the same on all {} nodes", nodes.len()));
    }
    let text: Vec<String> =
        values.iter().map(|(value, hosts)| format!("'{value}' on {}", hosts.join(", "))).collect();
    report.fail(name, text.join("; "), advice);
}

fn wall() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Runs a script on every rank that is there; what each printed, by rank.
fn everywhere(script: &str) -> Result<BTreeMap<String, Facts>, String> {
    let program = std::env::current_exe().map_err(|error| format!("own program: {error}"))?;
    let mut child = Command::new(program)
        // The owner cannot go where root is.
        .current_dir("/")
        .args(["exec", "--label-io", "--rank=all", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("flux exec: {error}"))?;
    let stdout = child.stdout.take();
    // A node that hangs must not hang the doctor.
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(mut stdout) = stdout {
            std::io::Read::read_to_string(&mut stdout, &mut text).ok();
        }
        text
    });
    let deadline = Instant::now() + PATIENCE;
    while !reader.is_finished() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    if !reader.is_finished() {
        child.kill().ok();
    }
    let done = child.wait_with_output().map_err(|error| format!("flux exec: {error}"))?;
    let text = reader.join().unwrap_or_default();
    let nodes = parse(&text);
    if nodes.is_empty() && !done.status.success() {
        return Err(String::from_utf8_lossy(&done.stderr).trim().to_string());
    }
    Ok(nodes)
}

fn parse(text: &str) -> BTreeMap<String, Facts> {
    let mut nodes: BTreeMap<String, Facts> = BTreeMap::new();
    for line in text.lines() {
        if let Some((rank, fact)) = line.split_once(": ")
            && let Some((key, value)) = fact.split_once('=')
        {
            let facts = nodes.entry(rank.to_string()).or_default();
            facts.insert(key.to_string(), value.trim().to_string());
        }
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_taken_by_rank() {
        let nodes = parse("0: host=a\n1: host=b\n0: uid=990\nnoise\n0: cred=MUNGE:A=:\n");
        assert_eq!(nodes["0"]["host"], "a");
        assert_eq!(nodes["0"]["cred"], "MUNGE:A=:");
        assert_eq!(nodes["1"].len(), 1);
    }
}
