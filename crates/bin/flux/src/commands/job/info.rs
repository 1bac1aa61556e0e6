//! `flux job info`, `namespace`, `timeleft`: what is known about a job.

use clap::{ArgMatches, Command};
use flux_api::job::info::CURRENT;

use super::{JOB, id_of};
use crate::{
    commands::program::{flag, text, word},
    failure::Failure,
    output, session,
};

/// What `timeleft` prints when there is no end.
const UNLIMITED: u64 = 4_294_967_295;

pub(super) fn command() -> Command {
    Command::new("info")
        .about("Print a key of a job: jobspec, R, eventlog, J, guest.…")
        .arg(flag("original", 'o', "The jobspec as it was submitted"))
        .arg(flag("base", 'b', "Jobspec and R without updates"))
        .arg(word("id", "ID", "The job"))
        .arg(word("key", "KEY", "The key"))
}

pub(super) fn run(matches: &ArgMatches) -> Result<i32, Failure> {
    let id = id_of(text(matches, "id").unwrap_or_default())?;
    let key = text(matches, "key").unwrap_or_default();
    let client = JOB.open()?;
    let original = matches.get_flag("original");
    let value = if original && key == "jobspec" {
        let signed = session::lookup(&client, id, "J", 0).map_err(|error| JOB.error(&error))?;
        let unwrapped = flux_model::sign::unwrap(&signed)
            .map_err(|error| JOB.fail(format!("{id}: {error}")))?;
        String::from_utf8_lossy(&unwrapped.payload).into_owned()
    } else {
        let current = matches!(key, "R" | "jobspec") && !matches.get_flag("base");
        let flags = if current { CURRENT } else { 0 };
        session::lookup(&client, id, key, flags).map_err(|error| JOB.error(&error))?
    };
    output::raw(&value);
    if !value.ends_with('\n') {
        output::raw("\n");
    }
    Ok(0)
}

pub(super) fn namespace_command() -> Command {
    Command::new("namespace")
        .about("Print the name of the KVS namespace of a job")
        .arg(word("id", "ID", "The job"))
}

pub(super) fn namespace(matches: &ArgMatches) -> Result<i32, Failure> {
    let id = id_of(text(matches, "id").unwrap_or_default())?;
    output::line(&format!("job-{}", id.dec()));
    Ok(0)
}

pub(super) fn timeleft_command() -> Command {
    Command::new("timeleft")
        .about("Print the seconds until the time limit of a job")
        .arg(flag("human", 'H', "As a duration for people"))
        .arg(word("id", "ID", "The job (default: the enclosing one)").required(false))
}

pub(super) fn timeleft(matches: &ArgMatches) -> Result<i32, Failure> {
    let own = std::env::var("FLUX_JOB_ID").ok();
    let client = JOB.open()?;
    let (client, id) = match text(matches, "id").map(str::to_owned).or(own) {
        Some(id) => (client, id),
        // In the initial program of an instance: the job that the instance is.
        None => {
            let outside = |_| JOB.fail("this is not part of a job: a job id is required");
            let id = client.get_attr("jobid").map_err(outside)?;
            let parent = client.get_attr("parent-uri").map_err(outside)?;
            let parent =
                flux_client::Client::open(Some(&parent)).map_err(|e| JOB.fail(e.to_string()))?;
            (parent, id)
        }
    };
    let parsed = id_of(&id)?;
    let r = session::resources(&client, parsed).map_err(|error| JOB.about(&id, &error))?;
    output::line(&left(r.expiration, session::now(), matches.get_flag("human")));
    Ok(0)
}

/// The time until an expiration; 0 is none.
fn left(expiration: f64, now: f64, human: bool) -> String {
    match (expiration == 0.0, human) {
        (true, true) => "infinity".to_owned(),
        (true, false) => UNLIMITED.to_string(),
        (false, true) => flux_id::fsd::format((expiration - now).max(0.0)),
        (false, false) => format!("{:.0}", (expiration - now).max(0.0).floor()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_in_whole_seconds() {
        assert_eq!(left(0.0, 100.0, false), "4294967295");
        assert_eq!(left(160.9, 100.0, false), "60");
        assert_eq!(left(50.0, 100.0, false), "0");
        assert_eq!(left(220.0, 100.0, true), "2m");
    }
}
