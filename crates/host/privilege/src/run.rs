//! `flux-imp run NAME`: a program of the site as root, for the instance: prolog, epilog,
//! housekeeping.

use flux_id::JobId;

use crate::config::Config;
use crate::environment::Environment;
use crate::error::ImpError;
use crate::exec::trusted_program;
use crate::identity::Account;
use crate::proxy::Leftovers;
use crate::start::Program;
use crate::{Outcome, Session, audit, proxy};

pub(crate) fn run(session: &Session, name: &str) -> Result<Outcome, ImpError> {
    let caller = &session.caller;
    let config = Config::load(caller, &session.inherited)?;
    let run = config.run.get(name).ok_or_else(|| ImpError::NoRun(name.to_string()))?;
    if !caller.is_privileged() {
        return Err(ImpError::Unprivileged("run"));
    }
    if !caller.is_listed(&run.allowed_users) {
        return Err(ImpError::NotAllowed {
            command: format!("run {name}"),
            user: caller.name(),
            key: format!("run.{name}.allowed-users"),
        });
    }
    trusted_program(&run.path)?;
    check(&session.inherited)?;
    session.limits.check()?;
    let root = Account::by_uid(0)?;
    let path = run.path.display().to_string();
    audit::run(caller, name, &path);
    let program = Program {
        path: path.clone(),
        arguments: vec![path],
        environment: session.inherited.for_run(&root, caller.uid, &run.allowed_environment),
    };
    proxy::run(session, &program, Leftovers::Keep, || {
        session.limits.allow_core()?;
        root.become_it()
    })
}

/// What every program gets is what it should be: scripts may rely on it.
fn check(env: &Environment) -> Result<(), ImpError> {
    let wrong = |name: &str| ImpError::Variable(name.to_string());
    if let Some(id) = env.get("FLUX_JOB_ID")
        && (id.parse::<JobId>().is_err() || id.trim() != id || id.len() > 64)
    {
        return Err(wrong("FLUX_JOB_ID"));
    }
    if let Some(uid) = env.get("FLUX_JOB_USERID")
        && (uid.parse::<u32>().is_err() || !uid.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return Err(wrong("FLUX_JOB_USERID"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_id_and_user_must_be_what_they_are_called() {
        let env = |name: &str, value: &str| -> Environment {
            [(name.to_string(), value.to_string())].into_iter().collect()
        };
        for good in ["ƒuZZybuNNy", "6731191091817518", "f1"] {
            check(&env("FLUX_JOB_ID", good)).unwrap();
        }
        for bad in ["", "x;id", "../../etc", "f1 ", "$(id)"] {
            assert!(check(&env("FLUX_JOB_ID", bad)).is_err(), "{bad}");
        }
        check(&env("FLUX_JOB_USERID", "5000")).unwrap();
        for bad in ["", "-1", "+1", "root", "99999999999", "0x1"] {
            assert!(check(&env("FLUX_JOB_USERID", bad)).is_err(), "{bad}");
        }
    }
}
