//! Where the parts of this program are: installed below a prefix, or built in a workspace.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The paths that belong to one copy of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installed {
    program: PathBuf,
    prefix: Option<PathBuf>,
}

impl Installed {
    /// Of the program that runs now. To be asked at the start: after an upgrade the file of a
    /// running program has no name any more.
    ///
    /// # Errors
    /// The sentence to show when the system does not tell.
    pub(crate) fn find() -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| format!("own program: {error}"))?;
        Ok(Self::of(program))
    }

    fn of(program: PathBuf) -> Self {
        let prefix = program
            .parent()
            .filter(|bin| bin.ends_with("bin"))
            .and_then(Path::parent)
            .filter(|prefix| prefix.join("libexec/flux/flux-shell").exists())
            .map(Path::to_path_buf);
        Self { program, prefix }
    }

    /// Program and first arguments of the job shell.
    pub(crate) fn shell(&self) -> Vec<String> {
        match &self.prefix {
            Some(prefix) => vec![prefix.join("libexec/flux/flux-shell").display().to_string()],
            None => vec![self.program.display().to_string(), "shell".to_string()],
        }
    }

    /// Command that prints the input of the privileged launcher, for `/bin/sh`.
    pub(crate) fn imp_helper(&self) -> String {
        let quoted = self.program.display().to_string().replace('\'', "'\\''");
        format!("'{quoted}' imp_exec_helper")
    }

    /// Directory of site configuration.
    pub(crate) fn sysconf(&self) -> PathBuf {
        match &self.prefix {
            Some(prefix) if prefix != Path::new("/usr") => prefix.join("etc"),
            _ => PathBuf::from("/etc"),
        }
    }

    /// The same, for a program that is installed.
    pub(crate) fn site(&self) -> Option<PathBuf> {
        self.prefix.as_ref().map(|_| self.sysconf())
    }

    /// What `flux config builtin` tells. A part that this program does not have, such as
    /// bindings, has an empty path.
    pub(crate) fn paths(&self) -> BTreeMap<String, String> {
        let built = self.program.parent().unwrap_or(Path::new("/")).to_path_buf();
        let below = |path: &str| match &self.prefix {
            Some(prefix) => prefix.join(path),
            None => built.clone(),
        };
        let libexec = below("libexec/flux");
        let shell = match &self.prefix {
            Some(_) => libexec.join("flux-shell"),
            None => self.program.clone(),
        };
        let sysconf = self.sysconf();
        let paths = [
            ("confdir", sysconf.join("flux")),
            ("libexecdir", libexec.clone()),
            ("exec_path", libexec),
            ("datadir", below("share/flux")),
            ("man_path", below("share/man")),
            ("shell_path", shell),
            ("shell_initrc", sysconf.join("flux/shell/initrc.lua")),
            ("rundir", PathBuf::from("/run/flux")),
        ];
        // Parts that are compiled in, or not there.
        let none = [
            "lua_cpath_add",
            "lua_path_add",
            "python_path",
            "python_wrapper",
            "connector_path",
            "module_path",
            "rc1_path",
            "rc3_path",
            "cmdhelp_pattern",
            "pmi_library_path",
            "shell_pluginpath",
            "jobtap_pluginpath",
            "upmi_pluginpath",
            "no_docs_path",
        ];
        let paths =
            paths.into_iter().map(|(key, path)| (key.to_string(), path.display().to_string()));
        paths.chain(none.map(|key| (key.to_string(), String::new()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_program_knows_its_shell_and_a_built_one_is_it() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("bin/flux");
        let built = Installed::of(program.clone());
        assert_eq!(built.shell(), [program.display().to_string(), "shell".to_string()]);
        assert_eq!(built.paths()["shell_path"], program.display().to_string());
        let shell = dir.path().join("libexec/flux/flux-shell");
        std::fs::create_dir_all(shell.parent().unwrap()).unwrap();
        std::fs::write(&shell, "").unwrap();
        let installed = Installed::of(program);
        assert_eq!(installed.shell(), [shell.display().to_string()]);
        assert_eq!(installed.paths()["shell_path"], shell.display().to_string());
        assert!(installed.paths()["confdir"].ends_with("/etc/flux"));
    }
}
