//! Jobs of other users. Their shells are started by the IMP (RFC 15), the only part of an instance
//! that may act as somebody else: it is told the shell and the job, fetches the signed request
//! through a helper, verifies it, and becomes the user who has signed.

use flux_id::JobId;
use serde_json::{Map, Value};

use crate::settings::Settings;

/// Where the IMP is told what to run for its input.
const HELPER: &str = "FLUX_IMP_EXEC_HELPER";

const SIGKILL: i32 = 9;
const SIGUSR1: i32 = 10;

/// What is executed for one shell.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ShellCommand {
    /// Program and arguments.
    pub(crate) cmdline: Vec<String>,
    /// Variables.
    pub(crate) env: Map<String, Value>,
}

impl Settings {
    /// The command that starts a shell of a job; `guest` when its user is not the instance owner.
    ///
    /// # Errors
    /// Why the job cannot run, for its exception.
    pub(crate) fn shell_command(&self, id: JobId, guest: bool) -> Result<ShellCommand, String> {
        if !guest {
            let mut cmdline = self.shell.clone();
            cmdline.push(id.dec());
            return Ok(ShellCommand { cmdline, env: Map::new() });
        }
        let imp = self.imp.as_ref().ok_or(
            "jobs of other users need a privileged launcher: exec.imp is not configured on this system",
        )?;
        let [shell] = self.shell.as_slice() else {
            return Err(format!(
                "jobs of other users need a job shell that is one program, not '{}': set exec.job-shell",
                self.shell.join(" ")
            ));
        };
        let mut env = Map::new();
        env.insert(HELPER.to_string(), format!("{} {}", self.helper, id.dec()).into());
        let cmdline = vec![imp.clone(), "exec".to_string(), shell.clone(), id.dec()];
        Ok(ShellCommand { cmdline, env })
    }
}

/// The signal to send to what was launched so that the shell gets `signum`: the IMP passes on all
/// but SIGKILL, for which SIGUSR1 stands.
pub(crate) fn signal_for(signum: i32, guest: bool) -> i32 {
    if guest && signum == SIGKILL { SIGUSR1 } else { signum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_of_guests_are_started_by_the_imp() {
        let mut settings = Settings::new(vec!["/usr/libexec/flux/flux-shell".to_string()]);
        let id = JobId(12);
        assert!(settings.shell_command(id, true).unwrap_err().contains("exec.imp"));
        settings.imp = Some("/usr/libexec/flux/flux-imp".to_string());
        let command = settings.shell_command(id, true).unwrap();
        assert_eq!(
            command.cmdline,
            ["/usr/libexec/flux/flux-imp", "exec", "/usr/libexec/flux/flux-shell", "12"]
        );
        assert_eq!(command.env[HELPER], "flux imp_exec_helper 12");
        let own = settings.shell_command(id, false).unwrap();
        assert_eq!(own.cmdline, ["/usr/libexec/flux/flux-shell", "12"]);
        assert!(own.env.is_empty());
    }

    #[test]
    fn a_shell_of_two_words_is_none_for_guests() {
        let mut settings = Settings::new(vec!["flux".to_string(), "shell".to_string()]);
        settings.imp = Some("/imp".to_string());
        assert!(settings.shell_command(JobId(1), true).unwrap_err().contains("exec.job-shell"));
        settings.shell_command(JobId(1), false).unwrap();
    }

    #[test]
    fn usr1_stands_for_kill_where_the_imp_is() {
        assert_eq!((signal_for(9, true), signal_for(15, true), signal_for(9, false)), (10, 15, 9));
    }
}
