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

/// The job shell that a job asks for, if it does: `attributes.system.exec.job_shell`.
fn chosen(jobspec: &Value) -> Result<Option<&str>, String> {
    match jobspec.pointer("/attributes/system/exec/job_shell") {
        None => Ok(None),
        Some(Value::String(path)) if !path.is_empty() && !path.contains('\0') => Ok(Some(path)),
        Some(_) => Err("attributes.system.exec.job_shell must be the path of a program".into()),
    }
}

impl Settings {
    /// The command that starts a shell of a job; `guest` when its user is not the instance owner. A
    /// guest may choose among the shells that the IMP allows, the owner any.
    ///
    /// # Errors
    /// Why the job cannot run, for its exception.
    pub(crate) fn shell_command(
        &self,
        id: JobId,
        guest: bool,
        jobspec: &Value,
    ) -> Result<ShellCommand, String> {
        let shell = chosen(jobspec)?.map(|path| vec![path.to_string()]);
        let shell = shell.as_ref().unwrap_or(&self.shell);
        if !guest {
            let mut cmdline = shell.clone();
            cmdline.push(id.dec());
            return Ok(ShellCommand { cmdline, env: Map::new() });
        }
        let imp = self.imp.as_ref().ok_or(
            "jobs of other users need a privileged launcher: exec.imp is not configured on this system",
        )?;
        let [shell] = shell.as_slice() else {
            return Err(format!(
                "jobs of other users need a job shell that is one program, not '{}': set exec.job-shell",
                shell.join(" ")
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
    use serde_json::json;

    use super::*;

    #[test]
    fn shells_of_guests_are_started_by_the_imp() {
        let mut settings = Settings::new(vec!["/usr/libexec/flux/flux-shell".to_string()]);
        let id = JobId(12);
        assert!(settings.shell_command(id, true, &Value::Null).unwrap_err().contains("exec.imp"));
        settings.imp = Some("/usr/libexec/flux/flux-imp".to_string());
        let command = settings.shell_command(id, true, &Value::Null).unwrap();
        assert_eq!(
            command.cmdline,
            ["/usr/libexec/flux/flux-imp", "exec", "/usr/libexec/flux/flux-shell", "12"]
        );
        assert_eq!(command.env[HELPER], "flux imp_exec_helper 12");
        let own = settings.shell_command(id, false, &Value::Null).unwrap();
        assert_eq!(own.cmdline, ["/usr/libexec/flux/flux-shell", "12"]);
        assert!(own.env.is_empty());
    }

    #[test]
    fn a_shell_of_two_words_is_none_for_guests() {
        let mut settings = Settings::new(vec!["flux".to_string(), "shell".to_string()]);
        settings.imp = Some("/imp".to_string());
        let none = Value::Null;
        let error = settings.shell_command(JobId(1), true, &none).unwrap_err();
        assert!(error.contains("exec.job-shell"));
        settings.shell_command(JobId(1), false, &none).unwrap();
    }

    #[test]
    fn a_job_may_name_its_shell() {
        let mut settings = Settings::new(vec!["flux".to_string(), "shell".to_string()]);
        settings.imp = Some("/imp".to_string());
        let with = |shell: Value| json!({"attributes": {"system": {"exec": {"job_shell": shell}}}});
        let own = |guest| settings.shell_command(JobId(7), guest, &with(json!("/opt/shell")));
        assert_eq!(own(false).unwrap().cmdline, ["/opt/shell", "7"]);
        assert_eq!(own(true).unwrap().cmdline, ["/imp", "exec", "/opt/shell", "7"]);
        for wrong in [json!(7), json!(""), json!(["/bin/sh"]), json!("a\0b")] {
            let error = settings.shell_command(JobId(7), false, &with(wrong)).unwrap_err();
            assert!(error.contains("job_shell must be the path"), "{error}");
        }
    }

    #[test]
    fn usr1_stands_for_kill_where_the_imp_is() {
        assert_eq!((signal_for(9, true), signal_for(15, true), signal_for(9, false)), (10, 15, 9));
    }
}
