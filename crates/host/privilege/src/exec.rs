//! `flux-imp exec SHELL JOBID`: a job shell as the user who has signed the job.

use std::path::Path;

use flux_id::JobId;
use flux_sign::trust::Trust;
use flux_sign::{DEFAULT_PATTERN, PATTERN_VARIABLE, SignConfig, Signer};
use rustix::fs::{FileType, RawMode};

use crate::config::{Config, ConfigError, ExecConfig};
use crate::error::ImpError;
use crate::identity::Account;
use crate::proxy::Leftovers;
use crate::start::Program;
use crate::{Outcome, Session, audit, proxy, separate};

pub(crate) fn exec(session: &Session, shell: &str, id: &str) -> Result<Outcome, ImpError> {
    let caller = &session.caller;
    let config = Config::load(caller, &session.inherited)?;
    let config = config.exec.ok_or(ConfigError::NoExec)?;
    may_call(session, &config, "exec")?;
    if !config.allowed_shells.iter().any(|allowed| allowed == shell) {
        return Err(ImpError::Shell(shell.to_string()));
    }
    let id: JobId = id.parse().map_err(|_| ImpError::JobId(id.to_string()))?;
    if caller.is_privileged() {
        trusted_program(Path::new(shell))?;
    }
    let mut signer = Signer::new(sign_config(session)?);

    let input = separate::read(caller, &session.inherited)?;
    if input.containment {
        return Err(ImpError::Containment);
    }
    let request = signer.verify(&input.j, flux_sign::now(), caller.uid)?;
    let uid = request.userid;
    if !caller.is_privileged() && uid != caller.uid {
        return Err(ImpError::Other { signer: uid, caller: caller.uid });
    }
    if uid == 0 {
        return Err(ImpError::Root);
    }
    let account = Account::by_uid(uid)?;
    audit::exec(caller, &account.name, &id.f58(), shell, &input.j);
    let program = Program {
        path: shell.to_string(),
        arguments: vec![shell.to_string(), id.dec()],
        environment: session.inherited.for_shell(&account),
    };
    let privileged = caller.is_privileged();
    proxy::run(session, &program, Leftovers::Kill, || {
        if privileged {
            session.limits.restore()?;
            account.become_it()?;
        }
        Ok(())
    })
}

/// Whether the caller may start and signal jobs of others.
pub(crate) fn may_call(
    session: &Session,
    config: &ExecConfig,
    command: &'static str,
) -> Result<(), ImpError> {
    let caller = &session.caller;
    if !caller.is_privileged() {
        return if config.allow_unprivileged {
            Ok(())
        } else {
            Err(ImpError::Unprivileged(command))
        };
    }
    if caller.is_listed(&config.allowed_users) {
        return Ok(());
    }
    Err(ImpError::NotAllowed {
        command: command.to_string(),
        user: caller.name(),
        key: "exec.allowed-users".to_string(),
    })
}

fn sign_config(session: &Session) -> Result<SignConfig, ImpError> {
    let caller = &session.caller;
    let chosen = session.inherited.get(PATTERN_VARIABLE).filter(|_| !caller.is_privileged());
    Ok(match chosen {
        Some(pattern) => SignConfig::load(pattern, Trust::and(caller.uid))?,
        None => SignConfig::load(DEFAULT_PATTERN, Trust::ROOT)?,
    })
}

/// A program that nobody but root can have put there.
pub(crate) fn trusted_program(path: &Path) -> Result<(), ImpError> {
    let (_, stat, _) = Trust::ROOT.walk(path)?;
    let wrong = |text| ImpError::Program { path: path.to_path_buf(), text };
    if FileType::from_raw_mode(stat.st_mode as RawMode) != FileType::RegularFile {
        return Err(wrong("not a regular file"));
    }
    if stat.st_mode & 0o111 == 0 {
        return Err(wrong("not executable"));
    }
    Ok(())
}
